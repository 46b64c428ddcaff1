//! The ledger of the sinks as the job store asks it: raise the fence, read what was committed.
//!
//! The row of a commit carries what the end of its job is written from ([`Committed`]), so an end needs no report and
//! no pipeline. Called by attempts, by whoever settles a job, and by `jobs verify`.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::ObjectStore;
use tidemill_jobs::{Committed, JobId, Ledger};
use tidemill_sinks::{LedgerRow, Sink};

use crate::error::{Error, Result};
use crate::report::{Report, report_key};

/// [`Ledger`] over the sinks of an installation.
pub struct SinkLedger {
    sink: Arc<dyn Sink>,
    objects: Arc<dyn ObjectStore>,
}

impl SinkLedger {
    /// The ledger of these sinks; reports of older versions are in `objects`.
    pub fn new(sink: Arc<dyn Sink>, objects: Arc<dyn ObjectStore>) -> Self {
        Self { sink, objects }
    }

    async fn seal(&self, job: JobId, attempt: u32) -> Result<Option<Committed>> {
        let id = job.to_string();
        let rows = match self.sink.raise(&id, attempt + 1).await {
            // A newer attempt has begun, so this one is fenced off already.
            Err(tidemill_sinks::Error::Fenced { .. }) => self.sink.ledger(&id).await?,
            rows => rows?,
        };
        committed(&self.objects, job, &rows).await
    }
}

#[async_trait]
impl Ledger for SinkLedger {
    async fn seal(&self, job: JobId, attempt: u32) -> tidemill_jobs::Result<Option<Committed>> {
        SinkLedger::seal(self, job, attempt).await.map_err(|error| tidemill_jobs::Error::Ledger {
            retry: error.retry(),
            message: error.to_job_error().message,
        })
    }
}

/// What the ledger says of a job, when it says that the job is done.
pub(crate) async fn committed(
    objects: &Arc<dyn ObjectStore>,
    job: JobId,
    rows: &[LedgerRow],
) -> Result<Option<Committed>> {
    let Some(last) = rows.iter().max_by_key(|row| (row.key.chunk, row.key.attempt)) else {
        return Ok(None);
    };
    match &last.summary {
        Some(summary) => serde_json::from_str(summary)
            .map(Some)
            .map_err(|error| Error::Ledger { job: job.to_string(), message: error.to_string() }),
        // Written by a version whose ledger had no summary: the report of the attempt was older than its commit.
        None => {
            let report = Report::read(objects, job, last.key.attempt).await?;
            let artifacts = crate::artifacts::names(&report.artifacts);
            Ok(Some(Committed {
                counts: report.counts,
                report: report_key(job, last.key.attempt),
                artifacts,
            }))
        }
    }
}
