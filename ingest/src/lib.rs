//! Ingest: how bytes come in. [`Landing`] is the only module that makes an object and its job;
//! [`sweep_orphans`] deletes objects whose job was never made.

mod error;
mod keys;
mod landing;
mod sweep;

pub use error::{Error, Result};
pub use keys::ObjectKey;
pub use landing::{Landing, LandingLimits, Upload};
pub use sweep::{OLDER_THAN_MIN, SWEPT_MAX, Swept, sweep_orphans};
