//! SQL over the results: catalog, worker processes with their limits, the Postgres wire. Knows nothing of uploads.
//!
//! A statement passes: [`Workers::run`] (a place, a warm worker) → the worker process ([`serve_worker`]): `read` the
//! text, refuse what does not only read, plan it over the `catalog` of the user, run it, encode it → [`Answer`], a
//! stream of bytes or batches. Dropped at any point, the worker is killed.

mod answer;
mod catalog;
mod error;
mod frames;
mod limits;
mod metrics;
pub mod scram;
mod statement;
pub mod wire;
mod worker;
mod workers;

pub use answer::Answer;
pub use catalog::Visible;
pub use error::{Code, Error, Position, Refusal, Result};
pub use limits::{QueryLimits, SQL_BYTES_MAX};
pub use metrics::Metrics;
pub use statement::{Description, Flavour, Format, Parameter, Statement};
pub use worker::{OpenObjects, serve_worker};
pub use workers::{Places, Workers};
