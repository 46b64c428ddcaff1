//! Bounds of the processor, each with its reason; the settings fill them in.

use std::path::PathBuf;
use std::time::Duration;

/// Bounds of one processor process.
#[derive(Debug, Clone)]
pub struct ProcessorLimits {
    /// Jobs worked on at once; each holds one database connection and one decoding thread.
    pub concurrency: usize,
    /// Bytes that SQL steps of all jobs may hold together before they spill to disk.
    pub memory_bytes: usize,
    /// Where SQL steps spill and programs work; the system's folder for temporary files when `None`.
    pub spill_dir: Option<PathBuf>,
    /// A heartbeat is written at a third of this; a job whose lease passed is put back by the sweeper.
    pub lease: Duration,
    /// How long running jobs may go on after a stop was asked for, before they are handed back.
    pub drain_grace: Duration,
    /// Rows of a batch: large enough to amortise a batch's cost, small enough for the caches.
    pub batch_rows: usize,
    /// Longest record in bytes; a longer one becomes a reject and is never held in memory.
    pub record_bytes_max: usize,
    /// Largest JSON document, which is held whole to find its records; each running job may hold one.
    pub document_bytes_max: usize,
    /// Bytes of a reject's raw text that are kept.
    pub raw_bytes_max: usize,
    /// Most rows of a table that a reference or an SQL step looks into; they are held in memory.
    pub lookup_rows_max: usize,
    /// The binary whose hidden command runs a program under its limits, see [`crate::confine`].
    pub launcher: PathBuf,
}

impl Default for ProcessorLimits {
    fn default() -> Self {
        Self {
            concurrency: 4,
            memory_bytes: 128 << 20,
            spill_dir: None,
            lease: Duration::from_secs(30),
            drain_grace: Duration::from_secs(25),
            batch_rows: 8_192,
            record_bytes_max: 1 << 20,
            document_bytes_max: 64 << 20,
            raw_bytes_max: 64 << 10,
            lookup_rows_max: 2_000_000,
            launcher: std::env::current_exe().unwrap_or_else(|_| "tidemill".into()),
        }
    }
}

/// Batches between two stages: enough to keep both busy, few enough to bound memory.
pub(crate) const BATCHES_BETWEEN_STAGES: usize = 2;
/// Chunks of an object read ahead of the decoder.
pub(crate) const CHUNKS_READ_AHEAD: usize = 4;
/// Tries of one attempt after errors that call for a retry at once, such as deadlocks.
pub(crate) const RETRIES_AT_ONCE_MAX: u32 = 5;
/// First and longest pause before a retry after an error of the world.
pub(crate) const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
