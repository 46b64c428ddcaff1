//! Sinks: where results go. Tables of MySQL or SQLite with the ledger that makes a write happen once,
//! and notices by mail and webhook. Knows nothing of HTTP servers and of the broker.

mod error;
pub mod notice;
mod table;

pub use error::{Error, Result};
pub use table::{
    CommitKey, Delivery, LedgerRow, Opened, Sink, TableColumn, TablePlan, TableState,
};
