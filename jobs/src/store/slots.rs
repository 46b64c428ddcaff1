//! Slots: what a schedule makes due is done once, however many processes look at the clock.
//!
//! Whoever makes the row of a slot has it, for as long as it keeps the lease. A slot whose lease has passed is
//! taken over with a higher attempt, which fences its former owner; the run keeps its id, so the work goes on
//! where it stood. Called by the role `fetcher` and by `tidemill fetch`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::any::AnyRow;

use tracing::warn;

use super::change::span;
use super::connect::failed;
use super::rows::micros;
use super::write::{Value, Write, values};
use super::{JobStore, now};
use crate::{JobId, Result};

const INSERT: &str = "INSERT INTO tidemill_slots (schedule, slot, run_id, status, attempt, worker, lease_until, \
    started_at) VALUES (?, ?, ?, 'running', 1, ?, ?, ?)";
const TAKE_OVER: &str = "UPDATE tidemill_slots SET attempt = attempt + 1, worker = ?, lease_until = ? \
    WHERE run_id = ? AND status = 'running' AND attempt = ? AND lease_until <= ?";
const AGAIN: &str = "UPDATE tidemill_slots SET run_id = ?, status = 'running', attempt = 1, worker = ?, \
    lease_until = ?, started_at = ?, finished_at = NULL, error = NULL WHERE run_id = ? AND status = 'failed'";
/// The fence of every change of a run: it also extends the lease.
const HOLD: &str =
    "UPDATE tidemill_slots SET lease_until = ? WHERE run_id = ? AND status = 'running' AND attempt = ?";
const END: &str = "UPDATE tidemill_slots SET status = ?, finished_at = ?, error = ? \
    WHERE run_id = ? AND status = 'running' AND attempt = ?";

/// The right to do what is due at a slot: valid as long as the slot's `attempt` is the claim's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotClaim {
    /// What is due, such as `fetch:sensor_readings`.
    pub schedule: String,
    /// When it was due.
    pub slot: DateTime<Utc>,
    /// The run, the same for each who takes the slot over.
    pub run_id: JobId,
    /// 1 for the first who has it.
    pub attempt: u32,
    /// How long it is held without a sign of life.
    pub lease: Duration,
}

/// What asking for a slot gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotAnswer {
    /// It is the asker's.
    Claimed(SlotClaim),
    /// Another has it, at least until then.
    Held {
        /// When its lease passes, unless it is extended.
        until: DateTime<Utc>,
    },
    /// It was done before, by this run.
    Done(JobId),
    /// It failed before, in these words.
    Failed(String),
}

impl JobStore {
    /// Asks for a slot: a new one, or one that was left behind. One that failed is given again only to who
    /// asks for it with `again`, as a new run; the pages of the failed one are forgotten.
    pub async fn claim_slot(
        &self,
        schedule: &str,
        slot: DateTime<Utc>,
        worker: &str,
        lease: Duration,
        again: bool,
    ) -> Result<SlotAnswer> {
        let mut claim =
            SlotClaim { schedule: schedule.to_owned(), slot, run_id: JobId::new(), attempt: 1, lease };
        let at = now();
        let until = micros(at + span(lease));
        let run_id = claim.run_id.to_string();
        let insert = values![schedule, micros(slot), run_id.clone(), worker, until, micros(at)];
        match self.try_commit(&Write::new(INSERT, insert)).await {
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {}
            done => {
                done.map_err(failed("claim a slot"))?;
                return Ok(SlotAnswer::Claimed(claim));
            }
        }
        let Some(found) = self.slot(schedule, slot).await? else {
            return Ok(SlotAnswer::Held { until: at });
        };
        let former = found.run_id.to_string();
        let write = match found.status.as_str() {
            "done" => return Ok(SlotAnswer::Done(found.run_id)),
            "failed" if !again => return Ok(SlotAnswer::Failed(found.error.unwrap_or_default())),
            "failed" => Write::new(AGAIN, values![run_id, worker, until, micros(at), former.as_str()])
                .and("DELETE FROM tidemill_pages WHERE run_id = ?", values![former]),
            _ if found.lease_until > at => return Ok(SlotAnswer::Held { until: found.lease_until }),
            _ => {
                (claim.run_id, claim.attempt) = (found.run_id, found.attempt + 1);
                Write::new(TAKE_OVER, values![worker, until, former, found.attempt, micros(at)])
            }
        };
        let taken = self.commit("claim a slot", &write).await?;
        Ok(if taken { SlotAnswer::Claimed(claim) } else { SlotAnswer::Held { until: at } })
    }

    /// Says that the run lives; false when the slot is no longer its own.
    pub async fn hold_slot(&self, claim: &SlotClaim) -> Result<bool> {
        self.commit("hold a slot", &self.holding(claim)).await
    }

    /// Works while the slot is held, and gives signs of life; `None` when the slot went to another, and the work was
    /// dropped. A database that is away for a while is borne: what the work writes is fenced.
    pub async fn while_held<T>(&self, claim: &SlotClaim, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        // Side by side: the work may hold the only writer of SQLite while a sign of life waits for it.
        tokio::select! {
            done = &mut work => return Some(done),
            () = self.hold_until_lost(claim) => {}
        }
        // Perhaps the work ended the slot just now, and is about to say so.
        tokio::time::timeout(claim.lease, work).await.ok()
    }

    async fn hold_until_lost(&self, claim: &SlotClaim) {
        loop {
            tokio::time::sleep(claim.lease / 3).await;
            match self.hold_slot(claim).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => warn!(error = &error as &dyn std::error::Error, "failed to hold a slot"),
            }
        }
    }

    /// Lets a slot go, so that another takes the run over at once: for a process that is told to stop.
    pub async fn release_slot(&self, claim: &SlotClaim) -> Result<bool> {
        let values = values![micros(now()), claim.run_id.to_string(), claim.attempt];
        self.commit("release a slot", &Write::new(HOLD, values)).await
    }

    /// Ends a run that found nothing. False when the slot is no longer its own.
    pub async fn end_slot(&self, claim: &SlotClaim) -> Result<bool> {
        self.commit("end a slot", &ending(claim, None)).await
    }

    /// The newest slot of a schedule that was taken.
    pub async fn last_slot(&self, schedule: &str) -> Result<Option<DateTime<Utc>>> {
        const ACTION: &str = "look for the last slot";
        let statement = "SELECT MAX(slot) FROM tidemill_slots WHERE schedule = ?";
        let rows = self.rows(ACTION, statement, values![schedule]).await?;
        let last =
            rows.first().map(|row| row.try_get::<Option<i64>, _>(0)).transpose().map_err(failed(ACTION))?;
        Ok(last.flatten().and_then(DateTime::from_timestamp_micros))
    }

    /// The slots of a schedule whose run was left behind, the oldest first, at most 100.
    pub async fn slots_left_behind(&self, schedule: &str) -> Result<Vec<DateTime<Utc>>> {
        const ACTION: &str = "look for slots left behind";
        let statement = "SELECT slot FROM tidemill_slots WHERE status = 'running' AND lease_until <= ? \
            AND schedule = ? ORDER BY slot LIMIT 100";
        let rows = self.rows(ACTION, statement, values![micros(now()), schedule]).await?;
        let slots = rows.iter().map(|row| row.try_get::<i64, _>(0)).collect::<sqlx::Result<Vec<_>>>();
        Ok(slots.map_err(failed(ACTION))?.into_iter().filter_map(DateTime::from_timestamp_micros).collect())
    }

    pub(super) fn holding(&self, claim: &SlotClaim) -> Write {
        let until = micros(now() + span(claim.lease));
        Write::new(HOLD, values![until, claim.run_id.to_string(), claim.attempt])
    }

    async fn slot(&self, schedule: &str, slot: DateTime<Utc>) -> Result<Option<SlotRow>> {
        let statement = "SELECT run_id, status, attempt, lease_until, error FROM tidemill_slots \
            WHERE schedule = ? AND slot = ?";
        let rows = self.rows("read a slot", statement, values![schedule, micros(slot)]).await?;
        rows.first().map(SlotRow::from_row).transpose().map_err(failed("read a slot"))
    }
}

/// The end of a run, to be one of several statements of a transaction.
pub(super) fn ending(claim: &SlotClaim, error: Option<&str>) -> Write {
    let status = if error.is_some() { "failed" } else { "done" };
    let error = Value::Text(error.map(str::to_owned));
    let mut values = values![status, micros(now())];
    values.push(error);
    values.extend(values![claim.run_id.to_string(), claim.attempt]);
    Write::new(END, values)
}

struct SlotRow {
    run_id: JobId,
    status: String,
    attempt: u32,
    lease_until: DateTime<Utc>,
    error: Option<String>,
}

impl SlotRow {
    fn from_row(row: &AnyRow) -> sqlx::Result<Self> {
        let run_id: String = row.try_get("run_id")?;
        let attempt: i64 = row.try_get("attempt")?;
        Ok(Self {
            run_id: run_id.parse().map_err(|error: uuid::Error| sqlx::Error::Decode(error.into()))?,
            status: row.try_get("status")?,
            attempt: u32::try_from(attempt).unwrap_or(u32::MAX),
            lease_until: DateTime::from_timestamp_micros(row.try_get("lease_until")?).unwrap_or_default(),
            error: row.try_get("error")?,
        })
    }
}
