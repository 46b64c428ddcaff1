//! What may go wrong with a job in the processor, with whose fault it is and whether to try again.

use datafusion::error::DataFusionError;
use tidemill_jobs::JobError;
use tidemill_pipelines::{Blame, Problem, Retry};

use crate::decode::DecodeError;
use crate::files::ProgramFault;

/// Short for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of one job, or of the processor itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file as a whole cannot be decoded.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// One of several objects as a whole cannot be decoded.
    #[error("object `{object}` cannot be read")]
    DecodeOf {
        /// Its key.
        object: String,
        /// Why.
        source: DecodeError,
    },
    /// The file holds no record and the pipeline does not allow that.
    #[error("the file holds no record{what_else}")]
    NoRecords {
        /// What it holds instead, as the end of the sentence.
        what_else: &'static str,
    },
    /// More records were refused than the pipeline bears.
    #[error(
        "{rejected} of {records} records were refused, more than the {tolerated} that the pipeline tolerates"
    )]
    OverErrorBudget {
        /// Records in.
        records: u64,
        /// Records refused.
        rejected: u64,
        /// The budget as written.
        tolerated: String,
    },
    /// A row does not meet a check whose `else` is `fail`.
    #[error("{rows} rows do not meet the check `{check}`")]
    CheckFailed {
        /// The check's name.
        check: String,
        /// Rows that do not meet it, in the first batch that has one.
        rows: u64,
    },
    /// The parameters of the job are not those of the pipeline.
    #[error("{0}")]
    Parameters(String),
    /// The pipeline does not plan: its SQL, its key, its tables.
    #[error("the pipeline cannot be planned: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Plan(Vec<Problem>),
    /// An SQL step failed on these data.
    #[error("sql failed: {0}")]
    Sql(String),
    /// An SQL step needed more memory than the settings give.
    #[error("sql ran out of memory: {0}")]
    Memory(String),
    /// A table that SQL or a reference needs is missing or too large.
    #[error("table `{table}` {message}")]
    Lookup {
        /// The table.
        table: String,
        /// What is wrong with it.
        message: String,
    },
    /// A program failed on the file, or could not be run.
    #[error(transparent)]
    Program(#[from] ProgramFault),
    /// The store holds other objects than those that the job was posted with.
    #[error(
        "a pushed object was overwritten after the job was posted; push again to a new place and post a new job"
    )]
    ObjectChanged,
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
    /// The file given by hand could not be read.
    #[error("failed to read the file")]
    File(#[from] std::io::Error),
    /// The sink refused or did not answer.
    #[error(transparent)]
    Sink(#[from] tidemill_sinks::Error),
    /// The ledger holds what this version does not understand.
    #[error("the ledger of job {job} cannot be read: {message}")]
    Ledger {
        /// The job.
        job: String,
        /// What is wrong.
        message: String,
    },
    /// The job store or the event log refused or did not answer.
    #[error(transparent)]
    Jobs(#[from] tidemill_jobs::Error),
    /// Another attempt owns the job now, or it was cancelled: this one stops without a trace.
    #[error("the job was taken from this attempt")]
    Overtaken,
    /// The attempt took longer than the limit of the settings.
    #[error("the attempt took longer than its limit")]
    TimedOut,
    /// The process is asked to stop; the job is handed back.
    #[error("the processor is stopping")]
    Stopping,
    /// A bug: a task of the processor panicked.
    #[error("{0} broke down")]
    Broken(&'static str),
}

impl Error {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Error::Decode(error) | Error::DecodeOf { source: error, .. } => error.blame(),
            Error::Program(fault) => fault.blame(),
            Error::NoRecords { .. }
            | Error::OverErrorBudget { .. }
            | Error::CheckFailed { .. }
            | Error::Parameters(_)
            | Error::ObjectChanged => Blame::Sender,
            Error::Plan(_) | Error::Sql(_) | Error::Lookup { .. } => Blame::Author,
            Error::Memory(_) | Error::File(_) | Error::TimedOut | Error::Ledger { .. } | Error::Broken(_) => {
                Blame::Operator
            }
            Error::Objects { .. } | Error::Overtaken | Error::Stopping => Blame::World,
            Error::Sink(error) => error.blame(),
            Error::Jobs(error) => error.blame(),
        }
    }

    /// Whether to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Error::Objects { source, .. } => match source {
                object_store::Error::NotFound { .. } | object_store::Error::InvalidPath { .. } => {
                    Retry::Never
                }
                _ => Retry::Later,
            },
            Error::Sink(error) => error.retry(),
            Error::Jobs(error) => error.retry(),
            _ => Retry::Never,
        }
    }

    /// A stable word for the job's error.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Decode(error) | Error::DecodeOf { source: error, .. } => error.code(),
            Error::Program(fault) => fault.code(),
            Error::NoRecords { .. } => "no_records",
            Error::OverErrorBudget { .. } => "over_error_budget",
            Error::CheckFailed { .. } => "check_failed",
            Error::Parameters(_) => "bad_parameters",
            Error::Plan(_) => "pipeline_invalid",
            Error::Sql(_) => "sql_failed",
            Error::Memory(_) => "out_of_memory",
            Error::Lookup { .. } => "lookup_failed",
            Error::ObjectChanged => "object_changed",
            Error::Objects { .. } => "object_unavailable",
            Error::File(_) => "file_unreadable",
            Error::Sink(error) => error.code(),
            Error::Ledger { .. } => "ledger_unreadable",
            Error::Jobs(_) => "jobs_unavailable",
            Error::Overtaken => "overtaken",
            Error::TimedOut => "timed_out",
            Error::Stopping => "stopping",
            Error::Broken(_) => "internal",
        }
    }

    /// As the job table and the API show it.
    pub fn to_job_error(&self) -> JobError {
        let mut message = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        JobError { code: self.code().to_owned(), message, blame: self.blame() }
    }
}

impl From<DataFusionError> for Error {
    /// Takes back an error of ours that travelled through DataFusion; all else is the SQL's.
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(inner) => match inner.downcast::<Error>() {
                Ok(ours) => *ours,
                Err(other) => Error::Sql(other.to_string()),
            },
            DataFusionError::Context(_, inner) => Error::from(*inner),
            DataFusionError::Shared(inner) => Error::Sql(inner.strip_backtrace()),
            DataFusionError::ResourcesExhausted(message) => Error::Memory(message),
            other => Error::Sql(other.strip_backtrace()),
        }
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        DataFusionError::External(Box::new(error))
    }
}
