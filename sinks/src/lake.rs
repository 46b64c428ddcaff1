//! The lake: Delta tables in the object store, one folder below `lake/` each, partitioned by day, for SQL
//! beyond one machine (Spark, Trino, Athena). This file is the list of what it does.
//!
//! Promises: rows of a delivery appear whole and once: the ledger in the database decides whether, Delta's application
//! transaction keeps it at once (`delivery.rs`, `log.rs`); rows are only added; no more than [`LakeLimits`] is held in memory, whatever the size of a file.

mod day;
mod delivery;
mod error;
mod files;
mod log;
mod pending;
mod scan;
mod shape;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use deltalake_core::DeltaTable;
use futures::stream::BoxStream;
use object_store::ObjectStore;
use object_store::path::Path;
use tidemill_pipelines::{ColumnName, TableName};

use crate::builder::missing;
use crate::{CommitKey, Error, LedgerRow, Result, Selection, TablePlan, TableState};
pub use day::made_day_column;
pub(crate) use delivery::LakeFiles;
use log::Log;

/// Where the tables lie in the object store.
const FOLDER: &str = "lake";

/// The bounds of the lake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeLimits {
    /// Bytes of Arrow data that a delivery holds before its files are closed: a file of one day holds at most
    /// a row group, a file of many days one for each. Half of what a processor's SQL may hold.
    pub held_bytes_max: usize,
    /// Bytes of one row group: enough for readers to skip by, few enough to be held for some days at once.
    pub row_group_bytes: usize,
    /// Arrow bytes after which a file is closed and another begun: about 128 MiB of Parquet, which readers
    /// take in one piece.
    pub file_bytes: usize,
    /// Files of one delivery. More come of a wrong day column, and would slow every reader down.
    pub files_max: usize,
    /// Tries of a commit while other writers commit to the same table.
    pub commit_tries_max: u32,
    /// How old a file that no commit names must be to be swept: longer than any delivery and any reader.
    pub orphan_age: Duration,
}

impl Default for LakeLimits {
    fn default() -> Self {
        Self {
            held_bytes_max: 64 << 20,
            row_group_bytes: 16 << 20,
            file_bytes: 512 << 20,
            files_max: 10_000,
            commit_tries_max: 10,
            orphan_age: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// The Delta tables of an object store.
#[derive(Clone)]
pub struct Lake {
    objects: Arc<dyn ObjectStore>,
    limits: LakeLimits,
}

impl Lake {
    /// The lake of an object store. Connects to nothing yet.
    pub fn new(objects: Arc<dyn ObjectStore>) -> Self {
        Self::with_limits(objects, LakeLimits::default())
    }

    /// The same with other bounds.
    pub fn with_limits(objects: Arc<dyn ObjectStore>, limits: LakeLimits) -> Self {
        Self { objects, limits }
    }

    /// A table as it is now, for readers; `None` when there is no such table.
    pub async fn table(&self, name: &TableName) -> Result<Option<DeltaTable>> {
        self.log(name)?.table().await
    }

    /// The key prefix of a table in the object store.
    pub fn location(name: &TableName) -> String {
        format!("{FOLDER}/{name}")
    }

    fn log(&self, table: &TableName) -> Result<Log> {
        Log::of(&self.objects, table)
    }
}

impl Lake {
    /// Compares a plan with what stands there. Changes nothing.
    pub async fn inspect(&self, plan: &TablePlan) -> Result<TableState> {
        shape::check(plan)?;
        match self.log(&plan.table)?.snapshot().await? {
            None => Ok(TableState::Missing { ddl: shape::ddl(plan) }),
            Some(snapshot) => match shape::differences(plan, &snapshot) {
                differences if differences.is_empty() => Ok(TableState::Fits),
                differences => Ok(TableState::Differs(differences)),
            },
        }
    }

    /// Makes the table when it is missing; refuses one of another shape.
    pub async fn ensure(&self, plan: &TablePlan) -> Result<()> {
        let made = match self.inspect(plan).await? {
            TableState::Missing { .. } => self.log(&plan.table)?.create(plan).await,
            _ => Ok(()),
        };
        // Looked at once more: another process may have made the table in between.
        match self.inspect(plan).await? {
            TableState::Fits => Ok(()),
            TableState::Differs(differences) => {
                Err(Error::Shape { table: plan.table.to_string(), differences })
            }
            TableState::Missing { .. } => {
                made?;
                Err(missing(format!("`{}` is not there after it was made", plan.table)))
            }
        }
    }

    /// Begins the files of a delivery into a table that is there.
    pub(crate) fn begin(&self, plan: &TablePlan, key: &CommitKey) -> Result<LakeFiles> {
        LakeFiles::begin(self, plan, key)
    }

    /// Commits in Delta what the ledger of the database says is committed. Safe to repeat, and by several at once.
    pub(crate) async fn complete(&self, row: &LedgerRow) -> Result<()> {
        match row.lake_table().map(|table| table.parse::<TableName>()) {
            Some(Ok(table)) => delivery::complete(self, &table, &row.key).await,
            Some(Err(error)) => Err(missing(error.to_string())),
            None => Ok(()),
        }
    }

    /// The tables there are, with their columns.
    pub async fn tables(&self) -> Result<Vec<(TableName, SchemaRef)>> {
        let folder = Path::from(FOLDER);
        let listed = self.objects.list_with_delimiter(Some(&folder)).await;
        let listed = listed.map_err(|e| error::from_store("list the tables of the lake", e))?;
        let mut tables = Vec::new();
        for folder in listed.common_prefixes {
            let name = folder.filename().and_then(|name| name.parse::<TableName>().ok());
            if let Some(name) = name
                && let Some(schema) = self.schema(&name).await?
            {
                tables.push((name, schema));
            }
        }
        Ok(tables)
    }

    /// The columns of one table, `None` when there is no such table.
    pub async fn schema(&self, table: &TableName) -> Result<Option<SchemaRef>> {
        Ok(self.log(table)?.snapshot().await?.map(|snapshot| snapshot.arrow_schema()))
    }

    /// Streams a part of a table at a consistent snapshot.
    pub async fn select(&self, selection: &Selection) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        scan::select(self.log(&selection.table)?, selection).await
    }

    /// Streams these columns of a whole table.
    pub async fn scan(
        &self,
        table: &TableName,
        columns: &[ColumnName],
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let (table, columns) = (table.clone(), columns.to_vec());
        self.select(&Selection { table, columns, filters: Vec::new(), limit: None }).await
    }

    /// Reaches the object store.
    pub async fn ping(&self) -> Result<()> {
        let folder = Path::from(FOLDER);
        let listed = self.objects.list_with_delimiter(Some(&folder)).await;
        listed.map(drop).map_err(|e| error::from_store("list the tables of the lake", e))
    }
}
