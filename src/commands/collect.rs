//! `tidemill collect`: copies the reports of what succeeded to one folder, now.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use chrono::{TimeDelta, Utc};
use tidemill_ingest::Collector;

use super::{job_store, pipeline, pipelines, print_json, print_text};
use crate::parts::Parts;

/// Looks beyond the leases of collections: a person does not wait for one, and copying twice does no harm.
const LEASES: TimeDelta = TimeDelta::minutes(5);

/// Ends collections that were left half-way, then collects what succeeded until now.
pub async fn run(parts: &Parts, name: &str, json: bool) -> Result<ExitCode> {
    let set = pipelines(parts)?;
    let pipeline = pipeline(&set, name)?;
    let collector = Collector::new(parts.objects()?, job_store(parts).await?, Arc::clone(&set));
    let mut collected = collector.take_up(Utc::now() + LEASES).await?;
    // Slots are whole seconds: the next one, so that what succeeded in this one is not left behind.
    collected.extend(collector.collect(pipeline, Utc::now() + TimeDelta::seconds(1)).await?);
    if json {
        return print_json(&serde_json::json!({ "collected": collected }));
    }
    for done in &collected {
        print_text(&format!("{} reports in {}", done.jobs, done.folder));
    }
    if collected.is_empty() {
        print_text(&format!("nothing to collect: no job of `{name}` succeeded since the last time"));
    }
    Ok(ExitCode::SUCCESS)
}
