//! Telling of one finished job: every notice of its pipeline, with retries.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use prometheus::{IntCounterVec, Opts, Registry};
use tidemill_jobs::{Event, EventKind, FinishedData, JobStatus, Record};
use tidemill_pipelines::{Notice, PipelineSet, Retry};
use tidemill_sinks::notice::{
    Ending, FinishedNotice, NoticeCause, NoticeError, Notifiers, Progress, RejectLine, applies, deliver,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};

use crate::parts::Parts;

/// First and longest pause between two tries of a notice.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// Counts notices; all outcomes are there from the start.
pub fn notices_counter() -> prometheus::Result<IntCounterVec> {
    let outcomes = ["sent", "retried", "refused", "given_up"];
    let help = format!("Notices by outcome: {}.", outcomes.join(", "));
    let notices = IntCounterVec::new(Opts::new("tidemill_notices_total", help), &["outcome"])?;
    for outcome in outcomes {
        notices.with_label_values(&[outcome]);
    }
    Ok(notices)
}

/// Tells of finished jobs.
pub struct Teller {
    pipelines: Arc<PipelineSet>,
    notifiers: Notifiers,
    places: Semaphore,
    give_up_after: Duration,
    links: String,
    notices: IntCounterVec,
}

impl Teller {
    /// Makes the ways of the settings and registers the metric.
    pub fn new(parts: &Parts, pipelines: Arc<PipelineSet>, registry: &Registry) -> Result<Self> {
        let notices = notices_counter()?;
        registry.register(Box::new(notices.clone()))?;
        let settings = &parts.settings().notifier;
        Ok(Self {
            pipelines,
            notifiers: parts.notifiers()?,
            places: Semaphore::new(settings.concurrency as usize),
            give_up_after: settings.give_up_after.get(),
            links: parts.public_url(),
            notices,
        })
    }

    /// True when nothing is left to do for this record; false when a stop came before.
    pub async fn tell(&self, record: &Record, stop: &CancellationToken) -> bool {
        let event = match Event::from_json(&record.payload) {
            Ok(event) => event,
            Err(error) => {
                error!(key = record.key, error = &error as &dyn std::error::Error, "passed over");
                return true;
            }
        };
        let ended_at = event.time;
        let (finished, body) = match with_links(event, &self.links) {
            Ok(Some((finished, Some(linked)))) => (finished, linked),
            Ok(Some((finished, None))) => (finished, Bytes::copy_from_slice(&record.payload)),
            Ok(None) => {
                error!(key = record.key, "an event of another type among the finished; passed over");
                return true;
            }
            Err(error) => {
                error!(key = record.key, error = &error as &dyn std::error::Error, "passed over");
                return true;
            }
        };
        let span = info_span!("notice", job_id = %finished.job.job_id, pipeline = %finished.job.pipeline);
        self.tell_all(ended_at, &finished, &body, stop).instrument(span).await
    }

    async fn tell_all(
        &self,
        ended_at: DateTime<Utc>,
        finished: &FinishedData,
        body: &Bytes,
        stop: &CancellationToken,
    ) -> bool {
        let Some(pipeline) = self.pipelines.get(&finished.job.pipeline) else {
            warn!("no such pipeline here; nobody is told");
            return true;
        };
        let facts = facts(finished, ended_at, &self.links);
        let told = pipeline
            .notify
            .iter()
            .enumerate()
            .map(|(index, notice)| self.tell_one(notice, index, &facts, body, ended_at, stop));
        futures::future::join_all(told).await.into_iter().all(|done| done)
    }

    /// One notice, tried until it is settled, given up, or a stop comes.
    async fn tell_one(
        &self,
        notice: &Notice,
        index: usize,
        facts: &FinishedNotice,
        body: &Bytes,
        ended_at: DateTime<Utc>,
        stop: &CancellationToken,
    ) -> bool {
        if !applies(notice.on, facts.status) {
            return true;
        }
        let mut progress = Progress::default();
        let mut pause = PAUSES.0;
        loop {
            let Some(sent) = self.send(notice, index, facts, body, &mut progress, stop).await else {
                return false;
            };
            let error = match sent {
                Ok(()) => {
                    self.count("sent");
                    info!(notice = index, "sent");
                    return true;
                }
                Err(error) => error,
            };
            if error.retry() == Retry::Never {
                self.count("refused");
                error!(notice = index, code = error.code(), error = %error, "refused for good");
                return true;
            }
            let wait = with_chance(pause).max(error.retry_after().unwrap_or_default());
            if (Utc::now() - ended_at).to_std().unwrap_or_default() + wait > self.give_up_after {
                self.count("given_up");
                error!(notice = index, code = error.code(), error = %error, "given up");
                return true;
            }
            self.count("retried");
            warn!(notice = index, error = %error, wait_seconds = wait.as_secs(), "not taken; trying again");
            if stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return false;
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// One try, in one of the places; `None` when a stop comes before a place is free.
    async fn send(
        &self,
        notice: &Notice,
        index: usize,
        facts: &FinishedNotice,
        body: &Bytes,
        progress: &mut Progress,
        stop: &CancellationToken,
    ) -> Option<Result<(), NoticeError>> {
        let _place = stop.run_until_cancelled(self.places.acquire()).await?.ok()?;
        Some(deliver(&self.notifiers, notice, index, facts, body, progress).await)
    }

    fn count(&self, outcome: &str) {
        self.notices.with_label_values(&[outcome]).inc();
    }
}

/// Up to half as long again, so that many notices of one outage do not come back together.
fn with_chance(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + rand::random::<f64>() / 2.0)
}

/// The finished event, and its text with the URLs of what was made, when something was: the body of webhooks. `None`
/// for an event of another type.
type Linked = Option<(Box<FinishedData>, Option<Bytes>)>;

fn with_links(mut event: Event, address: &str) -> tidemill_jobs::Result<Linked> {
    let EventKind::Finished(finished) = &mut event.kind else { return Ok(None) };
    let job = &finished.job;
    let link = |name: &String| format!("{address}/v1/jobs/{}/files/{name}", job.job_id);
    finished.links = job.artifacts.iter().map(link).collect();
    let finished = finished.clone();
    let text = if finished.links.is_empty() { None } else { Some(event.to_json()?.into()) };
    Ok(Some((finished, text)))
}

/// What the notices say, from the event.
fn facts(finished: &FinishedData, ended_at: DateTime<Utc>, links: &str) -> FinishedNotice {
    let job = &finished.job;
    let status = match job.status {
        JobStatus::Success | JobStatus::Downloaded => Ending::Success,
        JobStatus::Failed | JobStatus::Queued | JobStatus::Processing => Ending::Failed,
    };
    let rejects = finished.rejects.iter().map(|reject| RejectLine {
        line: reject.line,
        column: reject.column.clone(),
        code: reject.code.clone(),
        message: reject.message.clone(),
    });
    FinishedNotice {
        job_id: job.job_id.to_string(),
        pipeline: job.pipeline.to_string(),
        status,
        sender: job.sender.clone(),
        file_name: job.file_name.clone(),
        records_in: job.counts.records_in,
        records_written: job.counts.records_written,
        records_rejected: job.counts.records_rejected,
        records_filtered: job.counts.records_filtered,
        error: job.error.as_ref().map(|error| NoticeCause {
            code: error.code.clone(),
            message: error.message.clone(),
            blame: error.blame,
        }),
        rejects: rejects.collect(),
        files: finished.links.clone(),
        created_at: job.created_at,
        finished_at: job.finished_at.unwrap_or(ended_at),
        links: links.to_owned(),
    }
}
