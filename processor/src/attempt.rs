//! One attempt at a job around [`run`]: claim, heartbeat, retries while a server is unreachable, and the end, which
//! the ledger decides ([`tidemill_jobs::Settler`]).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures::FutureExt;
use tidemill_jobs::{Claim, Counts, Event, EventKind, Job, LandedData, Outcome, Record, failpoint};
use tidemill_pipelines::{Pipeline, PipelineName, Retry};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::error::{Error, Result};
use crate::limits::{RETRIES_AT_ONCE_MAX, RETRY_PAUSE};
use crate::report::Report;
use crate::run::{Ended, run};
use crate::serve::Shared;

/// How long a job that waits for others is waited for in this process, and how often it is looked for them: the first
/// pause doubles up to the second.
const WAIT_HERE: Duration = Duration::from_secs(10);
const WAIT_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long it is put off, at most so many times: 15 minutes in all.
const WAIT_AWAY: Duration = Duration::from_secs(5);
const WAITS_MAX: u32 = 180;

/// Works on the job of a `landed` event, if it is still there to be claimed. Once it returns Ok the event is
/// done with: the job ended, another works on it, or the sweeper will requeue it.
#[tracing::instrument(name = "job", skip_all, fields(job_id))]
pub(crate) async fn attempt(shared: &Shared, record: &Record) -> Result<()> {
    let landed = match Event::from_json(&record.payload).map(|event| event.kind) {
        Ok(EventKind::Landed(landed)) => landed,
        Ok(EventKind::Finished(_)) => return Ok(()),
        Err(error) => {
            warn!(error = %error, offset = record.offset, "malformed event skipped");
            return Ok(());
        }
    };
    tracing::Span::current().record("job_id", landed.job_id.to_string());
    let Some(current) = shared.parts.pipelines.get(&landed.pipeline) else {
        warn!(pipeline = %landed.pipeline, "no such pipeline here; the job stays queued");
        return Ok(());
    };
    if !wait_for_earlier(shared, &landed, current).await? {
        return Ok(());
    }
    let _slot = tokio::select! {
        slot = shared.slots.acquire() => slot.map_err(|_| Error::Stopping)?,
        () = shared.stopping.cancelled() => return Err(Error::Stopping),
    };
    let Some((claim, pipeline)) = claim(shared, &landed, current).await? else {
        return Ok(());
    };
    shared.parts.metrics.running().inc();
    let result = work(shared, &claim, &pipeline).await;
    shared.parts.metrics.running().dec();
    result
}

/// Claims the job, with the pipeline in the version of its first claim.
async fn claim(
    shared: &Shared,
    landed: &LandedData,
    current: &Pipeline,
) -> Result<Option<(Claim, Arc<Pipeline>)>> {
    let parts = &shared.parts;
    let claim = parts.jobs.claim(landed.job_id, &current.version, &parts.worker, Utc::now()).await?;
    let Some(claim) = claim else { return Ok(None) };
    failpoint!("claim::commit");
    let pipeline = match &claim.job.pipeline_version {
        Some(version) if *version != current.version => {
            match older_version(shared, &landed.pipeline, version).await {
                Ok(older) => older,
                Err(error) if error.retry() != Retry::Never => {
                    warn!(error = %error, "released: its pipeline could not be read");
                    let not_before = Utc::now() + RETRY_PAUSE.1;
                    shared.settler.release(&claim, not_before, false).await?;
                    return Ok(None);
                }
                Err(error) => {
                    end(shared, &claim, failed(shared, &claim.job, &claim, error, version).await).await?;
                    return Ok(None);
                }
            }
        }
        _ => Arc::new(current.clone()),
    };
    info!(pipeline = %landed.pipeline, attempt = claim.attempt, version = %pipeline.version, "claimed");
    Ok(Some((claim, pipeline)))
}

/// A job whose pipeline looks into other tables waits for earlier uploads to those tables: a moment here, where few
/// wait, else in the outbox, which announces it again. So no number of waiting jobs keeps the jobs that they wait for
/// from being taken. False when it was left to the outbox.
async fn wait_for_earlier(shared: &Shared, landed: &LandedData, pipeline: &Pipeline) -> Result<bool> {
    let writers: Vec<PipelineName> = shared.writers_of_lookups(pipeline);
    if writers.is_empty() || !shared.parts.jobs.unfinished_before(&writers, landed.job_id).await? {
        return Ok(true);
    }
    if let Ok(_permit) = shared.waiters.try_acquire() {
        let mut pause = WAIT_PAUSE.0;
        let until = tokio::time::Instant::now() + WAIT_HERE;
        while tokio::time::Instant::now() < until {
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(WAIT_PAUSE.1),
                () = shared.stopping.cancelled() => return Err(Error::Stopping),
            }
            if !shared.parts.jobs.unfinished_before(&writers, landed.job_id).await? {
                return Ok(true);
            }
        }
    }
    // When it was put off this often, it runs against what is there.
    let put_off = shared.parts.jobs.put_off(landed.job_id, WAIT_AWAY, WAITS_MAX).await?;
    Ok(!put_off)
}

async fn older_version(shared: &Shared, name: &PipelineName, version: &str) -> Result<Arc<Pipeline>> {
    let text = shared.parts.jobs.pipeline_text(name, version).await?.ok_or_else(|| Error::Lookup {
        table: "tidemill_pipelines".to_owned(),
        message: format!("lost version {version} of pipeline `{name}`"),
    })?;
    let file = format!("{name}.yaml");
    Pipeline::parse(&file, &text).map(Arc::new).map_err(Error::Plan)
}

async fn work(shared: &Shared, claim: &Claim, pipeline: &Pipeline) -> Result<()> {
    let lost = CancellationToken::new();
    // Ends with this function, however it ends: a heartbeat that goes on alone would keep the job from the sweeper.
    let heart = AbortOnDropHandle::new(tokio::spawn(beat(shared.clone(), claim.clone(), lost.clone())));
    let ended = tokio::select! {
        ended = AssertUnwindSafe(persist(shared, claim, pipeline)).catch_unwind() => {
            ended.unwrap_or(Err(Error::Broken("the attempt")))
        }
        () = lost.cancelled() => Err(Error::Overtaken),
        () = overdue(claim) => Err(Error::TimedOut),
        () = shared.aborting.cancelled() => Err(Error::Stopping),
    };
    drop(heart);
    match ended {
        Ok(ended) => finish(shared, claim, ended).await,
        Err(Error::Stopping) => {
            info!("released: the processor is stopping");
            shared.settler.release(claim, Utc::now(), false).await?;
            Ok(())
        }
        Err(error) if is_for_the_sweeper(&error) => {
            warn!(error = %error, "attempt dropped");
            shared.parts.metrics.ended(pipeline.name.as_str(), error.code());
            // The attempt that overtook, or the sweeper, decides what comes next: the latter at once.
            shared.parts.jobs.abandon(claim).await?;
            Ok(())
        }
        Err(error) => {
            let outcome = failed(shared, &claim.job, claim, error, &pipeline.version).await;
            end(shared, claim, outcome).await
        }
    }
}

/// Whether an attempt that ended like this says nothing about its job: a bug may be one of this process only.
fn is_for_the_sweeper(error: &Error) -> bool {
    use tidemill_sinks::Error::Fenced;
    matches!(error, Error::Overtaken | Error::TimedOut | Error::Broken(_) | Error::Sink(Fenced { .. }))
}

/// Runs until the end is certain: what may pass is tried again within the attempt's limit.
async fn persist(shared: &Shared, claim: &Claim, pipeline: &Pipeline) -> Result<Ended> {
    let mut at_once = 0;
    let mut pause = RETRY_PAUSE.0;
    loop {
        let error = match run(shared, claim, pipeline).await {
            Ok(ended) => return Ok(ended),
            Err(error) => error,
        };
        match error.retry() {
            Retry::Never => return Err(error),
            Retry::Now if at_once < RETRIES_AT_ONCE_MAX => at_once += 1,
            Retry::Now | Retry::Later => {
                warn!(error = %error.to_job_error().message, pause_ms = pause.as_millis() as u64, "trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_PAUSE.1);
            }
        }
    }
}

/// Renews the lease; when the job is no longer this attempt's, says so.
async fn beat(shared: Shared, claim: Claim, lost: CancellationToken) {
    let mut ticks = tokio::time::interval(shared.parts.limits.lease / 3);
    ticks.tick().await; // the first tick is at once; the claim itself was the first beat
    loop {
        ticks.tick().await;
        match shared.parts.jobs.heartbeat(&claim).await {
            Ok(true) => {}
            Ok(false) => return lost.cancel(),
            Err(error) => warn!(error = %error, "heartbeat failed"),
        }
    }
}

async fn overdue(claim: &Claim) {
    let left = (claim.deadline - Utc::now()).to_std().unwrap_or_default();
    tokio::time::sleep(left).await;
}

async fn finish(shared: &Shared, claim: &Claim, ended: Ended) -> Result<()> {
    let outcome = match ended {
        Ended::Committed(committed) => Outcome::Success(committed),
        Ended::Failed { counts, report, error } => {
            Outcome::Failed { counts, report: Some(report), error: error.to_job_error() }
        }
    };
    end(shared, claim, outcome).await
}

/// The end of an attempt that read nothing useful: a report that says why, when one can be written.
async fn failed(shared: &Shared, job: &Job, claim: &Claim, error: Error, version: &str) -> Outcome {
    let error = error.to_job_error();
    let mut report = Report::new(job, claim.attempt, version);
    report.error = Some(error.clone());
    let report = report.write(&shared.parts.objects).await.ok();
    Outcome::Failed { counts: Counts::default(), report, error }
}

/// Writes the end into the job table as the ledger has it; tried again until both answer or the time limit has
/// passed. Only an end that was written is counted.
async fn end(shared: &Shared, claim: &Claim, outcome: Outcome) -> Result<()> {
    failpoint!("job::end");
    let mut pause = RETRY_PAUSE.0;
    loop {
        match shared.settler.finish(claim, outcome.clone()).await {
            Ok(true) => {
                count(shared, claim, &outcome);
                log(&outcome);
                return Ok(());
            }
            Ok(false) => {
                warn!("the job was taken by another attempt before its end was written");
                return Ok(());
            }
            Err(error) if error.retry() == Retry::Never || Utc::now() > claim.deadline => {
                return Err(error.into());
            }
            Err(error) => {
                warn!(error = %error, "the end of the job could not be written; trying again");
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_PAUSE.1),
                    () = shared.aborting.cancelled() => return Err(error.into()),
                }
            }
        }
    }
}

fn count(shared: &Shared, claim: &Claim, outcome: &Outcome) {
    let (metrics, pipeline) = (&shared.parts.metrics, claim.job.pipeline.as_str());
    match outcome {
        Outcome::Success(committed) => {
            metrics.count(pipeline, committed.counts);
            metrics.ended(pipeline, "success");
        }
        Outcome::Failed { counts, .. } => {
            metrics.count(pipeline, *counts);
            metrics.ended(pipeline, "failed");
        }
    }
}

fn log(outcome: &Outcome) {
    match outcome {
        Outcome::Success(tidemill_jobs::Committed { counts, .. }) => info!(
            records_in = counts.records_in,
            records_written = counts.records_written,
            records_rejected = counts.records_rejected,
            records_filtered = counts.records_filtered,
            "success"
        ),
        Outcome::Failed { error, .. } => {
            info!(code = %error.code, blame = error.blame.as_str(), "failed: {}", error.message)
        }
    }
}
