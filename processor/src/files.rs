//! One attempt at a job of a pipeline of files: the story beside `run.rs`, for bytes that are no records.
//!
//! There is no table, but a ledger row all the same: the artifact of each attempt has a key of its own, and the row says
//! which attempt's counts. What an overtaken attempt leaves behind is never shown.

mod fault;
mod program;
mod workplace;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use chrono::Utc;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStore;
use tidemill_jobs::{Claim, Committed, Counts, Job};
use tidemill_pipelines::Pipeline;
use tokio::io::AsyncReadExt;

use crate::artifacts::{Artifact, ArtifactWriter, names};
use crate::deliver::{Begun, Deliveries};
use crate::error::{Error, Result};
use crate::limits::ProcessorLimits;
use crate::read::read_bytes;
use crate::report::Report;
use crate::run::{Ended, allows_empty};
use crate::serve::Shared;

pub use fault::ProgramFault;
pub use program::find_program;
pub(crate) use workplace::sweep;
use workplace::{Workplace, failed};

/// Bytes of one read of an output.
const CHUNK_BYTES: usize = 256 << 10;

/// Runs one attempt of a job.
pub(crate) async fn run(shared: &Shared, claim: &Claim, pipeline: &Pipeline) -> Result<Ended> {
    let (parts, job, attempt) = (&shared.parts, &claim.job, claim.attempt);
    let started = Instant::now();
    if job.files_to_process.len() > 1 {
        return Err(ProgramFault::ManyFiles { files: job.files_to_process.len() }.into());
    }
    let begun = Deliveries::begin(&parts.sink, &parts.objects, &[], job.job_id, attempt).await?;
    let deliveries = match begun {
        Begun::Committed(committed) => return Ok(Ended::Committed(committed)),
        Begun::Deliveries(deliveries) => deliveries,
    };
    let bytes = read_bytes(Arc::clone(&parts.objects), job);
    let made = make(pipeline, &parts.limits, bytes, file_name(job)).await?;
    shared.stage(pipeline, "program", started);

    let committing = Instant::now();
    let artifact = store(&parts.objects, job, attempt, &made).await?;
    let mut report = Report::new(job, attempt, &pipeline.version);
    report.started_at = Utc::now() - started.elapsed();
    report.artifacts = vec![artifact];
    let key = report.write(&parts.objects).await?;
    if !parts.jobs.heartbeat(claim).await? {
        return Err(Error::Overtaken);
    }
    let committed = Committed { counts: Counts::default(), report: key, artifacts: names(&report.artifacts) };
    let committed = deliveries.commit(&committed).await?;
    shared.stage(pipeline, "commit", committing);
    Ok(Ended::Committed(committed))
}

/// A file that programs made; it is there as long as this value.
pub struct MadeFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its name as an artifact.
    pub name: String,
    _workplace: Workplace,
}

/// One file without servers, for `tidemill run` and for the test cases of pipelines.
pub async fn run_local_file(
    pipeline: &Pipeline,
    limits: &ProcessorLimits,
    input: BoxStream<'static, std::io::Result<Bytes>>,
    file_name: Option<&str>,
) -> Result<MadeFile> {
    make(pipeline, limits, input.map_err(Error::from).boxed(), file_name).await
}

/// Fetches the input and runs the programs, one on the output of the other.
async fn make(
    pipeline: &Pipeline,
    limits: &ProcessorLimits,
    input: BoxStream<'static, Result<Bytes>>,
    file_name: Option<&str>,
) -> Result<MadeFile> {
    // Nothing is fetched or begun when one is missing.
    let paths = pipeline.programs.iter().map(find_program).collect::<Result<Vec<_>, _>>()?;
    let workplace = Workplace::make(limits.spill_dir.as_deref())?;
    let mut path = workplace.fetch(input, file_name).await?;
    if !allows_empty(pipeline) && size(&path).await? == 0 {
        return Err(Error::NoRecords { what_else: ": it is empty" });
    }
    let mut name = String::new();
    for (index, (program, binary)) in pipeline.programs.iter().zip(paths).enumerate() {
        name = program.output.of(file_name);
        let output = workplace.step(index)?.join(&name);
        program::run(program, &binary, &path, &output, &workplace, &limits.launcher).await?;
        path = output;
    }
    Ok(MadeFile { path, name, _workplace: workplace })
}

/// The sender's name for the file, else the one of its object.
fn file_name(job: &Job) -> Option<&str> {
    let key = || job.files_to_process.first().and_then(|key| key.rsplit('/').next());
    job.file_name.as_deref().or_else(key)
}

async fn store(objects: &Arc<dyn ObjectStore>, job: &Job, attempt: u32, made: &MadeFile) -> Result<Artifact> {
    let mut file = tokio::fs::File::open(&made.path).await.map_err(failed("read an output in"))?;
    let mut writer = ArtifactWriter::start(Arc::clone(objects), job.job_id, attempt, &made.name);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk).await.map_err(failed("read an output in"))? {
            0 => return writer.finish().await,
            read => writer.write(&chunk[..read]).await?,
        }
    }
}

async fn size(path: &Path) -> Result<u64> {
    Ok(tokio::fs::metadata(path).await.map_err(failed("look into"))?.len())
}
