//! The outbox: events committed with a job, until the relay has published them.
//!
//! A relay in the same process gets an event handed over at the commit, with the row leased to it, so that
//! nothing has to be read back. Rows of processes without a relay, of relays that died, and those that
//! wait for their time are found by the relay's poll. An event that the log refuses for good is a dead letter: its row stays,
//! is due no more, and waits for a person.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::Row;
use sqlx::any::AnyRow;
use tokio::sync::mpsc;
use tracing::error;

use super::connect::failed;
use super::write::{AnyQuery, Value, query, values};
use super::{JobStore, now};
use crate::store::rows::micros;
use crate::{Error, Event, Result, Topic};

/// How long a relay has a row to itself. After a crash its events wait this long at most.
const LEASE_MICROS: i64 = 5_000_000;

/// One event of the outbox.
#[derive(Debug, Clone)]
pub(crate) struct OutboxRow {
    pub event_id: String,
    pub topic: Topic,
    pub job_id: String,
    pub payload: String,
    created_at: i64,
    due_at: i64,
    relay: Option<String>,
}

impl OutboxRow {
    pub(super) fn new(event: &Event, due_at: i64) -> sqlx::Result<Self> {
        Ok(Self {
            event_id: event.id.clone(),
            topic: event.topic(),
            job_id: event.subject.clone(),
            payload: event.to_json().map_err(|error| sqlx::Error::Encode(error.into()))?,
            created_at: micros(event.time),
            due_at,
            relay: None,
        })
    }

    /// Leased to the relay that has a place for it; without one it is left to the polls.
    pub(super) fn leased_for(mut self, place: Option<&Place>) -> Self {
        if let Some(place) = place {
            self.relay = Some(place.relay.to_string());
            self.due_at = micros(now()) + LEASE_MICROS;
        }
        self
    }

    pub(super) fn is_leased(&self) -> bool {
        self.relay.is_some()
    }
}

/// An event that the log refused for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// The event.
    pub event_id: String,
    /// `landed` or `finished`.
    pub topic: String,
    /// Its job.
    pub job_id: String,
    /// Size of the event.
    pub size_bytes: u64,
    /// When it was parked.
    pub parked_at: DateTime<Utc>,
    /// Why.
    pub error: String,
}

impl DeadLetter {
    fn from_row(row: &AnyRow) -> sqlx::Result<Self> {
        Ok(Self {
            event_id: row.try_get(0)?,
            topic: row.try_get(1)?,
            job_id: row.try_get(2)?,
            size_bytes: row.try_get::<i64, _>(3)?.unsigned_abs(),
            parked_at: DateTime::from_timestamp_micros(row.try_get(4)?).unwrap_or_default(),
            error: row.try_get::<Option<String>, _>(5)?.unwrap_or_default(),
        })
    }
}

/// Where a store finds the relay of its own process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Handover(Arc<Mutex<Option<Hand>>>);

#[derive(Debug, Clone)]
struct Hand {
    relay: Arc<str>,
    rows: mpsc::Sender<OutboxRow>,
}

/// A place in the relay's queue, taken before the commit.
#[derive(Debug)]
pub(crate) struct Place {
    relay: Arc<str>,
    permit: mpsc::OwnedPermit<OutboxRow>,
}

impl Place {
    pub(super) fn give(self, row: OutboxRow) {
        self.permit.send(row);
    }
}

impl Handover {
    /// From now on events of this process go to `relay`; its queue is bounded.
    pub(crate) fn attach(&self, relay: &str, capacity: usize) -> mpsc::Receiver<OutboxRow> {
        let (rows, receiver) = mpsc::channel(capacity);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Hand { relay: relay.into(), rows });
        receiver
    }

    /// From now on events of this process are left to the polls of others.
    pub(crate) fn detach(&self, relay: &str) {
        let mut hand = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hand.take_if(|hand| &*hand.relay == relay);
    }

    /// A place in the relay's queue; none when there is no relay or its queue is full.
    pub(super) fn reserve(&self) -> Option<Place> {
        let hand = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let permit = hand.rows.try_reserve_owned().ok()?;
        Some(Place { relay: hand.relay, permit })
    }
}

/// When a dead letter is due.
const NEVER: i64 = i64::MAX;
/// Characters that are kept of why an event was refused.
const ERROR_CHARS_MAX: usize = 2_000;

const PARK: &str = "UPDATE tidemill_outbox SET due_at = ?, relay = NULL, dead_at = ?, error = ? \
    WHERE event_id = ? AND dead_at IS NULL";
const INSERT: &str = "INSERT INTO tidemill_outbox \
    (event_id, topic, job_id, payload, created_at, due_at, relay) VALUES (?, ?, ?, ?, ?, ?, ?)";

pub(super) fn insert_event(row: &OutboxRow) -> AnyQuery<'static> {
    let row = row.clone();
    let values = values![
        row.event_id,
        row.topic.as_str(),
        row.job_id,
        row.payload,
        row.created_at,
        row.due_at,
        row.relay
    ];
    query(INSERT, values)
}

impl JobStore {
    pub(crate) fn handover(&self) -> &Handover {
        &self.handover
    }

    /// Takes at most `limit` events that are due, in the order of their ids, and leases them to `relay`.
    pub(crate) async fn take_due(&self, relay: &str, limit: usize) -> Result<Vec<OutboxRow>> {
        const ACTION: &str = "take events of the outbox";
        let now = micros(now());
        let due = query(
            "SELECT id FROM tidemill_outbox WHERE due_at <= ? ORDER BY id LIMIT ?",
            values![now, limit as i64],
        );
        let due = self.bounded(due.fetch_all(&self.pool)).await.map_err(failed(ACTION))?;
        let ids = due.iter().map(|row| row.try_get(0)).collect::<sqlx::Result<Vec<i64>>>();
        let ids = ids.map_err(failed(ACTION))?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let marks = marks(ids.len());
        let lease =
            format!("UPDATE tidemill_outbox SET due_at = ?, relay = ? WHERE due_at <= ? AND id IN ({marks})");
        let mut values = values![now + LEASE_MICROS, relay, now];
        values.extend(ids.iter().map(|id| Value::from(*id)));
        self.execute(ACTION, &lease, values).await?;
        let mine = format!(
            "SELECT event_id, topic, job_id, payload, created_at, due_at FROM tidemill_outbox \
             WHERE relay = ? AND due_at = ? AND id IN ({marks}) ORDER BY id"
        );
        let mut values = values![relay, now + LEASE_MICROS];
        values.extend(ids.into_iter().map(Value::from));
        let mut taken = Vec::new();
        for row in self.rows(ACTION, &mine, values).await? {
            match from_row(&row).map_err(failed(ACTION))? {
                Ok(row) => taken.push(row),
                Err((event_id, message)) => self.park(&event_id, &message).await?,
            }
        }
        Ok(taken)
    }

    /// Parks an event that the log refuses for good as a dead letter, and says so once.
    pub(crate) async fn park_event(&self, row: &OutboxRow, refusal: &Error) -> Result<()> {
        self.park(&row.event_id, &refusal.to_string()).await
    }

    async fn park(&self, event_id: &str, message: &str) -> Result<()> {
        let message: String = message.chars().take(ERROR_CHARS_MAX).collect();
        let values = values![NEVER, micros(now()), message.as_str(), event_id];
        if self.execute("park an event", PARK, values).await? > 0 {
            error!(event_id, error = message, "an event is a dead letter: see `tidemill jobs dead-letters`");
        }
        Ok(())
    }

    /// The dead letters, the oldest first, at most `limit`.
    pub async fn dead_letters(&self, limit: u32) -> Result<Vec<DeadLetter>> {
        const ACTION: &str = "list dead letters";
        let statement = "SELECT event_id, topic, job_id, LENGTH(payload), dead_at, error FROM tidemill_outbox \
            WHERE dead_at IS NOT NULL ORDER BY id LIMIT ?";
        let rows = self.rows(ACTION, statement, values![limit]).await?;
        rows.iter().map(DeadLetter::from_row).collect::<sqlx::Result<_>>().map_err(failed(ACTION))
    }

    /// Has a dead letter published again, by the next relay that looks. False when there is none with this id.
    pub async fn revive_dead_letter(&self, event_id: &str) -> Result<bool> {
        let statement = "UPDATE tidemill_outbox SET due_at = ?, dead_at = NULL, error = NULL \
            WHERE event_id = ? AND dead_at IS NOT NULL";
        Ok(self.execute("revive a dead letter", statement, values![micros(now()), event_id]).await? > 0)
    }

    /// Forgets a dead letter. False when there is none with this id.
    pub async fn drop_dead_letter(&self, event_id: &str) -> Result<bool> {
        let statement = "DELETE FROM tidemill_outbox WHERE event_id = ? AND dead_at IS NOT NULL";
        Ok(self.execute("drop a dead letter", statement, values![event_id]).await? > 0)
    }

    /// Events that wait for the relay, and dead letters.
    pub(super) async fn outbox_lengths(&self) -> Result<(u64, u64)> {
        const ACTION: &str = "count events";
        let rows =
            self.rows(ACTION, "SELECT COUNT(*), COUNT(dead_at) FROM tidemill_outbox", values![]).await?;
        let counts = rows.first().map(|row| Ok((row.try_get::<i64, _>(0)?, row.try_get::<i64, _>(1)?)));
        let (all, dead) = counts.transpose().map_err(failed(ACTION))?.unwrap_or_default();
        Ok(((all - dead).unsigned_abs(), dead.unsigned_abs()))
    }

    /// Forgets events that are published.
    pub(crate) async fn events_sent(&self, event_ids: &[String]) -> Result<()> {
        if event_ids.is_empty() {
            return Ok(());
        }
        let statement = format!("DELETE FROM tidemill_outbox WHERE event_id IN ({})", marks(event_ids.len()));
        let values = event_ids.iter().map(|id| Value::from(id.as_str())).collect();
        self.execute("delete published events", &statement, values).await.map(drop)
    }

    /// Gives up the leases of a relay, so that it or another finds the events at once.
    pub(crate) async fn release_events(&self, relay: &str) -> Result<()> {
        let statement = "UPDATE tidemill_outbox SET due_at = ?, relay = NULL WHERE relay = ?";
        self.execute("release events", statement, values![micros(now()), relay]).await.map(drop)
    }
}

/// `?, ?, ?`
pub(super) fn marks(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// The row, or the event's id and why nobody can publish it.
fn from_row(row: &AnyRow) -> sqlx::Result<Result<OutboxRow, (String, String)>> {
    let (event_id, topic): (String, String) = (row.try_get("event_id")?, row.try_get("topic")?);
    let Some(topic) = Topic::parse(&topic) else {
        return Ok(Err((event_id, format!("unknown topic `{topic}` in the outbox"))));
    };
    Ok(Ok(OutboxRow {
        event_id,
        topic,
        job_id: row.try_get("job_id")?,
        payload: row.try_get("payload")?,
        created_at: row.try_get("created_at")?,
        due_at: row.try_get("due_at")?,
        relay: None,
    }))
}
