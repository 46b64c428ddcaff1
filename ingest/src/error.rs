//! What may go wrong on the way in.

use tidemill_pipelines::{Blame, Retry};

/// Short for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of landing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pipeline gets its data in another way.
    #[error("pipeline `{pipeline}` fetches its data itself, it takes no uploads")]
    NoUploads {
        /// The pipeline.
        pipeline: String,
    },
    /// The body is larger than the pipeline takes.
    #[error("the body is larger than {limit_bytes} bytes, the limit of this pipeline")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// Pushed objects that are not there.
    #[error("{} of the pushed objects are not there, such as `{}`", .keys.len(), .keys[0])]
    Missing {
        /// Their keys, at least one.
        keys: Vec<String>,
    },
    /// Pushed objects that are larger than the pipeline takes.
    #[error("{} of the pushed objects are larger than {limit_bytes} bytes, the limit of this pipeline", .keys.len())]
    PushedTooLarge {
        /// The limit.
        limit_bytes: u64,
        /// Their keys, at least one.
        keys: Vec<String>,
    },
    /// The sender broke off.
    #[error("the upload broke off after {received_bytes} bytes: {message}")]
    BrokenOff {
        /// Bytes received until then.
        received_bytes: u64,
        /// What the connection said.
        message: String,
    },
    /// The object store refused or did not answer.
    #[error("failed to {action} object `{key}`")]
    Objects {
        /// What was tried.
        action: &'static str,
        /// The object's key.
        key: String,
        /// Why it failed.
        #[source]
        source: object_store::Error,
    },
    /// The job store refused or did not answer.
    #[error(transparent)]
    Jobs(#[from] tidemill_jobs::Error),
}

impl Error {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Error::NoUploads { .. }
            | Error::TooLarge { .. }
            | Error::Missing { .. }
            | Error::PushedTooLarge { .. }
            | Error::BrokenOff { .. } => Blame::Sender,
            Error::Objects { .. } => Blame::World,
            Error::Jobs(error) => error.blame(),
        }
    }

    /// Whether to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Error::NoUploads { .. }
            | Error::TooLarge { .. }
            | Error::Missing { .. }
            | Error::PushedTooLarge { .. } => Retry::Never,
            Error::BrokenOff { .. } | Error::Objects { .. } => Retry::Later,
            Error::Jobs(error) => error.retry(),
        }
    }
}
