//! Why a page, and with it a run, could not be fetched. No message holds a secret, nor the query of a URL, which
//! may hold one.

use std::time::Duration;

use tidemill_pipelines::{Blame, Retry};
use tidemill_sinks::notice::NotAllowed;

/// An error of a fetch.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A pipeline names a secret that the settings have not.
    #[error("the settings have no secret `{name}` for fetching")]
    Secret {
        /// Its name.
        name: String,
    },
    /// What the pipeline file says gives no request.
    #[error("the request of the pipeline cannot be made: {message}")]
    Request {
        /// What is wrong.
        message: String,
    },
    /// An address that may not be reached.
    #[error("{place} may not be fetched: {source}")]
    NotAllowed {
        /// URL without its query.
        place: String,
        /// Which address.
        source: NotAllowed,
    },
    /// A redirect that is not followed.
    #[error("{place} redirects {message}")]
    Redirect {
        /// URL without its query.
        place: String,
        /// Where to, and why it is not followed.
        message: String,
    },
    /// The API refused the request.
    #[error("{place} answered with status {status}{said}")]
    Refused {
        /// URL without its query.
        place: String,
        /// The status.
        status: u16,
        /// The begin of the answer.
        said: String,
    },
    /// The API is away, busy, or broke off.
    #[error("{place} gave no good answer: {message}")]
    Unavailable {
        /// URL without its query.
        place: String,
        /// What was seen.
        message: String,
        /// The status, when there was one.
        status: Option<u16>,
        /// The pause that the API asked for.
        retry_after: Option<Duration>,
    },
    /// The answer is not what the pipeline expects.
    #[error("{place} answered with {message}")]
    Body {
        /// URL without its query.
        place: String,
        /// What was found, and what was expected.
        message: String,
        /// Whether it may be whole the next time.
        retry: Retry,
    },
    /// The answer is larger than a page may be.
    #[error("{place} answered with more than {limit_bytes} bytes, the limit of a page")]
    TooLarge {
        /// URL without its query.
        place: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// The pages do not hang together as the pipeline says.
    #[error("{0}")]
    Pages(String),
    /// The numbers of the pages are counted with another step than the API's.
    #[error("{0}")]
    Step(String),
    /// The run took too long.
    #[error("the run took longer than {} seconds", limit.as_secs())]
    Overdue {
        /// The limit.
        limit: Duration,
    },
    /// It was taken over too often.
    #[error("the run was begun {} times and never came to an end", super::TAKES_MAX)]
    GivenUp,
    /// Another fetcher has the run now.
    #[error("the run was taken over by another fetcher")]
    Overtaken,
    /// A task broke down.
    #[error("a task of the fetch broke down: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// The object store or the job database.
    #[error(transparent)]
    Landing(#[from] crate::Error),
}

impl From<tidemill_jobs::Error> for FetchError {
    fn from(error: tidemill_jobs::Error) -> Self {
        FetchError::Landing(error.into())
    }
}

impl FetchError {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            FetchError::Secret { .. } | FetchError::NotAllowed { .. } => Blame::Operator,
            FetchError::Overdue { .. } | FetchError::GivenUp => Blame::Operator,
            FetchError::Request { .. } | FetchError::TooLarge { .. } => Blame::Author,
            FetchError::Redirect { .. } | FetchError::Refused { .. } | FetchError::Step(_) => Blame::Author,
            FetchError::Body { .. } | FetchError::Pages(_) => Blame::Sender,
            FetchError::Unavailable { .. } | FetchError::Overtaken | FetchError::Task(_) => Blame::World,
            FetchError::Landing(error) => error.blame(),
        }
    }

    /// Whether to try the page again.
    pub fn retry(&self) -> Retry {
        match self {
            FetchError::Unavailable { .. } => Retry::Later,
            FetchError::Body { retry, .. } => *retry,
            FetchError::Landing(error) => error.retry(),
            _ => Retry::Never,
        }
    }

    /// Whether the run is to be taken up again instead of failing: the fault is on this side, and passes.
    pub fn leaves_the_run(&self) -> bool {
        matches!(self, FetchError::Landing(_) | FetchError::Overtaken | FetchError::Task(_))
    }

    /// The status that the API answered with.
    pub fn status(&self) -> Option<u16> {
        match self {
            FetchError::Refused { status, .. } => Some(*status),
            FetchError::Unavailable { status, .. } => *status,
            _ => None,
        }
    }
}
