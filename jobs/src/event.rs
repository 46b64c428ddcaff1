//! Events: CloudEvents 1.0 in structured JSON, `tidemill.landed` and `tidemill.finished`.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tidemill_pipelines::PipelineName;
use uuid::Uuid;

use crate::{Error, Job, JobId, Result, Topic};

/// The envelope, <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md>.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Always `1.0`.
    pub specversion: String,
    /// Unique for each event.
    pub id: String,
    /// `/tidemill/pipelines/{pipeline}`.
    pub source: String,
    /// The job's id.
    pub subject: String,
    /// When the outbox row was written.
    pub time: DateTime<Utc>,
    /// Always `application/json`.
    pub datacontenttype: String,
    /// Type and data.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum EventKind {
    /// A job waits to be claimed.
    #[serde(rename = "tidemill.landed")]
    Landed(LandedData),
    /// A job ended.
    #[serde(rename = "tidemill.finished")]
    Finished(Box<FinishedData>),
}

/// What a processor needs to try a claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LandedData {
    /// The job.
    pub job_id: JobId,
    /// Its pipeline.
    pub pipeline: PipelineName,
}

/// What a notifier tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinishedData {
    /// The job as it ended.
    pub job: Job,
    /// The first rejects, for the message: at most [`FinishedData::REJECTS_MAX`].
    pub rejects: Vec<RejectSample>,
    /// URLs of the job's artifacts; filled in for webhooks by the notifier, which knows the gateway's address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
}

/// One reject in a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectSample {
    /// Key of the object it stands in, where a job has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// 1-based line of the file on which the record begins; 0 for a row behind an aggregate.
    pub line: u64,
    /// The column, when one is at fault.
    pub column: Option<String>,
    /// The reason as a stable word.
    pub code: String,
    /// The reason for people.
    pub message: String,
}

impl FinishedData {
    /// How many rejects an event carries at most.
    pub const REJECTS_MAX: usize = 10;
}

impl Event {
    /// The event that a job waits.
    pub fn landed(job: &Job, time: DateTime<Utc>) -> Self {
        let data = LandedData { job_id: job.job_id, pipeline: job.pipeline.clone() };
        Self::new(job, time, EventKind::Landed(data))
    }

    /// The event that a job ended, with the first of its rejects.
    pub fn finished(job: &Job, mut rejects: Vec<RejectSample>, time: DateTime<Utc>) -> Self {
        rejects.truncate(FinishedData::REJECTS_MAX);
        let data = FinishedData { job: job.clone(), rejects, links: Vec::new() };
        Self::new(job, time, EventKind::Finished(Box::new(data)))
    }

    fn new(job: &Job, time: DateTime<Utc>, kind: EventKind) -> Self {
        Self {
            specversion: "1.0".to_owned(),
            id: Uuid::now_v7().to_string(),
            source: format!("/tidemill/pipelines/{}", job.pipeline),
            subject: job.job_id.to_string(),
            time,
            datacontenttype: "application/json".to_owned(),
            kind,
        }
    }

    /// The topic that carries it.
    pub fn topic(&self) -> Topic {
        match self.kind {
            EventKind::Landed(_) => Topic::Landed,
            EventKind::Finished(_) => Topic::Finished,
        }
    }

    /// The event as the payload of a record.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::Malformed { what: "an event", message: error.to_string() })
    }

    /// Reads an event from the bytes of a record of the log.
    pub fn from_json(payload: &[u8]) -> Result<Self> {
        serde_json::from_slice(payload)
            .map_err(|error| Error::Malformed { what: "an event", message: error.to_string() })
    }
}
