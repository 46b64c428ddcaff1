//! What a sink of tables does: tables made to a plan, rows delivered exactly once, the ledger, and scans.
//!
//! The contract of a delivery. Before an attempt writes, it raises the fence of its job (its own short
//! transaction); an older attempt finds the fence higher than itself when it commits, and is rolled back. Whoever
//! ends a job from outside raises the fence above its last attempt first, and then reads the ledger.
//! Rows of all tables and their ledger rows commit in one transaction; the ledger's unique key (job, sink, chunk)
//! drops a doubled delivery. When the answer to COMMIT is lost, the ledger is read: it is the truth.
//! The lake commits in another store. There the database decides: the files are written first and nobody sees them, the
//! ledger row names them, and whoever reads that row completes the commit of the lake (`lake/delivery.rs`).

use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use tidemill_pipelines::{ColumnName, Mode, TableName};

use crate::{Result, Selection};

/// A table as a pipeline needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct TablePlan {
    /// Its name.
    pub table: TableName,
    /// Its columns in the order of the rows; at least one.
    pub columns: Vec<TableColumn>,
    /// The primary key; may be empty but for upsert.
    pub key: Vec<ColumnName>,
    /// How rows go in.
    pub mode: Mode,
    /// Where it lies.
    pub place: Place,
}

/// Where a table lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the database.
    Database,
    /// In the lake, partitioned by day.
    Lake {
        /// The date or timestamp column that gives a row's day; `None`: the day on which the file landed.
        day: Option<ColumnName>,
    },
}

/// A column of a planned table.
#[derive(Debug, Clone, PartialEq)]
pub struct TableColumn {
    /// Its name.
    pub name: ColumnName,
    /// One of Int64, Float64, Decimal128, Boolean, Utf8, Date32, Timestamp(Microsecond, "UTC"). The planner
    /// (processor) casts what SQL makes beyond these (Int32, Utf8View, …) before delivery.
    pub kind: DataType,
    /// Whether nulls are stored.
    pub nullable: bool,
    /// For Utf8: longest value in characters, when it is known.
    pub max_length: Option<u32>,
}

impl TableColumn {
    /// As a field of Arrow; a column of the key is never null.
    pub(crate) fn field(&self, key: &[ColumnName]) -> Field {
        let nullable = self.nullable && !key.contains(&self.name);
        Field::new(self.name.as_str(), self.kind.clone(), nullable)
    }
}

/// What stands there for a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum TableState {
    /// There is no such table; this statement would make it.
    Missing {
        /// The CREATE TABLE statement.
        ddl: String,
    },
    /// It is there and fits.
    Fits,
    /// It is there and does not fit.
    Differs(Vec<String>),
}

/// Names one commit: unique in the ledger but for the attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitKey {
    /// The job's id.
    pub job_id: String,
    /// 0-based; a file that is written whole has chunk 0 only.
    pub chunk: u32,
    /// The attempt of the claim.
    pub attempt: u32,
}

/// One row of the ledger: what one commit did to one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRow {
    /// Which commit.
    pub key: CommitKey,
    /// What was written: the table's name, `lake:` and the table's name, or `files` when the job writes no table.
    pub sink: String,
    /// The table written; empty when the job writes none.
    pub table: String,
    /// Rows delivered in the commit.
    pub rows: u64,
    /// When it was written, by the database's clock, UTC.
    pub committed_at: DateTime<Utc>,
    /// What the end of the job is written from, opaque here; `None` of a chunk that others follow.
    pub summary: Option<String>,
}

impl LedgerRow {
    /// The sink of a job that writes no table.
    pub const FILES: &'static str = "files";

    /// The table of the lake whose files this row names, when it names some.
    pub fn lake_table(&self) -> Option<&str> {
        self.sink.strip_prefix(LAKE_PREFIX)
    }
}

/// Begins the sink's name of a table in the lake; no table's name holds a colon.
pub(crate) const LAKE_PREFIX: &str = "lake:";

/// What goes into the ledger with the rows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Commit<'a> {
    /// What the end of the job is written from; `None` when more chunks follow.
    pub summary: Option<&'a str>,
    /// Tables of the lake with the number of their rows, whose files this commit makes valid.
    pub lake: &'a [(TableName, u64)],
}

/// A ledger row to be written.
pub(crate) struct Entry {
    pub(crate) key: CommitKey,
    pub(crate) sink: String,
    pub(crate) table: String,
    pub(crate) rows: u64,
}

impl Commit<'_> {
    /// The rows of the ledger: one for each table with its number of rows; at least one.
    pub(crate) fn entries<'t>(
        &self,
        key: &CommitKey,
        tables: impl Iterator<Item = (&'t TableName, u64)>,
    ) -> Vec<Entry> {
        let entry = |sink: String, table: &TableName, rows| Entry {
            key: key.clone(),
            sink,
            table: table.to_string(),
            rows,
        };
        let mut entries: Vec<_> = tables.map(|(table, rows)| entry(table.to_string(), table, rows)).collect();
        entries.extend(
            self.lake.iter().map(|(table, rows)| entry(format!("{LAKE_PREFIX}{table}"), table, *rows)),
        );
        if entries.is_empty() {
            let (sink, table) = (LedgerRow::FILES.to_owned(), String::new());
            entries.push(Entry { key: key.clone(), sink, table, rows: 0 });
        }
        entries
    }
}

/// A row that cannot be stored: it is not written, the others are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRow {
    /// 0-based number of the row in its batch.
    pub row: usize,
    /// Why, in the words of the database or ours.
    pub message: String,
}

/// Tables and a ledger: MySQL, SQLite or the lake. In a database the tables `tidemill_ledger` and
/// `tidemill_fence` are its own.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Makes ledger and fence when they are missing. Safe to repeat, and at the same time by several.
    async fn migrate(&self) -> Result<()>;
    /// Compares a plan with what stands there. Changes nothing.
    async fn inspect(&self, plan: &TablePlan) -> Result<TableState>;
    /// Makes the table when it is missing; refuses one of another shape with [`crate::Error::Shape`].
    async fn ensure(&self, plan: &TablePlan) -> Result<()>;
    /// Raises the fence of a job to `attempt`, waits for an older attempt that is committing, and gives the commits of
    /// the job, by sink and chunk. Refuses with [`crate::Error::Fenced`] when the fence is higher already.
    async fn raise(&self, job_id: &str, attempt: u32) -> Result<Vec<LedgerRow>>;
    /// Begins a transaction that writes these tables, in this order of numbers; without any it writes the ledger
    /// alone. The fence was raised before, and the tables are there.
    async fn open(&self, plans: &[TablePlan], key: &CommitKey) -> Result<Box<dyn Delivery>>;
    /// The commits of a job, by sink and chunk; those of the lake that were not completed are completed.
    async fn ledger(&self, job_id: &str) -> Result<Vec<LedgerRow>>;
    /// The tables there are (without Tidemill's own), with their columns as Arrow fields.
    async fn tables(&self) -> Result<Vec<(TableName, SchemaRef)>>;
    /// The columns of one table, `None` when there is no such table.
    async fn schema(&self, table: &TableName) -> Result<Option<SchemaRef>>;
    /// Streams a part of a table in batches of at most 8,192 rows, at a consistent snapshot. Without columns the
    /// batches only count rows. Rows that the filters refuse may be among them, see [`crate::Filter`].
    async fn select(&self, selection: &Selection) -> Result<BoxStream<'static, Result<RecordBatch>>>;
    /// Streams these columns of a whole table.
    async fn scan(
        &self,
        table: &TableName,
        columns: &[ColumnName],
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let columns = columns.to_vec();
        self.select(&Selection { table: table.clone(), columns, filters: Vec::new(), limit: None }).await
    }
    /// Reaches the database, for readiness and `tidemill doctor`.
    async fn ping(&self) -> Result<()>;
}

/// A transaction that writes rows; dropped without commit, it rolls back.
#[async_trait]
pub trait Delivery: Send {
    /// Writes rows to the table of this number, with the columns of its plan, in its order. Waits while the database is
    /// behind. Gives the rows that could not be stored; the others are written.
    async fn write(&mut self, table: usize, batch: RecordBatch) -> Result<Vec<RefusedRow>>;
    /// Writes the ledger rows, checks the fence, commits; settles a lost answer by the ledger. When the same commit was
    /// made before, nothing is written and the rows of that one are given.
    async fn commit(self: Box<Self>, commit: Commit<'_>) -> Result<Vec<LedgerRow>>;
    /// Gives up: nothing of this delivery is in the database afterwards.
    async fn rollback(self: Box<Self>) -> Result<()>;
}
