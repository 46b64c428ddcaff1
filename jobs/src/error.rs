//! What may go wrong with jobs and events.

use sqlx::migrate::MigrateError;
use sqlx::mysql::MySqlDatabaseError;
use tidemill_pipelines::{Blame, PipelineName, Retry};

/// Short for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the job store, the relay or the event log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database of jobs refused or did not answer.
    #[error("failed to {action} in the job database")]
    Database {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: sqlx::Error,
    },
    /// The schema could not be brought up to date.
    #[error("failed to migrate the job database")]
    Migrate(#[from] MigrateError),
    /// The broker refused or did not answer.
    #[error("failed to {action} on the event log: {message}")]
    Log {
        /// What was tried.
        action: &'static str,
        /// What the broker or its client said.
        message: String,
        /// Whether it may pass.
        retry: Retry,
    },
    /// The event log will never take this record, whoever sends it and when: it is too large or malformed.
    #[error("the event log refuses a record of {size_bytes} bytes for good: {message}")]
    Record {
        /// How large its payload is.
        size_bytes: usize,
        /// What the broker or its client said.
        message: String,
    },
    /// The ledger could not be asked, so nobody may say how the job ends.
    #[error("failed to read the ledger: {message}")]
    Ledger {
        /// What its database said.
        message: String,
        /// Whether it may pass.
        retry: Retry,
    },
    /// A row or an event holds what this version does not understand.
    #[error("failed to read {what}: {message}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// Why it makes no sense.
        message: String,
    },
    /// The same Idempotency-Key came before with other content.
    #[error("idempotency key `{key}` was used before with other content")]
    IdempotencyConflict {
        /// The key as sent.
        key: String,
    },
    /// A pushed object belongs to another job already.
    #[error("the pushed object `{object_id}` belongs to job {job_id} already")]
    ObjectTaken {
        /// The object's id, part of its key.
        object_id: String,
        /// The job that took it.
        job_id: String,
    },
    /// A text of the sender is longer than it may be.
    #[error("the {what} has {length} characters, at most {limit} are allowed")]
    TooLong {
        /// Which text: `idempotency key`, `sender`.
        what: &'static str,
        /// How long it is.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
    /// A fetch that failed has no objects that its job could be done again from.
    #[error(
        "the job has no objects, because its fetch failed; fetch again with: tidemill fetch {pipeline}{slot}"
    )]
    NothingFetched {
        /// Its pipeline.
        pipeline: PipelineName,
        /// ` --slot …`, when the slot is known.
        slot: String,
    },
    /// The job's state does not allow this change.
    #[error("job is {status}, so it cannot be {change}")]
    NotAllowed {
        /// The status it has.
        status: &'static str,
        /// What was asked: `retried`, `cancelled`.
        change: &'static str,
    },
}

impl Error {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        match self {
            Error::Database { .. } | Error::Log { .. } | Error::Ledger { .. } => Blame::World,
            Error::Migrate(error) if may_pass(error) => Blame::World,
            Error::Migrate(_) | Error::Malformed { .. } | Error::Record { .. } => Blame::Operator,
            Error::IdempotencyConflict { .. }
            | Error::ObjectTaken { .. }
            | Error::TooLong { .. }
            | Error::NothingFetched { .. }
            | Error::NotAllowed { .. } => Blame::Sender,
        }
    }

    /// Whether to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Error::Database { .. } => Retry::Later,
            Error::Migrate(error) if may_pass(error) => Retry::Later,
            Error::Log { retry, .. } | Error::Ledger { retry, .. } => *retry,
            _ => Retry::Never,
        }
    }
}

/// Whether what stopped a migration passes by itself: the server went away, or takes no writes until a failover.
fn may_pass(error: &MigrateError) -> bool {
    // The server's read-only settings, as MySQL and MariaDB number them.
    const READ_ONLY: [u16; 2] = [1290, 1836];
    let (MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _)) = error else {
        return false;
    };
    match source {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => true,
        sqlx::Error::Database(error) => error
            .try_downcast_ref::<MySqlDatabaseError>()
            .is_some_and(|error| READ_ONLY.contains(&error.number())),
        _ => false,
    }
}
