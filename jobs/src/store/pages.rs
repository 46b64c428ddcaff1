//! The page ledger: which pages a run has, and what became of each. A page lands once.
//!
//! Every change is fenced by the run's slot in the same transaction, so a fetcher that was overtaken changes
//! nothing; the end of a run and the job over its pages are one transaction. Called by ingest's fetch.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::change::{ended, finishing};
use super::connect::failed;
use super::outbox::marks;
use super::rows::micros;
use super::slots::ending;
use super::write::{Value, Write, values};
use super::{Dialect, JobStore, NewJob, Outcome, SlotClaim, now};
use crate::{Counts, Job, JobError, JobId, JobStatus, Result};

/// Pages in one statement.
const CHUNK: usize = 200;
/// Rows that one call of [`JobStore::forget_pages`] deletes at most.
const FORGOTTEN_MAX: i64 = 10_000;

const LANDED: &str = "UPDATE tidemill_pages SET status = 'landed', object = ?, content_sha256 = ?, size_bytes = ?, \
    http_status = ?, attempts = ?, error = NULL, landed_at = ? WHERE run_id = ? AND number = ?";
const FAILED: &str = "UPDATE tidemill_pages SET status = 'failed', http_status = ?, attempts = ?, error = ? \
    WHERE run_id = ? AND number = ?";

/// A page of a run as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its place among the pages, from 0.
    pub number: u64,
    /// Where it is fetched.
    pub url: String,
    /// Hex SHA-256 of the URL.
    pub url_sha256: String,
    /// What was landed; `None` while it waits.
    pub landed: Option<LandedPage>,
}

/// A page that landed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LandedPage {
    /// Its place among the pages.
    pub number: u64,
    /// Key of its object; `None` when it holds no records.
    pub object: Option<String>,
    /// Hex SHA-256 of its bytes.
    pub content_sha256: String,
    /// Its bytes.
    pub size_bytes: u64,
    /// Status of the answer.
    pub http_status: u16,
    /// Requests that it took.
    pub attempts: u32,
}

/// Why a page could not be landed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedPage {
    /// Its place among the pages.
    pub number: u64,
    /// Status of the last answer, when there was one.
    pub http_status: Option<u16>,
    /// Requests that were made.
    pub attempts: u32,
    /// In words.
    pub error: String,
}

impl JobStore {
    /// The pages of a run, in order.
    pub async fn pages(&self, run: JobId) -> Result<Vec<Page>> {
        let statement = "SELECT number, url, url_sha256, status, object, content_sha256, size_bytes, http_status, \
            attempts FROM tidemill_pages WHERE run_id = ? ORDER BY number";
        let rows = self.rows("read pages", statement, values![run.to_string()]).await?;
        rows.iter().map(page_from_row).collect::<sqlx::Result<_>>().map_err(failed("read pages"))
    }

    /// Notes which pages were found and what landed, in one transaction. A page whose number or URL
    /// the run has already is left as it is. False when the run is no longer the claim's.
    pub async fn note_pages(&self, claim: &SlotClaim, landed: &[LandedPage], found: &[Page]) -> Result<bool> {
        let run = claim.run_id.to_string();
        let mut write = self.holding(claim);
        for pages in found.chunks(CHUNK) {
            write = write.and(self.insert_pages(pages.len()), page_values(&run, pages));
        }
        for page in landed {
            let mut values = values![page.object.clone(), page.content_sha256.as_str()];
            values.extend(values![i64::try_from(page.size_bytes).unwrap_or(i64::MAX)]);
            values.extend(values![u32::from(page.http_status), page.attempts, micros(now()), run.as_str()]);
            values.extend(values![page.number as i64]);
            write = write.and(LANDED, values);
        }
        self.commit("note pages", &write).await
    }

    /// Notes why a page could not be landed.
    pub async fn page_failed(&self, claim: &SlotClaim, page: &FailedPage) -> Result<bool> {
        let status = page.http_status.map(i64::from);
        let mut values = values![status, page.attempts, page.error.as_str()];
        values.extend(values![claim.run_id.to_string(), page.number as i64]);
        self.commit("note a failed page", &self.holding(claim).and(FAILED, values)).await
    }

    /// Completes a run: its slot is done and the job over its pages is made, with its event, in one transaction.
    /// The job's id is the run's. `None` when the run is no longer the claim's; a run that this very claim completed
    /// before gives its job.
    pub async fn complete_run(&self, claim: &SlotClaim, new: NewJob) -> Result<Option<Job>> {
        let (job, landing) = self.landing(&new)?;
        let write = Write {
            event: landing.event,
            turns: landing.turns,
            ..ending(claim, None).and(landing.statement, landing.values)
        };
        match self.commit("complete a run", &write).await? {
            true => Ok(Some(job)),
            // A run that another failed has a job, too, without objects.
            false => Ok(self.get(claim.run_id).await?.filter(|job| !job.files_to_process.is_empty())),
        }
    }

    /// Fails a run: its slot has failed, and a job that failed and has no objects is made, with its event, in one
    /// transaction. The job's id is the run's. False when the run is no longer the claim's.
    pub async fn fail_run(&self, claim: &SlotClaim, new: NewJob, error: JobError) -> Result<bool> {
        let (job, landing) = self.landing(&new)?;
        let slot = ending(claim, Some(&error.message));
        let job = ended(&job, Outcome::Failed { counts: Counts::default(), report: None, error });
        let end = finishing(&job, JobStatus::Queued)?;
        let write = Write {
            event: end.event,
            turns: landing.turns,
            ..slot.and(landing.statement, landing.values).and(end.statement, end.values)
        };
        if self.commit("fail a run", &write).await? {
            return Ok(true);
        }
        // Perhaps this very end was written before, and the answer was lost.
        Ok(self.get(claim.run_id).await?.is_some_and(|found| found.error == job.error))
    }

    /// Those of `runs` that are done and were taken over at least once: a former fetcher may have left pages that the
    /// run's job does not name.
    pub async fn runs_taken_over(&self, runs: &[JobId]) -> Result<HashSet<JobId>> {
        let question =
            "SELECT run_id FROM tidemill_slots WHERE status = 'done' AND attempt > 1 AND run_id IN ({ids})";
        self.ids_among(question, runs).await
    }

    /// Forgets the pages of runs that ended before `time`; gives how many. At most 10,000 in one call.
    pub async fn forget_pages(&self, time: DateTime<Utc>) -> Result<u64> {
        let old = "SELECT run_id FROM tidemill_slots WHERE status <> 'running' AND finished_at < ?";
        let statement = match self.dialect {
            Dialect::MySql => format!("DELETE FROM tidemill_pages WHERE run_id IN ({old}) LIMIT ?"),
            Dialect::Sqlite => format!(
                "DELETE FROM tidemill_pages WHERE rowid IN \
                 (SELECT rowid FROM tidemill_pages WHERE run_id IN ({old}) LIMIT ?)"
            ),
        };
        self.execute("forget pages", &statement, values![micros(time), FORGOTTEN_MAX]).await
    }

    /// The statement that adds pages and passes over those whose number or URL is there.
    fn insert_pages(&self, count: usize) -> String {
        let ignore = match self.dialect {
            Dialect::MySql => "IGNORE",
            Dialect::Sqlite => "OR IGNORE",
        };
        let rows = vec![format!("({}, 'waiting', 0, 0)", marks(4)); count].join(", ");
        format!(
            "INSERT {ignore} INTO tidemill_pages (run_id, number, url, url_sha256, status, size_bytes, attempts) \
             VALUES {rows}"
        )
    }
}

fn page_values(run: &str, pages: &[Page]) -> Vec<Value> {
    let row = |page: &Page| values![run, page.number as i64, page.url.as_str(), page.url_sha256.as_str()];
    pages.iter().flat_map(row).collect()
}

fn page_from_row(row: &AnyRow) -> sqlx::Result<Page> {
    let unsigned = |column| row.try_get::<i64, _>(column).map(i64::unsigned_abs);
    let number = unsigned("number")?;
    let landed = match row.try_get::<String, _>("status")?.as_str() {
        "landed" => Some(LandedPage {
            number,
            object: row.try_get("object")?,
            content_sha256: row.try_get::<Option<String>, _>("content_sha256")?.unwrap_or_default(),
            size_bytes: unsigned("size_bytes")?,
            http_status: row.try_get::<Option<i64>, _>("http_status")?.unwrap_or_default() as u16,
            attempts: unsigned("attempts")? as u32,
        }),
        _ => None,
    };
    Ok(Page { number, url: row.try_get("url")?, url_sha256: row.try_get("url_sha256")?, landed })
}
