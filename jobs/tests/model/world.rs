//! One history after another on one job store: the tables in memory, who acts, and what must hold at the end.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tidemill_jobs::{
    Committed, Counts, Job, JobId, JobStatus, JobStore, Landed, Ledger, MemoryLedger, NewJob, Result, Settler,
    StoreLimits,
};
use tidemill_pipelines::Duplicates;

use crate::actors;
use crate::gates::{Gate, Schedule};

/// What keeps a promise; a test takes one away.
#[derive(Debug, Clone, Copy)]
pub struct Guards {
    pub reads_ledger: bool,
    pub raises_fence: bool,
    pub supersedes: bool,
}

impl Default for Guards {
    fn default() -> Self {
        Self { reads_ledger: true, raises_fence: true, supersedes: true }
    }
}

/// What the actors of one history share.
pub struct History {
    pub store: JobStore,
    pub tables: Arc<Tables>,
    pub guards: Guards,
    /// Where the last file wins, and jobs take turns.
    pub last_wins: bool,
    /// People have failed jobs done again, which may bring a content twice.
    pub retries: bool,
    /// The pipeline of this history: no other history sees its jobs.
    pub pipeline: String,
    /// The jobs that were made.
    pub jobs: Mutex<Vec<JobId>>,
    /// The contents as they were sent, one character each.
    pub sent: Mutex<Vec<char>>,
    pub time: AtomicI64,
}

/// The table and its ledger.
#[derive(Default)]
pub struct Tables {
    pub ledger: MemoryLedger,
    /// The contents that were committed, in their order.
    pub rows: Mutex<Vec<(JobId, char)>>,
    contents: Mutex<HashMap<JobId, char>>,
}

impl Tables {
    /// One transaction: the rows and their ledger row, unless the fence is higher.
    pub fn commit(&self, job: JobId, attempt: u32) -> Result<Committed> {
        let is_first = self.ledger.committed(job).is_none();
        let committed = self.ledger.commit(job, attempt, committed_by(attempt))?;
        if is_first {
            let content = self.contents.lock().unwrap()[&job];
            self.rows.lock().unwrap().push((job, content));
        }
        Ok(committed)
    }
}

fn committed_by(attempt: u32) -> Committed {
    let counts = Counts { records_in: 1, records_written: 1, ..Counts::default() };
    Committed { counts, report: format!("jobs/x/{attempt}/report.json"), artifacts: Vec::new() }
}

/// The ledger as one actor asks it, with gates around the question.
struct GatedLedger {
    tables: Arc<Tables>,
    guards: Guards,
    gate: Option<Gate>,
}

impl GatedLedger {
    async fn pass(&self) -> Result<()> {
        let killed = |_| tidemill_jobs::Error::Ledger {
            message: "killed".to_owned(),
            retry: tidemill_pipelines::Retry::Never,
        };
        match &self.gate {
            Some(gate) => gate.pass().await.map_err(killed),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Ledger for GatedLedger {
    async fn seal(&self, job: JobId, attempt: u32) -> Result<Option<Committed>> {
        self.pass().await?;
        let found = match self.guards.raises_fence {
            true => self.tables.ledger.seal(job, attempt).await?,
            false => self.tables.ledger.committed(job),
        };
        self.pass().await?;
        Ok(found.filter(|_| self.guards.reads_ledger))
    }
}

impl History {
    pub fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.time.load(Ordering::Relaxed)).unwrap()
    }

    pub fn later(&self, seconds: i64) {
        self.time.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
    }

    pub fn settler(&self, gate: Option<Gate>) -> Settler {
        let ledger = GatedLedger { tables: Arc::clone(&self.tables), guards: self.guards, gate };
        Settler::new(self.store.clone(), Arc::new(ledger))
    }

    pub fn jobs(&self) -> Vec<JobId> {
        self.jobs.lock().unwrap().clone()
    }

    /// Sends a file; gives the job that it is answered with.
    pub async fn send(&self, content: char) -> Job {
        let job_id = JobId::new();
        self.tables.contents.lock().unwrap().insert(job_id, content);
        let new = NewJob {
            job_id,
            pipeline: self.pipeline.parse().unwrap(),
            files: vec!["x".to_owned()],
            file_name: None,
            size_bytes: 1,
            content_sha256: content.to_string(),
            parameters: BTreeMap::new(),
            pushed: Vec::new(),
            takes_turns: self.last_wins,
            last_wins: self.last_wins && self.guards.supersedes,
            sender: "ann".to_owned(),
            idempotency_key: None,
            duplicates: Duplicates::First,
        };
        self.sent.lock().unwrap().push(content);
        match self.store.land(new).await.unwrap() {
            Landed::New(job) => {
                self.jobs.lock().unwrap().push(job.job_id);
                job
            }
            Landed::Duplicate(job) => job,
        }
    }
}

/// A job store of its own.
pub struct World {
    store: JobStore,
    guards: Guards,
    _folder: TempDir,
}

impl World {
    pub async fn open(guards: Guards) -> Self {
        // In memory where the system has such a folder: what is tested here is no disk.
        let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        let url = format!("sqlite://{}", folder.path().join("jobs.db").display());
        let limits = StoreLimits { connections: 2, ..StoreLimits::default() };
        let store = JobStore::connect(&url, limits).await.unwrap();
        store.migrate().await.unwrap();
        Self { store, guards, _folder: folder }
    }

    /// What happens by this seed; an error says which promise broke.
    pub async fn history(&self, seed: u64) -> std::result::Result<(), String> {
        let mut random = StdRng::seed_from_u64(seed);
        let start = Utc::now() + TimeDelta::hours(1);
        let history = Arc::new(History {
            store: self.store.clone(),
            tables: Arc::default(),
            guards: self.guards,
            last_wins: seed % 4 == 3,
            retries: seed % 4 == 2,
            pipeline: format!("sales{seed}"),
            jobs: Mutex::default(),
            sent: Mutex::default(),
            time: AtomicI64::new(start.timestamp_micros()),
        });
        let mut schedule = Schedule::new();
        actors::begin(&history, &mut schedule, &mut random);
        let deaths_one_in = [0, 40, 12][random.random_range(0..3)];
        schedule.run(&mut random, deaths_one_in).await;
        actors::end_all(&history).await?;
        check(&history).await
    }
}

/// What must hold once all jobs have ended.
async fn check(history: &History) -> std::result::Result<(), String> {
    let rows = history.tables.rows.lock().unwrap().clone();
    let mut all_succeeded = true;
    for id in history.jobs() {
        let job = history.store.get(id).await.unwrap().unwrap();
        let committed = history.tables.ledger.committed(id);
        let times = rows.iter().filter(|(job, _)| *job == id).count();
        match (job.status, &committed) {
            (JobStatus::Success, Some(committed)) if job.counts == committed.counts && times == 1 => {}
            (JobStatus::Failed, None) if times == 0 => all_succeeded = false,
            (JobStatus::Failed, _) => return Err(format!("job {id} has failed, and its rows are in the table")),
            (status, _) => return Err(format!("job {id} is {status:?}, its rows are in the table {times} times")),
        }
    }
    // Of a content that was sent again only what had failed is done anew, unless a person asked for it.
    for content in ['a', 'b'] {
        let times = rows.iter().filter(|(_, row)| *row == content).count();
        if !history.last_wins && !history.retries && times > 1 {
            return Err(format!("the file `{content}` is in the table {times} times"));
        }
    }
    let last = history.sent.lock().unwrap().last().copied();
    if history.last_wins && all_succeeded && rows.last().map(|(_, content)| *content) != last {
        return Err(format!("the table holds another file than the last one: {rows:?}"));
    }
    Ok(())
}
