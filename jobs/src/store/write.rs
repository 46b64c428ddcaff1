//! The one way to change something: a statement on the jobs and the event that tells of it, in one transaction.

use std::borrow::Cow;
use std::future::Future;
use std::time::Duration;

use sqlx::any::{AnyArguments, AnyQueryResult};
use sqlx::mysql::MySqlDatabaseError;
use sqlx::query::Query;
use sqlx::{Any, AssertSqlSafe};
use tracing::debug;

use super::connect::failed;
use super::outbox::{OutboxRow, Place, insert_event};
use super::rows::micros;
use super::turns::Turns;
use super::{Dialect, JobStore, now};
use crate::{Event, Result};

/// How often a transaction is tried that met a deadlock, a busy file or a broken connection.
const TRIES: u32 = 5;
/// Pause before the second try; it doubles.
const PAUSE: Duration = Duration::from_millis(10);

/// A value of a parameter.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Value::Int(Some(value))
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Value::Int(Some(value.into()))
    }
}

impl From<Option<i64>> for Value {
    fn from(value: Option<i64>) -> Self {
        Value::Int(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Value::Text(Some(value.to_owned()))
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Value::Text(Some(value))
    }
}

impl From<Option<String>> for Value {
    fn from(value: Option<String>) -> Self {
        Value::Text(value)
    }
}

/// A list of [`Value`]s.
macro_rules! values {
    ($($value:expr),* $(,)?) => { vec![$($crate::store::write::Value::from($value)),*] };
}
pub(super) use values;

/// One change and the event that tells of it.
#[derive(Debug)]
pub(super) struct Write {
    /// It decides: when it finds no row, nothing is written.
    pub statement: Cow<'static, str>,
    pub values: Vec<Value>,
    /// Further statements of the same transaction, whatever rows they find.
    pub also: Vec<(Cow<'static, str>, Vec<Value>)>,
    pub event: Option<Event>,
    /// When the event may be published; `None` is at once.
    pub due_at: Option<i64>,
    /// Whose turns it changes.
    pub turns: Option<Turns>,
}

impl Write {
    /// A change that nobody is told of.
    pub fn new(statement: impl Into<Cow<'static, str>>, values: Vec<Value>) -> Self {
        let statement = statement.into();
        Self { statement, values, also: Vec::new(), event: None, due_at: None, turns: None }
    }

    /// Tells of it in the same transaction.
    pub fn telling(mut self, event: Event) -> Self {
        self.event = Some(event);
        self
    }

    /// Writes this too, in the same transaction.
    pub fn and(mut self, statement: impl Into<Cow<'static, str>>, values: Vec<Value>) -> Self {
        self.also.push((statement.into(), values));
        self
    }
}

pub(super) type AnyQuery<'q> = Query<'q, Any, AnyArguments>;

/// A query of generated text: the text is made of constants and `?` only, values are bound.
pub(super) fn query(statement: &str, values: Vec<Value>) -> AnyQuery<'static> {
    let query = sqlx::query(AssertSqlSafe(statement.to_owned()));
    values.into_iter().fold(query, |query, value| match value {
        Value::Int(value) => query.bind(value),
        Value::Text(value) => query.bind(value),
    })
}

impl JobStore {
    /// Runs the change; false when its statement found no row, and then nothing is written.
    pub(super) async fn commit(&self, action: &'static str, write: &Write) -> Result<bool> {
        self.try_commit(write).await.map_err(failed(action))
    }

    /// The same with the database's own error, for who looks for a broken unique key.
    pub(super) async fn try_commit(&self, write: &Write) -> sqlx::Result<bool> {
        let place = match (&write.event, write.due_at) {
            (Some(_), None) => self.handover.reserve(),
            _ => None,
        };
        let due_at = write.due_at.unwrap_or_else(|| micros(now()));
        let row = write.event.as_ref().map(|event| OutboxRow::new(event, due_at)).transpose()?;
        let row = row.map(|row| row.leased_for(place.as_ref()));
        let calls = write.turns.as_ref().is_some_and(|turns| turns.calls_next);
        let next_place = if calls { self.handover.reserve() } else { None };
        let done = self.retrying(|| self.transaction(write, row.as_ref(), next_place.as_ref())).await?;
        let Some(next) = done else { return Ok(false) };
        for (place, row) in [(place, row), (next_place, next)] {
            if let (Some(place), Some(row)) = (place, row.filter(OutboxRow::is_leased)) {
                place.give(row);
            }
        }
        Ok(true)
    }

    /// One statement outside of a transaction; the number of rows that it found.
    pub(super) async fn execute(
        &self,
        action: &'static str,
        statement: &str,
        values: Vec<Value>,
    ) -> Result<u64> {
        let run = || async {
            let _writer = self.writer().await?;
            let done: AnyQueryResult = query(statement, values.clone()).execute(&self.pool).await?;
            Ok(done.rows_affected())
        };
        self.retrying(run).await.map_err(failed(action))
    }

    /// Waits for an answer at most as long as a transaction may take.
    pub(super) async fn bounded<T>(&self, work: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
        let limit = self.limits.transaction_timeout;
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done,
            Err(_) => Err(sqlx::Error::Io(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                format!("no answer within {} seconds", limit.as_secs()),
            ))),
        }
    }

    /// `None` when the statement found no row; else the event that calls the next job, if there is one.
    async fn transaction(
        &self,
        write: &Write,
        row: Option<&OutboxRow>,
        next_place: Option<&Place>,
    ) -> sqlx::Result<Option<Option<OutboxRow>>> {
        let _writer = self.writer().await?;
        let begin = match self.dialect {
            Dialect::MySql => "START TRANSACTION",
            Dialect::Sqlite => "BEGIN IMMEDIATE",
        };
        let mut transaction = self.pool.begin_with(begin).await?;
        if let Some(turns) = &write.turns {
            turns.lock(self.dialect, &mut transaction).await?;
        }
        let done = query(&write.statement, write.values.clone()).execute(&mut *transaction).await?;
        if done.rows_affected() == 0 {
            transaction.rollback().await?;
            return Ok(None);
        }
        for (statement, values) in &write.also {
            query(statement, values.clone()).execute(&mut *transaction).await?;
        }
        if let Some(row) = row {
            insert_event(row).execute(&mut *transaction).await?;
        }
        let next = match &write.turns {
            Some(turns) if turns.calls_next => turns.call_next(&mut transaction, next_place).await?,
            _ => None,
        };
        transaction.commit().await?;
        Ok(Some(next))
    }

    async fn writer(&self) -> sqlx::Result<tokio::sync::SemaphorePermit<'_>> {
        self.writers.acquire().await.map_err(|_| sqlx::Error::PoolClosed)
    }

    async fn retrying<T, W>(&self, mut work: impl FnMut() -> W) -> sqlx::Result<T>
    where
        W: Future<Output = sqlx::Result<T>>,
    {
        let mut tries = 1;
        loop {
            match self.bounded(work()).await {
                Err(error) if tries < TRIES && passes(&error) => debug!(%error, tries, "trying again"),
                done => return done,
            }
            tokio::time::sleep(PAUSE * (1 << tries)).await;
            tries += 1;
        }
    }
}

/// Whether the same transaction may succeed at once. A connection that broke at COMMIT is in it: the
/// statement is a compare-and-set or breaks a unique key when it had been committed after all.
fn passes(error: &sqlx::Error) -> bool {
    const DEADLOCK: u16 = 1213;
    const LOCK_WAIT: u16 = 1205;
    const SQLITE_BUSY: i64 = 5;
    const SQLITE_LOCKED: i64 = 6;
    match error {
        sqlx::Error::Io(error) => error.kind() != std::io::ErrorKind::TimedOut,
        sqlx::Error::Database(error) => match error.try_downcast_ref::<MySqlDatabaseError>() {
            Some(error) => matches!(error.number(), DEADLOCK | LOCK_WAIT),
            // The low byte of SQLite's extended code is the code.
            None => error
                .code()
                .and_then(|code| code.parse::<i64>().ok())
                .is_some_and(|code| matches!(code & 0xff, SQLITE_BUSY | SQLITE_LOCKED)),
        },
        _ => false,
    }
}
