//! A log of its own for each test, on each implementation.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidemill_jobs::{EmbeddedLog, EventLog, KafkaLog, KafkaSettings, Record, Subscription, Topic};
use uuid::Uuid;

/// Partitions of the topics of a test.
pub const PARTITIONS: i32 = 4;
/// More than any wait of a test should take: a group of Kafka takes seconds to settle on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Makes each test run on both logs.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod on_embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::support::Log::embedded().await).await; })*
        }
        mod on_kafka {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(crate::support::Log::kafka().await).await; })*
        }
    };
}
pub(crate) use on_both;

/// A log and the way to open it once more.
pub struct Log {
    pub log: Arc<dyn EventLog>,
    /// Longer than a member of Kafka may be silent.
    pub long_work: Duration,
    opened: Opened,
}

enum Opened {
    Embedded { folder: Arc<TempDir>, log: EmbeddedLog },
    Kafka(KafkaSettings),
}

impl Log {
    pub async fn embedded() -> Self {
        Self::open_embedded(Arc::new(TempDir::new().unwrap())).await
    }

    async fn open_embedded(folder: Arc<TempDir>) -> Self {
        let log = EmbeddedLog::open(&folder.path().join("events.db"), PARTITIONS).await.unwrap();
        let opened = Opened::Embedded { folder, log: log.clone() };
        Self { log: Arc::new(log), long_work: Duration::from_secs(1), opened }
    }

    pub async fn kafka() -> Self {
        let servers = std::env::var("TIDEMILL_TEST_KAFKA").expect("TIDEMILL_TEST_KAFKA is not set");
        let client = [
            // The shortest that a broker accepts by default.
            ("session.timeout.ms", "6000"),
            ("max.poll.interval.ms", "6000"),
            ("heartbeat.interval.ms", "300"),
        ];
        let settings = KafkaSettings {
            bootstrap_servers: servers,
            topic_prefix: format!("test-{}", Uuid::now_v7().simple()),
            partitions: PARTITIONS,
            buffer: 8,
            client: client.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ..KafkaSettings::default()
        };
        let log = Self::open_kafka(settings);
        log.log.create_topics().await.unwrap();
        log
    }

    fn open_kafka(settings: KafkaSettings) -> Self {
        let log = Arc::new(KafkaLog::new(settings.clone()).unwrap());
        Self { log, long_work: Duration::from_secs(9), opened: Opened::Kafka(settings) }
    }

    /// The same log as a process sees it that starts later.
    pub async fn reopened(self) -> Self {
        drop(self.log);
        match self.opened {
            Opened::Embedded { folder, log } => {
                log.close().await;
                Self::open_embedded(folder).await
            }
            Opened::Kafka(settings) => Self::open_kafka(settings),
        }
    }

    pub async fn subscribe(&self, group: &str) -> Box<dyn Subscription> {
        self.log.subscribe(Topic::Landed, group).await.unwrap()
    }

    /// The lag of all partitions.
    pub async fn lag(&self, group: &str) -> i64 {
        self.log.lag(Topic::Landed, group).await.unwrap().iter().map(|partition| partition.lag).sum()
    }

    /// Waits until each of two members has its part: each is given records, and none twice.
    pub async fn both_have_partitions(&self, first: &mut dyn Subscription, second: &mut dyn Subscription) {
        let settle = async {
            for round in 0.. {
                let keys: Vec<_> = (0..16).map(|number| format!("settle-{round}-{number}")).collect();
                for key in &keys {
                    self.log.publish(Topic::Landed, key, b"").await.unwrap();
                }
                let mut seen = [0; 2];
                let mut found = HashSet::new();
                while found.len() < keys.len() {
                    let (member, record) = tokio::select! {
                        record = first.next() => (0, record.unwrap()),
                        record = second.next() => (1, record.unwrap()),
                    };
                    let acked =
                        if member == 0 { first.ack(&record).await } else { second.ack(&record).await };
                    acked.unwrap();
                    if keys.contains(&record.key) {
                        seen[member] += 1;
                        found.insert(record.key);
                    }
                }
                if seen[0] > 0 && seen[1] > 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(PATIENCE, settle).await.expect("the members never shared");
    }
}

/// Publishes one record for each number, with the key `job-{number}`.
pub async fn publish(log: &Log, numbers: Range<u32>) {
    let send = |number| async move {
        let key = format!("job-{number}");
        let payload = format!("payload of {key}");
        log.log.publish(Topic::Landed, &key, payload.as_bytes()).await.unwrap();
    };
    futures::future::join_all(numbers.map(send)).await;
}

pub async fn next(member: &mut dyn Subscription) -> Record {
    tokio::time::timeout(PATIENCE, member.next()).await.expect("no record came").unwrap()
}

/// Reads and acks `count` records of jobs.
pub async fn drained(member: &mut dyn Subscription, count: usize) -> Vec<Record> {
    let mut records = Vec::new();
    while records.len() < count {
        let record = next(member).await;
        member.ack(&record).await.unwrap();
        if !record.key.starts_with("settle-") {
            records.push(record);
        }
    }
    records
}
