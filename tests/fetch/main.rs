//! Fetching from a real HTTP server on this machine: by the crate ingest with a real job store and a folder of objects,
//! and by processes that are killed half-way. Each page once, and one job over all, or a run that failed in words.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
#[path = "../servers/databases.rs"]
mod databases;
mod guard;
mod pages;
mod place;
mod process;
mod rate;
mod trouble;
