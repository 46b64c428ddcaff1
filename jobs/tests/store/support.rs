//! A database of its own for each test, and jobs to put into it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::databases::databases;
use chrono::{TimeDelta, Utc};
use sqlx::Row;
use tempfile::TempDir;
use tidemill_jobs::{
    Claim, Committed, Counts, Event, Job, JobError, JobId, JobStore, Landed, MemoryLedger, NewJob, Outcome,
    Settler, StoreLimits,
};
use tidemill_pipelines::{Blame, Duplicates};
use uuid::Uuid;

/// Makes each test run on SQLite, and on MariaDB and MySQL one after the other.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { crate::support::on_sqlite(super::$name).await; })*
        }
        mod on_mysql {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { crate::support::on_mysql(super::$name).await; })*
        }
    };
}
pub(crate) use on_both;

/// A migrated store on an empty database.
pub struct Database {
    pub store: JobStore,
    /// Ends jobs by `ledger`.
    pub settler: Settler,
    pub ledger: Arc<MemoryLedger>,
    url: String,
}

impl Database {
    async fn open(url: String) -> Self {
        let store = connect(&url).await;
        store.migrate().await.unwrap();
        let ledger = Arc::new(MemoryLedger::default());
        let settler = Settler::new(store.clone(), Arc::clone(&ledger) as _);
        Self { store, settler, ledger, url }
    }

    /// The same database as another process sees it.
    pub async fn another_process(&self) -> JobStore {
        connect(&self.url).await
    }

    pub fn is_mysql(&self) -> bool {
        self.url.starts_with("mysql:")
    }

    /// The text that a question of one row and column is answered with.
    pub async fn setting(&self, question: &'static str) -> String {
        self.try_setting(question).await.unwrap()
    }

    /// The same, `None` when the database does not understand the question.
    pub async fn try_setting(&self, question: &'static str) -> Option<String> {
        let row = sqlx::query(question).fetch_one(self.store.pool()).await.ok()?;
        Some(row.get(0))
    }

    /// The events in the outbox, in the order of their commits.
    pub async fn outbox(&self) -> Vec<Event> {
        let rows =
            sqlx::query("SELECT payload FROM tidemill_outbox ORDER BY id").fetch_all(self.store.pool());
        let rows = rows.await.unwrap();
        rows.iter().map(|row| Event::from_json(row.get::<String, _>(0).as_bytes()).unwrap()).collect()
    }

    /// Types of the events in the outbox and their jobs, in short.
    pub async fn told(&self) -> Vec<(&'static str, JobId)> {
        let short = |event: Event| (event.topic().as_str(), event.subject.parse().unwrap());
        self.outbox().await.into_iter().map(short).collect()
    }
}

/// Short times, so that no test waits.
async fn connect(url: &str) -> JobStore {
    let limits = StoreLimits {
        connections: 8,
        job_limit: Duration::from_secs(900),
        lease: Duration::from_secs(60),
        ..StoreLimits::default()
    };
    JobStore::connect(url, limits).await.unwrap()
}

pub async fn on_sqlite<T: Future<Output = ()> + Send + 'static>(test: fn(Database) -> T) {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite://{}", folder.path().join("jobs.db").display());
    test(Database::open(url).await).await;
}

pub async fn on_mysql<T: Future<Output = ()> + Send + 'static>(test: fn(Database) -> T) {
    sqlx::any::install_default_drivers();
    for (server, url) in databases() {
        eprintln!("on {server}");
        let name = format!("tidemill_test_{}", Uuid::now_v7().simple());
        let admin = sqlx::AnyPool::connect(&url).await.unwrap();
        let run = |statement: String| sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&admin);
        run(format!("CREATE DATABASE {name}")).await.unwrap();
        let url = format!("{url}/{name}");
        let done = tokio::spawn(async move { test(Database::open(url).await).await }).await;
        run(format!("DROP DATABASE {name}")).await.unwrap();
        if let Err(failed) = done {
            std::panic::resume_unwind(failed.into_panic());
        }
    }
}

/// An upload that no other one equals.
pub fn new_job(pipeline: &str) -> NewJob {
    let job_id = JobId::new();
    NewJob {
        job_id,
        pipeline: pipeline.parse().unwrap(),
        files: vec![format!("landing/{pipeline}/{job_id}/data.csv")],
        file_name: Some("data.csv".to_owned()),
        size_bytes: 12,
        content_sha256: format!("{0}{0}", Uuid::now_v7().simple()),
        parameters: BTreeMap::new(),
        pushed: Vec::new(),
        takes_turns: false,
        last_wins: false,
        sender: "ann".to_owned(),
        idempotency_key: None,
        duplicates: Duplicates::First,
    }
}

pub async fn landed(store: &JobStore, new: NewJob) -> Job {
    match store.land(new).await.unwrap() {
        Landed::New(job) => job,
        Landed::Duplicate(job) => panic!("{} came before", job.job_id),
    }
}

/// Lands a job and claims it.
pub async fn claimed(store: &JobStore, pipeline: &str) -> Claim {
    let job = landed(store, new_job(pipeline)).await;
    claim(store, job.job_id).await.unwrap()
}

/// Claims a job a moment from now, so that a job that was put back just now is due.
pub async fn claim(store: &JobStore, job: JobId) -> Option<Claim> {
    store.claim(job, "v1", "worker-1", Utc::now() + TimeDelta::milliseconds(1)).await.unwrap()
}

/// What the ledger says of a job.
pub fn committed() -> Committed {
    let counts = Counts { records_in: 9, records_written: 6, records_rejected: 2, records_filtered: 1 };
    Committed { counts, report: "jobs/x/report.json".to_owned(), artifacts: vec!["a.mp3".to_owned()] }
}

pub fn success() -> Outcome {
    Outcome::Success(committed())
}

pub fn failure(code: &str) -> Outcome {
    let error = JobError { code: code.to_owned(), message: "no good".to_owned(), blame: Blame::Sender };
    Outcome::Failed { counts: Counts { records_in: 1, ..Counts::default() }, report: None, error }
}
