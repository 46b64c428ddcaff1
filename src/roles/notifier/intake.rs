//! From events to rows: each finished job becomes one row for each notice of its pipeline, and then the event is acked.
//!
//! Only the job store and the object store are waited for, never a receiver. An event that comes again finds its rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use chrono::Utc;
use tidemill_jobs::{
    Error, Event, EventKind, EventLog, FinishedData, Job, NewNotice, NoticeEnd, Record, Subscription, Topic,
};
use tidemill_pipelines::Retry;
use tidemill_processor::Report;
use tidemill_sinks::notice::{applies, kind, receiver};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};

use super::told::{Told, as_ended, ending, report};
use super::{GRACE, GROUP, KEPT, Office};

/// Events in hand at once, each with its job, which may hold megabytes of keys; more stay in the log.
const IN_HAND_MAX: usize = 8;
/// Pause after an error of the log or of the job store; it doubles up to the second figure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// How long a report may take to be read, and how often that is tried: a notice can do without its samples.
const REPORT: (Duration, u32) = (Duration::from_secs(10), 3);

/// Writes the notices of finished jobs until `stop`.
pub async fn serve(office: Arc<Office>, log: Arc<dyn EventLog>, stop: CancellationToken) -> Result<()> {
    let mut subscription = log.subscribe(Topic::Finished, GROUP).await?;
    let mut running: JoinSet<Option<Record>> = JoinSet::new();
    info!("notifier listens for finished jobs");
    consume(&office, subscription.as_mut(), &mut running, &stop).await;
    let finished = async {
        while let Some(done) = running.join_next().await {
            ack(subscription.as_mut(), done).await;
        }
    };
    if tokio::time::timeout(GRACE, finished).await.is_err() {
        warn!(
            events = running.len(),
            "events not written down in time; they come again after the next start"
        );
        running.shutdown().await;
    }
    subscription.close().await?;
    Ok(())
}

async fn consume(
    office: &Arc<Office>,
    subscription: &mut dyn Subscription,
    running: &mut JoinSet<Option<Record>>,
    stop: &CancellationToken,
) {
    let mut pause = PAUSES.0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(done) = running.join_next(), if !running.is_empty() => ack(subscription, done).await,
            next = subscription.next(), if running.len() < IN_HAND_MAX => match next {
                Ok(record) => {
                    pause = PAUSES.0;
                    let (office, stop) = (Arc::clone(office), stop.clone());
                    running.spawn(async move { take(&office, &record, &stop).await.then_some(record) });
                }
                Err(error) if error.retry() == Retry::Never => {
                    error!(error = &error as &dyn std::error::Error, "the event log ended for good; this notifier ends too");
                    return;
                }
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "the event log does not answer");
                    if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                        return;
                    }
                    pause = (pause * 2).min(PAUSES.1);
                }
            },
        }
    }
}

async fn ack(subscription: &mut dyn Subscription, done: Result<Option<Record>, JoinError>) {
    match done {
        Ok(Some(record)) => {
            if let Err(error) = subscription.ack(&record).await {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "an event could not be acked; it comes again"
                );
            }
        }
        Ok(None) => {}
        Err(error) => error!(%error, "writing notices broke down; the event comes again after a restart"),
    }
}

/// True when nothing is left to do for this event; false when a stop came before.
pub(super) async fn take(office: &Office, record: &Record, stop: &CancellationToken) -> bool {
    let event = match Event::from_json(&record.payload) {
        Ok(event) => event,
        Err(error) => {
            error!(key = record.key, error = &error as &dyn std::error::Error, "passed over");
            return true;
        }
    };
    let EventKind::Finished(finished) = &event.kind else {
        error!(key = record.key, "an event of another type among the finished; passed over");
        return true;
    };
    let span = info_span!("notice", job_id = %finished.job_id, pipeline = %finished.pipeline);
    until_written(office, &event, finished, stop).instrument(span).await
}

/// Tries until the rows are written, a stop comes, or a notice would have been given up.
async fn until_written(
    office: &Office,
    event: &Event,
    finished: &FinishedData,
    stop: &CancellationToken,
) -> bool {
    let notices = notices(office, finished);
    if notices.is_empty() {
        return true;
    }
    let given_up = || {
        notices.iter().for_each(|notice| office.count(notice.kind, NoticeEnd::GivenUp.as_str()));
        true
    };
    let age = (Utc::now() - finished.finished_at).to_std().unwrap_or_default();
    if age > office.give_up_after + KEPT {
        error!(
            age_seconds = age.as_secs(),
            "the event is older than any notice that is kept; nobody is told"
        );
        return given_up();
    }
    let (began, mut pause) = (Instant::now(), PAUSES.0);
    loop {
        let Err(error) = write(office, event, finished, &notices).await else { return true };
        if began.elapsed() > office.give_up_after {
            error!(error = &error as &dyn std::error::Error, "notices could not be written; nobody is told");
            return given_up();
        }
        warn!(error = &error as &dyn std::error::Error, "notices could not be written; trying again");
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return false;
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// The notices about this end, by the pipeline file as it is here.
fn notices(office: &Office, finished: &FinishedData) -> Vec<NewNotice> {
    let Some(pipeline) = office.pipelines.get(&finished.pipeline) else {
        warn!("no such pipeline here; nobody is told");
        return Vec::new();
    };
    let about = (0..).zip(&pipeline.notify).filter(|(_, notice)| applies(notice.on, ending(finished.status)));
    about
        .map(|(number, notice)| NewNotice { number, kind: kind(notice), receiver: receiver(notice) })
        .collect()
}

async fn write(
    office: &Office,
    event: &Event,
    finished: &FinishedData,
    notices: &[NewNotice],
) -> tidemill_jobs::Result<()> {
    let Some(job) = office.jobs.get(finished.job_id).await? else {
        error!("there is no such job; nobody is told");
        return Ok(());
    };
    let report = samples(office, &job, finished).await;
    let job = as_ended(job, finished, report.as_ref());
    let rejects = report.map(|report| report.rejects).unwrap_or_default();
    let told = serde_json::to_string(&Told::new(event, job, rejects, &office.links))
        .map_err(|error| Error::Malformed { what: "a job that ended", message: error.to_string() })?;
    if office.jobs.add_notices(finished, &told, notices).await? {
        office.written.notify_one();
    }
    tidemill_jobs::failpoint!("notice::rows");
    Ok(())
}

/// The report of this end. An object store that is away does not keep people from hearing of it.
async fn samples(office: &Office, job: &Job, finished: &FinishedData) -> Option<Report> {
    let (limit, tries) = REPORT;
    for _ in 0..tries {
        match tokio::time::timeout(limit, report(&office.objects, job, finished)).await {
            Ok(Ok(report)) => return report,
            Ok(Err(error)) => {
                warn!(error = &error as &dyn std::error::Error, "failed to read the report");
                tokio::time::sleep(PAUSES.0).await;
            }
            Err(_) => warn!(seconds = limit.as_secs(), "the report was not read in time"),
        }
    }
    None
}
