//! What errors of Delta and of the object store mean for a delivery.

use deltalake_core::DeltaTableError;
use deltalake_core::kernel::transaction::TransactionError;
use tidemill_pipelines::Retry;

use crate::Error;

/// What an error of Delta means: other writers pass at once, the object store later; all else stays.
pub(crate) fn from_delta(action: &'static str, error: DeltaTableError) -> Error {
    use DeltaTableError as Delta;
    let message = error.to_string();
    match error {
        Delta::ObjectStore { source } => from_store(action, source),
        Delta::VersionAlreadyExists(_)
        | Delta::Transaction {
            source: TransactionError::CommitConflict(_) | TransactionError::MaxCommitAttempts(_),
        } => Error::Unavailable { action, message, retry: Retry::Now },
        // The kernel wraps errors of the object store, and of Parquet that could not be read to its end.
        Delta::KernelError(_) | Delta::Parquet { .. } | Delta::Io { .. } => {
            Error::Unavailable { action, message, retry: Retry::Later }
        }
        _ => Error::Refused { action, message },
    }
}

/// What an error of the object store means.
pub(crate) fn from_store(action: &'static str, error: object_store::Error) -> Error {
    use object_store::Error as Store;
    let message = error.to_string();
    match error {
        Store::PermissionDenied { .. }
        | Store::Unauthenticated { .. }
        | Store::NotSupported { .. }
        | Store::NotImplemented { .. }
        | Store::InvalidPath { .. }
        | Store::UnknownConfigurationKey { .. } => Error::Refused { action, message },
        _ => Error::Unavailable { action, message, retry: Retry::Later },
    }
}
