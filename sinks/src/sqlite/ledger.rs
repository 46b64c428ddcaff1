//! Fence and ledger in SQLite: what makes a delivery happen once.

use chrono::{DateTime, Utc};
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Row};

use super::fences::overtaken;
use super::from_sqlx;
use crate::{CommitKey, Error, LedgerRow, Result};

/// Made when they are missing.
pub(crate) const TABLES: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS tidemill_ledger (\
     job_id TEXT NOT NULL, sink TEXT NOT NULL, chunk INTEGER NOT NULL, attempt INTEGER NOT NULL, \
     table_name TEXT NOT NULL, row_count INTEGER NOT NULL, committed_at TEXT NOT NULL, \
     PRIMARY KEY (job_id, sink, chunk)) STRICT",
    "CREATE TABLE IF NOT EXISTS tidemill_fence (\
     job_id TEXT NOT NULL PRIMARY KEY, attempt INTEGER NOT NULL) STRICT",
];

const COLUMNS: &str = "job_id, sink, chunk, attempt, table_name, row_count, committed_at";

/// Raises the stored fence to this attempt, unless it is higher.
pub(crate) async fn raise_fence(connection: &mut SqliteConnection, key: &CommitKey) -> Result<()> {
    let sql = "INSERT INTO tidemill_fence (job_id, attempt) VALUES (?, ?) \
               ON CONFLICT (job_id) DO UPDATE SET attempt = max(attempt, excluded.attempt)";
    let raised = sqlx::query(sql).bind(&key.job_id).bind(key.attempt).execute(&mut *connection).await;
    raised.map_err(|error| from_sqlx("raise the fence", error))?;
    check_fence(connection, key).await
}

/// Refuses when a newer attempt raised the stored fence.
pub(crate) async fn check_fence(connection: &mut SqliteConnection, key: &CommitKey) -> Result<()> {
    let sql = "SELECT attempt FROM tidemill_fence WHERE job_id = ?";
    let stored = sqlx::query_scalar::<_, u32>(sql).bind(&key.job_id).fetch_one(connection).await;
    match stored.map_err(|error| from_sqlx("check the fence", error))? {
        newer if newer > key.attempt => Err(overtaken(key, newer)),
        _ => Ok(()),
    }
}

/// Writes the ledger row of a commit.
pub(crate) async fn write(
    connection: &mut SqliteConnection,
    key: &CommitKey,
    table: &str,
    rows: u64,
) -> Result<()> {
    let sql = "INSERT INTO tidemill_ledger \
               (job_id, sink, chunk, attempt, table_name, row_count, committed_at) \
               VALUES (?, ?, ?, ?, ?, ?, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))";
    let written = sqlx::query(sql)
        .bind(&key.job_id)
        .bind(&key.sink)
        .bind(key.chunk)
        .bind(key.attempt)
        .bind(table)
        .bind(i64::try_from(rows).unwrap_or(i64::MAX))
        .execute(connection)
        .await;
    written.map(drop).map_err(|error| from_sqlx("write the ledger", error))
}

/// The ledger row of a commit, by whichever attempt.
pub(crate) async fn find(connection: &mut SqliteConnection, key: &CommitKey) -> Result<Option<LedgerRow>> {
    let sql = format!("SELECT {COLUMNS} FROM tidemill_ledger WHERE job_id = ? AND sink = ? AND chunk = ?");
    let query = sqlx::query(AssertSqlSafe(sql)).bind(&key.job_id).bind(&key.sink).bind(key.chunk);
    let row = query.fetch_optional(connection).await.map_err(failed)?;
    row.map(|row| ledger_row(&row).map_err(failed)).transpose()
}

/// All ledger rows of a job.
pub(crate) async fn of_job(pool: &SqlitePool, job_id: &str) -> Result<Vec<LedgerRow>> {
    let sql = format!("SELECT {COLUMNS} FROM tidemill_ledger WHERE job_id = ? ORDER BY sink, chunk");
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(job_id).fetch_all(pool).await.map_err(failed)?;
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
    let key = CommitKey {
        job_id: row.try_get(0)?,
        sink: row.try_get(1)?,
        chunk: row.try_get(2)?,
        attempt: row.try_get(3)?,
    };
    let rows = u64::try_from(row.try_get::<i64, _>(5)?).unwrap_or(0);
    Ok(LedgerRow { key, table: row.try_get(4)?, rows, committed_at })
}
