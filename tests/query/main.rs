//! SQL over the results: over HTTP on a running `tidemill dev`, hostile statements and their limits, and, on real
//! servers and SQLite, that the database never decides a row otherwise than the engine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

#[path = "../servers/databases.rs"]
mod databases;
mod exact;
mod hostile;
mod http;
mod lake;
mod place;
