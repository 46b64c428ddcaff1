//! Faults of a whole file, for which no record can be blamed. Made by the decoder; the job fails with them.

use std::fmt;

use tidemill_pipelines::{Blame, Retry};

use super::Stopped;

/// Why a file cannot be decoded at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The names of the header are not those of the pipeline; all differences are told together.
    #[error(
        "the header on line {line} does not fit the pipeline: {}",
        differences(missing, unknown, duplicate)
    )]
    Header {
        /// The line of the header.
        line: u64,
        /// Columns of the pipeline that the header does not name.
        missing: Vec<String>,
        /// Names of the header that are no columns of the pipeline.
        unknown: Vec<UnknownName>,
        /// Names that the header gives twice or more often.
        duplicate: Vec<String>,
    },
    /// The header cannot be read as a record.
    #[error("the header on line {line} cannot be read: {message}")]
    HeaderUnreadable {
        /// The line of the header.
        line: u64,
        /// What is wrong with it.
        message: String,
    },
    /// The file is no text, or text that is packed.
    #[error("the file is {what}; {help}")]
    NotText {
        /// What it looks like.
        what: &'static str,
        /// What to send instead.
        help: &'static str,
    },
    /// The file is no JSON, half of a JSON document, or something else that came in its place.
    #[error("{message}")]
    NotJson {
        /// What was found.
        message: String,
    },
    /// The document has nothing where the pipeline says that its records are.
    #[error("{message}")]
    NoRecordsThere {
        /// The place, and what was found.
        message: String,
    },
    /// A document is held in memory, and this one is too large for that.
    #[error("the JSON document is larger than {bytes_max} bytes; JSON lines may be of any size")]
    TooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// The pipeline's columns cannot be used; [`tidemill_pipelines`] normally finds this before.
    #[error("column `{column}` of the pipeline cannot be used: {message}")]
    Column {
        /// The column.
        column: String,
        /// Why.
        message: String,
    },
    /// The consumer wants no more.
    #[error("decoding was stopped by the consumer of the records")]
    Stopped,
    /// A batch could not be put together: a fault of the decoder itself.
    #[error("failed to build a batch of the decoded records: {message}")]
    Batch {
        /// What Arrow said.
        message: String,
    },
}

/// A name of the header that is no column, with the column it may stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownName {
    /// The name as the header gives it.
    pub name: String,
    /// The most similar column of the pipeline, if one is similar.
    pub nearest: Option<String>,
}

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.nearest {
            Some(nearest) => write!(f, "`{}` (did you mean `{nearest}`?)", self.name),
            None => write!(f, "`{}`", self.name),
        }
    }
}

impl DecodeError {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            DecodeError::Header { .. }
            | DecodeError::HeaderUnreadable { .. }
            | DecodeError::NotText { .. }
            | DecodeError::NotJson { .. }
            | DecodeError::NoRecordsThere { .. }
            | DecodeError::TooLarge { .. } => Blame::Sender,
            DecodeError::Column { .. } => Blame::Author,
            DecodeError::Stopped | DecodeError::Batch { .. } => Blame::Operator,
        }
    }

    /// Whether to try again: never, the same bytes give the same error.
    pub fn retry(&self) -> Retry {
        Retry::Never
    }

    /// A stable word for the job's error.
    pub fn code(&self) -> &'static str {
        match self {
            DecodeError::Header { .. } | DecodeError::HeaderUnreadable { .. } => "wrong_header",
            DecodeError::NotText { .. } => "not_text",
            DecodeError::NotJson { .. } => "not_json",
            DecodeError::NoRecordsThere { .. } => "no_records_there",
            DecodeError::TooLarge { .. } => "document_too_large",
            DecodeError::Column { .. } => "column",
            DecodeError::Stopped => "stopped",
            DecodeError::Batch { .. } => "batch",
        }
    }
}

impl From<Stopped> for DecodeError {
    fn from(_: Stopped) -> Self {
        DecodeError::Stopped
    }
}

/// Names shown of each kind; a header of thousands of wrong names must not make a message of megabytes.
const NAMES_SHOWN_MAX: usize = 20;

fn differences(missing: &[String], unknown: &[UnknownName], duplicate: &[String]) -> String {
    let quoted = |names: &[String]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
    let unknown = unknown.iter().map(UnknownName::to_string).collect();
    let kinds = [("missing", quoted(missing)), ("unknown", unknown), ("given twice", quoted(duplicate))];
    let told = kinds.iter().filter(|(_, names)| !names.is_empty());
    told.map(|(what, names)| format!("{what}: {}", list(names))).collect::<Vec<_>>().join("; ")
}

fn list(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMES_SHOWN_MAX)].join(", ");
    match names.len().saturating_sub(NAMES_SHOWN_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
