//! Jobs: what work there is and who hears of it.
//!
//! The job table is the truth about work, the ledger about results, the broker is the transport. [`life`] says how a
//! job may change (pure), [`Settler`] is the one way that a job ends,
//! [`JobStore`] holds jobs and the outbox, [`Relay`] publishes the outbox, [`EventLog`] carries events
//! (Apache Kafka or the embedded log), [`Sweeper`] puts back what was left behind.

mod error;
mod event;
pub mod failpoints;
mod job;
mod ledger;
pub mod life;
mod log;
mod pushed;
mod relay;
mod settle;
mod store;
mod sweeper;

pub use error::{Error, Result};
pub use event::{Event, EventKind, FinishedData, LandedData, RejectSample};
pub use job::{Counts, Job, JobError, JobId, JobStatus};
pub use ledger::{Committed, Ledger, MemoryLedger};
pub use log::{EmbeddedLog, EventLog, KafkaLog, KafkaSettings, PartitionLag, Record, Subscription, Topic};
pub use pushed::{Fingerprint, PUSHED_PREFIX};
pub use relay::Relay;
pub use settle::Settler;
pub use store::{
    Claim, Collection, DeadLetter, DueNotice, FailedPage, JobFilter, JobPage, JobStore, Landed, LandedPage,
    NewJob, NewNotice, NoticeClaim, NoticeEnd, NoticeStats, Outcome, OwnJobs, Page, QueueStats, SlotAnswer,
    SlotClaim, StoreLimits, Weight, Work,
};
pub use sweeper::{Sweeper, Swept};
