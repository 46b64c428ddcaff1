//! `tidemill migrate`: brings databases and topics up to date, with an account that may do so.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::{print_json, print_text};
use crate::parts::Parts;

/// Migrates every part that the settings name.
pub async fn run(parts: &Parts, json: bool) -> Result<ExitCode> {
    parts.migrate_jobs(&parts.jobs().await?).await?;
    parts.migrate_tables(&parts.sink().await?).await?;
    parts.log().await?.create_topics().await?;
    let places = [
        ("job database", parts.database_place()),
        ("database of tables", parts.tables_place()),
        ("topics", parts.broker_place()),
    ];
    if json {
        let done = places.map(|(part, place)| json!({ "part": part, "place": place }));
        return print_json(&json!({ "up_to_date": done }));
    }
    for (part, place) in places {
        print_text(&format!("{part} up to date: {place}"));
    }
    Ok(ExitCode::SUCCESS)
}
