//! Fence and ledger in MySQL: what makes a delivery happen once.

use chrono::{DateTime, TimeZone, Utc};
use mysql_async::Value;

use super::session::{Database, Session, number, text};
use crate::connect::within;
use crate::table::Entry;
use crate::{CommitKey, Error, LedgerRow, Result};

const TABLES: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS tidemill_ledger (\
     job_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, \
     sink VARCHAR(80) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, \
     chunk INT UNSIGNED NOT NULL, \
     attempt INT UNSIGNED NOT NULL, \
     table_name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, \
     row_count BIGINT UNSIGNED NOT NULL, \
     committed_at DATETIME(6) NOT NULL, \
     summary LONGTEXT CHARACTER SET utf8mb4, \
     PRIMARY KEY (job_id, sink, chunk)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS tidemill_fence (\
     job_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY, \
     attempt INT UNSIGNED NOT NULL) ENGINE=InnoDB",
    // One row for each table written: `replace` holds it alone, the other modes share it, so that no
    // delivery slips in between the DELETE and the rows of another.
    "CREATE TABLE IF NOT EXISTS tidemill_writers (\
     table_name VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY) ENGINE=InnoDB",
];

const LEDGER_COLUMNS: &str =
    "job_id, sink, chunk, attempt, table_name, row_count, CAST(committed_at AS CHAR), summary";

/// Ledgers of older versions lack the summary, and hold shorter names.
const UPGRADE: &str = "ALTER TABLE tidemill_ledger ADD COLUMN summary LONGTEXT CHARACTER SET utf8mb4, \
     MODIFY sink VARCHAR(80) CHARACTER SET ascii COLLATE ascii_bin NOT NULL";

const HAS_SUMMARY: &str = "SELECT 1 FROM information_schema.columns WHERE table_schema = DATABASE() \
     AND table_name = 'tidemill_ledger' AND column_name = 'summary'";

/// Pauses between questions about the fate of a COMMIT: first and longest.
const SETTLE_PAUSE_MS: (u64, u64) = (50, 2_000);

/// Makes the tables above when they are missing.
pub(crate) async fn migrate(database: &Database) -> Result<()> {
    let action = "make the ledger";
    let mut session = database.session().await?;
    for ddl in TABLES {
        session.run(action, ddl).await?;
    }
    if session.rows(action, HAS_SUMMARY, Vec::new()).await?.is_empty() {
        match session.run(action, UPGRADE).await {
            // Another process was quicker.
            Err(_) if !session.rows(action, HAS_SUMMARY, Vec::new()).await?.is_empty() => {}
            done => done?,
        }
    }
    Ok(())
}

/// Raises the fence of a job to this attempt, in a transaction of its own. Waits for an older attempt
/// that is committing: it holds the fence.
pub(crate) async fn raise_fence(session: &mut Session, job_id: &str, attempt: u32) -> Result<()> {
    let action = "raise the fence";
    let (job, raised) = (Value::from(job_id), Value::from(attempt));
    let sql = "INSERT INTO tidemill_fence (job_id, attempt) VALUES (?, ?) \
               ON DUPLICATE KEY UPDATE attempt = GREATEST(attempt, ?)";
    session.execute(action, sql, vec![job.clone(), raised.clone(), raised]).await?;
    let sql = "SELECT attempt FROM tidemill_fence WHERE job_id = ?";
    let rows = session.rows(action, sql, vec![job]).await?;
    check_fence(&rows, job_id, attempt)
}

/// Holds the fence until the end of the transaction, and refuses when a newer attempt raised it.
pub(crate) async fn hold_fence(session: &mut Session, key: &CommitKey) -> Result<()> {
    let sql = "SELECT attempt FROM tidemill_fence WHERE job_id = ? FOR UPDATE";
    let rows = session.rows("check the fence", sql, vec![Value::from(&key.job_id)]).await?;
    check_fence(&rows, &key.job_id, key.attempt)
}

fn check_fence(rows: &[Vec<Value>], job_id: &str, attempt: u32) -> Result<()> {
    let stored = rows.first().and_then(|row| row.first()).and_then(number);
    match stored.and_then(|stored| u32::try_from(stored).ok()) {
        Some(newer) if newer > attempt => Err(Error::Fenced { job_id: job_id.to_owned(), attempt, newer }),
        Some(stored) if stored == attempt => Ok(()),
        other => Err(Error::Refused {
            action: "check the fence",
            message: format!("the fence of job {job_id} is {other:?}, it was raised before"),
        }),
    }
}

/// Keeps deliveries with `replace` alone with their table until the end of the transaction.
pub(crate) async fn lock_table_row(session: &mut Session, table: &str, exclusive: bool) -> Result<()> {
    let action = "wait for other deliveries into the table";
    let lock = if exclusive { "FOR UPDATE" } else { "LOCK IN SHARE MODE" };
    let sql = format!("SELECT table_name FROM tidemill_writers WHERE table_name = ? {lock}");
    session.rows(action, &sql, vec![Value::from(table)]).await.map(drop)
}

/// Makes the row that [`lock_table_row`] locks. Called outside a transaction.
pub(crate) async fn make_table_row(session: &mut Session, table: &str) -> Result<()> {
    let action = "register the table";
    let sql = "SELECT table_name FROM tidemill_writers WHERE table_name = ?";
    if session.rows(action, sql, vec![Value::from(table)]).await?.is_empty() {
        let sql = "INSERT IGNORE INTO tidemill_writers (table_name) VALUES (?)";
        session.execute(action, sql, vec![Value::from(table)]).await?;
    }
    Ok(())
}

/// Writes a ledger row of a commit.
pub(crate) async fn write(session: &mut Session, row: &Entry, summary: Option<&str>) -> Result<()> {
    let sql = "INSERT INTO tidemill_ledger \
               (job_id, sink, chunk, attempt, table_name, row_count, committed_at, summary) \
               VALUES (?, ?, ?, ?, ?, ?, UTC_TIMESTAMP(6), ?)";
    let values = vec![
        Value::from(&row.key.job_id),
        Value::from(&row.sink),
        Value::from(row.key.chunk),
        Value::from(row.key.attempt),
        Value::from(&row.table),
        Value::from(row.rows),
        Value::from(summary),
    ];
    session.execute("write the ledger", sql, values).await.map(drop)
}

/// The ledger rows of a commit, by whichever attempt.
pub(crate) async fn find(session: &mut Session, key: &CommitKey) -> Result<Vec<LedgerRow>> {
    let sql =
        format!("SELECT {LEDGER_COLUMNS} FROM tidemill_ledger WHERE job_id = ? AND chunk = ? ORDER BY sink");
    let values = vec![Value::from(&key.job_id), Value::from(key.chunk)];
    let rows = session.rows("read the ledger", &sql, values).await?;
    rows.iter().map(|row| ledger_row(row)).collect()
}

/// All ledger rows of a job.
pub(crate) async fn of_job(session: &mut Session, job_id: &str) -> Result<Vec<LedgerRow>> {
    let sql = format!("SELECT {LEDGER_COLUMNS} FROM tidemill_ledger WHERE job_id = ? ORDER BY sink, chunk");
    let rows = session.rows("read the ledger", &sql, vec![Value::from(job_id)]).await?;
    rows.iter().map(|row| ledger_row(row)).collect()
}

/// Finds out whether a COMMIT whose answer was lost happened: no rows when it did not, and never will.
/// The fence is locked first, so a COMMIT that is still under way at the server is waited for.
pub(crate) async fn settle(database: &Database, key: &CommitKey) -> Result<Vec<LedgerRow>> {
    within(database.limits.settle_timeout_seconds, "settle the lost answer to commit", async {
        let mut pause_ms = SETTLE_PAUSE_MS.0;
        loop {
            match settle_once(database, key).await {
                Err(error) if error.retry() != tidemill_pipelines::Retry::Never => {
                    tracing::warn!(job_id = key.job_id, %error, "the fate of a commit is unknown yet");
                }
                settled => return settled,
            }
            tokio::time::sleep(std::time::Duration::from_millis(pause_ms)).await;
            pause_ms = (pause_ms * 2).min(SETTLE_PAUSE_MS.1);
        }
    })
    .await
}

async fn settle_once(database: &Database, key: &CommitKey) -> Result<Vec<LedgerRow>> {
    let mut session = database.session().await?;
    session.run("begin", "START TRANSACTION").await?;
    let held = hold_fence(&mut session, key).await;
    let found = find(&mut session, key).await?;
    session.run("roll back", "ROLLBACK").await?;
    if found.is_empty() { held.map(|()| found) } else { Ok(found) }
}

fn ledger_row(row: &[Value]) -> Result<LedgerRow> {
    let damaged = |what: &str| Error::Refused {
        action: "read the ledger",
        message: format!("a ledger row has no {what}"),
    };
    let word = |index: usize, what| row.get(index).and_then(text).ok_or_else(|| damaged(what));
    let count = |index: usize, what| row.get(index).and_then(number).ok_or_else(|| damaged(what));
    let small = |index, what| count(index, what).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    let key =
        CommitKey { job_id: word(0, "job_id")?, chunk: small(2, "chunk")?, attempt: small(3, "attempt")? };
    let committed_at = utc(&word(6, "time")?).ok_or_else(|| damaged("time"))?;
    Ok(LedgerRow {
        key,
        sink: word(1, "sink")?,
        table: word(4, "table")?,
        rows: count(5, "count")?,
        committed_at,
        summary: row.get(7).and_then(text),
    })
}

fn utc(text: &str) -> Option<DateTime<Utc>> {
    let naive = chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok()?;
    Some(Utc.from_utc_datetime(&naive))
}
