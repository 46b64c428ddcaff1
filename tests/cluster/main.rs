//! The roles as separate processes on real servers: what goes up comes out exactly, also when processes are
//! killed and servers stopped in the midst of it.
//!
//! What depends on the database runs on each of `databases`, the rest on MariaDB.
//! The scenarios take turns, because some stop the servers that all of them use.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

#[path = "../servers/bucket.rs"]
mod bucket;
#[path = "../servers/databases.rs"]
mod databases;
mod deaths;
mod delayed;
mod exact;
mod notices;
mod outages;
mod place;
mod roles;

/// Held by the scenario that runs.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The pipeline of the scenarios with rows made by [`numbers`]: nothing in the table would refuse a doubled row.
const NUMBERS: &str = "\
pipeline: numbers
columns: [{ name: id, type: int64 }, { name: text, type: text, max_length: 40 }]
sinks: [{ table: { name: numbers, mode: append } }]
notify: [{ email: { to: \"{{ sender }}\", on: [success, failed] } }]
";

/// The nth file for the pipeline `numbers`, of so many rows; no two files share an id.
fn numbers(nth: u64, rows: u64) -> Vec<u8> {
    let first = nth * rows;
    let lines = (first..first + rows).map(|id| format!("{id},row number {id}\n"));
    std::iter::once("id,text\n".to_owned()).chain(lines).collect::<String>().into_bytes()
}

/// A folder with the pipeline `numbers`.
fn numbers_pipelines() -> tempfile::TempDir {
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("numbers.yaml"), NUMBERS).unwrap();
    folder
}

/// Asserts that the table holds each row of the first `files` files once.
async fn holds_once(cluster: &roles::Cluster, files: u64, rows: u64) {
    let sql = "SELECT count(*), count(DISTINCT id), min(id), max(id), \
        sum(text <> concat('row number ', id)) FROM numbers";
    let all = i64::try_from(files * rows).unwrap();
    assert_eq!(cluster.place.numbers(sql).await, [all, all, 0, all - 1, 0]);
}
