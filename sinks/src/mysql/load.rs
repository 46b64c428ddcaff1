//! LOAD DATA LOCAL fed while rows are made: a task holds the session and sends what comes over a bounded
//! channel. LOCAL turns errors into warnings, so the counts it ends with have to be right.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::poll_fn;
use mysql_async::prelude::Queryable;
use tidemill_pipelines::Mode;
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use super::ddl::quoted;
use super::errors::later;
use super::session::{Session, refusal};
use super::text;
use crate::cells::Cells;
use crate::{Result, TablePlan};

/// Text is sent in pieces of about this size: large enough that a packet costs nothing beside its rows.
const CHUNK_BYTES: usize = 256 * 1024;

/// Pieces that may wait for the server; with the one being filled, about 1 MiB for each delivery.
const CHUNKS_WAITING_MAX: usize = 3;

/// Rows encoded before the piece's size is looked at.
const ROWS_A_LOOK: usize = 64;

const ACTION: &str = "load the rows";

/// A LOAD DATA that runs.
pub(crate) struct Load {
    buffer: Vec<u8>,
    chunks: mpsc::Sender<Bytes>,
    task: AbortOnDropHandle<(Session, Result<Loaded>)>,
    patience: Duration,
}

/// How a LOAD DATA ended.
pub(crate) enum Loaded {
    /// So many rows were taken as they are.
    Rows(u64),
    /// A row was changed or refused, in the server's words.
    Refused(String),
}

impl Load {
    /// Starts the statement; rows follow.
    pub(crate) fn start(session: Session, table: &str, plan: &TablePlan, staged: bool) -> Self {
        let sql = statement(table, plan, staged);
        let patience = session.statement_timeout();
        let (chunks, received) = mpsc::channel(CHUNKS_WAITING_MAX);
        let task = AbortOnDropHandle::new(tokio::spawn(run(session, sql, received)));
        Self { buffer: Vec::with_capacity(CHUNK_BYTES * 5 / 4), chunks, task, patience }
    }

    /// Encodes rows and hands them on; waits while the server is behind. An error of the statement
    /// itself is told by [`Load::finish`]: `false` says that it has ended and takes no more.
    pub(crate) async fn write(&mut self, columns: &[Cells<'_>], rows: Range<usize>) -> Result<bool> {
        let mut at = rows.start;
        while at < rows.end {
            let end = (at + ROWS_A_LOOK).min(rows.end);
            text::push_rows(&mut self.buffer, columns, at..end);
            at = end;
            if self.buffer.len() >= CHUNK_BYTES && !self.send().await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn send(&mut self) -> Result<bool> {
        let next = Vec::with_capacity(CHUNK_BYTES * 5 / 4);
        let chunk = Bytes::from(std::mem::replace(&mut self.buffer, next));
        match tokio::time::timeout(self.patience, self.chunks.send(chunk)).await {
            Ok(sent) => Ok(sent.is_ok()),
            Err(_) => Err(later(ACTION, format!("no row taken within {} s", self.patience.as_secs()))),
        }
    }

    /// Sends what is left, ends the text, waits for the counts.
    pub(crate) async fn finish(mut self) -> Result<(Session, Result<Loaded>)> {
        if !self.buffer.is_empty() {
            self.send().await?;
        }
        let Self { chunks, task, patience, .. } = self;
        drop(chunks);
        match tokio::time::timeout(patience, task).await {
            Ok(ended) => ended.map_err(|error: JoinError| later(ACTION, error.to_string())),
            Err(_) => Err(later(ACTION, format!("no answer within {} s", patience.as_secs()))),
        }
    }
}

fn statement(table: &str, plan: &TablePlan, staged: bool) -> String {
    // Within the rows of one delivery the last of a key wins an upsert.
    let replace = if staged || plan.mode == Mode::Upsert { "REPLACE " } else { "" };
    format!(
        "LOAD DATA LOCAL INFILE 'rows' {replace}INTO TABLE `{table}` CHARACTER SET utf8mb4 \
         FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' ({})",
        quoted(plan.columns.iter().map(|c| c.name.as_str()))
    )
}

async fn run(
    mut session: Session,
    sql: String,
    mut received: mpsc::Receiver<Bytes>,
) -> (Session, Result<Loaded>) {
    if let Err(error) = session.enter(ACTION) {
        return (session, Err(error));
    }
    let chunks = poll_fn(move |context| received.poll_recv(context)).map(Ok).boxed();
    let conn = session.conn();
    let chunks = std::sync::Mutex::new(Some(chunks));
    conn.set_infile_handler(async move {
        let taken = chunks.lock().ok().and_then(|mut chunks| chunks.take());
        taken.ok_or_else(|| mysql_async::LocalInfileError::NoHandler.into())
    });
    let ended = Ok(conn.query_drop(sql).await);
    let outcome = match refusal(&ended) {
        Some(refused) => session.leave(ACTION, Ok(Ok(()))).map(|()| Loaded::Refused(refused)),
        None => match session.leave(ACTION, ended) {
            Ok(()) => count(&mut session).await,
            Err(error) => Err(error),
        },
    };
    (session, outcome)
}

async fn count(session: &mut Session) -> Result<Loaded> {
    let (records, warnings) = counts(&session.conn().info());
    if warnings == 0 {
        return Ok(Loaded::Rows(records));
    }
    let message = session.warning().await?.unwrap_or_default();
    Ok(Loaded::Refused(format!("{message} ({warnings} warnings)")))
}

/// The counts in `Records: 3  Deleted: 0  Skipped: 1  Warnings: 1`; a text without them counts as none
/// read and one warning, which nobody takes for success.
fn counts(info: &str) -> (u64, u64) {
    let after = |word: &str| {
        let rest = info.split_once(word)?.1.trim_start();
        rest.split(' ').next()?.parse::<u64>().ok()
    };
    let skipped = after("Skipped:").unwrap_or(1);
    (after("Records:").unwrap_or(0), after("Warnings:").unwrap_or(1).max(skipped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_and_a_text_without_them_is_no_success() {
        assert_eq!(counts("Records: 336776  Deleted: 0  Skipped: 0  Warnings: 0"), (336_776, 0));
        assert_eq!(counts("Records: 3  Deleted: 0  Skipped: 1  Warnings: 2"), (3, 2));
        assert_eq!(counts("Records: 3  Deleted: 0  Skipped: 1  Warnings: 0"), (3, 1));
        assert_eq!(counts(""), (0, 1));
    }
}
