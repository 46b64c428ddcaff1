//! One worker process, seen from its parent. Dropped, it is killed.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use std::{env, io};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio_util::task::AbortOnDropHandle;

use crate::frames::{self, Kind};
use crate::limits::{CHUNK_BYTES, STATEMENTS_PER_WORKER};
use crate::{Code, Error, QueryLimits, Refusal};

/// The hidden command of the binary.
const COMMAND: &str = "__query-worker";
/// What a worker is given of the environment: how to reach and trust servers. Everything else may be a secret.
const PASSED_ON: [&str; 7] = ["AWS_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "TMPDIR", "LANG"];
/// How much of what a worker says before it dies is kept.
const LAST_WORDS_BYTES: usize = 4 << 10;
/// How long a worker that closed its pipe may take to die.
const DYING: Duration = Duration::from_secs(2);
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;
const SIGXCPU: i32 = 24;

/// A worker process with its pipes.
pub(crate) struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// What it said on stderr, once it has ended.
    words: AbortOnDropHandle<Vec<u8>>,
    statements: u32,
    used: Duration,
}

impl Process {
    pub(crate) fn spawn(program: &Path) -> io::Result<Self> {
        let passed_on = env::vars_os().filter(|(name, _)| {
            let name = name.to_string_lossy().to_uppercase();
            PASSED_ON.iter().any(|prefix| name.starts_with(prefix))
        });
        let mut child = Command::new(program)
            .arg(COMMAND)
            .env_clear()
            .envs(passed_on)
            // glibc keeps an arena for each thread, which counts as memory whether it is used or not.
            .env("MALLOC_ARENA_MAX", "2")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (stdin, stdout) = pipes.ok_or_else(|| io::Error::other("it has no pipes"))?;
        let stdout = BufReader::with_capacity(CHUNK_BYTES, stdout);
        let stderr = child.stderr.take().ok_or_else(|| io::Error::other("it has no stderr"))?;
        let words = AbortOnDropHandle::new(tokio::spawn(last_words(stderr)));
        Ok(Self { child, stdin, stdout, words, statements: 0, used: Duration::ZERO })
    }

    pub(crate) async fn send(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        frames::send(&mut self.stdin, kind, payload).await
    }

    pub(crate) async fn receive(&mut self) -> io::Result<(Kind, Bytes)> {
        frames::receive(&mut self.stdout).await
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Counts a statement; tells whether the worker may take another.
    pub(crate) fn is_fresh_after(&mut self, used: Duration, worn_after: Duration) -> bool {
        self.statements += 1;
        self.used += used;
        self.statements < STATEMENTS_PER_WORKER && self.used < worn_after && self.is_alive()
    }

    /// What the death of a worker in mid-statement means.
    pub(crate) async fn obituary(mut self, limits: &QueryLimits) -> Error {
        let Self { child, words, .. } = &mut self;
        let dying = async {
            let words = words.await.unwrap_or_default();
            child.wait().await.map(|status| (status, words))
        };
        match tokio::time::timeout(DYING, dying).await {
            Ok(Ok((status, words))) => meaning(status, &String::from_utf8_lossy(&words), limits),
            Ok(Err(error)) => failed("end", &error),
            Err(_) => Error::Worker { message: "it closed its pipe and did not end".to_owned() },
        }
    }
}

/// Reads what a worker says until it ends, and keeps the last of it: a full pipe would stop the worker.
async fn last_words(mut stderr: ChildStderr) -> Vec<u8> {
    let mut words = Vec::new();
    loop {
        if words.len() > LAST_WORDS_BYTES {
            words.drain(..words.len() - LAST_WORDS_BYTES);
        }
        match stderr.read_buf(&mut words).await {
            Ok(0) | Err(_) => return words,
            Ok(_) => {}
        }
    }
}

fn meaning(status: ExitStatus, words: &str, limits: &QueryLimits) -> Error {
    let stack = words.contains("overflowed its stack");
    match status.signal() {
        Some(SIGABRT | SIGSEGV) if stack => {
            let message = "the statement is too complex; write it with fewer levels and operators";
            Error::Refused(Refusal::new(Code::TooComplex, message))
        }
        // What a refused allocation ends in: `memory allocation of n bytes failed`, or a null in a C library; a kernel
        // that is short of memory kills.
        Some(SIGABRT | SIGSEGV | SIGKILL) => Error::Memory { mebibytes: limits.memory_bytes >> 20 },
        Some(SIGXCPU) => Error::Cpu,
        _ => Error::Worker { message: format!("it ended with {status}: {}", words.trim()) },
    }
}

/// A worker that could not do something.
pub(crate) fn failed(what: &str, error: &io::Error) -> Error {
    Error::Worker { message: format!("it did not {what}: {error}") }
}
