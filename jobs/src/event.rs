//! Events: CloudEvents 1.0 in structured JSON, `tidemill.landed` and `tidemill.finished`.
//!
//! An event carries ids only, so its size is bounded whatever the job holds: a broker takes no more than a megabyte.
//! Whoever needs the job reads it from the job store.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tidemill_pipelines::PipelineName;
use uuid::Uuid;

use crate::{Error, Job, JobId, JobStatus, Result, Topic};

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
    Finished(FinishedData),
}

/// What a processor needs to try a claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LandedData {
    /// The job.
    pub job_id: JobId,
    /// Its pipeline.
    pub pipeline: PipelineName,
}

/// Which job ended, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "FinishedWire")]
pub struct FinishedData {
    /// The job.
    pub job_id: JobId,
    /// Its pipeline.
    pub pipeline: PipelineName,
    /// How it ended.
    pub status: JobStatus,
    /// When it ended. A job that is retried by hand ends again, at another time.
    pub finished_at: DateTime<Utc>,
    /// The attempt that ended; 0 when the event does not tell.
    pub attempt: u32,
}

/// How `finished` is read: events of earlier versions carried the whole job, and may still be in the outbox or on the log.
#[derive(Deserialize)]
#[serde(untagged)]
enum FinishedWire {
    Ids {
        job_id: JobId,
        pipeline: PipelineName,
        status: JobStatus,
        finished_at: DateTime<Utc>,
        #[serde(default)]
        attempt: u32,
    },
    Whole {
        job: Box<Job>,
    },
}

impl From<FinishedWire> for FinishedData {
    fn from(wire: FinishedWire) -> Self {
        match wire {
            FinishedWire::Ids { job_id, pipeline, status, finished_at, attempt } => {
                Self { job_id, pipeline, status, finished_at, attempt }
            }
            FinishedWire::Whole { job } => Self::of(&job, job.created_at),
        }
    }
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
    /// How many rejects a report keeps as samples, for notices.
    pub const REJECTS_MAX: usize = 10;

    fn of(job: &Job, ended_at: DateTime<Utc>) -> Self {
        Self {
            job_id: job.job_id,
            pipeline: job.pipeline.clone(),
            status: job.status,
            finished_at: job.finished_at.unwrap_or(ended_at),
            attempt: job.attempt,
        }
    }
}

impl Event {
    /// The event that a job waits.
    pub fn landed(job: &Job, time: DateTime<Utc>) -> Self {
        let data = LandedData { job_id: job.job_id, pipeline: job.pipeline.clone() };
        Self::new(job, time, EventKind::Landed(data))
    }

    /// The event that a job ended.
    pub fn finished(job: &Job, time: DateTime<Utc>) -> Self {
        Self::new(job, time, EventKind::Finished(FinishedData::of(job, time)))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::Counts;

    /// A `finished` event as earlier versions wrote it, with the whole job.
    const WITH_JOB: &str = include_str!("event/finished-with-job.json");

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// A job as large as one can be: 12,000 keys of 200 characters.
    fn large() -> Job {
        Job {
            job_id: JobId::new(),
            pipeline: "sensor_readings".parse().unwrap(),
            pipeline_version: Some("v".repeat(64)),
            status: JobStatus::Success,
            retries: 1,
            created_at: at("2026-11-21T10:00:00Z"),
            started_at: Some(at("2026-11-21T10:00:01Z")),
            finished_at: Some(at("2026-11-21T10:00:02.123456Z")),
            files_to_process: vec!["k".repeat(200); 12_000],
            file_name: Some("n".repeat(4_000)),
            size_bytes: 1,
            content_sha256: "0".repeat(64),
            parameters: BTreeMap::new(),
            report_file_path: None,
            artifacts: vec!["a.mp3".to_owned(); 100],
            sender: "s".repeat(190),
            counts: Counts::default(),
            error: None,
            attempt: 3,
            takes_turns: false,
        }
    }

    #[test]
    fn the_size_of_an_event_does_not_depend_on_the_job() {
        let job = large();
        for event in [Event::landed(&job, job.created_at), Event::finished(&job, job.created_at)] {
            let text = event.to_json().unwrap();
            assert!(text.len() < 1_000, "{} bytes: {}", text.len(), &text[..1_000]);
            assert_eq!(Event::from_json(text.as_bytes()).unwrap(), event);
        }
    }

    #[test]
    fn an_event_of_the_version_before_is_understood() {
        let event = Event::from_json(WITH_JOB.as_bytes()).unwrap();
        assert_eq!(
            (event.topic(), event.subject.as_str()),
            (Topic::Finished, "01a1fe0c-4049-7658-af27-fd7accda2be6")
        );
        let EventKind::Finished(finished) = event.kind else { panic!("{event:?}") };
        let expected = FinishedData {
            job_id: "01a1fe0c-4049-7658-af27-fd7accda2be6".parse().unwrap(),
            pipeline: "hired_employees".parse().unwrap(),
            status: JobStatus::Success,
            finished_at: at("2026-11-21T10:00:02.123456Z"),
            attempt: 0,
        };
        assert_eq!(finished, expected);
    }

    #[test]
    fn an_event_that_names_no_job_is_malformed() {
        for data in ["{}", "{\"job\":{}}", "{\"job_id\":\"x\"}", "[]", "null"] {
            let text = WITH_JOB.replacen("\"data\":", &format!("\"data\":{data},\"more\":"), 1);
            assert!(matches!(Event::from_json(text.as_bytes()), Err(Error::Malformed { .. })), "{data}");
        }
    }
}
