//! `tidemill jobs dead-letters`: events that the event log refused for good, to be seen, published again, or dropped.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use chrono::SecondsFormat;
use serde_json::json;
use tidemill_jobs::JobStore;

use super::tables::table;
use super::{print_json, print_text};

/// Dead letters of one list; a person looks at them.
const LIST_MAX: u32 = 1_000;

/// Lists them, or changes one.
pub async fn run(jobs: &JobStore, publish: Option<&str>, drop: Option<&str>, json: bool) -> Result<ExitCode> {
    if let Some(id) = publish {
        ensure!(jobs.revive_dead_letter(id).await?, "there is no dead letter {id}");
        return said(id, "a role that runs publishes it within seconds", json);
    }
    if let Some(id) = drop {
        ensure!(jobs.drop_dead_letter(id).await?, "there is no dead letter {id}");
        return said(id, "dropped", json);
    }
    let found = jobs.dead_letters(LIST_MAX).await?;
    if json {
        return print_json(&json!({ "dead_letters": found }));
    }
    let rows = found.into_iter().map(|letter| {
        let parked_at = letter.parked_at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let size = letter.size_bytes.to_string();
        vec![letter.event_id, letter.topic, letter.job_id, size, parked_at, letter.error]
    });
    print_text(&table(&["event", "topic", "job", "bytes", "parked", "error"], rows));
    Ok(ExitCode::SUCCESS)
}

fn said(event_id: &str, what: &str, json: bool) -> Result<ExitCode> {
    if json {
        return print_json(&json!({ "event_id": event_id }));
    }
    print_text(what);
    Ok(ExitCode::SUCCESS)
}
