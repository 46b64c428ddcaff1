//! One attempt at a job, from its object to the commit: the story of the processor.
//!
//! Each stage has its file: plan, deliver (fence, ledger), lookups, read, intake (decode, check), steps (SQL),
//! deliver (write), report, deliver (commit). Nothing is in the tables before the commit; whatever fails
//! before it leaves nothing behind but, sometimes, a report. Success is what the ledger says, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use chrono::Utc;
use tidemill_jobs::{Claim, Committed, Counts, Job};
use tidemill_pipelines::{Format, Pipeline, Source};

use crate::artifacts::names;
use crate::deliver::{Begun, Deliveries};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::files;
use crate::intake::{Intake, Summary, judge, within_budget};
use crate::lookups::Lookups;
use crate::plan::{Plan, plan};
use crate::read::read_objects;
use crate::refuse::Rejects;
use crate::reject_file::RejectFile;
use crate::report::{Report, TableRows, rejects_key};
use crate::serve::Shared;
use crate::steps::{self, Tally};

/// How an attempt ended, once that is certain.
pub(crate) enum Ended {
    /// The ledger has its commit, or that of an earlier attempt.
    Committed(Committed),
    /// The data are at fault, so the same attempt would fail again; nothing is written.
    Failed {
        /// What became of the records, as far as they were read.
        counts: Counts,
        /// Key of the report object.
        report: String,
        /// Why.
        error: Error,
    },
}

/// Runs one attempt of a job.
pub(crate) async fn run(shared: &Shared, claim: &Claim, pipeline: &Pipeline) -> Result<Ended> {
    if pipeline.format == Format::File {
        return files::run(shared, claim, pipeline).await;
    }
    let (parts, job, attempt) = (&shared.parts, &claim.job, claim.attempt);
    let started = Instant::now();
    let lookups = Lookups::Sink(Arc::clone(&parts.sink));
    let engine = &with_parameters(&shared.engine, pipeline, &job.parameters)?;
    let plan = plan(engine, pipeline, &parts.pipelines, Some(&lookups)).await?;
    let begun = Deliveries::begin(&parts.sink, &parts.objects, &plan.tables, job.job_id, attempt).await?;
    let mut deliveries = match begun {
        Begun::Committed(committed) => return Ok(Ended::Committed(committed)),
        Begun::Deliveries(deliveries) => deliveries,
    };
    deliveries.open_files(&plan).await?;
    let references = lookups.references(pipeline, parts.limits.lookup_rows_max).await?;
    shared.stage(pipeline, "open", started);

    let streaming = Instant::now();
    let pieces = read_objects(Arc::clone(&parts.objects), job);
    let many = job.files_to_process.len() > 1;
    let (reject_file, take_reject) =
        RejectFile::start(Arc::clone(&parts.objects), rejects_key(job.job_id, attempt), many);
    let rejects = Rejects::new(take_reject, Some(Arc::clone(&parts.objects)), parts.limits.raw_bytes_max);
    let (intake, rows) =
        Intake::start(pieces, pipeline, &plan, engine, references, &parts.limits, rejects.clone())?;
    let delivered = async {
        let (rows, tally) =
            steps::run(engine, pipeline, &plan, &lookups, &parts.limits, rows, &rejects).await?;
        Ok((deliveries.write(rows, &rejects).await?, tally))
    };
    let ((rows, tally), summary) = both(delivered.await, intake).await?;
    let has_rejects = reject_file.finish().await?;
    shared.stage(pipeline, "stream", streaming);

    let committing = Instant::now();
    let mut report = describe(job, attempt, pipeline, &plan, &summary, &tally, rows);
    report.started_at = Utc::now() - started.elapsed();
    report.rejects_file_path = has_rejects.then(|| rejects_key(job.job_id, attempt));
    let error = judge(pipeline, allows_empty(pipeline), &summary).err();
    if error.is_none() {
        report.artifacts = deliveries.finish_files().await?;
    }
    if let Some(error) = &error {
        report.counts.records_written = 0;
        report.rows_out = 0;
        report.tables.clear();
        report.error = Some(error.to_job_error());
    }
    let key = report.write(&parts.objects).await?;
    if !parts.jobs.heartbeat(claim).await? {
        return Err(Error::Overtaken); // requeued or cancelled meanwhile: nothing may be written for it
    }
    let ended = match error {
        Some(error) => {
            deliveries.rollback().await?;
            Ended::Failed { counts: report.counts, report: key, error }
        }
        None => {
            let artifacts = names(&report.artifacts);
            let committed = Committed { counts: report.counts, report: key, artifacts };
            Ended::Committed(deliveries.commit(&committed).await?)
        }
    };
    shared.stage(pipeline, "commit", committing);
    Ok(ended)
}

/// The engine whose SQL sees the parameters of a job; the pipeline may have changed since it was made.
pub(crate) fn with_parameters(
    engine: &Engine,
    pipeline: &Pipeline,
    given: &BTreeMap<String, serde_json::Value>,
) -> Result<Engine> {
    Ok(engine.with_parameters(&pipeline.bind(given).map_err(Error::Parameters)?))
}

/// What was delivered and the records taken in. An error of the intake is the cause of what came after it.
pub(crate) async fn both<T>(delivered: Result<T>, intake: Intake) -> Result<(T, Summary)> {
    match delivered {
        Ok(rows) => Ok((rows, intake.finish().await?)),
        Err(Error::Broken(_)) => match intake.finish().await {
            Err(cause) => Err(cause),
            Ok(_) => Err(Error::Broken("the intake")),
        },
        Err(error) => Err(error),
    }
}

fn describe(
    job: &Job,
    attempt: u32,
    pipeline: &Pipeline,
    plan: &Plan,
    summary: &Summary,
    tally: &Tally,
    rows: u64,
) -> Report {
    let mut report = Report::new(job, attempt, &pipeline.version);
    report.counts = count(summary, tally);
    report.rows_out = rows;
    report.size_bytes = summary.bytes;
    report.rejects_by_code = summary.by_code.clone();
    report.rejects = summary.samples.clone();
    report.over_error_budget = !within_budget(&pipeline.rejects, summary);
    report.tables =
        plan.tables.iter().map(|table| TableRows { table: table.table.to_string(), rows }).collect();
    report
}

/// `records_in = written + rejected + filtered`: a record is written when at least one row of it is.
pub(crate) fn count(summary: &Summary, tally: &Tally) -> Counts {
    let written = tally.used().saturating_sub(summary.late);
    Counts {
        records_in: summary.records,
        records_written: written,
        records_rejected: summary.rejected,
        records_filtered: summary.records.saturating_sub(summary.rejected).saturating_sub(written),
    }
}

pub(crate) fn allows_empty(pipeline: &Pipeline) -> bool {
    match &pipeline.source {
        Source::Upload(upload) => upload.allow_empty,
        Source::Http(http) => http.allow_empty,
    }
}
