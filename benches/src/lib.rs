//! What the measuring programs share: a database of their own on the test server, the flights file, figures.
//!
//! The programs are in `src/bin`; README.md tells what each measures. They read the variables that
//! `tests/servers/servers` gives.

pub mod database;
pub mod figures;
pub mod file;
pub mod plant;

use anyhow::{Context, Result};

/// A variable that the test servers give.
pub fn variable(name: &str) -> Result<String> {
    std::env::var(name)
        .with_context(|| format!("failed to read {name}: run this by `tests/servers/servers with …`"))
}

/// The folder of the workspace.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
