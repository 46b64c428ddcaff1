//! The outbox: events committed with a job, until the relay has published them.
//!
//! A relay in the same process gets an event handed over at the commit, with the row leased to it, so that
//! nothing has to be read back. Rows of processes without a relay, of relays that died, and those that
//! wait for their time are found by the relay's poll.

use std::sync::{Arc, Mutex, PoisonError};

use sqlx::Row;
use sqlx::any::AnyRow;
use tokio::sync::mpsc;

use super::connect::failed;
use super::write::{AnyQuery, Value, query, values};
use super::{JobStore, now};
use crate::store::rows::micros;
use crate::{Event, Result, Topic};

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
        let rows = self.bounded(query(&mine, values).fetch_all(&self.pool)).await;
        let rows = rows.and_then(|rows| rows.iter().map(from_row).collect());
        rows.map_err(failed(ACTION))
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

fn from_row(row: &AnyRow) -> sqlx::Result<OutboxRow> {
    let topic: String = row.try_get("topic")?;
    let topic = Topic::parse(&topic)
        .ok_or_else(|| sqlx::Error::Decode(format!("unknown topic `{topic}` in the outbox").into()))?;
    Ok(OutboxRow {
        event_id: row.try_get("event_id")?,
        topic,
        job_id: row.try_get("job_id")?,
        payload: row.try_get("payload")?,
        created_at: row.try_get("created_at")?,
        due_at: row.try_get("due_at")?,
        relay: None,
    })
}
