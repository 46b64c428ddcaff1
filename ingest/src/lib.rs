//! Ingest: how bytes come in. [`Landing`] makes an object and its job, [`Fetcher`] the objects of an API's pages and
//! one job over them; [`PushedKey`] names what senders push before; [`sweep_orphans`] deletes objects whose job was
//! never made; [`Collector`] copies the reports of what succeeded to one place.

mod collect;
mod error;
mod fetch;
mod keys;
mod landing;
mod push;
mod sweep;

use tidemill_pipelines::{Pipeline, Source, UploadSource};

pub use collect::{CollectMetrics, Collected, Collector};
pub use error::{Error, Result};
pub use fetch::{FetchError, FetchMetrics, Fetcher, FetcherParts, Progress, RunEnd, SENDER};
pub use keys::ObjectKey;
pub use landing::{Landing, LandingLimits, Stored, Upload};
pub use push::{Delayed, PUSH_WITHIN, PUSHED_MAX, PushedKey};
pub use sweep::{OLDER_THAN_MIN, SWEPT_MAX, Swept, sweep_orphans};

/// What a pipeline says about files that are sent to it.
fn upload_source(pipeline: &Pipeline) -> Result<&UploadSource> {
    match &pipeline.source {
        Source::Upload(source) => Ok(source),
        Source::Http(_) => Err(Error::NoUploads { pipeline: pipeline.name.to_string() }),
    }
}
