//! Rows of the job table as values: the only place that knows its columns by name.

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::any::AnyRow;
use tidemill_pipelines::Duplicates;

use crate::life::State;
use crate::{Counts, Job, JobError, JobStatus};

/// Every column that [`Stored`] reads.
pub(super) const COLUMNS: &str = "arrival, job_id, pipeline, pipeline_version, status, attempt, retries, \
    put_backs, created_at, started_at, finished_at, not_before, deadline, lease_until, wake_at, wakes, files, \
    file_name, size_bytes, content_sha256, parameters, takes_turns, last_wins, sender, duplicates, report, records_in, \
    records_written, records_rejected, records_filtered, artifacts, error";

/// A job with what only the store needs to know of it.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub job: Job,
    pub arrival: i64,
    pub state: State,
    pub duplicates: Duplicates,
    pub last_wins: bool,
}

impl Stored {
    pub(super) fn from_row(row: &AnyRow) -> sqlx::Result<Self> {
        let job = job_from_row(row)?;
        let state = State {
            status: job.status,
            attempt: job.attempt,
            put_backs: unsigned(row, "put_backs")?,
            not_before: time(row, "not_before")?,
            deadline: optional_time(row, "deadline")?,
            lease_until: optional_time(row, "lease_until")?,
            wake_at: time(row, "wake_at")?,
            wakes: unsigned(row, "wakes")?,
        };
        let duplicates = match row.try_get::<String, _>("duplicates")?.as_str() {
            "accept" => Duplicates::Accept,
            _ => Duplicates::First,
        };
        let last_wins = row.try_get::<i64, _>("last_wins")? != 0;
        Ok(Self { job, arrival: row.try_get("arrival")?, state, duplicates, last_wins })
    }
}

fn job_from_row(row: &AnyRow) -> sqlx::Result<Job> {
    let status: String = row.try_get("status")?;
    let error: Option<String> = row.try_get("error")?;
    let artifacts: Option<String> = row.try_get("artifacts")?;
    let parameters: Option<String> = row.try_get("parameters")?;
    Ok(Job {
        job_id: parsed(row, "job_id")?,
        pipeline: parsed(row, "pipeline")?,
        pipeline_version: row.try_get("pipeline_version")?,
        status: JobStatus::parse(&status)
            .ok_or_else(|| bad("status", format!("unknown status `{status}`")))?,
        retries: unsigned(row, "retries")?,
        created_at: time(row, "created_at")?,
        started_at: optional_time(row, "started_at")?,
        finished_at: optional_time(row, "finished_at")?,
        files_to_process: json(row.try_get::<String, _>("files")?, "files")?,
        file_name: row.try_get("file_name")?,
        size_bytes: unsigned(row, "size_bytes")?,
        content_sha256: row.try_get("content_sha256")?,
        parameters: parameters.map(|text| json(text, "parameters")).transpose()?.unwrap_or_default(),
        report_file_path: row.try_get("report")?,
        artifacts: artifacts.map(|names| json(names, "artifacts")).transpose()?.unwrap_or_default(),
        sender: row.try_get("sender")?,
        counts: Counts {
            records_in: unsigned(row, "records_in")?,
            records_written: unsigned(row, "records_written")?,
            records_rejected: unsigned(row, "records_rejected")?,
            records_filtered: unsigned(row, "records_filtered")?,
        },
        error: error.map(|error| json::<JobError>(error, "error")).transpose()?,
        attempt: unsigned(row, "attempt")?,
        takes_turns: row.try_get::<i64, _>("takes_turns")? != 0,
    })
}

/// A time as the store keeps it: microseconds since 1970.
pub(crate) fn micros(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros()
}

/// Text of a list or an error as the store keeps it.
pub(super) fn to_json(value: &impl serde::Serialize) -> sqlx::Result<String> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

fn bad(column: &str, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::ColumnDecode { index: column.to_owned(), source: why.into() }
}

fn json<T: serde::de::DeserializeOwned>(text: String, column: &str) -> sqlx::Result<T> {
    serde_json::from_str(&text).map_err(|error| bad(column, error))
}

pub(super) fn parsed<T>(row: &AnyRow, column: &str) -> sqlx::Result<T>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    row.try_get::<String, _>(column)?.parse().map_err(|error| bad(column, Box::new(error)))
}

fn unsigned<T: TryFrom<i64>>(row: &AnyRow, column: &str) -> sqlx::Result<T> {
    let value: i64 = row.try_get(column)?;
    T::try_from(value).map_err(|_| bad(column, format!("{value} is out of range")))
}

fn time(row: &AnyRow, column: &str) -> sqlx::Result<DateTime<Utc>> {
    optional_time(row, column)?.ok_or_else(|| bad(column, "no time"))
}

fn optional_time(row: &AnyRow, column: &str) -> sqlx::Result<Option<DateTime<Utc>>> {
    let value: Option<i64> = row.try_get(column)?;
    let read = |value| {
        DateTime::from_timestamp_micros(value).ok_or_else(|| bad(column, format!("{value} is no time")))
    };
    value.map(read).transpose()
}
