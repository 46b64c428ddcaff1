//! One file without servers: for `tidemill run` and for the test cases of pipelines.

use std::collections::BTreeMap;

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tidemill_jobs::Counts;
use tidemill_pipelines::{Pipeline, PipelineSet};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::intake::{Intake, TakeReject, judge};
use crate::limits::ProcessorLimits;
use crate::lookups::Lookups;
use crate::origins::Origins;
use crate::plan::plan;
use crate::read::{Piece, one};
use crate::refuse::{FileOf, Rejects};
use crate::run::{count, with_parameters};
use crate::steps;

/// What became of a file.
#[derive(Debug)]
pub struct LocalRun {
    /// What became of its records.
    pub counts: Counts,
    /// Rows that came of them.
    pub rows_out: u64,
    /// Why a job would have failed: over the error budget, or no records.
    pub verdict: Result<()>,
}

/// A file by hand.
pub struct LocalFile {
    /// Its name, which SQL sees as `_file`.
    pub name: String,
    /// Its bytes.
    pub bytes: BoxStream<'static, std::io::Result<Bytes>>,
}

/// Decodes a file and runs the steps as a job would; rows and rejects go to the closures, nothing is delivered.
/// Parameters have their defaults. `rejects` is called on another thread, before this returns.
pub async fn run_local(
    pipeline: &Pipeline,
    set: &PipelineSet,
    lookups: &Lookups,
    limits: &ProcessorLimits,
    input: LocalFile,
    rows: &mut (dyn FnMut(RecordBatch) -> Result<()> + Send),
    rejects: TakeReject,
) -> Result<LocalRun> {
    let file = FileOf { name: input.name.into(), key: None, is_one_of_many: false };
    let pieces = one(file, input.bytes.map_err(Error::from).boxed());
    run_pieces(pipeline, set, lookups, limits, pieces, rows, rejects).await
}

/// The same for the objects of a job.
pub(crate) async fn run_pieces(
    pipeline: &Pipeline,
    set: &PipelineSet,
    lookups: &Lookups,
    limits: &ProcessorLimits,
    pieces: BoxStream<'static, Result<Piece>>,
    rows: &mut (dyn FnMut(RecordBatch) -> Result<()> + Send),
    rejects: TakeReject,
) -> Result<LocalRun> {
    let engine = with_parameters(&Engine::new(limits)?, pipeline, &BTreeMap::new())?;
    let plan = plan(&engine, pipeline, set, Some(lookups)).await?;
    let references = lookups.references(pipeline, limits.lookup_rows_max).await?;
    let rejects = Rejects::new(rejects, None, limits.raw_bytes_max);
    let (intake, decoded) =
        Intake::start(pieces, pipeline, &plan, &engine, references, limits, rejects.clone())?;
    let delivered = async {
        let (mut out, tally) =
            steps::run(&engine, pipeline, &plan, lookups, limits, decoded, &rejects).await?;
        while let Some(batch) = out.next().await {
            let (batch, _) = Origins::split(batch?, tally.rows_out());
            rows(batch)?;
        }
        Ok(tally)
    }
    .await;
    let (tally, summary) = crate::run::both(delivered, intake).await?;
    let counts = count(&summary, &tally);
    let verdict = judge(pipeline, crate::run::allows_empty(pipeline), &summary);
    Ok(LocalRun { counts, rows_out: tally.rows_out(), verdict })
}
