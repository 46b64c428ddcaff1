//! The event log in a SQLite file of its own: no server to install.
//!
//! One writer task drains up to [`writer::BATCH`] commands into one transaction with full sync, so a record is
//! durable once `publish` returns. Readers are woken by a watch channel. The members of a group share
//! partitions within one process: one process at a time runs on a file.

mod groups;
mod member;
mod writer;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, Row, SqlitePool};
use tidemill_pipelines::Retry;
use tokio::sync::watch;

use self::groups::Groups;
use self::member::Member;
use self::writer::Writer;
use super::{EventLog, PartitionLag, Subscription, Topic};
use crate::{Error, Result};

/// Connections for reading; the writer has its own. Reads are short.
const READERS: u32 = 4;
/// How long a read may wait for the file.
const BUSY: Duration = Duration::from_secs(5);

/// The largest payload that it takes: as much as a Kafka client with its own defaults.
const RECORD_BYTES_MAX: usize = 1_000_000;

const SCHEMA: &str = "\
CREATE TABLE IF NOT EXISTS records (topic TEXT NOT NULL, part INTEGER NOT NULL, pos INTEGER NOT NULL, \
    key TEXT NOT NULL, payload BLOB NOT NULL, appended_at INTEGER NOT NULL, \
    PRIMARY KEY (topic, part, pos)) WITHOUT ROWID; \
CREATE TABLE IF NOT EXISTS heads (topic TEXT NOT NULL, part INTEGER NOT NULL, next INTEGER NOT NULL, \
    PRIMARY KEY (topic, part)) WITHOUT ROWID; \
CREATE TABLE IF NOT EXISTS commits (topic TEXT NOT NULL, member_group TEXT NOT NULL, part INTEGER NOT NULL, \
    next INTEGER NOT NULL, PRIMARY KEY (topic, member_group, part)) WITHOUT ROWID";

/// The log in a file. Cheap to clone.
#[derive(Clone)]
pub struct EmbeddedLog(Arc<Inner>);

struct Inner {
    pool: SqlitePool,
    partitions: i32,
    writer: Writer,
    groups: Mutex<Groups>,
    /// Counts appends and rebalances: who waits for records looks again.
    changed: watch::Sender<u64>,
}

impl EmbeddedLog {
    /// Opens or makes the file. A file that has more partitions keeps them.
    pub async fn open(path: &Path, partitions: i32) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY);
        let pool = SqlitePoolOptions::new()
            .max_connections(READERS + 1)
            .acquire_timeout(BUSY)
            // On a full disk SQLite rolls back by itself, and the client believes for ever that a transaction is open.
            .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
            .connect_with(options)
            .await
            .map_err(failed("open the file"))?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await.map_err(failed("prepare the file"))?;
        let partitions = prepare_heads(&pool, partitions.max(1)).await.map_err(failed("prepare the file"))?;
        let (changed, _) = watch::channel(0);
        let writer = Writer::start(pool.clone(), changed.clone());
        Ok(Self(Arc::new(Inner { pool, partitions, writer, groups: Mutex::default(), changed })))
    }

    /// Ends the writer after what it was given, and closes the file. Later calls fail.
    pub async fn close(&self) {
        self.0.writer.close().await;
        self.0.pool.close().await;
    }

    /// Deletes records that were appended more than `age` ago and that all groups of their topic have behind them;
    /// the writer does so by itself each hour with [`writer::RETENTION`]. Returns how many.
    pub async fn delete_older_than(&self, age: Duration) -> Result<u64> {
        writer::delete_old(&self.0.pool, age).await.map_err(failed("delete old records"))
    }
}

#[async_trait]
impl EventLog for EmbeddedLog {
    async fn create_topics(&self) -> Result<()> {
        // Made when the file is opened.
        Ok(())
    }

    async fn publish(&self, topic: Topic, key: &str, payload: &[u8]) -> Result<()> {
        if payload.len() > RECORD_BYTES_MAX {
            let message = format!("at most {RECORD_BYTES_MAX} bytes are taken");
            return Err(Error::Record { size_bytes: payload.len(), message });
        }
        let partition = partition_of(key, self.0.partitions);
        self.0.writer.append(topic, partition, key, payload).await
    }

    async fn subscribe(&self, topic: Topic, group: &str) -> Result<Box<dyn Subscription>> {
        let committed = self.committed(topic, group).await?;
        Ok(Box::new(Member::join(Arc::clone(&self.0), topic, group, &committed)))
    }

    async fn lag(&self, topic: Topic, group: &str) -> Result<Vec<PartitionLag>> {
        const ACTION: &str = "read the lag";
        let committed = self.committed(topic, group).await?;
        let heads = sqlx::query("SELECT part, next FROM heads WHERE topic = ? ORDER BY part")
            .bind(topic.as_str())
            .fetch_all(&self.0.pool)
            .await
            .map_err(failed(ACTION))?;
        let lag = |row: &sqlx::sqlite::SqliteRow| {
            let (partition, next): (i32, i64) = (row.try_get(0)?, row.try_get(1)?);
            let from = committed.get(&partition).copied().unwrap_or(0);
            Ok(PartitionLag { partition, lag: (next - from).max(0) })
        };
        heads.iter().map(lag).collect::<sqlx::Result<_>>().map_err(failed(ACTION))
    }

    async fn ping(&self) -> Result<()> {
        let answer = sqlx::query("SELECT 1").execute(&self.0.pool).await;
        answer.map(drop).map_err(failed("reach the file"))
    }
}

impl EmbeddedLog {
    /// The next offset to read, by partition; partitions without a commit are missing.
    async fn committed(&self, topic: Topic, group: &str) -> Result<HashMap<i32, i64>> {
        const ACTION: &str = "read committed offsets";
        let rows = sqlx::query("SELECT part, next FROM commits WHERE topic = ? AND member_group = ?")
            .bind(topic.as_str())
            .bind(group)
            .fetch_all(&self.0.pool)
            .await
            .map_err(failed(ACTION))?;
        let read = |row: &sqlx::sqlite::SqliteRow| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter().map(read).collect::<sqlx::Result<_>>().map_err(failed(ACTION))
    }
}

/// Makes the heads that are missing; the number of partitions that the file then has.
async fn prepare_heads(pool: &SqlitePool, partitions: i32) -> sqlx::Result<i32> {
    let known: i32 =
        sqlx::query("SELECT COALESCE(MAX(part) + 1, 0) FROM heads").fetch_one(pool).await?.try_get(0)?;
    let partitions = partitions.max(known);
    for topic in Topic::ALL {
        for partition in 0..partitions {
            sqlx::query("INSERT INTO heads (topic, part, next) VALUES (?, ?, 0) ON CONFLICT DO NOTHING")
                .bind(topic.as_str())
                .bind(partition)
                .execute(pool)
                .await?;
        }
    }
    Ok(partitions)
}

/// FNV-1a of the key: records of one key go to one partition, in every version of Tidemill.
fn partition_of(key: &str, partitions: i32) -> i32 {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let partitions = u64::from(partitions.unsigned_abs().max(1));
    i32::try_from((hash ^ (hash >> 32)) % partitions).unwrap_or(0)
}

fn failed(action: &'static str) -> impl FnOnce(sqlx::Error) -> Error {
    move |error| Error::Log { action, message: error.to_string(), retry: Retry::Later }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_log_that_was_full_goes_on_once_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(&folder.path().join("events.db"), 1).await.unwrap();
        let mut limited = Vec::new();
        for _ in 0..=READERS {
            limited.push(log.0.pool.acquire().await.unwrap());
        }
        for connection in &mut limited {
            sqlx::query("PRAGMA max_page_count = 20").execute(&mut **connection).await.unwrap();
        }
        drop(limited);
        let big = vec![b'x'; 200_000];
        log.publish(Topic::Landed, "job", &big).await.unwrap_err();
        // Each connection that was in use is replaced by one without the limit.
        for _ in 0..=READERS {
            if log.publish(Topic::Landed, "job", &big).await.is_ok() {
                return;
            }
        }
        log.publish(Topic::Landed, "job", &big).await.unwrap();
    }

    #[test]
    fn keys_spread_over_all_partitions_and_stay_where_they_are() {
        let mut found = [0; 8];
        for key in 0..8_000 {
            found[partition_of(&format!("job-{key}"), 8) as usize] += 1;
        }
        assert!(found.iter().all(|count| (800..1200).contains(count)), "{found:?}");
        // Written down: another hash would turn the order of records that a file holds.
        assert_eq!(["a", "b", "job-1"].map(|key| partition_of(key, 8)), [0, 1, 6]);
    }
}
