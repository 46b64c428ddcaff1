//! `tidemill jobs`: look at jobs, prove that their counts add up, queue failed ones again.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use chrono::SecondsFormat;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use serde_json::json;
use tidemill_ingest::ObjectKey;
use tidemill_jobs::{Job, JobFilter, JobId, JobStatus, JobStore};
use tidemill_pipelines::{Pipeline, PipelineSet};
use tidemill_processor::Verification;
use tokio::io::AsyncWriteExt;

use super::tables::table;
use super::{dead_letters, job_store, pipeline, pipelines, print_json, print_text, status, submit};
use crate::cli::{JobsCommand, Status};
use crate::parts::Parts;

/// Runs one of the commands over jobs.
pub async fn run(parts: &Parts, command: &JobsCommand, json: bool) -> Result<ExitCode> {
    match command {
        JobsCommand::List { status, pipeline, limit, cursor } => {
            let filter = JobFilter {
                statuses: status.iter().map(|status| job_status(*status)).collect(),
                pipelines: pipeline.as_ref().map(|name| name.parse().map(|name| vec![name])).transpose()?,
                limit: *limit,
                cursor: cursor.clone(),
                ..JobFilter::default()
            };
            list(parts, &filter, json).await
        }
        JobsCommand::Show { id } => {
            let job = get(&job_store(parts).await?, id).await?;
            show(&job, json)
        }
        JobsCommand::Submit(args) => submit::run(args, json).await,
        JobsCommand::Verify { id } => verify(parts, id, json).await,
        JobsCommand::Rejects { id } => rejects(parts, id).await,
        JobsCommand::DeadLetters { publish, drop } => {
            dead_letters::run(&job_store(parts).await?, publish.as_deref(), drop.as_deref(), json).await
        }
        JobsCommand::Retry { id } => {
            let job = parts.settler(&job_store(parts).await?).retry(job_id(id)?).await?;
            show(&job.with_context(|| format!("there is no job {id}"))?, json)
        }
        JobsCommand::Cancel { id } => {
            let job = parts.settler(&job_store(parts).await?).cancel(job_id(id)?).await?;
            show(&job.with_context(|| format!("there is no job {id}"))?, json)
        }
    }
}

async fn list(parts: &Parts, filter: &JobFilter, json: bool) -> Result<ExitCode> {
    let page = job_store(parts).await?.list(filter).await?;
    if json {
        return print_json(&json!({ "jobs": page.jobs, "next_cursor": page.next_cursor }));
    }
    let header = ["job", "pipeline", "status", "in", "written", "rejected", "filtered", "created", "sender"];
    let rows = page.jobs.iter().map(|job| {
        let counts = &job.counts;
        vec![
            job.job_id.to_string(),
            job.pipeline.to_string(),
            job.status.as_str().to_owned(),
            counts.records_in.to_string(),
            counts.records_written.to_string(),
            counts.records_rejected.to_string(),
            counts.records_filtered.to_string(),
            job.created_at.to_rfc3339_opts(SecondsFormat::Secs, true),
            job.sender.clone(),
        ]
    });
    print_text(&table(&header, rows));
    if let Some(cursor) = page.next_cursor {
        print_text(&format!("\nmore: --cursor {cursor}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn show(job: &Job, json: bool) -> Result<ExitCode> {
    if json {
        return print_json(job);
    }
    let serde_json::Value::Object(fields) = serde_json::to_value(job)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let error = job.error.as_ref().map(|error| {
        let line = format!("{} ({}): {}", error.code, error.blame.as_str(), error.message);
        ("error".to_owned(), serde_json::Value::String(line))
    });
    let plain = fields.into_iter().filter(|(name, value)| name != "error" && !value.is_null());
    for (name, value) in plain.chain(error) {
        let text = match value {
            serde_json::Value::String(text) => text,
            serde_json::Value::Array(items) => {
                items.iter().map(|item| item.as_str().unwrap_or_default()).collect::<Vec<_>>().join(" ")
            }
            other => other.to_string(),
        };
        print_text(&format!("{name:<18} {text}"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn rejects(parts: &Parts, id: &str) -> Result<ExitCode> {
    let job = get(&job_store(parts).await?, id).await?;
    ensure!(
        job.status.has_ended(),
        "job {id} is {}; its refused records stand once it has ended",
        job.status.as_str()
    );
    if job.counts.records_rejected == 0 {
        writeln!(std::io::stderr(), "no record was refused").ok();
        return Ok(ExitCode::SUCCESS);
    }
    let key = ObjectKey::artifact(&job, "rejects.csv");
    let object = parts.objects()?.get(&key.path()).await;
    let mut bytes =
        object.with_context(|| format!("failed to read object `{}`", key.as_str()))?.into_stream();
    let mut out = tokio::io::stdout();
    while let Some(bytes) = bytes.try_next().await? {
        if out.write_all(&bytes).await.is_err() {
            break; // the reader has seen enough, as `head` does
        }
    }
    out.flush().await.ok();
    Ok(ExitCode::SUCCESS)
}

async fn verify(parts: &Parts, id: &str, json: bool) -> Result<ExitCode> {
    let set = pipelines(parts)?;
    let jobs = job_store(parts).await?;
    let job = get(&jobs, id).await?;
    let version = version_of(&jobs, &set, &job).await?;
    let (objects, sink) = (parts.objects()?, parts.sink().await?);
    let limits = parts.processor_limits();
    let found = tidemill_processor::verify(&job, &version, &set, &objects, &sink, &limits).await?;
    if json {
        print_json(&json!({ "holds": found.holds(), "verification": found }))?;
    } else {
        tell(&found);
    }
    Ok(status(found.holds()))
}

/// The pipeline as it was when the job ran.
async fn version_of(jobs: &JobStore, set: &PipelineSet, job: &Job) -> Result<Pipeline> {
    let current = pipeline(set, job.pipeline.as_str());
    let Some(version) = &job.pipeline_version else {
        return current.cloned();
    };
    match current {
        Ok(current) if current.version == *version => return Ok(current.clone()),
        _ => {}
    }
    let text = jobs.pipeline_text(&job.pipeline, version).await?;
    let text =
        text.with_context(|| format!("version {version} of pipeline `{}` was not kept", job.pipeline))?;
    Pipeline::parse(&format!("{}.yaml", job.pipeline), &text)
        .map_err(|problems| anyhow::Error::new(crate::folder::FolderProblems(problems)))
}

fn tell(found: &Verification) {
    let recorded = &found.recorded;
    let rows: Vec<String> =
        found.rows_in_ledger.iter().map(|(table, rows)| format!("{rows} in `{table}`")).collect();
    print_text(&format!("job {} ({})", found.job_id, found.status.as_str()));
    print_text(&format!("  records in the object   {}", found.records_in_object));
    print_text(&format!("  records in the rejects  {}", found.records_in_rejects));
    print_text(&format!(
        "  rows in the ledger      {}",
        if rows.is_empty() { "none".into() } else { rows.join(", ") }
    ));
    print_text(&format!(
        "  recorded                {} in = {} written + {} rejected + {} filtered",
        recorded.records_in, recorded.records_written, recorded.records_rejected, recorded.records_filtered
    ));
    for artifact in &found.artifacts {
        let tidemill_processor::Artifact { name, size_bytes, content_sha256 } = artifact;
        print_text(&format!("  file `{name}`: {size_bytes} bytes, sha256 {content_sha256}"));
    }
    if found.holds() {
        print_text("everything adds up");
    }
    for difference in &found.differences {
        print_text(&format!("differs: {difference}"));
    }
}

async fn get(jobs: &JobStore, id: &str) -> Result<Job> {
    jobs.get(job_id(id)?).await?.with_context(|| format!("there is no job {id}"))
}

fn job_id(id: &str) -> Result<JobId> {
    id.parse().with_context(|| format!("`{id}` is no job id"))
}

fn job_status(status: Status) -> JobStatus {
    match status {
        Status::Queued => JobStatus::Queued,
        Status::Processing => JobStatus::Processing,
        Status::Success => JobStatus::Success,
        Status::Failed => JobStatus::Failed,
        Status::Downloaded => JobStatus::Downloaded,
    }
}
