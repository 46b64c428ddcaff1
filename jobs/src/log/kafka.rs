//! The event log on Apache Kafka, through rdkafka.
//!
//! Producer: idempotent, acks=all, so a record is published once and durable. Consumer: see [`consumer`].

mod consumer;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tidemill_pipelines::Retry;

use super::{EventLog, PartitionLag, Subscription, Topic};
use crate::{Error, Result};

/// How long the broker may take to answer a question about topics, offsets or itself.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a ping may take: readiness probes wait for it.
const PING: Duration = Duration::from_secs(3);

/// Where the brokers are and how records are held.
#[derive(Debug, Clone)]
pub struct KafkaSettings {
    /// `host:port`, several with commas.
    pub bootstrap_servers: String,
    /// Topics are named `{prefix}.landed` and `{prefix}.finished`, groups `{prefix}.processor` and so on.
    pub topic_prefix: String,
    /// Partitions of a topic that is made here: the most members of a group that work at once.
    pub partitions: i32,
    /// Copies of a topic that is made here; 3 in production.
    pub replication: i32,
    /// Records that a subscription holds in memory.
    pub buffer: usize,
    /// How long a record may take to be acknowledged by the brokers before `publish` fails.
    pub delivery_timeout: Duration,
    /// Settings of librdkafka that are passed on as they are, such as `security.protocol`. Those that the
    /// promises of the log rest on are set here and win.
    pub client: BTreeMap<String, String>,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            bootstrap_servers: "localhost:9092".to_owned(),
            topic_prefix: "tidemill".to_owned(),
            partitions: 12,
            replication: 1,
            buffer: 64,
            delivery_timeout: Duration::from_secs(30),
            client: BTreeMap::new(),
        }
    }
}

/// The log on Kafka. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct KafkaLog(Arc<Inner>);

struct Inner {
    settings: KafkaSettings,
    /// Replaced when it is broken for good (an idempotent producer gives up on some errors).
    producer: Mutex<FutureProducer<Logging>>,
    /// Clients that read the offsets of a group; making one costs a connection.
    readers: Mutex<HashMap<String, Arc<BaseConsumer>>>,
}

impl KafkaLog {
    /// Makes the clients. They connect by themselves; use `ping` to know whether they reached a broker.
    pub fn new(settings: KafkaSettings) -> Result<Self> {
        let producer = Mutex::new(producer(&settings)?);
        Ok(Self(Arc::new(Inner { settings, producer, readers: Mutex::default() })))
    }

    fn topic(&self, topic: Topic) -> String {
        format!("{}.{}", self.0.settings.topic_prefix, topic.as_str())
    }

    /// Installations that share a broker have groups of their own, or the rebalances of one would wait for the
    /// members of the other.
    fn group(&self, group: &str) -> String {
        format!("{}.{group}", self.0.settings.topic_prefix)
    }

    fn producer(&self) -> FutureProducer<Logging> {
        lock(&self.0.producer).clone()
    }

    /// A new producer in place of one that is broken for good.
    fn replace_broken_producer(&self) -> Result<()> {
        let mut current = lock(&self.0.producer);
        if current.client().fatal_error().is_some() {
            tracing::warn!("replacing the producer after a fatal error");
            *current = producer(&self.0.settings)?;
        }
        Ok(())
    }

    fn reader(&self, group: &str) -> Result<Arc<BaseConsumer>> {
        let mut readers = lock(&self.0.readers);
        if let Some(reader) = readers.get(group) {
            return Ok(Arc::clone(reader));
        }
        let mut config = config(&self.0.settings);
        config.set("group.id", self.group(group)).set("enable.auto.commit", "false");
        let reader: BaseConsumer = config.create().map_err(failed("make a consumer"))?;
        let reader = Arc::new(reader);
        readers.insert(group.to_owned(), Arc::clone(&reader));
        Ok(reader)
    }
}

#[async_trait]
impl EventLog for KafkaLog {
    async fn create_topics(&self) -> Result<()> {
        let config = config(&self.0.settings);
        let admin: AdminClient<DefaultClientContext> = config.create().map_err(failed("make a client"))?;
        let names = Topic::ALL.map(|topic| self.topic(topic));
        let settings = &self.0.settings;
        let topics: Vec<_> = names
            .iter()
            .map(|name| {
                NewTopic::new(name, settings.partitions, TopicReplication::Fixed(settings.replication))
            })
            .collect();
        let options = AdminOptions::new().operation_timeout(Some(ANSWER)).request_timeout(Some(ANSWER));
        let made = admin.create_topics(&topics, &options).await.map_err(failed("create topics"))?;
        for topic in made {
            match topic {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => {
                    return Err(Error::Log {
                        action: "create topics",
                        message: format!("topic `{name}`: {code}"),
                        retry: retry(code),
                    });
                }
            }
        }
        Ok(())
    }

    async fn publish(&self, topic: Topic, key: &str, payload: &[u8]) -> Result<()> {
        let name = self.topic(topic);
        let record = FutureRecord::to(&name).key(key).payload(payload);
        let sent = self.producer().send(record, self.0.settings.delivery_timeout).await;
        if let Err((error, _)) = sent {
            self.replace_broken_producer()?;
            if error.rdkafka_error_code().is_some_and(is_about_the_record) {
                return Err(Error::Record { size_bytes: payload.len(), message: error.to_string() });
            }
            return Err(failed("publish a record")(error));
        }
        Ok(())
    }

    async fn subscribe(&self, topic: Topic, group: &str) -> Result<Box<dyn Subscription>> {
        let config = config(&self.0.settings);
        let group = self.group(group);
        let subscription = consumer::join(config, self.topic(topic), &group, self.0.settings.buffer)?;
        Ok(Box::new(subscription))
    }

    async fn lag(&self, topic: Topic, group: &str) -> Result<Vec<PartitionLag>> {
        let reader = self.reader(group)?;
        let name = self.topic(topic);
        blocking("read the lag", move || read_lag(&reader, &name)).await
    }

    async fn ping(&self) -> Result<()> {
        let producer = self.producer();
        let ask = move || producer.client().fetch_metadata(None, PING).map(drop);
        blocking("reach the broker", ask).await
    }
}

/// Records between a group's committed offset and the end of each partition. A partition without a committed
/// offset counts from its first record.
fn read_lag(reader: &BaseConsumer, topic: &str) -> Result<Vec<PartitionLag>, KafkaError> {
    let metadata = reader.fetch_metadata(Some(topic), ANSWER)?;
    let mut list = TopicPartitionList::new();
    for found in metadata.topics() {
        if let Some(code) = found.error() {
            return Err(KafkaError::MetadataFetch(code.into()));
        }
        for partition in found.partitions() {
            list.add_partition(topic, partition.id());
        }
    }
    let committed = reader.committed_offsets(list, ANSWER)?;
    let mut lags = Vec::new();
    for element in committed.elements() {
        let (low, high) = reader.fetch_watermarks(topic, element.partition(), ANSWER)?;
        let from = match element.offset() {
            Offset::Offset(offset) => offset.max(low),
            _ => low,
        };
        lags.push(PartitionLag { partition: element.partition(), lag: (high - from).max(0) });
    }
    Ok(lags)
}

/// What all clients share. The settings of the operator come first: what the promises rest on wins.
fn config(settings: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("client.id", "tidemill");
    for (name, value) in &settings.client {
        config.set(name, value);
    }
    config.set("bootstrap.servers", &settings.bootstrap_servers);
    config.set_log_level(RDKafkaLogLevel::Warning);
    config
}

fn producer(settings: &KafkaSettings) -> Result<FutureProducer<Logging>> {
    let mut producer = config(settings);
    producer
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "zstd")
        // An event is awaited by a person: it is sent at once, others that come meanwhile go together.
        .set("linger.ms", "0")
        .set("delivery.timeout.ms", settings.delivery_timeout.as_millis().to_string());
    producer.create_with_context(Logging).map_err(failed("make a producer"))
}

/// Sends what librdkafka has to say to the program's log.
pub(super) struct Logging;

impl ClientContext for Logging {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka client");
    }
}

fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    if level as i32 <= RDKafkaLogLevel::Warning as i32 {
        tracing::warn!(facility, message, "kafka client");
    } else {
        tracing::debug!(facility, message, "kafka client");
    }
}

async fn blocking<T: Send + 'static>(
    action: &'static str,
    work: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(failed(action)),
        Err(error) => Err(Error::Log { action, message: error.to_string(), retry: Retry::Later }),
    }
}

fn failed(action: &'static str) -> impl FnOnce(KafkaError) -> Error {
    move |error| Error::Log {
        action,
        retry: error.rdkafka_error_code().map_or(Retry::Never, retry),
        message: error.to_string(),
    }
}

/// The record itself is refused, and would be each time; all other errors are about the broker or the way to it.
fn is_about_the_record(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidRecord | Code::InvalidTimestamp
    )
}

/// What will not pass without a person; all else may.
fn retry(code: RDKafkaErrorCode) -> Retry {
    use RDKafkaErrorCode as Code;
    match code {
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication
        | Code::InvalidReplicationFactor
        | Code::InvalidPartitions
        | Code::InvalidTopic
        | Code::InvalidConfig
        | Code::PolicyViolation => Retry::Never,
        _ => Retry::Later,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installations_that_share_a_broker_share_neither_topics_nor_groups() {
        let of = |prefix: &str| {
            let settings = KafkaSettings { topic_prefix: prefix.to_owned(), ..KafkaSettings::default() };
            let log = KafkaLog::new(settings).unwrap();
            (log.topic(Topic::Landed), log.group("processor"))
        };
        assert_eq!(of("one"), ("one.landed".to_owned(), "one.processor".to_owned()));
        assert_eq!(of("other"), ("other.landed".to_owned(), "other.processor".to_owned()));
    }
}
