//! The sinks of an installation as one: the database and the lake, each table in the place that its plan names.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use futures::stream::BoxStream;
use tidemill_pipelines::TableName;

use crate::{
    CommitKey, Error, Lake, LedgerRow, Opened, Place, Result, Selection, Sink, TablePlan, TableState,
};

/// Database and lake. What other pipelines look into is the database alone.
pub struct Sinks {
    database: Arc<dyn Sink>,
    lake: Option<Lake>,
}

impl Sinks {
    /// Without a lake when no object store is named.
    pub fn new(database: Arc<dyn Sink>, lake: Option<Lake>) -> Self {
        Self { database, lake }
    }

    fn of(&self, plan: &TablePlan) -> Result<&dyn Sink> {
        match (&plan.place, &self.lake) {
            (Place::Database, _) => Ok(self.database.as_ref()),
            (Place::Lake { .. }, Some(lake)) => Ok(lake),
            (Place::Lake { .. }, None) => Err(Error::Refused {
                action: "open the lake",
                message: "no object store is named in the settings".to_owned(),
            }),
        }
    }
}

#[async_trait]
impl Sink for Sinks {
    async fn migrate(&self) -> Result<()> {
        self.database.migrate().await
    }

    async fn inspect(&self, plan: &TablePlan) -> Result<TableState> {
        self.of(plan)?.inspect(plan).await
    }

    async fn ensure(&self, plan: &TablePlan) -> Result<()> {
        self.of(plan)?.ensure(plan).await
    }

    async fn open(&self, plan: &TablePlan, key: &CommitKey) -> Result<Opened> {
        self.of(plan)?.open(plan, key).await
    }

    async fn ledger(&self, job_id: &str) -> Result<Vec<LedgerRow>> {
        let mut rows = self.database.ledger(job_id).await?;
        if let Some(lake) = &self.lake {
            rows.extend(lake.ledger(job_id).await?);
        }
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
