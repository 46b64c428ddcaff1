//! Verify: counts a job again from its object, its rejects and the ledger, and says where they differ.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::ObjectStore;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tidemill_jobs::{Counts, Job, JobId, JobStatus};
use tidemill_pipelines::{Format, Pipeline, PipelineSet};
use tidemill_sinks::{LedgerRow, Sink};

use crate::artifacts::{Artifact, artifact_key, names};
use crate::error::{Error, Result};
use crate::limits::ProcessorLimits;
use crate::local::run_pieces;
use crate::lookups::Lookups;
use crate::read::{read_object, read_objects};
use crate::report::Report;

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// The job.
    pub job_id: JobId,
    /// Its status.
    pub status: JobStatus,
    /// The counts of the job table.
    pub recorded: Counts,
    /// Records found by decoding the object again.
    pub records_in_object: u64,
    /// Records in the rejects object.
    pub records_in_rejects: u64,
    /// Rows in the ledger, by table.
    pub rows_in_ledger: Vec<(String, u64)>,
    /// The files that were made, as they are in the object store.
    pub artifacts: Vec<Artifact>,
    /// What does not fit; empty when everything does.
    pub differences: Vec<String>,
}

impl Verification {
    /// Whether everything fits.
    pub fn holds(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Counts a job again. Reads only.
pub async fn verify(
    job: &Job,
    pipeline: &Pipeline,
    set: &PipelineSet,
    objects: &Arc<dyn ObjectStore>,
    sink: &Arc<dyn Sink>,
    limits: &ProcessorLimits,
) -> Result<Verification> {
    let ledger = sink.ledger(&job.job_id.to_string()).await?;
    let mut found = Verification {
        job_id: job.job_id,
        status: job.status,
        recorded: job.counts,
        records_in_object: 0,
        records_in_rejects: 0,
        rows_in_ledger: rows_by_table(&ledger),
        artifacts: Vec::new(),
        differences: Vec::new(),
    };
    let succeeded = matches!(job.status, JobStatus::Success | JobStatus::Downloaded);
    if succeeded && pipeline.format == Format::File {
        verify_artifacts(&mut found, job, objects).await?;
        return Ok(found);
    }
    match job.status {
        JobStatus::Success | JobStatus::Downloaded => {
            let committed = ledger.iter().map(|row| row.key.attempt).max();
            let Some(attempt) =
                committed.or_else(|| reported_attempt(job).filter(|_| !writes_tables(pipeline)))
            else {
                found.differences.push("the ledger has no commit of this job".to_owned());
                return Ok(found);
            };
            let report = Report::read(objects, job.job_id, attempt).await?;
            found.records_in_rejects = match &report.rejects_file_path {
                Some(key) => count_lines(objects, key).await?,
                None => 0,
            };
            found.records_in_object = count_records(job, pipeline, set, objects, limits).await?;
            compare(&mut found, &report);
            verify_artifacts(&mut found, job, objects).await?;
        }
        _ if !ledger.is_empty() => {
            found.differences.push("the job did not succeed, yet the ledger has a commit of it".to_owned());
        }
        _ => {}
    }
    Ok(found)
}

/// Rows of each table, over all chunks; a job that writes no table has a row that counts none.
fn rows_by_table(ledger: &[LedgerRow]) -> Vec<(String, u64)> {
    let mut tables = BTreeMap::new();
    for row in ledger.iter().filter(|row| row.sink != LedgerRow::FILES) {
        *tables.entry(row.sink.clone()).or_default() += row.rows;
    }
    tables.into_iter().collect()
}

/// Reads the artifacts of the report again, and compares sizes and hashes.
async fn verify_artifacts(found: &mut Verification, job: &Job, objects: &Arc<dyn ObjectStore>) -> Result<()> {
    let Some(key) = job.report_file_path.clone() else {
        found.differences.push("the job has no report".to_owned());
        return Ok(());
    };
    let report = Report::read_from(objects, key).await?;
    for told in &report.artifacts {
        match read_again(objects, job.job_id, report.attempt, &told.name).await? {
            Some(artifact) => {
                if artifact != *told {
                    found
                        .differences
                        .push(format!("the file `{}` is not the one that the report tells of", told.name));
                }
                found.artifacts.push(artifact);
            }
            None => found.differences.push(format!("the file `{}` is missing", told.name)),
        }
    }
    if names(&report.artifacts) != job.artifacts {
        found.differences.push("the job and its report tell of different files".to_owned());
    }
    Ok(())
}

async fn read_again(
    objects: &Arc<dyn ObjectStore>,
    job: JobId,
    attempt: u32,
    name: &str,
) -> Result<Option<Artifact>> {
    let mut stream = read_object(Arc::clone(objects), artifact_key(job, attempt, name));
    let (mut hash, mut size_bytes) = (Sha256::new(), 0);
    loop {
        match stream.try_next().await {
            Ok(Some(chunk)) => {
                hash.update(&chunk);
                size_bytes += chunk.len() as u64;
            }
            Ok(None) => break,
            Err(Error::Objects { source: object_store::Error::NotFound { .. }, .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(Artifact { name: name.to_owned(), size_bytes, content_sha256: hex::encode(hash.finalize()) }))
}

fn writes_tables(pipeline: &Pipeline) -> bool {
    pipeline.tables().chain(pipeline.lake_tables()).next().is_some()
}

/// The attempt that the job table says ended the job: jobs of older versions that wrote no table have no ledger row.
fn reported_attempt(job: &Job) -> Option<u32> {
    job.report_file_path.as_deref()?.rsplit('/').nth(1)?.parse().ok()
}

fn compare(found: &mut Verification, report: &Report) {
    let recorded = found.recorded;
    let mut differ = |what: &str, left: u64, right: u64| {
        if left != right {
            found.differences.push(format!("{what}: {left} and {right}"));
        }
    };
    differ("records in the object and in the job table", found.records_in_object, recorded.records_in);
    differ(
        "records in the rejects and in the job table",
        found.records_in_rejects,
        recorded.records_rejected,
    );
    differ(
        "records in and written + rejected + filtered",
        recorded.records_in,
        recorded.records_written + recorded.records_rejected + recorded.records_filtered,
    );
    for (table, rows) in &found.rows_in_ledger {
        differ(&format!("rows of `{table}` in the ledger and in the report"), *rows, report.rows_out);
    }
    let missing = report
        .tables
        .iter()
        .filter(|told| !found.rows_in_ledger.iter().any(|(sink, _)| table_of(sink) == told.table));
    for table in missing {
        found.differences.push(format!("the ledger has no commit for table `{}`", table.table));
    }
}

/// The table that a sink of the ledger names, in the database or in the lake.
fn table_of(sink: &str) -> &str {
    sink.rsplit(':').next().unwrap_or(sink)
}

/// Decodes the object again, without look-ups: only records are counted.
async fn count_records(
    job: &Job,
    pipeline: &Pipeline,
    set: &PipelineSet,
    objects: &Arc<dyn ObjectStore>,
    limits: &ProcessorLimits,
) -> Result<u64> {
    let mut bare = pipeline.clone();
    bare.steps.clear();
    bare.sinks.clear();
    bare.parameters.clear();
    bare.columns.iter_mut().for_each(|column| column.references = None);
    let input = read_objects(Arc::clone(objects), job);
    let lookups = Lookups::Memory(Default::default());
    let ran = run_pieces(&bare, set, &lookups, limits, input, &mut |_| Ok(()), Box::new(|_| Ok(()))).await?;
    Ok(ran.counts.records_in)
}

/// Records of a CSV object, without its header.
async fn count_lines(objects: &Arc<dyn ObjectStore>, key: &str) -> Result<u64> {
    let mut stream = read_object(Arc::clone(objects), key.to_owned());
    let mut parser = csv_core::ReaderBuilder::new().build();
    let (mut output, mut ends) = (vec![0; 64 << 10], [0; 256]);
    let mut records = 0_u64;
    let mut feed = |mut input: &[u8]| loop {
        let (result, read, _, _) = parser.read_record(input, &mut output, &mut ends);
        input = &input[read..];
        match result {
            csv_core::ReadRecordResult::Record => records += 1,
            csv_core::ReadRecordResult::InputEmpty | csv_core::ReadRecordResult::End => return,
            csv_core::ReadRecordResult::OutputFull | csv_core::ReadRecordResult::OutputEndsFull => {}
        }
    };
    while let Some(chunk) = stream.try_next().await? {
        feed(&chunk);
    }
    feed(&[]);
    records.checked_sub(1).ok_or(Error::Broken("the rejects object"))
}
