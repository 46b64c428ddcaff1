//! Why a notice was not taken: whose fault it is, and whether and when to try again.
//!
//! No variant carries a password, a secret or the path of a webhook's URL (which often is a secret).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill_pipelines::{Blame, Retry};

/// An error of a notice.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
pub enum NoticeError {
    /// An address of the pipeline file is no mail address.
    #[error("`{template}` gives no mail address: {message}")]
    Address {
        /// The address as the pipeline file has it.
        template: String,
        /// What is wrong, and what to write instead.
        message: String,
    },
    /// The URL of a webhook cannot be used.
    #[error("the webhook's url cannot be used: {message}")]
    Url {
        /// What is wrong, and what to write instead.
        message: String,
    },
    /// The message could not be made from its template.
    #[error("failed to make the notice of job {job_id}: {message}")]
    Message {
        /// The job.
        job_id: String,
        /// What is wrong.
        message: String,
    },
    /// A setting is wrong or missing; it is retried, for the operator may mend it meanwhile.
    #[error("failed to {action}: {message}")]
    Setting {
        /// What was tried.
        action: String,
        /// What is wrong, and what to write instead.
        message: String,
    },
    /// The other side refused the notice for good.
    #[error("{by} refused {what}: {message}")]
    Refused {
        /// The server.
        by: String,
        /// What it refused.
        what: String,
        /// What it said.
        message: String,
        /// Whose fault it is.
        blame: Blame,
    },
    /// The other side is away, or cannot take the notice now.
    #[error("failed to {action}: {message}")]
    Unavailable {
        /// What was tried, on what.
        action: String,
        /// What was said or seen.
        message: String,
        /// The pause that the other side asked for.
        retry_after: Option<Duration>,
    },
}

impl NoticeError {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            NoticeError::Address { .. } | NoticeError::Url { .. } => Blame::Author,
            NoticeError::Message { .. } | NoticeError::Setting { .. } => Blame::Operator,
            NoticeError::Refused { blame, .. } => *blame,
            NoticeError::Unavailable { .. } => Blame::World,
        }
    }

    /// Whether to try again.
    pub fn retry(&self) -> Retry {
        match self {
            NoticeError::Setting { .. } | NoticeError::Unavailable { .. } => Retry::Later,
            _ => Retry::Never,
        }
    }

    /// The pause that the other side asked for; the caller's own back-off holds when it is longer.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            NoticeError::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// A stable word for logs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            NoticeError::Address { .. } => "notice_address",
            NoticeError::Url { .. } => "notice_url",
            NoticeError::Message { .. } => "notice_message",
            NoticeError::Setting { .. } => "notice_setting",
            NoticeError::Refused { .. } => "notice_refused",
            NoticeError::Unavailable { .. } => "notice_unavailable",
        }
    }
}

/// What a server said, fit for a log line: no control characters, at most this many characters.
pub(super) const SAID_CHARS_MAX: usize = 300;

/// Cuts and cleans what a server said.
pub(super) fn said(text: &str) -> String {
    super::finished::clean(text, SAID_CHARS_MAX)
}
