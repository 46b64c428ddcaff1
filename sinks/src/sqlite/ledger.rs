//! Fence and ledger in SQLite: what makes a delivery happen once.

use chrono::{DateTime, Utc};
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row};

use super::fences::overtaken;
use super::from_sqlx;
use crate::table::Entry;
use crate::{CommitKey, Error, LedgerRow, Result};

/// Made when they are missing.
pub(crate) const TABLES: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS tidemill_ledger (\
     job_id TEXT NOT NULL, sink TEXT NOT NULL, chunk INTEGER NOT NULL, attempt INTEGER NOT NULL, \
     table_name TEXT NOT NULL, row_count INTEGER NOT NULL, committed_at TEXT NOT NULL, summary TEXT, \
     PRIMARY KEY (job_id, sink, chunk)) STRICT",
    "CREATE TABLE IF NOT EXISTS tidemill_fence (\
     job_id TEXT NOT NULL PRIMARY KEY, attempt INTEGER NOT NULL) STRICT",
];

const COLUMNS: &str = "job_id, sink, chunk, attempt, table_name, row_count, committed_at, summary";

/// Ledgers of older versions lack the summary.
pub(crate) async fn upgrade(writer: &SqlitePool) -> Result<()> {
    let action = "upgrade the ledger";
    let has = "SELECT count(*) FROM pragma_table_info('tidemill_ledger') WHERE name = 'summary'";
    let has: i64 = sqlx::query_scalar(has).fetch_one(writer).await.map_err(|e| from_sqlx(action, e))?;
    if has > 0 {
        return Ok(());
    }
    let added = sqlx::query("ALTER TABLE tidemill_ledger ADD COLUMN summary TEXT").execute(writer).await;
    added.map(drop).map_err(|error| from_sqlx(action, error))
}

/// Raises the stored fence to this attempt, unless it is higher.
pub(crate) async fn raise_fence(connection: &mut SqliteConnection, job_id: &str, attempt: u32) -> Result<()> {
    let sql = "INSERT INTO tidemill_fence (job_id, attempt) VALUES (?, ?) \
               ON CONFLICT (job_id) DO UPDATE SET attempt = max(attempt, excluded.attempt)";
    let raised = sqlx::query(sql).bind(job_id).bind(attempt).execute(&mut *connection).await;
    raised.map_err(|error| from_sqlx("raise the fence", error))?;
    check_fence(connection, job_id, attempt).await
}

/// Refuses when a newer attempt raised the stored fence.
pub(crate) async fn check_fence(connection: &mut SqliteConnection, job_id: &str, attempt: u32) -> Result<()> {
    let sql = "SELECT attempt FROM tidemill_fence WHERE job_id = ?";
    let stored = sqlx::query_scalar::<_, u32>(sql).bind(job_id).fetch_one(connection).await;
    match stored.map_err(|error| from_sqlx("check the fence", error))? {
        newer if newer > attempt => Err(overtaken(job_id, attempt, newer)),
        _ => Ok(()),
    }
}

/// Writes a ledger row of a commit.
pub(crate) async fn write(
    connection: &mut SqliteConnection,
    entry: &Entry,
    summary: Option<&str>,
) -> Result<()> {
    let sql = "INSERT INTO tidemill_ledger \
               (job_id, sink, chunk, attempt, table_name, row_count, committed_at, summary) \
               VALUES (?, ?, ?, ?, ?, ?, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), ?)";
    let written = sqlx::query(sql)
        .bind(&entry.key.job_id)
        .bind(&entry.sink)
        .bind(entry.key.chunk)
        .bind(entry.key.attempt)
        .bind(&entry.table)
        .bind(i64::try_from(entry.rows).unwrap_or(i64::MAX))
        .bind(summary)
        .execute(connection)
        .await;
    written.map(drop).map_err(|error| from_sqlx("write the ledger", error))
}

/// The ledger rows of a commit, by whichever attempt.
pub(crate) async fn find(connection: &mut SqliteConnection, key: &CommitKey) -> Result<Vec<LedgerRow>> {
    let sql = format!("SELECT {COLUMNS} FROM tidemill_ledger WHERE job_id = ? AND chunk = ? ORDER BY sink");
    let query = sqlx::query(AssertSqlSafe(sql)).bind(&key.job_id).bind(key.chunk);
    let rows = query.fetch_all(connection).await.map_err(failed)?;
    rows.iter().map(|row| ledger_row(row).map_err(failed)).collect()
}

/// All ledger rows of a job.
pub(crate) async fn of_job(connection: &mut SqliteConnection, job_id: &str) -> Result<Vec<LedgerRow>> {
    let sql = format!("SELECT {COLUMNS} FROM tidemill_ledger WHERE job_id = ? ORDER BY sink, chunk");
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(job_id).fetch_all(connection).await.map_err(failed)?;
    rows.iter().map(|row| ledger_row(row).map_err(failed)).collect()
}

fn failed(error: sqlx::Error) -> Error {
    from_sqlx("read the ledger", error)
}

fn ledger_row(row: &SqliteRow) -> Result<LedgerRow, sqlx::Error> {
    let time: String = row.try_get(6)?;
    let committed_at = DateTime::parse_from_rfc3339(&time)
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))?
        .with_timezone(&Utc);
    let key = CommitKey { job_id: row.try_get(0)?, chunk: row.try_get(2)?, attempt: row.try_get(3)? };
    let rows = u64::try_from(row.try_get::<i64, _>(5)?).unwrap_or(0);
    Ok(LedgerRow {
        key,
        sink: row.try_get(1)?,
        table: row.try_get(4)?,
        rows,
        committed_at,
        summary: row.try_get(7)?,
    })
}
