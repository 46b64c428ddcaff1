//! The pool of worker processes: places for statements, warm workers, and one process for each statement that runs.
//!
//! Promises: at most `statements_max` statements run at once, at most `statements_per_user_max` of one user; a worker
//! serves one statement at a time, and another one only when it has answered the last to its end, soon enough and
//! without an error of its own. Called by the gateway, the Postgres wire and `tidemill query`.

pub(crate) mod process;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::answer::{self, Answer, Running};
use crate::frames::{Kind, to_json};
use crate::{Description, Error, Metrics, QueryLimits, Result, Statement};
use process::Process;

/// Users that are counted at once before those without a statement are forgotten.
const USERS_COUNTED: usize = 1_000;
/// When to try again after all places were taken.
const RETRY_AFTER_SECONDS: u64 = 2;

/// Where the data is. It holds secrets: it travels to workers by their pipe only and is never shown.
#[derive(Clone, Serialize, Deserialize)]
pub struct Places {
    /// URL of the database of the sinks' tables, best of an account that may only read.
    pub tables: String,
    /// URL of the job database, for `tidemill.jobs` and its like.
    pub jobs: Option<String>,
    /// What the binary opens the object store with, for lake tables and rejects.
    pub objects: Option<serde_json::Value>,
}

/// What a worker is told first.
#[derive(Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) places: Places,
    pub(crate) limits: QueryLimits,
}

/// Answers statements in worker processes. Cheap to clone.
#[derive(Clone)]
pub struct Workers {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    program: PathBuf,
    setup: Vec<u8>,
    pub(crate) limits: QueryLimits,
    metrics: Metrics,
    idle: Mutex<Vec<Process>>,
    places: Arc<Semaphore>,
    users: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// The right to run a statement, until dropped.
pub(crate) struct Place {
    _user: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Workers {
    /// Workers of this program, which is this very binary: `PROGRAM __query-worker` calls [`crate::serve_worker`].
    pub fn new(program: PathBuf, places: Places, limits: QueryLimits) -> Result<Self> {
        let setup = to_json(&Setup { places, limits: limits.clone() })?;
        let places = Arc::new(Semaphore::new(limits.statements_max));
        let metrics = Metrics::new().map_err(|error| Error::Worker { message: error.to_string() })?;
        let (idle, users) = (Mutex::default(), Mutex::default());
        Ok(Self { shared: Arc::new(Shared { program, setup, limits, metrics, idle, places, users }) })
    }

    /// Starts the workers that are kept ready; without it the first statement does.
    pub async fn warm_up(&self) -> Result<()> {
        self.shared.warm_up().await
    }

    /// Runs a statement. The answer has begun when this returns: what is wrong with the statement, or soon goes wrong,
    /// is an error here. Dropped at any point, the statement is stopped.
    pub async fn run(&self, statement: &Statement) -> Result<Answer> {
        answer::begin(self.begin(Kind::Run, statement).await?).await
    }

    /// Tells what a statement would give, without running it.
    pub async fn describe(&self, statement: &Statement) -> Result<Description> {
        answer::describe(self.begin(Kind::Describe, statement).await?).await
    }

    /// The metrics of these workers and of who asks them.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    async fn begin(&self, kind: Kind, statement: &Statement) -> Result<Running> {
        let mut count = self.metrics().statement(kind, &statement.flavour);
        let begun = self.give(kind, statement).await;
        let (process, _place, deadline) = begun.map_err(|error| count.failed(error))?;
        Ok(Running { shared: Arc::clone(&self.shared), process, deadline, count, _place })
    }

    async fn give(&self, kind: Kind, statement: &Statement) -> Result<(Process, Place, Deadline)> {
        statement.check_size()?;
        let place = self.shared.place(&statement.user).await?;
        let limit = self.shared.limits.timeout;
        let deadline = Deadline::after(statement.timeout.map_or(limit, |timeout| timeout.min(limit)));
        let request = to_json(statement)?;
        let process = self.shared.start(kind, &request).await?;
        Ok((process, place, deadline))
    }
}

/// When a statement is stopped.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    limit: Duration,
}

impl Deadline {
    fn after(limit: Duration) -> Self {
        Self { at: Instant::now() + limit, limit }
    }

    pub(crate) fn passed(self) -> Error {
        Error::TimedOut { seconds: self.limit.as_secs().max(1) }
    }

    /// How long the statement runs.
    pub(crate) fn used(self) -> Duration {
        self.limit.saturating_sub(self.at.saturating_duration_since(Instant::now()))
    }
}

impl Shared {
    async fn place(&self, user: &str) -> Result<Place> {
        let until = Instant::now() + self.limits.queue_wait;
        let of_user = self.of_user(user);
        let busy = |by_user: bool, count: usize| Error::Busy {
            who: format!("{count} {}", if by_user { "statements of yours" } else { "statements" }),
            by_user,
            retry_after_seconds: RETRY_AFTER_SECONDS,
        };
        let closed = |_| Error::Worker { message: "the pool is closed".to_owned() };
        let user = tokio::time::timeout_at(until, of_user.acquire_owned()).await;
        let user = user.map_err(|_| busy(true, self.limits.statements_per_user_max))?.map_err(closed)?;
        let all = tokio::time::timeout_at(until, Arc::clone(&self.places).acquire_owned()).await;
        let all = all.map_err(|_| busy(false, self.limits.statements_max))?.map_err(closed)?;
        Ok(Place { _user: user, _all: all })
    }

    fn of_user(&self, user: &str) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= USERS_COUNTED {
            users.retain(|_, places| Arc::strong_count(places) > 1);
        }
        let max = self.limits.statements_per_user_max;
        Arc::clone(users.entry(user.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(max))))
    }

    /// Gives the statement to a worker, and starts another in its place while it works.
    async fn start(&self, kind: Kind, request: &[u8]) -> Result<Process> {
        let mut process = match self.pop() {
            Some(process) => process,
            None => self.spawn().await?,
        };
        if process.send(kind, request).await.is_err() {
            // It died while it waited: the kernel was short of memory, or someone ended it.
            process = self.spawn().await?;
            process.send(kind, request).await.map_err(|error| process::failed("take a statement", &error))?;
        }
        self.warm_up().await?;
        Ok(process)
    }

    async fn warm_up(&self) -> Result<()> {
        while self.idle().len() < self.limits.warm {
            let process = self.spawn().await?;
            self.idle().push(process);
        }
        Ok(())
    }

    async fn spawn(&self) -> Result<Process> {
        let started = async {
            let mut process = Process::spawn(&self.program)?;
            process.send(Kind::Places, &self.setup).await?;
            Ok(process)
        };
        started.await.map_err(|error: std::io::Error| process::failed("start", &error))
    }

    fn pop(&self) -> Option<Process> {
        let mut idle = self.idle();
        while let Some(mut process) = idle.pop() {
            if process.is_alive() {
                return Some(process);
            }
        }
        None
    }

    /// Keeps a worker that has answered well, unless it has done its share.
    pub(crate) fn give_back(&self, mut process: Process, used: Duration) {
        let fresh = process.is_fresh_after(used, self.limits.worn_after());
        let mut idle = self.idle();
        if fresh && idle.len() < self.limits.statements_max {
            idle.push(process);
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Process>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
