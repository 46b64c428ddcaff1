//! Notices: who is still to be told of the end of a job, one row for each notice, claimed like a job.
//!
//! The notifier writes the rows of an end in one transaction before it acks the event, so the log never waits for a
//! receiver. A row is claimed by a compare-and-set on `tries` and held by a lease; who loses sees it and lets go. A
//! row whose lease has passed is due again, so another notifier takes it over. Called by the role `notifier`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::any::AnyRow;
use tidemill_pipelines::PipelineName;

use super::change::span;
use super::connect::failed;
use super::rows::{micros, parsed};
use super::write::{Value, Write, values};
use super::{JobStore, now};
use crate::{FinishedData, JobId, Result};

/// Rows deleted in one statement: on SQLite it holds up other writers.
const FORGET_MAX: u32 = 10_000;
/// Characters that are kept of an error.
const ERROR_CHARS_MAX: usize = 2_000;
/// Characters of a receiver; the column holds as many.
const RECEIVER_CHARS_MAX: usize = 300;

const INSERT: &str = "INSERT INTO tidemill_notices (job_id, ended_at, number, pipeline, kind, receiver, status, \
    tries, not_before, told) VALUES (?, ?, ?, ?, ?, ?, 'waiting', 0, ?, ?)";
/// Round by round, one row of each pipeline and receiver, so that a long row of one holds up no other.
const DUE: &str = "SELECT notice_id, receiver, tries FROM (SELECT notice_id, receiver, tries, not_before, \
    ROW_NUMBER() OVER (PARTITION BY receiver, pipeline ORDER BY not_before, notice_id) AS turn \
    FROM tidemill_notices WHERE status = 'waiting' AND not_before <= ?) AS due \
    ORDER BY turn, not_before, notice_id LIMIT ?";
const CLAIM: &str = "UPDATE tidemill_notices SET tries = tries + 1, not_before = ? \
    WHERE notice_id = ? AND status = 'waiting' AND tries = ? AND not_before <= ?";
const CLAIMED: &str = "SELECT notice_id, job_id, ended_at, number, pipeline, kind, receiver, tries, told, progress \
    FROM tidemill_notices WHERE notice_id = ? AND tries = ? AND status = 'waiting'";
const HOLD: &str = "UPDATE tidemill_notices SET not_before = ? \
    WHERE notice_id = ? AND status = 'waiting' AND tries = ?";
const DELAY: &str = "UPDATE tidemill_notices SET not_before = ?, progress = ?, error = ? \
    WHERE notice_id = ? AND status = 'waiting' AND tries = ?";
const END: &str = "UPDATE tidemill_notices SET status = ?, done_at = ?, error = ?, told = NULL, progress = NULL \
    WHERE notice_id = ? AND status = 'waiting' AND tries = ?";
const FORGET: &str = "DELETE FROM tidemill_notices WHERE notice_id IN (SELECT notice_id FROM \
    (SELECT notice_id FROM tidemill_notices WHERE done_at <= ? LIMIT ?) AS old)";

/// A notice to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNotice {
    /// 0-based place among the notices of the pipeline file.
    pub number: u32,
    /// `email` or `webhook`.
    pub kind: &'static str,
    /// Who has to take it: `mail`, or scheme, host and port of a webhook.
    pub receiver: String,
}

/// A notice whose time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueNotice {
    /// Its row.
    pub id: i64,
    /// Who has to take it.
    pub receiver: String,
    /// How often it was claimed so far.
    pub tries: u32,
}

/// The right to send a notice: valid as long as the row's `tries` are the claim's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeClaim {
    /// Its row.
    pub id: i64,
    /// 1 for the first try.
    pub tries: u32,
    /// The job that is told of.
    pub job_id: JobId,
    /// When the job ended.
    pub ended_at: DateTime<Utc>,
    /// 0-based place among the notices of the pipeline file.
    pub number: u32,
    /// The pipeline of the job.
    pub pipeline: PipelineName,
    /// `email` or `webhook`.
    pub kind: String,
    /// Who has to take it.
    pub receiver: String,
    /// The end of the job as it is told, as it was written.
    pub told: String,
    /// Which recipients have it already, as it was written after the last try.
    pub progress: Option<String>,
}

/// How a notice ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeEnd {
    /// All recipients have it.
    Sent,
    /// A recipient refused it for good.
    Refused,
    /// Nobody took it until its age limit.
    GivenUp,
}

impl NoticeEnd {
    /// Every end.
    pub const ALL: [NoticeEnd; 3] = [NoticeEnd::Sent, NoticeEnd::Refused, NoticeEnd::GivenUp];

    /// The word of the table and of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            NoticeEnd::Sent => "sent",
            NoticeEnd::Refused => "refused",
            NoticeEnd::GivenUp => "given_up",
        }
    }
}

/// What waits, for metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NoticeStats {
    /// Notices that wait, by kind.
    pub waiting: Vec<(String, u64)>,
    /// Age of the oldest in seconds, since its job ended; 0 when none waits.
    pub oldest_age_seconds: f64,
}

impl JobStore {
    /// Writes the notices of an end, in one transaction. False when those of this end were written before, and then
    /// nothing is written.
    pub async fn add_notices(
        &self,
        finished: &FinishedData,
        told: &str,
        notices: &[NewNotice],
    ) -> Result<bool> {
        let insert = |notice: &NewNotice| {
            values![
                finished.job_id.to_string(),
                micros(finished.finished_at),
                notice.number,
                finished.pipeline.as_str(),
                notice.kind,
                notice.receiver.chars().take(RECEIVER_CHARS_MAX).collect::<String>(),
                micros(now()),
                told,
            ]
        };
        let Some((first, others)) = notices.split_first() else { return Ok(false) };
        let write = Write::new(INSERT, insert(first));
        let write = others.iter().fold(write, |write, notice| write.and(INSERT, insert(notice)));
        match self.try_commit(&write).await {
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
            done => done.map_err(failed("write notices")),
        }
    }

    /// Notices that are due at `now`, at most `limit`: first the oldest of each pipeline and receiver, then their
    /// second, and so on.
    pub async fn due_notices(&self, now: DateTime<Utc>, limit: u32) -> Result<Vec<DueNotice>> {
        const ACTION: &str = "look for notices";
        let rows = self.rows(ACTION, DUE, values![micros(now), limit]).await?;
        rows.iter().map(due).collect::<sqlx::Result<_>>().map_err(failed(ACTION))
    }

    /// Takes a due notice for as long as `lease`; `None` when another was quicker.
    pub async fn claim_notice(&self, due: &DueNotice, lease: Duration) -> Result<Option<NoticeClaim>> {
        const ACTION: &str = "claim a notice";
        let at = now();
        let values = values![micros(at + span(lease)), due.id, due.tries, micros(at)];
        if self.execute(ACTION, CLAIM, values).await? == 0 {
            return Ok(None);
        }
        let rows = self.rows(ACTION, CLAIMED, values![due.id, due.tries + 1]).await?;
        rows.first().map(claimed).transpose().map_err(failed(ACTION))
    }

    /// Says that the notice is still being sent; false when it is no longer the claim's.
    pub async fn hold_notice(&self, claim: &NoticeClaim, lease: Duration) -> Result<bool> {
        let values = values![micros(now() + span(lease)), claim.id, claim.tries];
        Ok(self.execute("hold a notice", HOLD, values).await? > 0)
    }

    /// Has a notice tried again, not before a time. False when it is no longer the claim's.
    pub async fn delay_notice(
        &self,
        claim: &NoticeClaim,
        not_before: DateTime<Utc>,
        progress: Option<String>,
        error: &str,
    ) -> Result<bool> {
        let values = values![micros(not_before), progress, cut(error), claim.id, claim.tries];
        Ok(self.execute("delay a notice", DELAY, values).await? > 0)
    }

    /// Ends a notice; `error` is empty when it was sent. False when it is no longer the claim's.
    pub async fn end_notice(&self, claim: &NoticeClaim, end: NoticeEnd, error: &str) -> Result<bool> {
        let error = (!error.is_empty()).then(|| cut(error));
        let values = values![end.as_str(), micros(now()), error, claim.id, claim.tries];
        Ok(self.execute("end a notice", END, values).await? > 0)
    }

    /// Forgets notices that ended before a time; how many, at most some thousands at once.
    pub async fn forget_notices(&self, before: DateTime<Utc>) -> Result<u64> {
        self.execute("forget old notices", FORGET, values![micros(before), FORGET_MAX]).await
    }

    /// What waits, for metrics.
    pub async fn notice_stats(&self) -> Result<NoticeStats> {
        const ACTION: &str = "count notices";
        let statement = "SELECT kind, COUNT(*), MIN(ended_at) FROM tidemill_notices \
            WHERE status = 'waiting' GROUP BY kind";
        let mut stats = NoticeStats::default();
        for row in self.rows(ACTION, statement, Vec::<Value>::new()).await? {
            let counted = || Ok((row.try_get(0)?, row.try_get::<i64, _>(1)?, row.try_get::<i64, _>(2)?));
            let (kind, count, oldest) = counted().map_err(failed(ACTION))?;
            stats.waiting.push((kind, count.unsigned_abs()));
            let age = (micros(now()) - oldest).max(0) as f64 / 1e6;
            stats.oldest_age_seconds = stats.oldest_age_seconds.max(age);
        }
        Ok(stats)
    }
}

fn cut(error: &str) -> String {
    error.chars().take(ERROR_CHARS_MAX).collect()
}

fn due(row: &AnyRow) -> sqlx::Result<DueNotice> {
    let tries = row.try_get::<i64, _>(2)?;
    Ok(DueNotice { id: row.try_get(0)?, receiver: row.try_get(1)?, tries: number(tries) })
}

fn claimed(row: &AnyRow) -> sqlx::Result<NoticeClaim> {
    Ok(NoticeClaim {
        id: row.try_get("notice_id")?,
        tries: number(row.try_get("tries")?),
        job_id: parsed(row, "job_id")?,
        ended_at: DateTime::from_timestamp_micros(row.try_get("ended_at")?).unwrap_or_default(),
        number: number(row.try_get("number")?),
        pipeline: parsed(row, "pipeline")?,
        kind: row.try_get("kind")?,
        receiver: row.try_get("receiver")?,
        told: row.try_get::<Option<String>, _>("told")?.unwrap_or_default(),
        progress: row.try_get("progress")?,
    })
}

fn number(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
