//! Deliver: rows into the tables of the sinks, each with its ledger row, exactly once, and into files.
//!
//! The contract is the one of [`tidemill_sinks::Sink`]: a delivery that is dropped leaves nothing.

use std::sync::Arc;

use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use object_store::ObjectStore;
use tidemill_jobs::JobId;
use tidemill_sinks::{CommitKey, Delivery, LedgerRow, Opened, Sink, TablePlan};

use crate::artifacts::Artifact;
use crate::csv_file::CsvFile;
use crate::error::Result;
use crate::origins::Origins;
use crate::plan::Plan;

/// The deliveries of one attempt: those to write and those that an earlier attempt has committed.
pub(crate) struct Deliveries {
    open: Vec<Box<dyn Delivery>>,
    committed: Vec<LedgerRow>,
    files: Vec<CsvFile>,
    rows: u64,
}

impl Deliveries {
    /// Makes missing tables, refuses those of another shape, raises the fence, looks into the ledger.
    pub(crate) async fn open(sink: &Arc<dyn Sink>, plan: &Plan, job_id: &str, attempt: u32) -> Result<Self> {
        for table in &plan.tables {
            sink.ensure(table).await?;
        }
        let mut deliveries = Self { open: Vec::new(), committed: Vec::new(), files: Vec::new(), rows: 0 };
        for table in &plan.tables {
            match sink.open(table, &commit_key(table, job_id, attempt)).await? {
                Opened::Committed(row) => deliveries.committed.push(row),
                Opened::Delivery(delivery) => deliveries.open.push(delivery),
            }
        }
        Ok(deliveries)
    }

    /// The attempt that wrote everything, when an earlier one did.
    pub(crate) fn committed_by(&self) -> Option<u32> {
        let newest = self.committed.iter().map(|row| row.key.attempt).max();
        if self.open.is_empty() { newest } else { None }
    }

    /// Begins the files.
    pub(crate) async fn open_files(
        &mut self,
        objects: &Arc<dyn ObjectStore>,
        plan: &Plan,
        job: JobId,
        attempt: u32,
    ) -> Result<()> {
        for name in &plan.files {
            self.files.push(CsvFile::start(objects, job, attempt, name, &plan.output).await?);
        }
        Ok(())
    }

    /// Completes the files; before the commit, so that what is in the tables has its files.
    pub(crate) async fn finish_files(&mut self) -> Result<Vec<Artifact>> {
        let mut artifacts = Vec::new();
        for file in self.files.drain(..) {
            artifacts.push(file.finish().await?);
        }
        Ok(artifacts)
    }

    /// Writes every batch to every open delivery; gives the number of rows.
    pub(crate) async fn write(&mut self, mut rows: SendableRecordBatchStream) -> Result<u64> {
        while let Some(batch) = rows.next().await {
            let (batch, _origins) = Origins::split(batch?, self.rows);
            self.rows += batch.num_rows() as u64;
            for delivery in &mut self.open {
                delivery.write(batch.clone()).await?;
            }
            for file in &mut self.files {
                file.write(&batch).await?;
            }
        }
        Ok(self.rows)
    }

    /// Commits each table with its ledger row.
    pub(crate) async fn commit(self) -> Result<Vec<LedgerRow>> {
        let mut rows = self.committed;
        for delivery in self.open {
            rows.push(delivery.commit().await?);
        }
        Ok(rows)
    }

    /// Gives up what is open.
    pub(crate) async fn rollback(self) -> Result<()> {
        for delivery in self.open {
            delivery.rollback().await?;
        }
        for file in self.files {
            file.abort().await;
        }
        Ok(())
    }
}

fn commit_key(table: &TablePlan, job_id: &str, attempt: u32) -> CommitKey {
    CommitKey { job_id: job_id.to_owned(), sink: table.table.to_string(), chunk: 0, attempt }
}
