//! The writer of the embedded log: one task, one transaction for all commands that wait (group commit).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::{Row, Sqlite, SqlitePool, Transaction};
use tidemill_pipelines::Retry;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::super::Topic;
use crate::{Error, Result};

/// Commands in one transaction: enough to share a sync among many, few enough that none waits long.
pub(super) const BATCH: usize = 1_000;
/// Commands that wait; who comes later waits for room.
const QUEUE: usize = 4 * BATCH;
/// How long records are kept that all groups have behind them.
pub(super) const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often old records are looked for.
const CLEANING: Duration = Duration::from_secs(3600);
/// Records deleted in one statement: it holds up the writer.
const DELETE_MAX: i64 = 10_000;

/// The way to the writer task.
pub(super) struct Writer {
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

enum Change {
    Append { topic: Topic, partition: i32, key: String, payload: Vec<u8> },
    Commit { topic: Topic, group: String, partition: i32, next: i64 },
    Nothing,
}

struct Command {
    change: Change,
    done: Option<oneshot::Sender<std::result::Result<(), String>>>,
}

impl Writer {
    pub fn start(pool: SqlitePool, changed: watch::Sender<u64>) -> Self {
        let (commands, receiver) = mpsc::channel(QUEUE);
        let task = tokio::spawn(run(pool, receiver, changed));
        Self { commands: Mutex::new(Some(commands)), task: Mutex::new(Some(task)) }
    }

    /// Appends a record; durable once it returns.
    pub async fn append(&self, topic: Topic, partition: i32, key: &str, payload: &[u8]) -> Result<()> {
        let (key, payload) = (key.to_owned(), payload.to_vec());
        self.and_wait("publish a record", Change::Append { topic, partition, key, payload }).await
    }

    /// Commits an offset soon; when that fails, records are given out again after a restart.
    pub async fn commit(&self, topic: Topic, group: &str, partition: i32, next: i64) -> Result<()> {
        let change = Change::Commit { topic, group: group.to_owned(), partition, next };
        self.send("commit an offset", Command { change, done: None }).await
    }

    /// Waits until all earlier commands are done.
    pub async fn flush(&self) -> Result<()> {
        self.and_wait("commit offsets", Change::Nothing).await
    }

    /// Lets the task end after what it was given, and waits for it.
    pub async fn close(&self) {
        drop(self.commands.lock().unwrap_or_else(PoisonError::into_inner).take());
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = futures::future::OptionFuture::from(task).await {
            tracing::error!(%error, "the writer of the event log failed");
        }
    }

    async fn and_wait(&self, action: &'static str, change: Change) -> Result<()> {
        let (done, answer) = oneshot::channel();
        self.send(action, Command { change, done: Some(done) }).await?;
        match answer.await {
            Ok(answer) => answer.map_err(|message| Error::Log { action, message, retry: Retry::Later }),
            Err(_) => Err(closed(action)),
        }
    }

    async fn send(&self, action: &'static str, command: Command) -> Result<()> {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let commands = commands.ok_or_else(|| closed(action))?;
        commands.send(command).await.map_err(|_| closed(action))
    }
}

fn closed(action: &'static str) -> Error {
    Error::Log { action, message: "the log is closed".to_owned(), retry: Retry::Never }
}

async fn run(pool: SqlitePool, mut commands: mpsc::Receiver<Command>, changed: watch::Sender<u64>) {
    let mut cleaning = tokio::time::interval(CLEANING);
    cleaning.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            biased;
            count = commands.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return;
                }
                let written = write(&pool, &batch).await.map_err(|error| error.to_string());
                if let Err(error) = &written {
                    tracing::error!(error, "failed to write to the event log");
                }
                changed.send_modify(|count| *count = count.wrapping_add(1));
                for done in batch.drain(..).filter_map(|command| command.done) {
                    // Who no longer waits does not need to know.
                    let _ = done.send(written.clone());
                }
            }
            _ = cleaning.tick() => {
                if let Err(error) = delete_old(&pool, RETENTION).await {
                    tracing::warn!(%error, "failed to delete old records of the event log");
                }
            }
        }
    }
}

/// All or nothing: when it fails, each of the batch is told so.
async fn write(pool: &SqlitePool, batch: &[Command]) -> sqlx::Result<()> {
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    let now = unix_seconds();
    for command in batch {
        match &command.change {
            Change::Append { topic, partition, key, payload } => {
                append(&mut transaction, *topic, *partition, key, payload, now).await?;
            }
            Change::Commit { topic, group, partition, next } => {
                commit(&mut transaction, *topic, group, *partition, *next).await?;
            }
            Change::Nothing => {}
        }
    }
    transaction.commit().await
}

async fn append(
    transaction: &mut Transaction<'_, Sqlite>,
    topic: Topic,
    partition: i32,
    key: &str,
    payload: &[u8],
    now: i64,
) -> sqlx::Result<()> {
    let head = "UPDATE heads SET next = next + 1 WHERE topic = ? AND part = ? RETURNING next - 1";
    let row = sqlx::query(head).bind(topic.as_str()).bind(partition).fetch_one(&mut **transaction).await?;
    let offset: i64 = row.try_get(0)?;
    sqlx::query("INSERT INTO records (topic, part, pos, key, payload, appended_at) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(topic.as_str())
        .bind(partition)
        .bind(offset)
        .bind(key)
        .bind(payload)
        .bind(now)
        .execute(&mut **transaction)
        .await
        .map(drop)
}

async fn commit(
    transaction: &mut Transaction<'_, Sqlite>,
    topic: Topic,
    group: &str,
    partition: i32,
    next: i64,
) -> sqlx::Result<()> {
    let statement = "INSERT INTO commits (topic, member_group, part, next) VALUES (?, ?, ?, ?) \
        ON CONFLICT DO UPDATE SET next = MAX(next, excluded.next)";
    sqlx::query(statement)
        .bind(topic.as_str())
        .bind(group)
        .bind(partition)
        .bind(next)
        .execute(&mut **transaction)
        .await
        .map(drop)
}

/// Deletes records older than `age` that every group of their topic has behind it; without a group, none.
pub(super) async fn delete_old(pool: &SqlitePool, age: Duration) -> sqlx::Result<u64> {
    // A group that has committed nothing in a partition has all of it before it.
    let statement = "DELETE FROM records WHERE (topic, part, pos) IN (\
        SELECT r.topic, r.part, r.pos FROM records r WHERE r.appended_at <= ? \
        AND EXISTS (SELECT 1 FROM commits c WHERE c.topic = r.topic) \
        AND NOT EXISTS (SELECT 1 FROM (SELECT DISTINCT topic, member_group FROM commits) g \
            LEFT JOIN commits c ON c.topic = g.topic AND c.member_group = g.member_group AND c.part = r.part \
            WHERE g.topic = r.topic AND COALESCE(c.next, 0) <= r.pos) \
        LIMIT ?)";
    let before = unix_seconds().saturating_sub_unsigned(age.as_secs());
    let mut deleted = 0;
    loop {
        let done = sqlx::query(statement).bind(before).bind(DELETE_MAX).execute(pool).await?;
        deleted += done.rows_affected();
        if done.rows_affected() < DELETE_MAX.unsigned_abs() {
            return Ok(deleted);
        }
    }
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}
