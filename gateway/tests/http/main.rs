//! The HTTP surface on a real listener, with a real job store (SQLite) and a real folder of objects:
//! each route's answer and each of its refusals.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod access;
mod delayed;
mod jobs;
mod support;
mod surface;
mod uploads;
