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
use crate::plan::plan;
use crate::read::{Piece, one};
use crate::run::{count, with_parameters};
use crate::steps;

/// What became of a file.
#[derive(Debug)]
pub struct LocalRun {
    /// What became of its records.
    pub counts: Counts,
    /// Why a job would have failed: over the error budget, or no records.
    pub verdict: Result<()>,
}

/// Decodes a file and runs the steps as a job would; rows and rejects go to the closures, nothing is delivered.
/// Parameters have their defaults. `rejects` is called on another thread, before this returns.
pub async fn run_local(
    pipeline: &Pipeline,
    set: &PipelineSet,
    lookups: &Lookups,
    limits: &ProcessorLimits,
    input: BoxStream<'static, std::io::Result<Bytes>>,
    rows: &mut (dyn FnMut(RecordBatch) -> Result<()> + Send),
    rejects: TakeReject,
) -> Result<LocalRun> {
    let pieces = one(None, input.map_err(Error::from).boxed());
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
    let (intake, decoded) = Intake::start(pieces, pipeline, &plan, &engine, references, limits, rejects)?;
    let delivered = async {
        let mut out = steps::run(&engine, &plan, lookups, limits, decoded).await?;
        let mut written = 0;
        while let Some(batch) = out.next().await {
            let batch = batch?;
            written += batch.num_rows() as u64;
            rows(batch)?;
        }
        Ok(written)
    }
    .await;
    let (written, summary) = crate::run::both(delivered, intake).await?;
    let (counts, _) = count(&summary, written);
    Ok(LocalRun { counts, verdict: judge(pipeline, crate::run::allows_empty(pipeline), &summary) })
}
