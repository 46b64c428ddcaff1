//! The sinks of an installation as one: the database and the lake, each table in the place that its plan names.
//!
//! The two cannot commit together, so the database decides: files of the lake are written first and nobody sees them,
//! the ledger row in the database names them, and whoever reads such a row completes the commit of the lake.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use futures::stream::BoxStream;
use tidemill_pipelines::TableName;

use crate::lake::LakeFiles;
use crate::{
    Commit, CommitKey, Delivery, Error, Lake, LedgerRow, Place, RefusedRow, Result, Selection, Sink,
    TablePlan, TableState,
};

/// Database and lake. What other pipelines look into is the database alone.
#[derive(Clone)]
pub struct Sinks {
    database: Arc<dyn Sink>,
    lake: Option<Lake>,
}

impl Sinks {
    /// Without a lake when no object store is named.
    pub fn new(database: Arc<dyn Sink>, lake: Option<Lake>) -> Self {
        Self { database, lake }
    }

    fn lake(&self) -> Result<&Lake> {
        self.lake.as_ref().ok_or_else(|| Error::Refused {
            action: "open the lake",
            message: "no object store is named in the settings".to_owned(),
        })
    }

    /// Completes what the rows say is committed.
    async fn complete(&self, rows: &[LedgerRow]) -> Result<()> {
        for row in rows.iter().filter(|row| row.lake_table().is_some()) {
            self.lake()?.complete(row).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Sink for Sinks {
    async fn migrate(&self) -> Result<()> {
        self.database.migrate().await
    }

    async fn inspect(&self, plan: &TablePlan) -> Result<TableState> {
        match plan.place {
            Place::Database => self.database.inspect(plan).await,
            Place::Lake { .. } => self.lake()?.inspect(plan).await,
        }
    }

    async fn ensure(&self, plan: &TablePlan) -> Result<()> {
        match plan.place {
            Place::Database => self.database.ensure(plan).await,
            Place::Lake { .. } => self.lake()?.ensure(plan).await,
        }
    }

    async fn raise(&self, job_id: &str, attempt: u32) -> Result<Vec<LedgerRow>> {
        let rows = self.database.raise(job_id, attempt).await?;
        self.complete(&rows).await?;
        Ok(rows)
    }

    async fn open(&self, plans: &[TablePlan], key: &CommitKey) -> Result<Box<dyn Delivery>> {
        let of_database = |plan: &&TablePlan| plan.place == Place::Database;
        if plans.iter().all(|plan| of_database(&plan)) {
            return self.database.open(plans, key).await;
        }
        let (mut tables, mut targets) = (Vec::new(), Vec::new());
        for plan in plans {
            if of_database(&plan) {
                targets.push(Target::Table(tables.len()));
                tables.push(plan.clone());
            } else {
                targets.push(Target::Files(Box::new(self.lake()?.begin(plan, key)?)));
            }
        }
        // Without a table the database is needed only for the ledger: its transaction begins at the commit.
        let database = if tables.is_empty() { None } else { Some(self.database.open(&tables, key).await?) };
        Ok(Box::new(BothDelivery { sinks: self.clone(), key: key.clone(), database, targets }))
    }

    async fn ledger(&self, job_id: &str) -> Result<Vec<LedgerRow>> {
        let rows = self.database.ledger(job_id).await?;
        self.complete(&rows).await?;
        Ok(rows)
    }

    async fn tables(&self) -> Result<Vec<(TableName, SchemaRef)>> {
        self.database.tables().await
    }

    async fn schema(&self, table: &TableName) -> Result<Option<SchemaRef>> {
        self.database.schema(table).await
    }

    async fn select(&self, selection: &Selection) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        self.database.select(selection).await
    }

    async fn ping(&self) -> Result<()> {
        self.database.ping().await
    }
}

/// A delivery with tables of the lake: the transaction of the database, and files.
struct BothDelivery {
    sinks: Sinks,
    key: CommitKey,
    database: Option<Box<dyn Delivery>>,
    targets: Vec<Target>,
}

enum Target {
    /// The table of this number in the database.
    Table(usize),
    /// Files of a table of the lake.
    Files(Box<LakeFiles>),
}

impl BothDelivery {
    async fn delete_files(targets: Vec<Target>) -> Result<()> {
        for target in targets {
            if let Target::Files(files) = target {
                files.delete().await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Delivery for BothDelivery {
    async fn write(&mut self, table: usize, batch: RecordBatch) -> Result<Vec<RefusedRow>> {
        match (self.targets.get_mut(table), &mut self.database) {
            (Some(Target::Table(number)), Some(database)) => database.write(*number, batch).await,
            (Some(Target::Files(files)), _) => files.write(&batch).await,
            _ => Err(Error::Refused { action: "write rows", message: format!("there is no table {table}") }),
        }
    }

    async fn commit(mut self: Box<Self>, commit: Commit<'_>) -> Result<Vec<LedgerRow>> {
        let mut lake = Vec::new();
        for target in &mut self.targets {
            if let Target::Files(files) = target {
                lake.push(files.prepare().await?);
            }
        }
        crate::error::failpoint!("lake::files");
        let Self { sinks, key, database, targets } = *self;
        let database = match database {
            Some(database) => database,
            None => sinks.database.open(&[], &key).await?,
        };
        let rows = match database.commit(Commit { lake: &lake, ..commit }).await {
            Ok(rows) => rows,
            Err(error @ Error::Fenced { .. }) => {
                Self::delete_files(targets).await?;
                return Err(error);
            }
            // Whether it was committed is not known: the files stay, and the next attempt reads the ledger.
            Err(error) => return Err(error),
        };
        crate::error::failpoint!("lake::commit");
        sinks.complete(&rows).await?;
        if rows.iter().any(|row| row.key.attempt != key.attempt) {
            Self::delete_files(targets).await?;
        }
        Ok(rows)
    }

    async fn rollback(self: Box<Self>) -> Result<()> {
        Self::delete_files(self.targets).await?;
        match self.database {
            Some(database) => database.rollback().await,
            None => Ok(()),
        }
    }
}
