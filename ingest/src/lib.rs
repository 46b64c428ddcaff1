//! Ingest: how bytes come in. [`Landing`] makes an object and its job, [`Fetcher`] the objects of an API's pages and
//! one job over them;
//! [`sweep_orphans`] deletes objects whose job was never made.

mod error;
mod fetch;
mod keys;
mod landing;
mod sweep;

pub use error::{Error, Result};
pub use fetch::{FetchError, FetchMetrics, Fetcher, FetcherParts, Progress, RunEnd, SENDER};
pub use keys::ObjectKey;
pub use landing::{Landing, LandingLimits, Upload};
pub use sweep::{OLDER_THAN_MIN, SWEPT_MAX, Swept, sweep_orphans};
