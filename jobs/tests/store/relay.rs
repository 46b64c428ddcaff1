//! The relay brings each committed event to the log, through failures of the log and of other relays.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{TimeDelta, Utc};
use tempfile::TempDir;
use tidemill_jobs::{
    EmbeddedLog, Error, Event, EventLog, JobId, JobStore, KafkaLog, KafkaSettings, PartitionLag, Relay,
    Result, Subscription, Topic,
};
use tidemill_pipelines::Retry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{Database, claimed, landed, new_job, on_both, success};

on_both!(
    a_commit_reaches_the_log_at_once,
    what_another_process_committed_is_found,
    a_log_that_was_away_gets_everything,
    events_of_a_relay_that_died_are_taken_over,
    a_delayed_event_waits_for_its_time,
    a_relay_publishes_what_it_has_before_it_ends,
    an_event_that_the_log_refuses_for_good_is_parked,
    an_event_that_kafka_refuses_for_good_is_parked,
    an_event_of_an_unknown_topic_is_parked,
);

/// More than any wait of a test should take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A log that can be away.
struct Switched {
    log: Arc<dyn EventLog>,
    away: AtomicBool,
}

#[async_trait]
impl EventLog for Switched {
    async fn create_topics(&self) -> Result<()> {
        self.log.create_topics().await
    }
    async fn publish(&self, topic: Topic, key: &str, payload: &[u8]) -> Result<()> {
        if self.away.load(Ordering::SeqCst) {
            let message = "away".to_owned();
            return Err(Error::Log { action: "publish", message, retry: Retry::Later });
        }
        self.log.publish(topic, key, payload).await
    }
    async fn subscribe(&self, topic: Topic, group: &str) -> Result<Box<dyn Subscription>> {
        self.log.subscribe(topic, group).await
    }
    async fn lag(&self, topic: Topic, group: &str) -> Result<Vec<PartitionLag>> {
        self.log.lag(topic, group).await
    }
    async fn ping(&self) -> Result<()> {
        self.log.ping().await
    }
}

/// A log and who reads it.
struct Log {
    _folder: TempDir,
    switched: Arc<Switched>,
    landed: Box<dyn Subscription>,
}

impl Log {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let log = EmbeddedLog::open(&folder.path().join("events.db"), 4).await.unwrap();
        Self::over(folder, Arc::new(log)).await
    }

    async fn kafka() -> Self {
        let settings = KafkaSettings {
            bootstrap_servers: std::env::var("TIDEMILL_TEST_KAFKA").expect("TIDEMILL_TEST_KAFKA is not set"),
            topic_prefix: format!("test-{}", Uuid::now_v7().simple()),
            partitions: 4,
            ..KafkaSettings::default()
        };
        let log = KafkaLog::new(settings).unwrap();
        log.create_topics().await.unwrap();
        Self::over(TempDir::new().unwrap(), Arc::new(log)).await
    }

    async fn over(folder: TempDir, log: Arc<dyn EventLog>) -> Self {
        let landed = log.subscribe(Topic::Landed, "test").await.unwrap();
        Self { _folder: folder, switched: Arc::new(Switched { log, away: AtomicBool::new(false) }), landed }
    }

    fn relay(&self, store: &JobStore) -> Running {
        let shutdown = CancellationToken::new();
        let relay = Relay::new(store.clone(), Arc::clone(&self.switched) as Arc<dyn EventLog>);
        Running { task: tokio::spawn(relay.run(shutdown.clone())), shutdown }
    }

    async fn next(&mut self) -> JobId {
        let record = tokio::time::timeout(PATIENCE, self.landed.next()).await.expect("no record").unwrap();
        Event::from_json(&record.payload).unwrap().subject.parse().unwrap()
    }

    async fn next_set(&mut self, count: usize) -> HashSet<JobId> {
        let mut found = HashSet::new();
        while found.len() < count {
            found.insert(self.next().await);
        }
        found
    }
}

struct Running {
    task: JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

async fn outbox_is_empty(db: &Database) {
    let start = Instant::now();
    while !db.told().await.is_empty() {
        assert!(start.elapsed() < PATIENCE, "events stay in the outbox");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_commit_reaches_the_log_at_once(db: Database) {
    let mut log = Log::new().await;
    let relay = log.relay(&db.store);
    let mut times = Vec::new();
    for _ in 0..50 {
        let job = landed(&db.store, new_job("sales")).await.job_id;
        let start = Instant::now();
        assert_eq!(log.next().await, job);
        times.push(start.elapsed());
    }
    times.sort();
    println!("commit to consumer: median {:?}, longest {:?}", times[25], times[49]);
    let claim = claimed(&db.store, "sales").await;
    assert!(db.settler.finish(&claim, success()).await.unwrap());
    let mut finished = log.switched.log.subscribe(Topic::Finished, "test").await.unwrap();
    let record = tokio::time::timeout(PATIENCE, finished.next()).await.unwrap().unwrap();
    assert_eq!(record.key, claim.job.job_id.to_string());
    outbox_is_empty(&db).await;
    relay.stop().await;
}

async fn what_another_process_committed_is_found(db: Database) {
    let mut log = Log::new().await;
    let other = db.another_process().await;
    let mut expected = HashSet::new();
    for _ in 0..300 {
        expected.insert(landed(&other, new_job("sales")).await.job_id);
    }
    let relay = log.relay(&db.store);
    assert_eq!(log.next_set(300).await, expected);
    expected.clear();
    expected.insert(landed(&other, new_job("sales")).await.job_id);
    assert_eq!(log.next_set(1).await, expected, "also while it runs");
    outbox_is_empty(&db).await;
    relay.stop().await;
}

async fn a_log_that_was_away_gets_everything(db: Database) {
    let mut log = Log::new().await;
    log.switched.away.store(true, Ordering::SeqCst);
    let relay = log.relay(&db.store);
    let mut expected = HashSet::new();
    for _ in 0..20 {
        expected.insert(landed(&db.store, new_job("sales")).await.job_id);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(db.told().await.len(), 20, "nothing is forgotten");
    log.switched.away.store(false, Ordering::SeqCst);
    assert_eq!(log.next_set(20).await, expected);
    outbox_is_empty(&db).await;
    relay.stop().await;
}

async fn events_of_a_relay_that_died_are_taken_over(db: Database) {
    let mut log = Log::new().await;
    let dead = db.another_process().await;
    let relay = log.relay(&dead);
    // It takes events in hand and is gone before it can publish them.
    log.switched.away.store(true, Ordering::SeqCst);
    let job = landed(&dead, new_job("sales")).await.job_id;
    relay.task.abort();
    assert!(relay.task.await.unwrap_err().is_cancelled());
    log.switched.away.store(false, Ordering::SeqCst);
    let living = log.relay(&db.store);
    assert_eq!(log.next().await, job);
    outbox_is_empty(&db).await;
    living.stop().await;
}

async fn a_delayed_event_waits_for_its_time(db: Database) {
    let mut log = Log::new().await;
    let relay = log.relay(&db.store);
    let claim = claimed(&db.store, "sales").await;
    assert_eq!(log.next().await, claim.job.job_id);
    let due = Utc::now() + TimeDelta::seconds(2);
    assert!(db.settler.release(&claim, due, true).await.unwrap());
    assert_eq!(log.next().await, claim.job.job_id);
    assert!(Utc::now() >= due);
    assert!(db.store.claim(claim.job.job_id, "v1", "w", Utc::now()).await.unwrap().is_some());
    outbox_is_empty(&db).await;
    relay.stop().await;
}

async fn a_relay_publishes_what_it_has_before_it_ends(db: Database) {
    let mut log = Log::new().await;
    let relay = log.relay(&db.store);
    let mut expected = HashSet::new();
    for _ in 0..20 {
        expected.insert(landed(&db.store, new_job("sales")).await.job_id);
    }
    relay.stop().await;
    assert_eq!(log.next_set(20).await, expected);
    assert_eq!(db.told().await, []);
    // Who commits from here on leaves the event to others.
    landed(&db.store, new_job("sales")).await;
    assert_eq!(db.told().await.len(), 1);
}

/// Writes an event into the outbox as an older or newer version may have left it there.
async fn put(db: &Database, topic: &str, payload: String) -> String {
    let event_id = Uuid::now_v7().to_string();
    let insert = "INSERT INTO tidemill_outbox (event_id, topic, job_id, payload, created_at, due_at) \
        VALUES (?, ?, ?, ?, 0, 0)";
    let query = sqlx::query(insert).bind(event_id.clone()).bind(topic.to_owned());
    let query = query.bind(JobId::new().to_string()).bind(payload);
    query.execute(db.store.pool()).await.unwrap();
    event_id
}

/// A poisoned event is parked once, all others arrive, in their order; it can be revived and dropped.
async fn is_parked(db: &Database, mut log: Log, topic: &str, payload: String) {
    let poison = put(db, topic, payload).await;
    let other = db.another_process().await;
    let mut expected = Vec::new();
    for _ in 0..20 {
        expected.push(landed(&other, new_job("sales")).await.job_id);
    }
    let relay = log.relay(&db.store);
    let found = log.next_set(20).await;
    assert_eq!(found, expected.into_iter().collect());
    let parked = || async {
        let start = Instant::now();
        loop {
            let stats = db.store.queue_stats().await.unwrap();
            if (stats.outbox_length, stats.dead_letters) == (0, 1) {
                return db.store.dead_letters(10).await.unwrap().remove(0);
            }
            assert!(start.elapsed() < PATIENCE, "{stats:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let letter = parked().await;
    assert_eq!((letter.event_id.as_str(), letter.topic.as_str()), (poison.as_str(), topic));
    assert!(!letter.error.is_empty() && letter.parked_at <= Utc::now());
    // What comes later is not held up either.
    let later = landed(&other, new_job("sales")).await.job_id;
    assert_eq!(log.next().await, later);
    assert!(db.store.revive_dead_letter(&poison).await.unwrap());
    let again = parked().await;
    assert!(again.parked_at > letter.parked_at, "it was tried again");
    assert!(db.store.drop_dead_letter(&poison).await.unwrap());
    assert!(!db.store.drop_dead_letter(&poison).await.unwrap());
    assert_eq!(db.store.dead_letters(10).await.unwrap(), []);
    relay.stop().await;
}

/// The end of a job of 12,000 keys, as earlier versions told of it.
fn large() -> String {
    serde_json::json!({ "data": { "job": { "files_to_process": vec!["k".repeat(200); 12_000] } } })
        .to_string()
}

async fn an_event_that_the_log_refuses_for_good_is_parked(db: Database) {
    is_parked(&db, Log::new().await, "finished", large()).await;
}

async fn an_event_that_kafka_refuses_for_good_is_parked(db: Database) {
    is_parked(&db, Log::kafka().await, "finished", large()).await;
}

async fn an_event_of_an_unknown_topic_is_parked(db: Database) {
    is_parked(&db, Log::new().await, "of_the_future", "{}".to_owned()).await;
}
