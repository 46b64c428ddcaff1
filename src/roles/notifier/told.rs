//! What is told of the end of a job: the body of webhooks, from which mails take their facts.
//!
//! It is made once, when the event of the end comes in, and kept with the notices: each try tells the same, also when
//! the job was retried by hand meanwhile.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use tidemill_jobs::{Event, FinishedData, Job, JobError, JobStatus, RejectSample};
use tidemill_pipelines::Blame;
use tidemill_processor::{Error, Report};
use tidemill_sinks::notice::{Ending, FinishedNotice, NoticeCause, RejectLine};

/// The finished event as receivers know it: a CloudEvent 1.0 that carries the job.
#[derive(Debug, Serialize, Deserialize)]
pub struct Told {
    specversion: String,
    id: String,
    source: String,
    subject: String,
    time: DateTime<Utc>,
    datacontenttype: String,
    #[serde(rename = "type")]
    kind: String,
    data: ToldData,
}

#[derive(Debug, Serialize, Deserialize)]
struct ToldData {
    /// The job as it ended.
    job: Job,
    /// The first rejects.
    rejects: Vec<RejectSample>,
    /// URLs of the job's artifacts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    links: Vec<String>,
}

impl Told {
    /// From the event, the job as it ended and its first rejects; `address` is the gateway's.
    pub fn new(event: &Event, job: Job, mut rejects: Vec<RejectSample>, address: &str) -> Self {
        rejects.truncate(FinishedData::REJECTS_MAX);
        let link = |name: &String| format!("{address}/v1/jobs/{}/files/{name}", job.job_id);
        let links = job.artifacts.iter().map(link).collect();
        Self {
            specversion: event.specversion.clone(),
            id: event.id.clone(),
            source: event.source.clone(),
            subject: event.subject.clone(),
            time: event.time,
            datacontenttype: event.datacontenttype.clone(),
            kind: "tidemill.finished".to_owned(),
            data: ToldData { job, rejects, links },
        }
    }

    /// What the notices say; `address` is the gateway's.
    pub fn facts(self, ended_at: DateTime<Utc>, address: &str) -> FinishedNotice {
        let ToldData { job, rejects, links } = self.data;
        let line = |reject: RejectSample| RejectLine {
            line: reject.line,
            column: reject.column,
            code: reject.code,
            message: reject.message,
        };
        let cause =
            |error: JobError| NoticeCause { code: error.code, message: error.message, blame: error.blame };
        FinishedNotice {
            job_id: job.job_id.to_string(),
            pipeline: job.pipeline.to_string(),
            status: ending(job.status),
            sender: job.sender,
            file_name: job.file_name,
            records_in: job.counts.records_in,
            records_written: job.counts.records_written,
            records_rejected: job.counts.records_rejected,
            records_filtered: job.counts.records_filtered,
            error: job.error.map(cause),
            rejects: rejects.into_iter().map(line).collect(),
            files: links,
            created_at: job.created_at,
            finished_at: ended_at,
            links: address.to_owned(),
        }
    }
}

/// How a job ended, as notices tell it.
pub fn ending(status: JobStatus) -> Ending {
    match status {
        JobStatus::Success | JobStatus::Downloaded => Ending::Success,
        JobStatus::Failed | JobStatus::Queued | JobStatus::Processing => Ending::Failed,
    }
}

/// The report of this end, when it has more to tell than the job's row.
pub async fn report(
    objects: &Arc<dyn ObjectStore>,
    job: &Job,
    finished: &FinishedData,
) -> Result<Option<Report>, Error> {
    let read = if !is_as_it_ended(job, finished) {
        Report::read(objects, finished.job_id, finished.attempt).await
    } else {
        match &job.report_file_path {
            Some(key) if job.counts.records_rejected > 0 => Report::read_from(objects, key.clone()).await,
            _ => return Ok(None),
        }
    };
    match read {
        Err(Error::Objects { source: object_store::Error::NotFound { .. }, .. }) => Ok(None),
        read => read.map(Some),
    }
}

/// Whether the job's row still tells of this end: a retry by hand begins it anew.
fn is_as_it_ended(job: &Job, finished: &FinishedData) -> bool {
    job.finished_at == Some(finished.finished_at)
}

/// The job as this end left it.
pub fn as_ended(job: Job, finished: &FinishedData, report: Option<&Report>) -> Job {
    if is_as_it_ended(&job, finished) {
        return Job { status: finished.status, ..job };
    }
    let error = report.and_then(|report| report.error.clone()).unwrap_or_else(|| JobError {
        code: "unknown".to_owned(),
        message: "the job was retried before it was written down why it had failed".to_owned(),
        blame: Blame::Operator,
    });
    Job {
        status: finished.status,
        finished_at: Some(finished.finished_at),
        counts: report.map(|report| report.counts).unwrap_or_default(),
        error: (finished.status == JobStatus::Failed).then_some(error),
        report_file_path: None,
        artifacts: Vec::new(),
        ..job
    }
}
