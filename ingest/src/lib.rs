//! Ingest: how bytes come in. [`Landing`] is the only module that makes an object and its job.

mod error;
mod keys;
pub use error::{Error, Result};
pub use keys::ObjectKey;
