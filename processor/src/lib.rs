//! Processor: one job from event to commit.
//!
//! `serve.rs` takes events, `attempt.rs` claims and ends a job, `run.rs` reads as the story of one attempt;
//! each stage it names has its file.

mod artifacts;
mod attempt;
pub mod confine;
mod csv_file;
pub mod decode;
mod deliver;
mod engine;
mod error;
mod exact;
mod files;
mod intake;
mod ledger;
mod lengths;
mod limits;
mod local;
mod lookups;
mod metrics;
mod origins;
mod plan;
mod read;
mod refuse;
mod reject_file;
mod report;
mod run;
mod serve;
mod steps;
mod verify;

pub use artifacts::Artifact;
pub use engine::Engine;
pub use error::{Error, Result};
pub use files::{MadeFile, ProgramFault, find_program, run_local_file};
pub use intake::TakeReject;
pub use ledger::SinkLedger;
pub use limits::ProcessorLimits;
pub use local::{LocalFile, LocalRun, run_local};
pub use lookups::Lookups;
pub use metrics::Metrics;
pub use plan::{Plan, check_pipeline, plan};
pub use report::{Report, TableRows};
pub use serve::{GROUP, ProcessorParts, serve};
pub use verify::{Verification, verify};
