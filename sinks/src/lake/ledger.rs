//! The ledger of the lake: an object `lake/_ledger/{job}/{table}/{chunk}/{attempt}.json` for each attempt that
//! came to its commit. It is written before the commit; the mark in the table's log says whether it counts.

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use tidemill_pipelines::TableName;

use super::error::from_store;
use super::log::{Log, Mark};
use super::{FOLDER, Lake};
use crate::{CommitKey, Error, LedgerRow, Result};

/// No table begins with `_` and lists as one of these, because its folder has no Delta log.
const LEDGER: &str = "_ledger";

const READ: &str = "read the ledger of the lake";

#[derive(Serialize, Deserialize)]
struct Entry {
    rows: u64,
    /// Just before the commit, by the clock of the process.
    committed_at: DateTime<Utc>,
}

fn path(key: &CommitKey, attempt: u32) -> Path {
    let CommitKey { job_id, sink, chunk, .. } = key;
    Path::from(format!("{FOLDER}/{LEDGER}/{job_id}/{sink}/{chunk}/{attempt}.json"))
}

fn row(key: &CommitKey, attempt: u32, entry: Entry) -> LedgerRow {
    let key = CommitKey { attempt, ..key.clone() };
    LedgerRow { table: key.sink.clone(), key, rows: entry.rows, committed_at: entry.committed_at }
}

/// Writes what a commit is about to do.
pub(crate) async fn write(lake: &Lake, key: &CommitKey, rows: u64) -> Result<LedgerRow> {
    let action = "write the ledger of the lake";
    let entry = Entry { rows, committed_at: Utc::now() };
    let json = serde_json::to_vec(&entry);
    let json = json.map_err(|e| Error::Refused { action, message: e.to_string() })?;
    let written = lake.objects.put(&path(key, key.attempt), json.into()).await;
    written.map_err(|e| from_store(action, e))?;
    Ok(row(key, key.attempt, entry))
}

/// What the commit of an attempt did.
pub(crate) async fn read(lake: &Lake, key: &CommitKey, attempt: u32) -> Result<LedgerRow> {
    let object = lake.objects.get(&path(key, attempt)).await.map_err(|e| from_store(READ, e))?;
    let json = object.bytes().await.map_err(|e| from_store(READ, e))?;
    let entry = serde_json::from_slice(&json);
    let entry = entry.map_err(|e| Error::Refused { action: READ, message: e.to_string() })?;
    Ok(row(key, attempt, entry))
}

/// The commits of a job, by sink and chunk.
pub(crate) async fn of_job(lake: &Lake, job_id: &str) -> Result<Vec<LedgerRow>> {
    let folder = Path::from(format!("{FOLDER}/{LEDGER}/{job_id}"));
    let listed: Vec<_> =
        lake.objects.list(Some(&folder)).try_collect().await.map_err(|e| from_store(READ, e))?;
    let mut keys: Vec<(TableName, u32)> =
        listed.iter().filter_map(|object| table_and_chunk(&object.location, &folder)).collect();
    keys.sort();
    keys.dedup();
    let mut rows = Vec::new();
    for (table, chunk) in keys {
        let key = CommitKey { job_id: job_id.to_owned(), sink: table.to_string(), chunk, attempt: 0 };
        if let Some(attempt) = committed(&lake.log(&table)?, &key).await? {
            rows.push(read(lake, &key, attempt).await?);
        }
    }
    Ok(rows)
}

fn table_and_chunk(object: &Path, folder: &Path) -> Option<(TableName, u32)> {
    let mut parts = object.prefix_match(folder)?;
    let table = parts.next()?.as_ref().parse().ok()?;
    let chunk = parts.next()?.as_ref().parse().ok()?;
    Some((table, chunk))
}

async fn committed(log: &Log, key: &CommitKey) -> Result<Option<u32>> {
    let Some(snapshot) = log.snapshot().await? else { return Ok(None) };
    Ok(match log.mark(&snapshot, key).await? {
        Some(Mark::Committed(attempt)) => Some(attempt),
        Some(Mark::Fence(_)) | None => None,
    })
}
