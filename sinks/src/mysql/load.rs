//! LOAD DATA LOCAL fed while rows are made: a task holds the session and sends what comes over a bounded
//! channel. LOCAL turns errors into warnings, so the counts it ends with have to be right.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{BoxStream, poll_fn};
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

/// Text is sent once there is so much of it: large enough that a packet costs nothing beside its rows.
const CHUNK_BYTES: usize = 256 * 1024;

/// What a piece may take, so that a chunk with its last row usually is one piece.
const PIECE_BYTES_MAX: usize = CHUNK_BYTES * 5 / 4;

/// Pieces that may wait for the server; with the one being filled, about 1 MiB for each delivery, and one row more.
const PIECES_WAITING_MAX: usize = 3;

const ACTION: &str = "load the rows";

/// A LOAD DATA that runs.
pub(crate) struct Load {
    buffer: Vec<u8>,
    /// Bytes of one piece; each is a packet, and the server refuses packets that are larger than it allows.
    piece_bytes: usize,
    pieces: mpsc::Sender<Bytes>,
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
        let piece_bytes = PIECE_BYTES_MAX.min(session.max_allowed_packet / 2).max(1);
        let (pieces, received) = mpsc::channel(PIECES_WAITING_MAX);
        let task = AbortOnDropHandle::new(tokio::spawn(run(session, sql, received)));
        Self { buffer: Vec::with_capacity(PIECE_BYTES_MAX), piece_bytes, pieces, task, patience }
    }

    /// Encodes rows and hands them on; waits while the server is behind. An error of the statement
    /// itself is told by [`Load::finish`]: `false` says that it has ended and takes no more.
    pub(crate) async fn write(&mut self, columns: &[Cells<'_>], rows: Range<usize>) -> Result<bool> {
        let mut at = rows.start;
        while at < rows.end {
            at = text::push_rows(&mut self.buffer, columns, at..rows.end, CHUNK_BYTES);
            if self.buffer.len() >= CHUNK_BYTES && !self.send().await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends the buffer, in pieces that may split a row: the server reads them as one text.
    async fn send(&mut self) -> Result<bool> {
        let next = Vec::with_capacity(PIECE_BYTES_MAX);
        let mut rows = Bytes::from(std::mem::replace(&mut self.buffer, next));
        while !rows.is_empty() {
            let piece = rows.split_to(self.piece_bytes.min(rows.len()));
            match tokio::time::timeout(self.patience, self.pieces.send(piece)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(false),
                Err(_) => {
                    let message = format!("no row taken within {} s", self.patience.as_secs());
                    return Err(later(ACTION, message));
                }
            }
        }
        Ok(true)
    }

    /// Sends what is left, ends the text, waits for the counts.
    pub(crate) async fn finish(mut self) -> Result<(Session, Result<Loaded>)> {
        if !self.buffer.is_empty() {
            self.send().await?;
        }
        let Self { pieces, task, patience, .. } = self;
        drop(pieces);
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
    let pieces = poll_fn(move |context| received.poll_recv(context)).map(Ok).boxed();
    let pieces: Pieces = Arc::new(Mutex::new(Some(pieces)));
    let conn = session.conn();
    let asked = Arc::clone(&pieces);
    conn.set_infile_handler(async move {
        take(&asked).ok_or_else(|| mysql_async::LocalInfileError::NoHandler.into())
    });
    let ended = Ok(conn.query_drop(sql).await);
    // A server that refuses the statement never asks for the rows, and the client keeps what would hand them over:
    // dropped here, they tell the sender of the rows that the statement has ended.
    drop(take(&pieces));
    let outcome = match refusal(&ended) {
        Some(refused) => session.leave(ACTION, Ok(Ok(()))).map(|()| Loaded::Refused(refused)),
        None => match session.leave(ACTION, ended) {
            Ok(()) => count(&mut session).await,
            Err(error) => Err(error),
        },
    };
    (session, outcome)
}

/// The text of the rows, until the server asks for it.
type Pieces = Arc<Mutex<Option<BoxStream<'static, std::io::Result<Bytes>>>>>;

fn take(pieces: &Pieces) -> Option<BoxStream<'static, std::io::Result<Bytes>>> {
    pieces.lock().unwrap_or_else(PoisonError::into_inner).take()
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
