//! Deliver: rows into the tables of the sinks with their ledger rows, exactly once, and into files.
//!
//! The contract is the one of [`tidemill_sinks::Sink`]: a delivery that is dropped leaves nothing. The fence is raised
//! before anything is read; tables are made and the transaction begins with the first rows, so a file that cannot be
//! read makes nothing.

use std::sync::Arc;

use arrow::compute::filter_record_batch;
use arrow::record_batch::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use object_store::ObjectStore;
use tidemill_jobs::{Committed, JobId, failpoint};
use tidemill_pipelines::TableName;
use tidemill_sinks::{Commit, CommitKey, Delivery, RefusedRow, Sink, TablePlan, TableState};

use crate::artifacts::Artifact;
use crate::csv_file::CsvFile;
use crate::decode::RejectProblem;
use crate::error::{Error, Result};
use crate::ledger::committed;
use crate::origins::Origins;
use crate::plan::Plan;
use crate::refuse::{DELIVER, Rejects};

/// The code of a record whose row the database refuses.
const ROW_REFUSED: &str = "row_refused";

/// The deliveries of one attempt.
pub(crate) struct Deliveries {
    sink: Arc<dyn Sink>,
    objects: Arc<dyn ObjectStore>,
    tables: Vec<TablePlan>,
    job: JobId,
    key: CommitKey,
    /// Begun with the first rows.
    open: Option<Box<dyn Delivery>>,
    files: Vec<CsvFile>,
    rows: u64,
}

/// What raising the fence found.
pub(crate) enum Begun {
    /// An earlier attempt committed, and died before it said so.
    Committed(Committed),
    /// There is something to do.
    Deliveries(Deliveries),
}

impl Deliveries {
    /// Raises the fence, looks into the ledger, refuses tables of another shape.
    pub(crate) async fn begin(
        sink: &Arc<dyn Sink>,
        objects: &Arc<dyn ObjectStore>,
        tables: &[TablePlan],
        job: JobId,
        attempt: u32,
    ) -> Result<Begun> {
        let key = CommitKey { job_id: job.to_string(), chunk: 0, attempt };
        let rows = sink.raise(&key.job_id, attempt).await?;
        if let Some(committed) = committed(objects, job, &rows).await? {
            return Ok(Begun::Committed(committed));
        }
        for plan in tables {
            if let TableState::Differs(differences) = sink.inspect(plan).await? {
                let table = plan.table.to_string();
                return Err(tidemill_sinks::Error::Shape { table, differences }.into());
            }
        }
        failpoint!("open::fence");
        Ok(Begun::Deliveries(Self {
            sink: Arc::clone(sink),
            objects: Arc::clone(objects),
            tables: tables.to_vec(),
            job,
            key,
            open: None,
            files: Vec::new(),
            rows: 0,
        }))
    }

    /// Begins the files.
    pub(crate) async fn open_files(&mut self, plan: &Plan) -> Result<()> {
        for name in &plan.files {
            let file = CsvFile::start(&self.objects, self.job, self.key.attempt, name, &plan.output).await?;
            self.files.push(file);
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

    /// Writes every batch to every table and file; gives the number of rows. A row that the first table refuses is a reject and goes
    /// nowhere else; one that only a later table refuses fails the job, for the first has it.
    pub(crate) async fn write(
        &mut self,
        mut rows: SendableRecordBatchStream,
        rejects: &Rejects,
    ) -> Result<u64> {
        let mut seen = 0;
        while let Some(batch) = rows.next().await {
            let (batch, origins) = Origins::split(batch?, seen);
            seen += batch.num_rows() as u64;
            self.write_batch(batch, &origins, rejects).await?;
        }
        Ok(self.rows)
    }

    async fn write_batch(
        &mut self,
        mut batch: RecordBatch,
        origins: &Origins,
        rejects: &Rejects,
    ) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if !self.tables.is_empty() && self.open.is_none() {
            self.open = Some(begin(&self.sink, &self.tables, &self.key).await?);
        }
        if let Some(delivery) = &mut self.open {
            for (number, plan) in self.tables.iter().enumerate() {
                let refused = delivery.write(number, batch.clone()).await?;
                match refused.first() {
                    None => {}
                    Some(_) if number == 0 => {
                        batch = reject(batch, origins, rejects, refused, &plan.table).await?;
                    }
                    Some(first) => {
                        let (table, row) = (plan.table.to_string(), self.rows + first.row as u64 + 1);
                        let message = first.message.clone();
                        return Err(tidemill_sinks::Error::Row { table, row, message }.into());
                    }
                }
            }
        }
        for file in &mut self.files {
            file.write(&batch).await?;
        }
        failpoint!("deliver::rows");
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Commits all tables with their ledger rows, and gives what the ledger says now: of this attempt, or of a twin of
    /// it that was quicker.
    pub(crate) async fn commit(mut self, summary: &Committed) -> Result<Committed> {
        failpoint!("deliver::report");
        let delivery = match self.open.take() {
            Some(delivery) => delivery,
            None => begin(&self.sink, &self.tables, &self.key).await?,
        };
        let failed = |message: String| Error::Ledger { job: self.key.job_id.clone(), message };
        let summary = serde_json::to_string(summary).map_err(|error| failed(error.to_string()))?;
        let rows = delivery.commit(Commit { summary: Some(&summary), lake: &[] }).await?;
        let found = committed(&self.objects, self.job, &rows).await?;
        found.ok_or_else(|| failed("the row just committed is not there".to_owned()))
    }

    /// Gives up what is open.
    pub(crate) async fn rollback(self) -> Result<()> {
        if let Some(delivery) = self.open {
            delivery.rollback().await?;
        }
        for file in self.files {
            file.abort().await;
        }
        Ok(())
    }
}

/// The transaction over all tables, which are made when they are missing.
async fn begin(sink: &Arc<dyn Sink>, tables: &[TablePlan], key: &CommitKey) -> Result<Box<dyn Delivery>> {
    for plan in tables {
        sink.ensure(plan).await?;
    }
    Ok(sink.open(tables, key).await?)
}

/// Rejects the records of refused rows, each once; gives the other rows.
async fn reject(
    batch: RecordBatch,
    origins: &Origins,
    rejects: &Rejects,
    refused: Vec<RefusedRow>,
    table: &TableName,
) -> Result<RecordBatch> {
    let mut kept = vec![true; batch.num_rows()];
    refused.iter().for_each(|refused| kept[refused.row] = false);
    let mut last = None;
    for RefusedRow { row, message } in refused {
        if origins.record(row).any(|other| kept[other]) {
            // The others are in the table, and a record is in one place only.
            let row = origins.output_row(row);
            let message = format!("{message}; its record made other rows, which the table took");
            return Err(tidemill_sinks::Error::Row { table: table.to_string(), row, message }.into());
        }
        let record = origins.of(row);
        if record.is_some() && record == last {
            continue;
        }
        last = record;
        let problem = RejectProblem { column: None, code: ROW_REFUSED.to_owned(), message };
        rejects.refuse(origins, &batch, row, DELIVER, problem).await?;
    }
    filter_record_batch(&batch, &kept.into()).map_err(|error| Error::Sql(error.to_string()))
}
