//! `tidemill collect`: copies the reports of what succeeded to one folder, now.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use chrono::{TimeDelta, Utc};
use tidemill_ingest::{CollectMetrics, Collected, Collector};

use super::{job_store, pipeline, pipelines, print_json, print_text, status};
use crate::parts::Parts;

/// Looks beyond the leases of collections: a person does not wait for one, and copying twice does no harm.
const LEASES: TimeDelta = TimeDelta::minutes(5);

/// Ends collections that were left half-way, then collects what succeeded until now.
pub async fn run(parts: &Parts, name: &str, json: bool) -> Result<ExitCode> {
    let set = pipelines(parts)?;
    let pipeline = pipeline(&set, name)?;
    let metrics = CollectMetrics::new(&prometheus::Registry::new())?;
    let collector = Collector::new(parts.objects()?, job_store(parts).await?, Arc::clone(&set), metrics);
    let mut all = collector.take_up(Utc::now() + LEASES).await;
    all.extend(collector.collect_now(pipeline, Utc::now()).await.transpose());
    let (mut collected, mut well) = (Vec::new(), true);
    for done in all {
        match done {
            Ok(done) => collected.push(done),
            Err(error) => {
                well = false;
                eprintln!(
                    "failed to collect; the fetcher and the next `tidemill collect` try again: {:#}",
                    anyhow::Error::new(error)
                );
            }
        }
    }
    if json {
        print_json(&serde_json::json!({ "collected": collected }))?;
        return Ok(status(well));
    }
    for Collected { folder, jobs, missing } in &collected {
        print_text(&format!("{jobs} reports in {folder}"));
        if *missing > 0 {
            print_text(&format!("  {missing} files were deleted before; {folder}/manifest.json names them"));
        }
    }
    if collected.is_empty() && well {
        print_text(&format!("nothing to collect: no job of `{name}` succeeded since the last time"));
    }
    Ok(status(well))
}
