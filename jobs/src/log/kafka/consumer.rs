//! A member of a Kafka group.
//!
//! A thread of its own polls the consumer and never stops: when the buffer is full it pauses the partitions
//! and goes on polling, so the member keeps its place however long a job runs. An offset is stored when all
//! records before it are done; stored offsets are committed each second, before partitions are given up, and
//! at the close. What a member still holds of partitions that it has lost is forgotten.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::TopicPartitionList;
use tidemill_pipelines::Retry;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::{failed, lock, log_line};
use crate::log::acks::Acks;
use crate::log::{Record, Subscription};
use crate::{Error, Result};

/// How long the thread waits for a record; also how long a close waits for the thread to see it.
const POLL: Duration = Duration::from_millis(100);
/// The same while records wait for room in the buffer.
const POLL_FULL: Duration = Duration::from_millis(10);

/// Time after which a member that died is out of its group, unless the settings say otherwise.
const SESSION_TIMEOUT_MS: &str = "30000";

/// How long a member whose session ran out may take to be back in its group. After an outage of the broker
/// librdkafka sometimes never joins again; then a new consumer takes its place.
const OUT_OF_GROUP_MAX: Duration = Duration::from_secs(45);

/// Joins `group`; records come out once the broker has given it partitions.
pub(super) fn join(mut config: ClientConfig, topic: String, group: &str, buffer: usize) -> Result<Member> {
    if config.get("session.timeout.ms").is_none() {
        // The poller's thread keeps the membership however long a job runs, so a short timeout is safe: the
        // partitions of a process that died are handed over after it, not after librdkafka's 45 s. The broker's own
        // restart should take less.
        config.set("session.timeout.ms", SESSION_TIMEOUT_MS);
    }
    config
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "1000")
        .set("enable.auto.offset.store", "false")
        .set("partition.assignment.strategy", "cooperative-sticky")
        // What librdkafka fetches ahead of the buffer, for all partitions together.
        .set("queued.max.messages.kbytes", "4096");
    let held = Arc::new(Held::default());
    let seat = Arc::new(Seat::take(config, topic, Arc::clone(&held))?);
    let stop = Arc::new(AtomicBool::new(false));
    let (records, receiver) = mpsc::channel(buffer.max(1));
    let poller =
        Poller { seat: Arc::clone(&seat), held: Arc::clone(&held), stop: Arc::clone(&stop), records };
    let thread = std::thread::Builder::new()
        .name("kafka-poll".to_owned())
        .spawn(move || poller.run())
        .map_err(|error| log_error("start a thread", error.to_string()))?;
    Ok(Member { seat, held, stop, records: receiver, thread: Some(thread) })
}

/// A member's place in its group: the consumer that sits there now.
struct Seat {
    config: ClientConfig,
    topic: String,
    held: Arc<Held>,
    consumer: Mutex<Arc<BaseConsumer<Context>>>,
}

impl Seat {
    fn take(config: ClientConfig, topic: String, held: Arc<Held>) -> Result<Self> {
        let consumer = Mutex::new(Arc::new(consumer(&config, &topic, &held)?));
        Ok(Self { config, topic, held, consumer })
    }

    fn consumer(&self) -> Arc<BaseConsumer<Context>> {
        Arc::clone(&lock(&self.consumer))
    }

    /// Puts a new consumer in the place of one that does not find back into its group. What the old one gave
    /// out and nobody has acked is given out again.
    fn renew(&self) {
        self.held.forget();
        match consumer(&self.config, &self.topic, &self.held) {
            Ok(new) => {
                let old = std::mem::replace(&mut *lock(&self.consumer), Arc::new(new));
                drop(old); // outside the lock: it says goodbye to the broker
                tracing::warn!(topic = self.topic, "a new consumer took the place of one that stayed out");
            }
            Err(error) => tracing::warn!(%error, "failed to make a new consumer; trying again"),
        }
    }
}

fn consumer(config: &ClientConfig, topic: &str, held: &Arc<Held>) -> Result<BaseConsumer<Context>> {
    let context = Context { held: Arc::clone(held) };
    let consumer: BaseConsumer<Context> =
        config.create_with_context(context).map_err(failed("make a consumer"))?;
    consumer.subscribe(&[topic]).map_err(failed("subscribe"))?;
    Ok(consumer)
}

/// The partitions that a member holds.
#[derive(Default)]
struct Held(Mutex<Partitions>);

#[derive(Default)]
struct Partitions {
    /// Counts assignments, so that records of an earlier one can be told apart.
    generation: u64,
    by_id: HashMap<i32, Partition>,
    /// Since when the member is out of its group: its session ran out, and it was not given partitions again.
    lost_since: Option<Instant>,
}

struct Partition {
    generation: u64,
    acks: Acks,
}

impl Held {
    fn add(&self, list: &TopicPartitionList) {
        let mut partitions = lock(&self.0);
        partitions.generation += 1;
        partitions.lost_since = None;
        let generation = partitions.generation;
        for element in list.elements() {
            partitions.by_id.insert(element.partition(), Partition { generation, acks: Acks::default() });
        }
    }

    fn remove(&self, list: &TopicPartitionList) {
        let mut partitions = lock(&self.0);
        for element in list.elements() {
            partitions.by_id.remove(&element.partition());
        }
    }

    fn lost(&self) {
        lock(&self.0).lost_since.get_or_insert_with(Instant::now);
    }

    fn is_out(&self, longest: Duration) -> bool {
        lock(&self.0).lost_since.is_some_and(|since| since.elapsed() > longest)
    }

    /// Lets go of every partition; from now on counts as out of the group.
    fn forget(&self) {
        let mut partitions = lock(&self.0);
        partitions.by_id.clear();
        partitions.lost_since = Some(Instant::now());
    }

    /// Notes a record as given out; the generation of its partition, `None` when that is lost.
    fn given(&self, record: &Record) -> Option<u64> {
        let mut partitions = lock(&self.0);
        let partition = partitions.by_id.get_mut(&record.partition)?;
        partition.acks.given(record.offset);
        Some(partition.generation)
    }

    fn is_current(&self, partition: i32, generation: u64) -> bool {
        lock(&self.0).by_id.get(&partition).is_some_and(|held| held.generation == generation)
    }

    fn done(&self, record: &Record) -> Option<i64> {
        lock(&self.0).by_id.get_mut(&record.partition)?.acks.done(record.offset)
    }
}

/// Hears of rebalances, on the polling thread.
struct Context {
    held: Arc<Held>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "kafka client");
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => self.held.add(list),
            Rebalance::Revoke(list) => {
                if consumer.assignment_lost() {
                    self.held.lost();
                } else {
                    commit(consumer);
                }
                self.held.remove(list);
            }
            Rebalance::Error(error) => tracing::warn!(%error, "failed to share partitions"),
        }
    }
}

/// Commits stored offsets; that there are none is no error.
fn commit(consumer: &BaseConsumer<Context>) {
    match consumer.commit_consumer_state(CommitMode::Sync) {
        Ok(()) | Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
        Err(error) => tracing::warn!(%error, "failed to commit offsets: records will be given out again"),
    }
}

type Item = Result<(Record, u64)>;

/// The polling thread.
struct Poller {
    seat: Arc<Seat>,
    held: Arc<Held>,
    stop: Arc<AtomicBool>,
    records: mpsc::Sender<Item>,
}

impl Poller {
    fn run(self) {
        // Records that found no room. Bounded: from the first one on, all partitions are paused.
        let mut waiting: VecDeque<Item> = VecDeque::new();
        let mut paused = false;
        while !self.stop.load(Ordering::Acquire) {
            if !self.hand_out(&mut waiting) {
                break;
            }
            if paused && waiting.is_empty() {
                self.resume();
                paused = false;
            }
            if self.held.is_out(OUT_OF_GROUP_MAX) {
                self.seat.renew();
                (waiting, paused) = (VecDeque::new(), false);
            }
            let wait = if waiting.is_empty() { POLL } else { POLL_FULL };
            let consumer = self.seat.consumer();
            match consumer.poll(wait) {
                None => {}
                Some(Ok(message)) => {
                    waiting.extend(self.accept(&message));
                    if !self.hand_out(&mut waiting) {
                        break;
                    }
                    if !waiting.is_empty() {
                        self.pause();
                        paused = true;
                    }
                }
                Some(Err(error)) if is_fatal(&error) => {
                    waiting.push_back(Err(failed("read records")(error)));
                    self.hand_out(&mut waiting);
                    break;
                }
                // librdkafka mends the others by itself.
                Some(Err(error)) => tracing::warn!(%error, "kafka consumer"),
            }
        }
        commit(&self.seat.consumer());
    }

    /// Fills the buffer; false when nobody reads it any more.
    fn hand_out(&self, waiting: &mut VecDeque<Item>) -> bool {
        while let Some(item) = waiting.pop_front() {
            match self.records.try_send(item) {
                Ok(()) => {}
                Err(TrySendError::Full(item)) => {
                    waiting.push_front(item);
                    return true;
                }
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        true
    }

    fn accept(&self, message: &BorrowedMessage<'_>) -> Option<Item> {
        let record = Record {
            partition: message.partition(),
            offset: message.offset(),
            key: String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned(),
            payload: message.payload().unwrap_or_default().to_vec(),
        };
        let generation = self.held.given(&record)?;
        Some(Ok((record, generation)))
    }

    fn pause(&self) {
        self.with_assignment(|consumer, list| consumer.pause(list));
    }

    fn resume(&self) {
        self.with_assignment(|consumer, list| consumer.resume(list));
    }

    fn with_assignment(
        &self,
        change: impl Fn(&BaseConsumer<Context>, &TopicPartitionList) -> Result<(), KafkaError>,
    ) {
        let consumer = self.seat.consumer();
        let changed = consumer.assignment().and_then(|list| change(&consumer, &list));
        if let Err(error) = changed {
            tracing::warn!(%error, "failed to pause or resume partitions");
        }
    }
}

fn is_fatal(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::SaslAuthenticationFailed
        )
    )
}

/// The async side of a member.
pub(super) struct Member {
    seat: Arc<Seat>,
    held: Arc<Held>,
    stop: Arc<AtomicBool>,
    records: mpsc::Receiver<Item>,
    thread: Option<JoinHandle<()>>,
}

#[async_trait]
impl Subscription for Member {
    async fn next(&mut self) -> Result<Record> {
        while let Some(item) = self.records.recv().await {
            let (record, generation) = item?;
            if self.held.is_current(record.partition, generation) {
                return Ok(record);
            }
        }
        // It does not come back by itself: whoever reads it has to end, and to be started again.
        Err(Error::Log {
            action: "read records",
            message: "the subscription has ended".to_owned(),
            retry: Retry::Never,
        })
    }

    async fn ack(&mut self, record: &Record) -> Result<()> {
        if let Some(offset) = self.held.done(record) {
            // Refused when the partition was lost just now; then the record is given out again elsewhere.
            let consumer = self.seat.consumer();
            if let Err(error) = consumer.store_offset(&self.seat.topic, record.partition, offset) {
                tracing::debug!(%error, partition = record.partition, "failed to store an offset");
            }
        }
        Ok(())
    }

    async fn close(mut self: Box<Self>) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take();
        let leave = move || {
            let ended = thread.is_none_or(|thread| thread.join().is_ok());
            // The last owner of the consumer leaves the group.
            drop(self);
            ended
        };
        match tokio::task::spawn_blocking(leave).await {
            Ok(true) => Ok(()),
            _ => Err(log_error("close a subscription", "its thread failed".to_owned())),
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn log_error(action: &'static str, message: String) -> Error {
    Error::Log { action, message, retry: Retry::Later }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

    /// librdkafka's own mock of a broker: a member that its group has lost can't be had from a real one at will.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_member_that_stays_out_of_its_group_is_replaced_and_goes_on_where_acks_ended() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("landed", 1, 1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let producer: BaseProducer = config.create().unwrap();
        let send = |text: &str| {
            producer.send(BaseRecord::to("landed").key("key").payload(text)).unwrap();
            producer.flush(Duration::from_secs(30)).unwrap();
        };
        let mut member = join(config.clone(), "landed".to_owned(), "group", 8).unwrap();
        send("first");
        send("second");
        let first = next(&mut member).await;
        assert_eq!(first.payload, b"first");
        member.ack(&first).await.unwrap();
        let second = next(&mut member).await;
        assert_eq!(second.payload, b"second");
        commit(&member.seat.consumer());

        let out_since = Instant::now().checked_sub(OUT_OF_GROUP_MAX * 2).unwrap();
        lock(&member.held.0).lost_since = Some(out_since);
        send("third");
        assert_eq!(next(&mut member).await.payload, b"second", "it was not acked");
        assert_eq!(next(&mut member).await.payload, b"third");
        assert!(!member.held.is_out(Duration::ZERO), "it is back in its group");
        Box::new(member).close().await.unwrap();
    }

    async fn next(member: &mut Member) -> Record {
        tokio::time::timeout(Duration::from_secs(60), member.next()).await.unwrap().unwrap()
    }
}
