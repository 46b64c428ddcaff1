//! What a job waits for: earlier jobs of the pipelines that write the tables it looks into.

use tidemill_pipelines::PipelineName;

use super::JobStore;
use super::outbox::marks;
use super::write::values;
use crate::{JobId, Result};

impl JobStore {
    /// Whether a job of one of these pipelines arrived before `job` and has not ended.
    pub async fn unfinished_before(&self, pipelines: &[PipelineName], job: JobId) -> Result<bool> {
        let statement = format!(
            "SELECT 1 FROM tidemill_jobs WHERE pipeline IN ({}) AND status IN ('queued', 'processing') \
             AND arrival < (SELECT arrival FROM (SELECT arrival FROM tidemill_jobs WHERE job_id = ?) AS this) LIMIT 1",
            marks(pipelines.len())
        );
        let mut values: Vec<_> = pipelines.iter().map(|name| name.as_str().into()).collect();
        values.extend(values![job.to_string()]);
        Ok(!self.rows("look for earlier jobs", &statement, values).await?.is_empty())
    }
}
