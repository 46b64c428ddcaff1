//! The event log: the transport of events, behind one trait with two implementations.
//!
//! What both promise, and the conformance tests hold them to: a published record is durable when
//! `publish` returns; order within a partition; at least once; a group shares the partitions of a topic;
//! a record that was not acked when its subscription ended is given out again.

mod acks;
mod embedded;
mod kafka;

use async_trait::async_trait;

use crate::Result;
pub use embedded::EmbeddedLog;
pub use kafka::{KafkaLog, KafkaSettings};

/// The topics. Their names on the broker are `{prefix}.landed` and `{prefix}.finished`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Jobs that wait.
    Landed,
    /// Jobs that ended.
    Finished,
}

impl Topic {
    /// Both topics.
    pub const ALL: [Topic; 2] = [Topic::Landed, Topic::Finished];

    /// Its name without the prefix.
    pub fn as_str(self) -> &'static str {
        match self {
            Topic::Landed => "landed",
            Topic::Finished => "finished",
        }
    }

    /// The reverse of [`Topic::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.as_str() == text)
    }
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// 0-based partition.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// The job id as text; records of one key keep their order.
    pub key: String,
    /// The event as JSON.
    pub payload: Vec<u8>,
}

/// How far a group is behind on one partition, in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionLag {
    /// 0-based partition.
    pub partition: i32,
    /// Records after the group's committed offset.
    pub lag: i64,
}

/// A durable, partitioned log.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Makes the topics that are missing, with the partitions of the settings. Safe to repeat.
    async fn create_topics(&self) -> Result<()>;
    /// Appends one record; durable once it returns. [`crate::Error::Record`] says that this record can never be taken;
    /// after any other error it may be published again.
    async fn publish(&self, topic: Topic, key: &str, payload: &[u8]) -> Result<()>;
    /// Joins a group; the records of the partitions it is given come out of the subscription.
    async fn subscribe(&self, topic: Topic, group: &str) -> Result<Box<dyn Subscription>>;
    /// How far the group is behind, by partition.
    async fn lag(&self, topic: Topic, group: &str) -> Result<Vec<PartitionLag>>;
    /// Reaches the broker, for readiness and `tidemill doctor`.
    async fn ping(&self) -> Result<()>;
}

/// A member of a group.
#[async_trait]
pub trait Subscription: Send {
    /// The next record. Cancel safe: dropping the future loses nothing. Keeps its membership alive
    /// however long the caller works between two calls; buffers a bounded number of records.
    async fn next(&mut self) -> Result<Record>;
    /// Marks a record as done. Acks may come out of order: an offset is committed when all records
    /// before it in its partition are done.
    async fn ack(&mut self, record: &Record) -> Result<()>;
    /// Commits what is acked and leaves the group.
    async fn close(self: Box<Self>) -> Result<()>;
}
