//! Where the notifier is tested: an embedded log, a job store on SQLite, objects in memory, and who is told.

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use sqlx::Row;
use tempfile::TempDir;
use tidemill_jobs::{
    Committed, EmbeddedLog, Event, EventKind, EventLog, FinishedData, JobError, JobId, Landed, MemoryLedger,
    NewJob, Record, Relay, Settler, StoreLimits, Topic,
};
use tidemill_pipelines::Duplicates;
use tidemill_sinks::notice::{Addressing, Allow, Notifier, WebhookNotifier, WebhookSettings};
use tokio::task::JoinHandle;

use super::receivers::DoubleOfMail;
use super::*;

/// More than any wait of a test should take.
const PATIENCE: Duration = Duration::from_secs(40);
/// Short, so that a test of a takeover is short.
const LEASE: Duration = Duration::from_secs(2);
/// How long a webhook may stay silent.
const SILENCE: Duration = Duration::from_secs(2);

pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Everything that a notifier works with.
pub struct Place {
    _folder: TempDir,
    pub jobs: JobStore,
    pub settler: Settler,
    log: Arc<EmbeddedLog>,
    objects: Arc<dyn ObjectStore>,
    pipelines: Arc<PipelineSet>,
    pub mail: Arc<DoubleOfMail>,
    pub give_up_after: Duration,
    relay: CancellationToken,
}

/// A notifier at work.
pub struct Running {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    counter: IntCounterVec,
}

impl Running {
    /// As SIGTERM does.
    pub async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap();
        }
    }

    /// As SIGKILL does: nothing is written down or given back.
    pub async fn kill(self) {
        for task in self.tasks {
            task.abort();
            task.await.ok();
        }
    }
}

impl Place {
    pub async fn new(pipelines: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let url = format!("sqlite://{}", folder.path().join("jobs.db").display());
        let jobs = JobStore::connect(&url, StoreLimits::default()).await.unwrap();
        jobs.migrate().await.unwrap();
        let log = Arc::new(EmbeddedLog::open(&folder.path().join("events.db"), 4).await.unwrap());
        let file = |text: &&str| {
            let name = text.lines().next().unwrap().trim_start_matches("pipeline: ");
            (format!("{name}.yaml"), (*text).to_owned())
        };
        let relay = CancellationToken::new();
        tokio::spawn(Relay::new(jobs.clone(), Arc::clone(&log) as Arc<dyn EventLog>).run(relay.clone()));
        Self {
            _folder: folder,
            settler: Settler::new(jobs.clone(), Arc::new(MemoryLedger::default())),
            jobs,
            log,
            objects: Arc::new(InMemory::new()),
            pipelines: Arc::new(PipelineSet::from_files(pipelines.iter().map(file).collect()).unwrap()),
            mail: Arc::default(),
            give_up_after: Duration::from_secs(24 * 3600),
            relay,
        }
    }

    pub fn office(&self) -> Office {
        let webhook = WebhookNotifier::new(WebhookSettings {
            allow: Allow { cidrs: vec!["127.0.0.0/8".parse().unwrap()] },
            secrets: HashMap::new(),
            timeout: SILENCE,
            ca_file: None,
        });
        let notifiers = Notifiers {
            mail: Arc::clone(&self.mail) as Arc<dyn Notifier>,
            webhook: Arc::new(webhook.unwrap()),
            addressing: Addressing::default(),
        };
        Office {
            pipelines: Arc::clone(&self.pipelines),
            jobs: self.jobs.clone(),
            objects: Arc::clone(&self.objects),
            notifiers,
            places: 4,
            give_up_after: self.give_up_after,
            lease: LEASE,
            links: "http://localhost".to_owned(),
            counter: notices_counter().unwrap(),
            written: Notify::new(),
        }
    }

    pub fn start(&self) -> Running {
        let (office, stop) = (Arc::new(self.office()), CancellationToken::new());
        let counter = office.counter.clone();
        let log = Arc::clone(&self.log) as Arc<dyn EventLog>;
        let events = intake::serve(Arc::clone(&office), log, stop.clone());
        let notices = delivery::run(office, stop.clone());
        let events = async { events.await.unwrap() };
        Running { stop, tasks: vec![tokio::spawn(events), tokio::spawn(notices)], counter }
    }

    /// A job that ended so.
    pub async fn job(&self, pipeline: &str, outcome: Outcome) -> String {
        let job_id = JobId::new();
        let new = NewJob {
            job_id,
            pipeline: pipeline.parse().unwrap(),
            files: vec![format!("landing/{pipeline}/{job_id}/a.csv")],
            file_name: Some("a.csv".to_owned()),
            size_bytes: 1,
            content_sha256: job_id.to_string(),
            parameters: std::collections::BTreeMap::new(),
            pushed: Vec::new(),
            takes_turns: false,
            last_wins: false,
            sender: "ana".to_owned(),
            idempotency_key: None,
            duplicates: Duplicates::Accept,
        };
        let Landed::New(_) = self.jobs.land(new).await.unwrap() else { panic!("it came before") };
        self.end(job_id, outcome).await;
        job_id.to_string()
    }

    async fn end(&self, job_id: JobId, outcome: Outcome) {
        let now = Utc::now() + TimeDelta::milliseconds(1);
        let claim = self.jobs.claim(job_id, "v1", "worker", now).await.unwrap().unwrap();
        assert!(self.settler.finish(&claim, outcome).await.unwrap());
    }

    /// Has a failed job end once more.
    pub async fn again(&self, job: &str, outcome: Outcome) {
        let job_id = job.parse().unwrap();
        self.settler.retry(job_id).await.unwrap().unwrap();
        self.end(job_id, outcome).await;
    }

    pub async fn publish(&self, payload: &str) {
        self.log.publish(Topic::Finished, "any", payload.as_bytes()).await.unwrap();
    }

    /// The event of the job's end once more, as after a relay that died.
    pub async fn publish_again(&self, job: &str) {
        let job = self.jobs.get(job.parse().unwrap()).await.unwrap().unwrap();
        self.publish(&Event::finished(&job, Utc::now()).to_json().unwrap()).await;
    }

    /// A report with one reject of this code; its key.
    pub async fn report(&self, code: &str) -> String {
        let reject =
            serde_json::json!({ "line": 3, "column": "id", "code": code, "message": "`x` is no integer" });
        let report = serde_json::json!({
            "job_id": JobId::new(), "pipeline": "both", "pipeline_version": "v1", "attempt": 1, "file_name": null,
            "size_bytes": 1, "content_sha256": "", "records_in": 3, "records_written": 2, "records_rejected": 1,
            "records_filtered": 0, "rows_added": 0, "rejects_by_code": {}, "over_error_budget": false,
            "rejects": [reject], "rejects_file_path": null, "tables": [], "started_at": Utc::now(),
            "reported_at": Utc::now(), "error": null,
        });
        let key = format!("jobs/{}/1/report.json", JobId::new());
        self.objects.put(&key.as_str().into(), Bytes::from(report.to_string()).into()).await.unwrap();
        key
    }

    pub async fn lag(&self) -> i64 {
        self.log.lag(Topic::Finished, GROUP).await.unwrap().iter().map(|partition| partition.lag).sum()
    }

    pub async fn waiting(&self) -> u64 {
        self.jobs.notice_stats().await.unwrap().waiting.iter().map(|(_, count)| count).sum()
    }

    /// The status of the last notice.
    pub async fn status(&self) -> String {
        let statement = "SELECT status FROM tidemill_notices ORDER BY notice_id DESC LIMIT 1";
        let row = sqlx::query(statement).fetch_optional(self.jobs.pool()).await.unwrap();
        row.map_or_else(String::new, |row| row.get(0))
    }

    /// Tries of all notices.
    pub async fn tries(&self) -> i64 {
        let statement = "SELECT COALESCE(SUM(tries), 0) FROM tidemill_notices";
        sqlx::query(statement).fetch_one(self.jobs.pool()).await.unwrap().get(0)
    }

    pub fn counted(&self, running: &Running, outcome: &str) -> u64 {
        running.counter.with_label_values(&["email", outcome]).get()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.relay.cancel();
    }
}

pub fn success() -> Outcome {
    Outcome::Success(Committed { report: "jobs/x/report.json".into(), ..Committed::default() })
}

pub fn failed() -> Outcome {
    let error = JobError { code: "no_records".into(), message: "it is empty".into(), blame: Blame::Sender };
    Outcome::Failed { counts: Counts::default(), report: None, error }
}

/// An end of a job that nobody knows.
pub fn ended(pipeline: &str) -> FinishedData {
    FinishedData {
        job_id: JobId::new(),
        pipeline: pipeline.parse().unwrap(),
        status: JobStatus::Success,
        finished_at: Utc::now(),
        attempt: 1,
    }
}

/// An end as a record of the log.
pub fn record(finished: &FinishedData) -> Record {
    let mut event = Event::from_json(BODY.as_bytes()).unwrap();
    event.kind = EventKind::Finished(finished.clone());
    let payload = event.to_json().unwrap().into_bytes();
    Record { partition: 0, offset: 0, key: finished.job_id.to_string(), payload }
}
