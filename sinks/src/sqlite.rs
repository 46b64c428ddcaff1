//! The SQLite sink: one file, one writer, many readers.
//!
//! Promises: WAL with `synchronous=FULL`, so a committed delivery outlives a kill; STRICT tables; a
//! delivery holds the write lock from open to commit, others wait their bounded turn. The exact types of
//! the tables that Tidemill makes are kept in `tidemill_columns`.

mod catalog;
mod delivery;
mod fences;
mod filter;
mod ledger;
mod scan;
mod shape;
mod values;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use futures::stream::BoxStream;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tidemill_pipelines::{Retry, TableName};

use crate::plan::check_plan;
use crate::{
    CommitKey, Delivery, Error, LedgerRow, Result, Selection, Sink, SinkLimits, TablePlan, TableState,
};

/// Connections for scans and questions; each reads its own snapshot.
const READERS_MAX: u32 = 4;

/// SQLite's word for "this transaction writes": no other may, and no read has to be upgraded later.
const BEGIN_WRITE: &str = "BEGIN IMMEDIATE";

/// Tables of one SQLite file.
#[derive(Clone)]
pub struct SqliteSink {
    reader: SqlitePool,
    /// One connection: the line in which deliveries of this process wait.
    writer: SqlitePool,
    fences: Arc<fences::Fences>,
}

impl SqliteSink {
    /// Opens a file with the default limits; makes it when it is missing.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, SinkLimits::default()).await
    }

    /// Opens a file; makes it, and Tidemill's own tables in it, when they are missing.
    pub async fn open_with(path: impl AsRef<Path>, limits: SinkLimits) -> Result<Self> {
        let lock_wait = Duration::from_secs(limits.lock_wait_seconds);
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(lock_wait)
            .disable_statement_logging();
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(lock_wait)
            // On a full disk SQLite rolls back by itself, and the client believes for ever that a transaction is open.
            .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }));
        let writer = writer.connect_with(options.clone()).await;
        let reader = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .acquire_timeout(Duration::from_secs(limits.connect_timeout_seconds))
            .connect_lazy_with(options);
        let writer = writer.map_err(|error| from_sqlx("open the file", error))?;
        let sink = Self { reader, writer, fences: Arc::default() };
        sink.migrate().await?;
        Ok(sink)
    }

    /// Opens a file for reading only when it is first asked; it has to be there.
    pub fn open_read_only(path: impl AsRef<Path>, limits: SinkLimits) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .busy_timeout(Duration::from_secs(limits.lock_wait_seconds))
            .disable_statement_logging();
        let reader = SqlitePoolOptions::new()
            .max_connections(u32::try_from(limits.connections_max).unwrap_or(READERS_MAX))
            .acquire_timeout(Duration::from_secs(limits.connect_timeout_seconds))
            .connect_lazy_with(options);
        Self { writer: reader.clone(), reader, fences: Arc::default() }
    }

    /// Closes the file once no delivery and no scan is open. Called at shutdown.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

#[async_trait]
impl Sink for SqliteSink {
    async fn migrate(&self) -> Result<()> {
        for ddl in ledger::TABLES.into_iter().chain([catalog::COLUMNS_TABLE]) {
            let made = sqlx::query(ddl).execute(&self.writer).await;
            made.map_err(|error| from_sqlx("make the ledger", error))?;
        }
        ledger::upgrade(&self.writer).await
    }

    async fn inspect(&self, plan: &TablePlan) -> Result<TableState> {
        check_plan(plan)?;
        match catalog::table(&self.reader, plan.table.as_str()).await? {
            None => Ok(TableState::Missing { ddl: catalog::create_table(plan) }),
            Some(there) => match shape::differences(plan, &there) {
                differences if differences.is_empty() => Ok(TableState::Fits),
                differences => Ok(TableState::Differs(differences)),
            },
        }
    }

    async fn ensure(&self, plan: &TablePlan) -> Result<()> {
        let mut state = self.inspect(plan).await?;
        if let TableState::Missing { ddl } = &state {
            let made = async {
                let mut transaction = self.writer.begin_with(BEGIN_WRITE).await?;
                sqlx::query(AssertSqlSafe(ddl.clone())).execute(&mut *transaction).await?;
                catalog::record_columns(&mut transaction, plan).await?;
                transaction.commit().await
            };
            made.await.map_err(|error| from_sqlx("create the table", error))?;
            state = self.inspect(plan).await?;
        }
        match state {
            TableState::Fits => Ok(()),
            TableState::Differs(differences) => {
                Err(Error::Shape { table: plan.table.to_string(), differences })
            }
            TableState::Missing { .. } => Err(Error::Refused {
                action: "create the table",
                message: format!("`{}` is not there after CREATE TABLE", plan.table),
            }),
        }
    }

    async fn raise(&self, job_id: &str, attempt: u32) -> Result<Vec<LedgerRow>> {
        // Here first: the delivery of an older attempt holds the write lock, and stops when it sees this.
        let _fence = self.fences.raise(job_id, attempt)?;
        let mut raising =
            self.writer.begin_with(BEGIN_WRITE).await.map_err(|error| from_sqlx("begin", error))?;
        ledger::raise_fence(&mut raising, job_id, attempt).await?;
        let rows = ledger::of_job(&mut raising, job_id).await?;
        raising.commit().await.map_err(|error| from_sqlx("raise the fence", error))?;
        Ok(rows)
    }

    async fn open(&self, plans: &[TablePlan], key: &CommitKey) -> Result<Box<dyn Delivery>> {
        delivery::open(self, plans, key).await
    }

    async fn ledger(&self, job_id: &str) -> Result<Vec<LedgerRow>> {
        let mut connection =
            self.reader.acquire().await.map_err(|error| from_sqlx("read the ledger", error))?;
        ledger::of_job(&mut connection, job_id).await
    }

    async fn tables(&self) -> Result<Vec<(TableName, SchemaRef)>> {
        catalog::tables(&self.reader).await
    }

    async fn schema(&self, table: &TableName) -> Result<Option<SchemaRef>> {
        Ok(catalog::table(&self.reader, table.as_str()).await?.map(|there| there.schema()))
    }

    async fn select(&self, selection: &Selection) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        scan::select(&self.reader, selection).await
    }

    async fn ping(&self) -> Result<()> {
        let answer = sqlx::query("SELECT 1").execute(&self.reader).await;
        answer.map(drop).map_err(|error| from_sqlx("ping", error))
    }
}

/// What an error of SQLite means: 5 busy and 6 locked pass at once, a full pool is other deliveries; 10 is a failed read or
/// write, 13 a full disk, 14 a file that cannot be opened: the operator makes room, and the job goes on.
pub(crate) fn from_sqlx(action: &'static str, error: sqlx::Error) -> Error {
    let message = error.to_string();
    match error {
        sqlx::Error::PoolTimedOut => Error::Unavailable {
            action,
            message: "other deliveries hold the file for too long".to_owned(),
            retry: Retry::Now,
        },
        sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) => {
            Error::Unavailable { action, message, retry: Retry::Later }
        }
        _ => match primary_code(&error) {
            Some(5 | 6) => Error::Unavailable { action, message, retry: Retry::Now },
            Some(10 | 13 | 14) => Error::Unavailable { action, message, retry: Retry::Later },
            _ => Error::Refused { action, message },
        },
    }
}

/// SQLite's primary result code.
pub(crate) fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<i32>().ok().map(|extended| extended & 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fill(sink: &SqliteSink) -> sqlx::Result<()> {
        let mut transaction = sink.writer.begin_with(BEGIN_WRITE).await?;
        sqlx::query("CREATE TABLE filler (bytes BLOB)").execute(&mut *transaction).await?;
        for _ in 0..100 {
            let more = "INSERT INTO filler VALUES (zeroblob(100000))";
            sqlx::query(more).execute(&mut *transaction).await?;
        }
        transaction.commit().await
    }

    #[tokio::test]
    async fn a_full_disk_is_waited_for_and_leaves_no_broken_connection() {
        let folder = tempfile::tempdir().unwrap();
        let sink = SqliteSink::open(folder.path().join("a.db")).await.unwrap();
        sqlx::query("PRAGMA max_page_count = 60").execute(&sink.writer).await.unwrap();
        let full = from_sqlx("insert the rows", fill(&sink).await.unwrap_err());
        assert!(matches!(full, Error::Unavailable { retry: Retry::Later, .. }), "{full}");
        // There is room again: the next connection has no such limit.
        fill(&sink).await.unwrap();
    }
}
