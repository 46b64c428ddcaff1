//! The MySQL and MariaDB sink. This file is the list of what it does; each part is in the file of its name.
//!
//! Promises: every connection runs in strict mode, UTC, utf8mb4 (verified before each use) and READ
//! COMMITTED; a delivery is one transaction on one connection; a connection that broke in mid-statement is
//! closed, never used again.

mod catalog;
mod ddl;
mod delivery;
mod errors;
mod filter;
mod insert;
mod ledger;
mod load;
mod pins;
pub(crate) mod row_size;
mod scan;
mod session;
mod shape;
mod text;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use futures::stream::BoxStream;
use tidemill_pipelines::TableName;

use crate::{
    CommitKey, Delivery, Error, LedgerRow, Result, Selection, Sink, SinkLimits, TablePlan, TableState,
};
use session::Database;

/// Tables of one MySQL or MariaDB database.
#[derive(Clone)]
pub struct MySqlSink {
    database: Arc<Database>,
}

impl MySqlSink {
    /// Opens the database of a URL `mysql://user:password@host:port/database` and reaches it once.
    pub async fn connect(url: &str, limits: SinkLimits) -> Result<Self> {
        let database = Arc::new(Database::open(url, limits, false).await?);
        Ok(Self { database })
    }

    /// The same, with sessions whose transactions refuse to write and whose statements the server ends in time.
    pub async fn connect_read_only(url: &str, limits: SinkLimits) -> Result<Self> {
        let database = Arc::new(Database::open(url, limits, true).await?);
        Ok(Self { database })
    }

    /// Closes the pool's connections once they are idle. Called at shutdown.
    pub async fn close(&self) {
        self.database.close().await;
    }
}

#[async_trait]
impl Sink for MySqlSink {
    async fn migrate(&self) -> Result<()> {
        ledger::migrate(&self.database).await
    }

    async fn inspect(&self, plan: &TablePlan) -> Result<TableState> {
        let ddl = ddl::create_table(plan, self.database.flavour())?;
        let mut session = self.database.session().await?;
        match catalog::table(&mut session, plan.table.as_str()).await? {
            None => Ok(TableState::Missing { ddl }),
            Some(there) => match shape::differences(plan, &there) {
                differences if differences.is_empty() => Ok(TableState::Fits),
                differences => Ok(TableState::Differs(differences)),
            },
        }
    }

    async fn ensure(&self, plan: &TablePlan) -> Result<()> {
        let mut state = self.inspect(plan).await?;
        if let TableState::Missing { ddl } = &state {
            self.database.session().await?.run("create the table", ddl).await?;
            // Looked at once more: another process may have made the table in between.
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
        let mut session = self.database.session().await?;
        ledger::raise_fence(&mut session, job_id, attempt).await?;
        ledger::of_job(&mut session, job_id).await
    }

    async fn open(&self, plans: &[TablePlan], key: &CommitKey) -> Result<Box<dyn Delivery>> {
        delivery::open(&self.database, plans, key).await
    }

    async fn ledger(&self, job_id: &str) -> Result<Vec<LedgerRow>> {
        ledger::of_job(&mut self.database.session().await?, job_id).await
    }

    async fn tables(&self) -> Result<Vec<(TableName, SchemaRef)>> {
        catalog::tables(&mut self.database.session().await?).await
    }

    async fn schema(&self, table: &TableName) -> Result<Option<SchemaRef>> {
        let mut session = self.database.session().await?;
        Ok(catalog::table(&mut session, table.as_str()).await?.map(|there| there.schema()))
    }

    async fn select(&self, selection: &Selection) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        scan::select(&self.database, selection).await
    }

    async fn ping(&self) -> Result<()> {
        self.database.session().await?.ping().await
    }
}
