//! Fetching from a real HTTP server on this machine, with a real job store (SQLite) and a folder of objects:
//! each page once, and one job over all, or a run that failed in words.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod guard;
mod pages;
mod place;
mod trouble;
