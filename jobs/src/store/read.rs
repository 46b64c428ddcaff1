//! Questions to the store: one job, pages of jobs, what waits.

use std::collections::HashSet;

use sqlx::Row;
use sqlx::any::AnyRow;
use tidemill_pipelines::PipelineName;

use super::connect::failed;
use super::outbox::marks;
use super::rows::{COLUMNS, Stored, micros};
use super::write::{Value, query, values};
use super::{JobFilter, JobPage, JobStore, OwnJobs, QueueStats, now};
use crate::{Error, Job, JobId, JobStatus, Result};

/// The largest page of jobs.
const PAGE_MAX: u32 = 1_000;
/// Ids in one question, as of [`JobStore::owners_of_objects`].
pub(super) const IDS_MAX: usize = 500;

impl JobStore {
    /// One job.
    pub async fn get(&self, job: JobId) -> Result<Option<Job>> {
        Ok(self.stored(job).await?.map(|stored| stored.job))
    }

    /// A page of jobs, the newest first.
    pub async fn list(&self, filter: &JobFilter) -> Result<JobPage> {
        let limit = filter.limit.clamp(1, PAGE_MAX);
        let Some((conditions, mut values)) = conditions(filter)? else {
            return Ok(JobPage { jobs: Vec::new(), next_cursor: None });
        };
        values.push(Value::from(limit + 1));
        let statement =
            format!("SELECT {COLUMNS} FROM tidemill_jobs WHERE {conditions} ORDER BY arrival DESC LIMIT ?");
        let mut found = self.find("list jobs", &statement, values).await?;
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let next_cursor = found.last().filter(|_| more).map(|last| last.arrival.to_string());
        Ok(JobPage { jobs: found.into_iter().map(|stored| stored.job).collect(), next_cursor })
    }

    /// Those of `ids` to which objects belong: jobs that have some, and runs under way, whose pages are there before
    /// the job that will have the run's id. One statement sees both tables at one instant, so a run that completes
    /// meanwhile is found as one or the other; two questions would miss it.
    pub async fn owners_of_objects(&self, ids: &[JobId]) -> Result<HashSet<JobId>> {
        let question = "SELECT job_id FROM tidemill_jobs WHERE files <> '[]' AND job_id IN ({ids}) UNION \
            SELECT run_id FROM tidemill_slots WHERE status = 'running' AND run_id IN ({ids})";
        self.ids_among(question, ids).await
    }

    /// The ids that a question finds among these, which take the place of `{ids}` in it.
    pub(super) async fn ids_among(&self, question: &str, ids: &[JobId]) -> Result<HashSet<JobId>> {
        let mut found = HashSet::new();
        for ids in ids.chunks(IDS_MAX) {
            let statement = question.replace("{ids}", &marks(ids.len()));
            let places = question.matches("{ids}").count();
            let values = (0..places).flat_map(|_| ids).map(|id| Value::from(id.to_string())).collect();
            for row in self.rows("look for jobs", &statement, values).await? {
                let id: String = row.try_get(0).map_err(failed("look for jobs"))?;
                found.extend(id.parse::<JobId>().ok());
            }
        }
        Ok(found)
    }

    /// What waits, for metrics.
    pub async fn queue_stats(&self) -> Result<QueueStats> {
        const ACTION: &str = "count jobs";
        let statement = "SELECT status, COUNT(*), MIN(created_at) FROM tidemill_jobs GROUP BY status";
        let mut stats =
            QueueStats { jobs: JobStatus::ALL.map(|status| (status, 0)).to_vec(), ..QueueStats::default() };
        for row in self.rows(ACTION, statement, values![]).await? {
            add_status(&mut stats, &row).map_err(failed(ACTION))?;
        }
        (stats.outbox_length, stats.dead_letters) = self.outbox_lengths().await?;
        Ok(stats)
    }

    pub(crate) async fn stored(&self, job: JobId) -> Result<Option<Stored>> {
        let statement = format!("SELECT {COLUMNS} FROM tidemill_jobs WHERE job_id = ?");
        Ok(self.find("read a job", &statement, values![job.to_string()]).await?.pop())
    }

    pub(super) async fn find(
        &self,
        action: &'static str,
        statement: &str,
        values: Vec<Value>,
    ) -> Result<Vec<Stored>> {
        let rows = self.rows(action, statement, values).await?;
        rows.iter().map(Stored::from_row).collect::<sqlx::Result<_>>().map_err(failed(action))
    }

    pub(super) async fn rows(
        &self,
        action: &'static str,
        statement: &str,
        values: Vec<Value>,
    ) -> Result<Vec<AnyRow>> {
        self.bounded(query(statement, values).fetch_all(&self.pool)).await.map_err(failed(action))
    }
}

/// The WHERE clause of a filter and its values; `None` when no job can match.
fn conditions(filter: &JobFilter) -> Result<Option<(String, Vec<Value>)>> {
    let cursor = match &filter.cursor {
        Some(cursor) => cursor.parse::<i64>().map_err(|_| Error::Malformed {
            what: "the cursor",
            message: "it is not one that a page of jobs gave".to_owned(),
        })?,
        None => i64::MAX,
    };
    let mut conditions = vec!["arrival < ?".to_owned()];
    let mut values = values![cursor];
    if !filter.statuses.is_empty() {
        let statuses = filter.statuses.iter().map(|status| status.as_str());
        conditions.push(any_of("status", statuses, &mut values));
    }
    if let Some(names) = &filter.pipelines {
        let Some(condition) = pipelines(names, filter.own.as_ref(), &mut values) else {
            return Ok(None);
        };
        conditions.push(condition);
    }
    if let Some(sender) = &filter.sender {
        conditions.push(any_of("sender", [sender.as_str()], &mut values));
    }
    Ok(Some((conditions.join(" AND "), values)))
}

/// Jobs of these pipelines, or of others when they are the sender's own; `None` when there are neither.
fn pipelines(names: &[PipelineName], own: Option<&OwnJobs>, values: &mut Vec<Value>) -> Option<String> {
    let mut ways = Vec::new();
    if !names.is_empty() {
        ways.push(any_of("pipeline", names.iter().map(PipelineName::as_str), values));
    }
    match own {
        Some(OwnJobs { sender, pipelines: None }) => ways.push(any_of("sender", [sender.as_str()], values)),
        Some(OwnJobs { sender, pipelines: Some(names) }) if !names.is_empty() => {
            let sender = any_of("sender", [sender.as_str()], values);
            let names = any_of("pipeline", names.iter().map(PipelineName::as_str), values);
            ways.push(format!("({sender} AND {names})"));
        }
        _ => {}
    }
    (!ways.is_empty()).then(|| format!("({})", ways.join(" OR ")))
}

/// One of these texts, at least one.
fn any_of<'a>(column: &str, texts: impl IntoIterator<Item = &'a str>, values: &mut Vec<Value>) -> String {
    let before = values.len();
    values.extend(texts.into_iter().map(Value::from));
    format!("{column} IN ({})", marks(values.len() - before))
}

fn add_status(stats: &mut QueueStats, row: &AnyRow) -> sqlx::Result<()> {
    let status: String = row.try_get(0)?;
    let count: i64 = row.try_get(1)?;
    let oldest: i64 = row.try_get(2)?;
    let status = JobStatus::parse(&status);
    for (known, number) in &mut stats.jobs {
        if Some(*known) == status {
            *number = count.unsigned_abs();
        }
    }
    if status == Some(JobStatus::Queued) {
        stats.oldest_queued_age_seconds = (micros(now()) - oldest).max(0) as f64 / 1e6;
    }
    Ok(())
}
