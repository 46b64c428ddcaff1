//! From rows to receivers: finds notices that are due, claims as many as there are places for, and has them sent.
//!
//! Who may be sent to next is said by [`Places`]; a try of a notice is `attempt.rs`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tidemill_jobs::DueNotice;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info_span, warn};

use super::attempt::{Tried, attempt};
use super::places::Places;
use super::{GRACE, KEPT, Office};

/// Longest and shortest time between two looks for notices that are due.
const LOOKS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(50));
/// Notices of one look; more wait in the table.
const BATCH: u32 = 256;
/// How often old notices are deleted.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Sends notices until `stop`, then waits for those on their way.
pub async fn run(office: Arc<Office>, stop: CancellationToken) {
    let now = Instant::now();
    let (due, running) = (VecDeque::new(), JoinSet::new());
    let places = Places::new(office.places);
    let mut queue = Queue { office, places, due, running, looked: now, look_at: now, forget_at: now };
    queue.serve(&stop).await;
    let finished = async { while queue.running.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, finished).await.is_err() {
        let notices = queue.running.len();
        warn!(notices, "not taken in time; they are tried again when their lease has passed");
    }
    queue.running.shutdown().await;
}

/// Notices that queue for a place.
struct Queue {
    office: Arc<Office>,
    places: Places,
    /// Due, and not claimed yet.
    due: VecDeque<DueNotice>,
    running: JoinSet<Tried>,
    looked: Instant,
    look_at: Instant,
    forget_at: Instant,
}

impl Queue {
    async fn serve(&mut self, stop: &CancellationToken) {
        loop {
            self.start_what_may().await;
            tokio::select! {
                () = stop.cancelled() => return,
                Some(done) = self.running.join_next(), if !self.running.is_empty() => match done {
                    Ok(Tried { receiver, answered }) => self.places.give_back(&receiver, answered),
                    // A try catches the panics of what it calls.
                    Err(error) => error!(%error, "a try of a notice broke down, and its place is lost until a restart"),
                },
                () = self.office.written.notified() => self.look_soon(),
                () = tokio::time::sleep_until(self.look_at) => self.look().await,
            }
        }
    }

    /// Looks as soon as the pace allows: one look may find what many events brought.
    fn look_soon(&mut self) {
        self.look_at = self.look_at.min(self.looked + LOOKS.1);
    }

    async fn look(&mut self) {
        self.looked = Instant::now();
        self.look_at = self.looked + LOOKS.0;
        match self.office.jobs.due_notices(Utc::now(), BATCH).await {
            Ok(due) => self.due = due.into(),
            Err(error) => warn!(error = &error as &dyn std::error::Error, "failed to look for notices"),
        }
        if self.looked >= self.forget_at {
            self.forget_at = self.looked + FORGET_EVERY;
            self.forget().await;
        }
    }

    async fn forget(&self) {
        let age = TimeDelta::from_std(self.office.give_up_after + KEPT).unwrap_or_default();
        if let Err(error) = self.office.jobs.forget_notices(Utc::now() - age).await {
            warn!(error = &error as &dyn std::error::Error, "failed to forget old notices");
        }
    }

    /// Claims and starts what is due, as far as there are places; the others keep their order.
    async fn start_what_may(&mut self) {
        let had = self.due.len();
        for _ in 0..had {
            let Some(due) = self.due.pop_front() else { break };
            if !self.places.take(&due.receiver) {
                self.due.push_back(due);
                continue;
            }
            match self.office.jobs.claim_notice(&due, self.office.lease).await {
                Ok(Some(claim)) => {
                    let span = info_span!("notice", job_id = %claim.job_id, pipeline = %claim.pipeline);
                    self.running.spawn(attempt(Arc::clone(&self.office), claim).instrument(span));
                }
                Ok(None) => self.places.give_back(&due.receiver, None),
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "failed to claim a notice");
                    self.places.give_back(&due.receiver, None);
                    return self.due.clear();
                }
            }
        }
        if had > 0 && self.due.is_empty() {
            self.look_soon();
        }
    }
}
