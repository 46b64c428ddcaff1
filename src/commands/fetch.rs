//! `tidemill fetch`: one fetch by hand, the same as a schedule makes due; with `--wait` until its job has ended.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, SubsecRound, Utc};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tidemill_ingest::{FetchMetrics, Fetcher, Progress, RunEnd};
use tidemill_jobs::{Job, JobId, JobStatus, JobStore, SlotAnswer, SlotClaim};
use tidemill_pipelines::{Retry, Source};
use tokio::sync::watch;

use super::send::{blamed, counted};
use super::{job_store, pipeline, pipelines, print_json, print_text, status};
use crate::cli::FetchArgs;
use crate::parts::Parts;
use crate::roles::worker_name;
use crate::settings::Span;

/// How often the bar moves.
const LOOK_EVERY: Duration = Duration::from_millis(120);
/// How often a job that is waited for is looked at.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Claims the slot, fetches, tells of the job, and waits for its end when asked to.
pub async fn run(parts: &Parts, args: &FetchArgs, json: bool) -> Result<ExitCode> {
    let (name, set) = (args.pipeline.as_str(), pipelines(parts)?);
    let pipeline = pipeline(&set, name)?;
    let Source::Http(source) = &pipeline.source else {
        bail!("pipeline `{name}` takes uploads, nothing is fetched for it; use `tidemill send`");
    };
    let now = Utc::now().trunc_subsecs(0);
    let slot = args.slot.unwrap_or(now);
    ensure!(slot <= now, "the slot {slot} has not come yet");
    let (jobs, objects) = (job_store(parts).await?, parts.objects()?);
    let fetcher = parts.fetcher(&set, &jobs, &objects, FetchMetrics::new(&prometheus::Registry::new())?)?;
    let claim =
        claim(&jobs, &Fetcher::schedule_name(pipeline), slot, parts.settings().fetcher.lease.get()).await?;
    let progress = watch::Sender::new(Progress::default());
    let shown = show(progress.subscribe(), name);
    let pipeline = Arc::new(pipeline.clone());
    let work = jobs.while_held(&claim, fetcher.run(&pipeline, source, &claim, progress.clone()));
    let mut end = tokio::select! {
        end = work => end.context("the slot was taken over by another fetcher")??,
        _ = tokio::signal::ctrl_c() => {
            jobs.release_slot(&claim).await?;
            bail!("stopped; go on with: tidemill fetch {name} --slot {}", claim.slot.to_rfc3339());
        }
        never = shown => never,
    };
    let progress = *progress.borrow();
    if !json {
        print_text(&in_words(name, &claim, &end));
    }
    if let (Some(longest), RunEnd::Job(job)) = (args.wait, &mut end) {
        **job = ended(&jobs, job.job_id, longest).await?;
        if !json {
            let text = format!("{name}: {}\n{}{}", job.status.as_str(), counted(job), blamed(job));
            print_text(text.trim_end());
        }
    }
    if json {
        print_json(&told(&claim, &end, progress))?;
    }
    let failed = match &end {
        RunEnd::Job(job) => job.status == JobStatus::Failed,
        RunEnd::Empty => false,
        RunEnd::Failed(_) => true,
    };
    Ok(status(!failed))
}

/// The job once it has ended, waited for no longer than this.
async fn ended(jobs: &JobStore, id: JobId, longest: Duration) -> Result<Job> {
    let look = format!("the job goes on without this command; look at it: tidemill jobs show {id}");
    tokio::select! {
        ended = tokio::time::timeout(longest, until_ended(jobs, id)) => match ended {
            Ok(ended) => ended.context(look),
            Err(_) => bail!("job {id} has not ended after {}, is a processor running? {look}", Span::of(longest)),
        },
        _ = tokio::signal::ctrl_c() => bail!("stopped waiting for job {id}; {look}"),
    }
}

/// A database that does not answer for a while is asked again.
async fn until_ended(jobs: &JobStore, id: JobId) -> Result<Job> {
    loop {
        match jobs.get(id).await {
            Ok(Some(job)) if !matches!(job.status, JobStatus::Queued | JobStatus::Processing) => {
                return Ok(job);
            }
            Ok(None) => bail!("job {id} is not in the job database"),
            Err(error) if error.retry() == Retry::Never => return Err(error.into()),
            Ok(Some(_)) | Err(_) => tokio::time::sleep(ASK_EVERY).await,
        }
    }
}

async fn claim(jobs: &JobStore, schedule: &str, slot: DateTime<Utc>, lease: Duration) -> Result<SlotClaim> {
    match jobs.claim_slot(schedule, slot, &worker_name(), lease, true).await? {
        SlotAnswer::Claimed(claim) => Ok(claim),
        SlotAnswer::Held { until } => bail!(
            "slot {} is being fetched by another, who holds it until {} at least",
            slot.to_rfc3339(),
            until.to_rfc3339()
        ),
        SlotAnswer::Done(run) => bail!("slot {} was fetched before, as job {run}", slot.to_rfc3339()),
        SlotAnswer::Failed(error) => bail!("slot {} failed: {error}", slot.to_rfc3339()),
    }
}

/// A bar on a terminal; nothing where nobody looks. Never ends.
async fn show(progress: watch::Receiver<Progress>, name: &str) -> RunEnd {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{bar:30}] {pos}/{len} pages") {
        bar.set_style(style);
    }
    bar.set_message(name.to_owned());
    loop {
        let Progress { pages, landed, .. } = *progress.borrow();
        bar.set_length(pages);
        bar.set_position(landed);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn told(claim: &SlotClaim, end: &RunEnd, progress: Progress) -> serde_json::Value {
    let (outcome, job, error) = match end {
        RunEnd::Job(job) => ("job", Some(job), None),
        RunEnd::Empty => ("empty", None, None),
        RunEnd::Failed(error) => ("failed", None, Some(error.to_string())),
    };
    json!({
        "run_id": claim.run_id, "slot": claim.slot, "attempt": claim.attempt, "outcome": outcome, "job": job,
        "error": error, "pages_landed": progress.landed, "size_bytes": progress.size_bytes,
    })
}

fn in_words(name: &str, claim: &SlotClaim, end: &RunEnd) -> String {
    let slot = claim.slot.to_rfc3339();
    match end {
        RunEnd::Job(job) => format!(
            "{name}: {} pages, {} → job {id}\n  look at it: tidemill jobs show {id}",
            job.files_to_process.len(),
            HumanBytes(job.size_bytes),
            id = job.job_id
        ),
        RunEnd::Empty => format!("{name}: nothing there at slot {slot}"),
        RunEnd::Failed(error) => format!(
            "{name}: {error}\n  it stands as job {}; {} has to mend it, then: tidemill fetch {name} --slot {slot}",
            claim.run_id,
            error.blame().as_str()
        ),
    }
}
