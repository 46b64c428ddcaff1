//! Turns: jobs of one pipeline that run in the order of their arrival, one after the other.
//!
//! Every change of whose turn it is (a job lands, is claimed, ends, is retried by hand) locks the pipeline's row of
//! `tidemill_turns` first. So these changes happen one after the other: the numbers of arrival are in the order of
//! the commits, no two jobs are claimed at once, and no job waits unheard for one that has just ended.

use sqlx::{Any, Transaction};
use tidemill_pipelines::PipelineName;

use super::outbox::{OutboxRow, Place, insert_event};
use super::rows::{COLUMNS, Stored, micros};
use super::write::{Write, query, values};
use super::{Dialect, JobStore, now};
use crate::{Event, Job, Result};

/// SQLite needs no lock: it has one writer at a time.
const LOCK_ON_MYSQL: &str =
    "INSERT INTO tidemill_turns (pipeline) VALUES (?) ON DUPLICATE KEY UPDATE pipeline = pipeline";

/// What stands before a job: one that arrived earlier and waits, or any that runs.
macro_rules! earlier {
    () => {
        "SELECT arrival FROM tidemill_jobs WHERE pipeline = ? AND takes_turns = 1 \
         AND (status = 'processing' OR (status = 'queued' AND arrival < ?)) LIMIT 1"
    };
}

/// Ends the condition of a claim. The inner LIMIT keeps MySQL from merging the question into the UPDATE of the same
/// table, which it refuses.
const IS_NEXT: &str = concat!(" AND NOT EXISTS (SELECT 1 FROM (", earlier!(), ") AS earlier)");

/// The turns that a change is about.
#[derive(Debug)]
pub(super) struct Turns {
    pipeline: PipelineName,
    /// Whether the next job is announced.
    pub calls_next: bool,
}

impl Write {
    /// A change of a job that waits for its turn from now on.
    pub fn taking_turns(mut self, job: &Job) -> Self {
        self.turns = job.takes_turns.then(|| Turns { pipeline: job.pipeline.clone(), calls_next: false });
        self
    }

    /// A claim that holds only when it is the job's turn.
    pub fn in_turn(mut self, job: &Job, arrival: i64) -> Self {
        self.statement.to_mut().push_str(IS_NEXT);
        self.values.extend(values![job.pipeline.as_str(), arrival]);
        self.taking_turns(job)
    }

    /// The end of a job: the next one of its pipeline is announced in the same transaction.
    pub fn calling_next(mut self, job: &Job) -> Self {
        self.turns = job.takes_turns.then(|| Turns { pipeline: job.pipeline.clone(), calls_next: true });
        self
    }
}

impl JobStore {
    /// Whether it is the job's turn, asked without a lock: most claims of jobs that wait end here.
    pub(super) async fn is_next(&self, job: &Job, arrival: i64) -> Result<bool> {
        let values = values![job.pipeline.as_str(), arrival];
        Ok(self.rows("look for earlier jobs", earlier!(), values).await?.is_empty())
    }
}

impl Turns {
    pub async fn lock(&self, dialect: Dialect, transaction: &mut Transaction<'_, Any>) -> sqlx::Result<()> {
        if dialect == Dialect::MySql {
            let lock = query(LOCK_ON_MYSQL, values![self.pipeline.as_str()]);
            lock.execute(&mut **transaction).await?;
        }
        Ok(())
    }

    /// Writes the event of the job whose turn it is now, to be published once its time has come.
    pub async fn call_next(
        &self,
        transaction: &mut Transaction<'_, Any>,
        place: Option<&Place>,
    ) -> sqlx::Result<Option<OutboxRow>> {
        let statement = format!(
            "SELECT {COLUMNS} FROM tidemill_jobs WHERE pipeline = ? AND status = 'queued' AND takes_turns = 1 \
             ORDER BY arrival LIMIT 1"
        );
        let found =
            query(&statement, values![self.pipeline.as_str()]).fetch_optional(&mut **transaction).await?;
        let Some(next) = found.as_ref().map(Stored::from_row).transpose()? else {
            return Ok(None);
        };
        let now = now();
        let row = OutboxRow::new(&Event::landed(&next.job, now), micros(next.state.not_before.max(now)))?;
        let row = row.leased_for(place.filter(|_| next.state.not_before <= now));
        insert_event(&row).execute(&mut **transaction).await?;
        Ok(Some(row))
    }
}
