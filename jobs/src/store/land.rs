//! Landing a job: its row and its `landed` event in one transaction; what came before is found by unique keys.

use sqlx::Row;
use tidemill_pipelines::Duplicates;

use super::connect::failed;
use super::outbox::marks;
use super::read::IDS_MAX;
use super::rows::{COLUMNS, Stored, micros, to_json};
use super::write::{Value, Write, values};
use super::{JobStore, Landed, NewJob, now};
use crate::{Counts, Error, Event, Job, JobStatus, Result};

/// How often landing starts over because the job that stood in its way was gone when it looked.
const ROUNDS: u32 = 4;
/// Longest text that is part of a unique key, in characters; the columns hold as many.
const KEY_CHARS_MAX: usize = 190;

const INSERT: &str = "INSERT INTO tidemill_jobs (job_id, pipeline, status, attempt, retries, put_backs, \
    created_at, not_before, wake_at, wakes, files, file_name, size_bytes, content_sha256, parameters, \
    takes_turns, last_wins, sender, idempotency_key, duplicates, dedupe_key, records_in, records_written, \
    records_rejected, records_filtered) VALUES (?, ?, ?, 0, 0, 0, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0)";

/// The keys of a pipeline lie between `name:` and `name;`, so the unique index finds the few that are set.
const SUPERSEDE: &str = "UPDATE tidemill_jobs SET dedupe_key = NULL \
    WHERE dedupe_key > ? AND dedupe_key < ? AND job_id <> ?";

impl JobStore {
    /// Makes a job, or finds the one that the same upload made before. When it fails with
    /// [`Error::Database`] the job may have been made all the same: its objects must be left to the sweeper of
    /// objects without a job. Landing the same [`NewJob`] again is safe.
    pub async fn land(&self, new: NewJob) -> Result<Landed> {
        check_length("idempotency key", new.idempotency_key.as_deref())?;
        check_length("sender", Some(&new.sender))?;
        let mut rounds = 0;
        loop {
            let (job, write) = self.landing(&new)?;
            let error = match self.try_commit(&write).await {
                Ok(_) => return Ok(Landed::New(job)),
                Err(error) => error,
            };
            let taken = matches!(&error, sqlx::Error::Database(error) if error.is_unique_violation());
            if !taken || rounds >= ROUNDS {
                return Err(failed("land a job")(error));
            }
            if let Some(landed) = self.came_before(&new).await? {
                return Ok(landed);
            }
            rounds += 1;
        }
    }

    /// A job and the change that lands it, for who lands it together with something else.
    pub(super) fn landing(&self, new: &NewJob) -> Result<(Job, Write)> {
        let job = job(new);
        let write = self.insert(new, &job)?;
        Ok((job, write))
    }

    fn insert(&self, new: &NewJob, job: &Job) -> Result<Write> {
        let created_at = micros(job.created_at);
        let files = to_json(&new.files).map_err(failed("land a job"))?;
        let parameters = (!new.parameters.is_empty()).then(|| to_json(&new.parameters)).transpose();
        let parameters = parameters.map_err(failed("land a job"))?;
        let duplicates = match new.duplicates {
            Duplicates::First => "first",
            Duplicates::Accept => "accept",
        };
        let values = values![
            job.job_id.to_string(),
            job.pipeline.as_str(),
            job.status.as_str(),
            created_at,
            created_at,
            created_at + self.wake_after_micros(),
            files,
            job.file_name.clone(),
            i64::try_from(job.size_bytes).unwrap_or(i64::MAX),
            job.content_sha256.as_str(),
            parameters,
            i64::from(job.takes_turns),
            i64::from(new.last_wins),
            job.sender.as_str(),
            new.idempotency_key.clone(),
            duplicates,
            dedupe_key(job, new.duplicates),
        ];
        let mut write = Write::new(INSERT, values).telling(Event::landed(job, job.created_at));
        if !new.pushed.is_empty() {
            let rows = vec!["(?, ?)"; new.pushed.len()].join(", ");
            let job_id = job.job_id.to_string();
            let values = new.pushed.iter().flat_map(|id| values![id.as_str(), job_id.as_str()]).collect();
            write =
                write.and(format!("INSERT INTO tidemill_pushed (object_id, job_id) VALUES {rows}"), values);
        }
        let write = if new.last_wins { write.superseding(job) } else { write };
        Ok(write.taking_turns(job))
    }

    /// The job that stands in the way of `new`, if it still does.
    async fn came_before(&self, new: &NewJob) -> Result<Option<Landed>> {
        if let Some(found) = self.found("job_id = ?", values![new.job_id.to_string()]).await? {
            return Ok(Some(Landed::New(found.job)));
        }
        if let Some(key) = &new.idempotency_key {
            let values = values![new.sender.as_str(), new.pipeline.as_str(), key.as_str()];
            let found = self.found("sender = ? AND pipeline = ? AND idempotency_key = ?", values).await?;
            match found {
                Some(Stored { job, .. }) if is_repeated(&job, new) => {
                    return Ok(Some(Landed::Duplicate(job)));
                }
                Some(_) => return Err(Error::IdempotencyConflict { key: key.clone() }),
                None => {}
            }
        }
        if let Some((object_id, job_id)) = self.pushed(&new.pushed).await?.into_iter().next() {
            return Err(Error::ObjectTaken { object_id, job_id });
        }
        match dedupe_key(&job(new), new.duplicates) {
            Some(key) => Ok(self
                .found("dedupe_key = ?", values![key])
                .await?
                .map(|found| Landed::Duplicate(found.job))),
            None => Ok(None),
        }
    }

    /// Those of these pushed objects that a job took, with their jobs.
    pub async fn pushed(&self, object_ids: &[String]) -> Result<Vec<(String, String)>> {
        const ACTION: &str = "look for pushed objects";
        let mut found = Vec::new();
        for ids in object_ids.chunks(IDS_MAX) {
            let statement = format!(
                "SELECT object_id, job_id FROM tidemill_pushed WHERE object_id IN ({})",
                marks(ids.len())
            );
            let values = ids.iter().map(|id| Value::from(id.as_str())).collect();
            for row in self.rows(ACTION, &statement, values).await? {
                let pair = row.try_get(0).and_then(|object| Ok((object, row.try_get(1)?)));
                found.push(pair.map_err(failed(ACTION))?);
            }
        }
        Ok(found)
    }

    async fn found(&self, condition: &str, values: Vec<Value>) -> Result<Option<Stored>> {
        let statement = format!("SELECT {COLUMNS} FROM tidemill_jobs WHERE {condition}");
        Ok(self.find("look for an earlier job", &statement, values).await?.pop())
    }

    pub(super) fn wake_after_micros(&self) -> i64 {
        i64::try_from(self.limits.wake_after.as_micros()).unwrap_or(i64::MAX / 4)
    }
}

impl Write {
    /// From now on the contents of all other jobs of the pipeline are no duplicates any more: where the last file
    /// wins, the same content as an older one undoes what came in between.
    pub(super) fn superseding(self, job: &Job) -> Self {
        let (from, to) = (format!("{}:", job.pipeline), format!("{};", job.pipeline));
        self.and(SUPERSEDE, values![from, to, job.job_id.to_string()])
    }
}

/// Whether the request that made the job is the same again; an upload has no parameters of its own.
fn is_repeated(job: &Job, new: &NewJob) -> bool {
    job.content_sha256 == new.content_sha256 && (new.pushed.is_empty() || job.parameters == new.parameters)
}

/// What an upload with the same content is found by.
pub(super) fn dedupe_key(job: &Job, duplicates: Duplicates) -> Option<String> {
    match duplicates {
        Duplicates::First => Some(format!("{}:{}", job.pipeline, job.content_sha256)),
        Duplicates::Accept => None,
    }
}

fn job(new: &NewJob) -> Job {
    Job {
        job_id: new.job_id,
        pipeline: new.pipeline.clone(),
        pipeline_version: None,
        status: JobStatus::Queued,
        retries: 0,
        created_at: now(),
        started_at: None,
        finished_at: None,
        files_to_process: new.files.clone(),
        file_name: new.file_name.clone(),
        size_bytes: new.size_bytes,
        content_sha256: new.content_sha256.clone(),
        parameters: new.parameters.clone(),
        report_file_path: None,
        artifacts: Vec::new(),
        sender: new.sender.clone(),
        counts: Counts::default(),
        error: None,
        attempt: 0,
        takes_turns: new.takes_turns,
    }
}

fn check_length(what: &'static str, text: Option<&str>) -> Result<()> {
    let length = text.map_or(0, |text| text.chars().count());
    if length > KEY_CHARS_MAX {
        return Err(Error::TooLong { what, length, limit: KEY_CHARS_MAX });
    }
    Ok(())
}
