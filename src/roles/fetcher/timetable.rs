//! Timetables: work that schedules make due, done once at each slot however many fetchers run.
//!
//! A slot is claimed in the job database; its claim is held while the work runs. Work that ends with an error, or
//! whose process dies, is taken over after the lease by whoever comes first, and goes on where it stood.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use tidemill_jobs::{JobStore, SlotAnswer, SlotClaim};
use tidemill_pipelines::Schedule;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Longest pause between two looks at what was left behind.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A slot that passed this long ago counts as missed.
const GRACE: TimeDelta = TimeDelta::minutes(1);
/// Slots that are made up for before what was left behind is looked at again.
const SLOTS_MAX: usize = 100;

/// What is done at the slots of a schedule. It is dropped when the process stops, so it must be able to go on from
/// any point; it ends the slot itself.
#[async_trait]
pub trait Due: Send + Sync {
    /// Does what is due. An error leaves the slot to be taken over.
    async fn work(&self, claim: &SlotClaim) -> Result<()>;
}

/// One schedule and its work.
pub struct Timetable {
    /// The name of its slots, such as `fetch:sensor_readings`.
    pub name: String,
    /// When it is due.
    pub schedule: Schedule,
    /// What is due.
    pub work: Arc<dyn Due>,
}

/// What all timetables of a process share.
#[derive(Clone)]
pub struct Clockwork {
    /// Where slots are claimed.
    pub jobs: JobStore,
    /// This process.
    pub worker: String,
    /// How long a slot is held without a sign of life.
    pub lease: Duration,
    /// Work under way at once.
    pub places: Arc<Semaphore>,
}

impl Timetable {
    /// Does what is due until `stop`.
    pub async fn run(self, clockwork: Clockwork, stop: CancellationToken) -> Result<()> {
        let mut last = None;
        while !stop.is_cancelled() {
            if let Err(error) = self.turn(&clockwork, &mut last, &stop).await {
                warn!(schedule = self.name, error = format!("{error:#}"), "failed to look for what is due");
            }
            let now = Utc::now();
            let next = self.schedule.next_after(now).and_then(|next| (next - now).to_std().ok());
            let pause = next.unwrap_or(LOOK_EVERY).min(LOOK_EVERY);
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
        Ok(())
    }

    /// What was left behind, then what is due. `last` is the last slot that was seen to.
    async fn turn(
        &self,
        clockwork: &Clockwork,
        last: &mut Option<DateTime<Utc>>,
        stop: &CancellationToken,
    ) -> Result<()> {
        for slot in clockwork.jobs.slots_left_behind(&self.name).await? {
            self.slot(clockwork, slot, stop).await?;
        }
        let now = Utc::now();
        let after = match *last {
            Some(last) => last,
            // A schedule that is new begins with its next slot.
            None => *last.insert(clockwork.jobs.last_slot(&self.name).await?.unwrap_or(now)),
        };
        for slot in self.schedule.due(after, now, GRACE, SLOTS_MAX) {
            self.slot(clockwork, slot, stop).await?;
            *last = Some(slot);
        }
        Ok(())
    }

    async fn slot(&self, clockwork: &Clockwork, slot: DateTime<Utc>, stop: &CancellationToken) -> Result<()> {
        let Some(place) = stop.run_until_cancelled(clockwork.places.acquire()).await else {
            return Ok(());
        };
        let _place = place?;
        let Clockwork { jobs, worker, lease, .. } = clockwork;
        let SlotAnswer::Claimed(claim) = jobs.claim_slot(&self.name, slot, worker, *lease, false).await?
        else {
            return Ok(());
        };
        let (schedule, run_id) = (&self.name, claim.run_id);
        info!(schedule, %slot, %run_id, attempt = claim.attempt, "a slot is due");
        match stop.run_until_cancelled(jobs.while_held(&claim, self.work.work(&claim))).await {
            Some(Some(Ok(()))) => {}
            Some(Some(Err(error))) => {
                warn!(schedule, %slot, %run_id, error = format!("{error:#}"), "a slot is left to be taken over");
            }
            Some(None) => warn!(schedule, %slot, %run_id, "a slot was taken over by another process"),
            None => drop(jobs.release_slot(&claim).await?),
        }
        Ok(())
    }
}
