//! Collections: which jobs' reports are collected together, so that each is collected once.
//!
//! What belongs to a collection is fixed in one transaction; then its reports are copied, which may be done any number
//! of times; a second transaction ends it and makes its jobs `downloaded`. Who dies in between leaves a
//! collection that another takes up with the same jobs.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use sqlx::Row;
use sqlx::any::AnyRow;
use tidemill_pipelines::PipelineName;
use uuid::Uuid;

use super::change::span;
use super::connect::failed;
use super::rows::{COLUMNS, micros};
use super::write::{Write, values};
use super::{JobStore, now};
use crate::{Job, Result};

/// How long who took up a collection has it to itself. Two at the same would do no harm, only the work twice.
const LEASE: Duration = Duration::from_secs(60);
/// How long a collection that could not be copied waits, so that the others come first.
const PUT_OFF: Duration = Duration::from_secs(30);
/// Jobs of one collection at most; the next one takes the others.
const JOBS_MAX: u32 = 10_000;

const TAKE_JOBS: &str = "UPDATE tidemill_jobs SET collection_id = ? WHERE status = 'success' \
    AND collection_id IS NULL AND job_id IN (SELECT job_id FROM (SELECT job_id FROM tidemill_jobs \
    WHERE pipeline = ? AND status = 'success' AND collection_id IS NULL AND finished_at <= ? \
    ORDER BY arrival LIMIT ?) AS picked)";
const BEGIN: &str = "INSERT INTO tidemill_collections (collection_id, pipeline, slot, folder, lease_until) \
    VALUES (?, ?, ?, ?, ?)";
const TAKE_UP: &str = "UPDATE tidemill_collections SET lease_until = ? \
    WHERE collection_id = ? AND finished_at IS NULL AND lease_until = ?";
const RELEASE: &str = "UPDATE tidemill_collections SET lease_until = ? WHERE collection_id = ?";
const END: &str =
    "UPDATE tidemill_collections SET finished_at = ? WHERE collection_id = ? AND finished_at IS NULL";
const DOWNLOADED: &str =
    "UPDATE tidemill_jobs SET status = 'downloaded' WHERE collection_id = ? AND status = 'success'";

/// Reports that are collected together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    /// Its id.
    pub id: String,
    /// The pipeline of its jobs.
    pub pipeline: PipelineName,
    /// The time of the schedule, or when it was asked for by hand.
    pub slot: DateTime<Utc>,
    /// The folder of the object store that it goes to.
    pub folder: String,
}

impl JobStore {
    /// Fixes which jobs belong to the collection of a slot: those of the pipeline that succeeded until then and belong
    /// to none. `None` when there are none, or the collection of that slot was begun before.
    pub async fn begin_collection(
        &self,
        pipeline: &PipelineName,
        slot: DateTime<Utc>,
        folder: &str,
    ) -> Result<Option<Collection>> {
        const ACTION: &str = "begin a collection";
        let slot = slot.trunc_subsecs(6);
        let id = Uuid::now_v7().to_string();
        let jobs = values![id.as_str(), pipeline.as_str(), micros(slot), JOBS_MAX];
        let lease_until = micros(now() + span(LEASE));
        let row = values![id.as_str(), pipeline.as_str(), micros(slot), folder, lease_until];
        match self.try_commit(&Write::new(TAKE_JOBS, jobs).and(BEGIN, row)).await {
            Ok(true) => {
                let (pipeline, folder) = (pipeline.clone(), folder.to_owned());
                Ok(Some(Collection { id, pipeline, slot, folder }))
            }
            Ok(false) => Ok(None),
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(None),
            Err(error) => Err(failed(ACTION)(error)),
        }
    }

    /// Takes up collections that were begun and not ended: those whose lease has passed at `then`, at most `limit`. Who
    /// looks ahead of the time takes what others may still have in hand; the new lease begins now all the same.
    pub async fn take_up_collections(&self, then: DateTime<Utc>, limit: u32) -> Result<Vec<Collection>> {
        const ACTION: &str = "look for collections";
        let statement = "SELECT collection_id, pipeline, slot, folder, lease_until FROM tidemill_collections \
            WHERE finished_at IS NULL AND lease_until <= ? ORDER BY lease_until, slot LIMIT ?";
        let lease_until = micros(now() + span(LEASE));
        let mut taken = Vec::new();
        for row in self.rows(ACTION, statement, values![micros(then), limit]).await? {
            let (collection, lease) = from_row(&row).map_err(failed(ACTION))?;
            let values = values![lease_until, collection.id.as_str(), lease];
            if self.execute("take up a collection", TAKE_UP, values).await? > 0 {
                taken.push(collection);
            }
        }
        Ok(taken)
    }

    /// The jobs of a collection, in the order of arrival.
    pub async fn jobs_of_collection(&self, collection: &Collection) -> Result<Vec<Job>> {
        let statement =
            format!("SELECT {COLUMNS} FROM tidemill_jobs WHERE collection_id = ? ORDER BY arrival");
        let found = self.find("read a collection", &statement, values![collection.id.as_str()]).await?;
        Ok(found.into_iter().map(|stored| stored.job).collect())
    }

    /// Ends a collection whose reports are copied: its jobs are `downloaded`. False when it had ended before.
    pub async fn end_collection(&self, collection: &Collection) -> Result<bool> {
        let id = collection.id.as_str();
        let write = Write::new(END, values![micros(now()), id]).and(DOWNLOADED, values![id]);
        self.commit("end a collection", &write).await
    }

    /// Puts a collection off that could not be copied: it is taken up again in half a minute, after those that waited longer.
    pub async fn release_collection(&self, collection: &Collection) -> Result<()> {
        let values = values![micros(now() + span(PUT_OFF)), collection.id.as_str()];
        self.execute("release a collection", RELEASE, values).await.map(drop)
    }
}

fn from_row(row: &AnyRow) -> sqlx::Result<(Collection, i64)> {
    let bad = |error: Box<dyn std::error::Error + Send + Sync>| sqlx::Error::Decode(error);
    let slot: i64 = row.try_get("slot")?;
    let collection = Collection {
        id: row.try_get("collection_id")?,
        pipeline: row.try_get::<String, _>("pipeline")?.parse().map_err(|error| bad(Box::new(error)))?,
        slot: DateTime::from_timestamp_micros(slot).ok_or_else(|| bad("a slot is out of range".into()))?,
        folder: row.try_get("folder")?,
    };
    Ok((collection, row.try_get("lease_until")?))
}
