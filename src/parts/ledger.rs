//! The ledger for processes that need it rarely (gateway, command line): connected when it is first asked, so that
//! they start and land files while the database of the tables is unreachable.

use std::time::Duration;

use async_trait::async_trait;
use tidemill_jobs::{Committed, Error, JobId, Ledger};
use tidemill_pipelines::Retry;
use tidemill_processor::SinkLedger;
use tokio::sync::OnceCell;

use super::Parts;

/// How long a request waits for the first connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A ledger that connects late.
pub(super) struct LateLedger {
    parts: Parts,
    connected: OnceCell<SinkLedger>,
}

impl LateLedger {
    pub(super) fn new(parts: Parts) -> Self {
        Self { parts, connected: OnceCell::new() }
    }

    async fn connect(&self) -> anyhow::Result<SinkLedger> {
        let sink = tokio::time::timeout(CONNECT_TIMEOUT, self.parts.sink()).await??;
        if self.parts.settings().migrate {
            sink.migrate().await?;
        }
        Ok(SinkLedger::new(sink, self.parts.objects()?))
    }
}

#[async_trait]
impl Ledger for LateLedger {
    async fn seal(&self, job: JobId, attempt: u32) -> tidemill_jobs::Result<Option<Committed>> {
        let ledger = self.connected.get_or_try_init(|| self.connect()).await;
        let ledger =
            ledger.map_err(|error| Error::Ledger { message: format!("{error:#}"), retry: Retry::Later })?;
        ledger.seal(job, attempt).await
    }
}
