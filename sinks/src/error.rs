//! What may go wrong in a sink.

use tidemill_pipelines::{Blame, Retry};

/// Short for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a sink or of a notice.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database did not answer, or gave up a transaction for another.
    #[error("failed to {action} in the sink's database: {message}")]
    Unavailable {
        /// What was tried.
        action: &'static str,
        /// What the server or its client said.
        message: String,
        /// Now after a deadlock, later when the server is away.
        retry: Retry,
    },
    /// The database refused a statement for good: a permission, a syntax error, a full disk.
    #[error("the sink's database refused to {action}: {message}")]
    Refused {
        /// What was tried.
        action: &'static str,
        /// What the server said.
        message: String,
    },
    /// The table is there and has another shape.
    #[error("table `{table}` has another shape than the pipeline: {}", differences.join("; "))]
    Shape {
        /// The table.
        table: String,
        /// Each difference, with what the pipeline needs and what the table has.
        differences: Vec<String>,
    },
    /// A row cannot be stored as it is.
    #[error("row {row} cannot be written to `{table}`: {message}")]
    Row {
        /// The table.
        table: String,
        /// 1-based number of the row in this delivery.
        row: u64,
        /// What the server said.
        message: String,
    },
    /// A newer attempt of the same job has begun: this one must stop.
    #[error("attempt {attempt} of job {job_id} was overtaken by attempt {newer}")]
    Fenced {
        /// The job.
        job_id: String,
        /// This attempt.
        attempt: u32,
        /// The newer attempt.
        newer: u32,
    },
    /// A type of Arrow that the sink has no column type for.
    #[error("column `{column}` of type {kind} cannot be stored in this sink; cast it in the last sql step")]
    Type {
        /// The column.
        column: String,
        /// Its Arrow type.
        kind: String,
    },
}

impl Error {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Error::Unavailable { .. } | Error::Fenced { .. } => Blame::World,
            Error::Refused { .. } => Blame::Operator,
            Error::Shape { .. } | Error::Type { .. } => Blame::Author,
            Error::Row { .. } => Blame::Sender,
        }
    }

    /// Whether to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Error::Unavailable { retry, .. } => *retry,
            _ => Retry::Never,
        }
    }

    /// A stable word for the job's error.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Unavailable { .. } => "sink_unavailable",
            Error::Refused { .. } => "sink_refused",
            Error::Shape { .. } => "table_shape",
            Error::Row { .. } => "row_refused",
            Error::Fenced { .. } => "overtaken",
            Error::Type { .. } => "unsupported_type",
        }
    }
}

/// The error of a failpoint of test builds: it may pass, as one of a server that is away for a moment.
#[allow(dead_code, reason = "a build without failpoints never makes it")]
pub(crate) fn of_failpoint(name: &'static str) -> Error {
    tracing::warn!(name, "a failpoint was hit");
    Error::Unavailable { action: "pass a failpoint", message: name.to_owned(), retry: Retry::Later }
}

/// A place at which a test may have the process abort, wait, or leave the function with an error.
macro_rules! failpoint {
    ($name:literal) => {
        fail::fail_point!($name, |_| Err($crate::error::of_failpoint($name)))
    };
}
pub(crate) use failpoint;
