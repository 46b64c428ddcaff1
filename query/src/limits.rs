//! Every bound of queries in one place, each with its reason. The settings give some of them, the rest are constants.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest text of a statement, in bytes: 64 KiB. Programs write long lists, but no person and no program needs more.
pub const SQL_BYTES_MAX: usize = 64 << 10;
/// Most bytes of all parameters of a statement: 1 MiB.
pub const PARAMETER_BYTES_MAX: usize = 1 << 20;
/// Most parameters of a statement; Postgres has 65,535.
pub const PARAMETERS_MAX: usize = 1_000;
/// Most operators and set operations of a statement: each may be one level of recursion in the engine, and the time to plan
/// a chain grows with the square of its length.
pub(crate) const OPERATORS_MAX: usize = 300;
/// Deepest nesting of brackets, subqueries and calls; the engine's own default.
pub(crate) const NESTING_MAX: usize = 50;
/// Most tables named in a statement, each time counted: each may be a connection and a level of recursion.
pub(crate) const RELATIONS_MAX: usize = 100;
/// Most values of an IN list that the database looks for; longer ones are looked for here.
pub(crate) const LITERALS_MAX: usize = 100;
/// Statements that one worker answers before another takes its place: nothing can pile up in it.
pub(crate) const STATEMENTS_PER_WORKER: u32 = 100;
/// Bytes of an answer that travel in one frame; a pipe of Linux holds as many.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;
/// Longest frame that either side takes: a statement with its parameters and grants, or a wide schema.
pub(crate) const FRAME_BYTES_MAX: usize = 4 << 20;
/// Stack of each thread of a worker: room for the recursion that the bounds above allow, in a debug build too.
pub(crate) const STACK_BYTES: usize = 16 << 20;
/// Threads of a worker for files and names.
pub(crate) const BLOCKING_THREADS: usize = 4;
/// Open files of a worker: pipes, connections, files of a lake.
pub(crate) const FILES_MAX: u64 = 256;
/// Largest file that a worker may write. It writes none of its own; SQLite keeps its shared memory in one.
pub(crate) const FILE_BYTES_MAX: u64 = 16 << 20;
/// How long a worker may outlive its deadline when nobody reads its answer and kills it.
pub(crate) const OVERTIME: Duration = Duration::from_secs(1);
/// Part of the memory that the engine accounts for; the rest is for what it does not account for.
pub(crate) const POOL_PERCENT: u64 = 60;
/// Rows of one batch, as the sinks give them.
pub(crate) const BATCH_ROWS: usize = 8_192;
/// Jobs whose rejects one statement reads: each is a file of the object store.
pub(crate) const REJECT_FILES_MAX: usize = 1_000;
/// Connections of one worker to the database; a statement needs one for each of its tables that are read at once.
pub(crate) const CONNECTIONS_MAX: usize = 16;

/// The bounds that an installation chooses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryLimits {
    /// A statement, from its worker's start on it to the last byte of its answer: 30 s.
    pub timeout: Duration,
    /// Memory of one worker beyond what it has at its start: 512 MiB. The kernel refuses more.
    pub memory_bytes: u64,
    /// Statements at once: 4; as many workers, each with its memory.
    pub statements_max: usize,
    /// Statements of one user at once: 2, so that one user leaves room for others.
    pub statements_per_user_max: usize,
    /// How long a statement waits for a place: 5 s; a dashboard asks more at once than may run.
    pub queue_wait: Duration,
    /// Workers kept ready: 1; a new one needs tens of milliseconds.
    pub warm: usize,
    /// Threads of one worker: 2.
    pub threads: usize,
}

impl QueryLimits {
    /// CPU time of a worker: what its threads can use until the deadline, twice, for statements before this one.
    pub(crate) fn cpu_seconds(&self) -> u64 {
        (self.timeout.as_secs() + 1) * (self.threads as u64 + 1) * 2
    }

    /// Time on statements after which a worker is replaced, so that the next one has at least half of the above.
    pub(crate) fn worn_after(&self) -> Duration {
        self.timeout / 2
    }
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            memory_bytes: 512 << 20,
            statements_max: 4,
            statements_per_user_max: 2,
            queue_wait: Duration::from_secs(5),
            warm: 1,
            threads: 2,
        }
    }
}
