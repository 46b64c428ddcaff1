//! Sinks: where results go. Tables of MySQL or SQLite and of the lake, with the ledger that makes a write
//! happen once, and notices by mail and webhook. Knows nothing of HTTP servers and of the broker.

mod builder;
mod cells;
mod connect;
mod error;
mod lake;
mod mysql;
pub mod notice;
mod plan;
mod selection;
mod sinks;
mod sqlite;
mod table;

pub use connect::{SinkLimits, connect, connect_read_only};
pub use error::{Error, Result};
pub use lake::{Lake, LakeLimits, made_day_column};
pub use mysql::MySqlSink;
pub use plan::{PlanProblem, plan_problems};
pub use selection::{Comparison, Filter, Literal, Selection};
pub use sinks::Sinks;
pub use sqlite::SqliteSink;
pub use table::{
    Commit, CommitKey, Delivery, LedgerRow, Place, RefusedRow, Sink, TableColumn, TablePlan, TableState,
};
