//! Intake: bytes in, decoded and checked batches out, rejects aside; every record is counted once.
//!
//! Decoding is CPU work, so it runs on a thread of its own between two bounded channels. A consumer that
//! wants no more rows (an SQL `LIMIT`) does not end it: the rest of the file is still counted. Only dropping
//! the [`Intake`] does. Each row gets the origin of its record in a hidden column ([`crate::origins`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::PhysicalExpr;
use futures::StreamExt;
use futures::stream::BoxStream;
use tidemill_jobs::RejectSample;
use tidemill_pipelines::{Check, CheckElse, ErrorBudget, Format, Header, Pipeline, Then, Tolerance};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::decode;
use crate::decode::{
    DecodeError, DecodeLimits, DecodeOutput, Decoded, Decoder, References, Reject, RejectProblem, Stopped,
};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::exact::RowFault;
use crate::limits::{BATCHES_BETWEEN_STAGES, CHUNKS_READ_AHEAD, ProcessorLimits};
use crate::origins::{attach, full};
use crate::plan::Plan;
use crate::read::Piece;
use crate::refuse::{FileOf, Refused, Rejects};
use crate::steps::row_wise::SQL_FAILED;
use crate::steps::{stream_of, unmet_rows};

/// Takes rejects as they come, on the decoding thread.
pub type TakeReject = Box<dyn FnMut(&Reject) -> Result<()> + Send>;

/// What came in.
#[derive(Debug, Default, Clone)]
pub(crate) struct Summary {
    /// Records found, without the header.
    pub records: u64,
    /// Records refused, in whichever stage.
    pub rejected: u64,
    /// Bytes read.
    pub bytes: u64,
    /// No object had a byte.
    pub empty: bool,
    /// Those of them that the steps had made rows of: the database refused them.
    pub late: u64,
    /// Refused records by the code of their first problem.
    pub by_code: BTreeMap<String, u64>,
    /// The first rejects, for messages.
    pub samples: Vec<RejectSample>,
}

/// A running intake.
pub(crate) struct Intake {
    task: JoinHandle<Result<Summary>>,
    rejects: Rejects,
    abandoned: Arc<AtomicBool>,
}

impl Intake {
    /// Starts reading; the rows come out of the stream.
    pub(crate) fn start(
        pieces: BoxStream<'static, Result<Piece>>,
        pipeline: &Pipeline,
        plan: &Plan,
        engine: &Engine,
        references: References,
        limits: &ProcessorLimits,
        rejects: Rejects,
    ) -> Result<(Self, SendableRecordBatchStream)> {
        let schema = decode::schema(&pipeline.columns);
        let decode_limits = DecodeLimits {
            batch_rows: limits.batch_rows,
            record_bytes_max: limits.record_bytes_max,
            raw_bytes_max: limits.raw_bytes_max,
            document_bytes_max: limits.document_bytes_max,
        };
        let (format, columns) = (pipeline.format.clone(), pipeline.columns.clone());
        let decoder = move || Decoder::new(&format, &columns, references.clone(), decode_limits);
        let abandoned = Arc::new(AtomicBool::new(false));
        let (send_rows, receive_rows) = mpsc::channel(BATCHES_BETWEEN_STAGES);
        let sorting = Sorting {
            checks: compile(&plan.record_checks, engine, &schema)?,
            rows: send_rows,
            rows_wanted: true,
            rejects: rejects.clone(),
            raw_bytes_max: limits.raw_bytes_max,
            summary: Summary { empty: true, ..Summary::default() },
            file: None,
            failure: None,
            abandoned: Arc::clone(&abandoned),
        };
        let pieces = read_ahead(pieces);
        let task = tokio::task::spawn_blocking(move || sort(pieces, &decoder, sorting));
        Ok((Self { task, rejects, abandoned }, stream_of(full(&schema), receive_rows)))
    }

    /// Waits for the end of the input; an error of reading or decoding comes out here. To be called when the rows have ended
    /// and were delivered: no stage can refuse any more.
    pub(crate) async fn finish(mut self) -> Result<Summary> {
        let summary = (&mut self.task).await.map_err(|_| Error::Broken("the decoder"))??;
        let Refused { rejected, late, by_code, samples } = self.rejects.close();
        Ok(Summary { rejected, late, by_code, samples, ..summary })
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

/// Pumps pieces into a bounded channel; ends with the input, its first error, or its reader.
fn read_ahead(mut pieces: BoxStream<'static, Result<Piece>>) -> mpsc::Receiver<Result<Piece>> {
    let (send, receive) = mpsc::channel(CHUNKS_READ_AHEAD);
    tokio::spawn(async move {
        while let Some(piece) = pieces.next().await {
            let failed = piece.is_err();
            if send.send(piece).await.is_err() || failed {
                break;
            }
        }
    });
    receive
}

fn sort(
    pieces: mpsc::Receiver<Result<Piece>>,
    decoder: &dyn Fn() -> Decoder,
    mut sorting: Sorting,
) -> Result<Summary> {
    let result = decode_all(pieces, decoder, &mut sorting);
    if result.is_err() && sorting.rows_wanted {
        // Ends the stream with an error: half of a file must never look like a whole one.
        let _ = sorting.rows.blocking_send(Err(Error::Broken("the intake")));
    }
    result.map(|()| sorting.summary)
}

/// Decodes each object as a file of its own, with a decoder of its own.
fn decode_all(
    mut pieces: mpsc::Receiver<Result<Piece>>,
    new_decoder: &dyn Fn() -> Decoder,
    sorting: &mut Sorting,
) -> Result<()> {
    let mut decoder: Option<Decoder> = None;
    while let Some(piece) = pieces.blocking_recv() {
        match piece? {
            Piece::Object(file) => {
                sorting.end_object(decoder.replace(new_decoder()))?;
                sorting.file = Some((sorting.rejects.begin_file(file.clone()), file));
            }
            Piece::Bytes(bytes) => {
                if let Some(Err(error)) = decoder.as_mut().map(|decoder| decoder.feed(bytes, sorting)) {
                    return Err(sorting.cause(error));
                }
            }
        }
    }
    sorting.end_object(decoder)
}

type CompiledCheck = (Check, Arc<dyn PhysicalExpr>);

fn compile(checks: &[Check], engine: &Engine, schema: &SchemaRef) -> Result<Vec<CompiledCheck>> {
    checks.iter().map(|check| Ok((check.clone(), engine.condition(&check.condition, schema)?))).collect()
}

/// Sorts what the decoder makes into rows and rejects.
struct Sorting {
    checks: Vec<CompiledCheck>,
    rows: mpsc::Sender<Result<RecordBatch>>,
    rows_wanted: bool,
    rejects: Rejects,
    raw_bytes_max: usize,
    summary: Summary,
    /// The object at hand, and its number.
    file: Option<(u32, FileOf)>,
    failure: Option<Error>,
    abandoned: Arc<AtomicBool>,
}

impl DecodeOutput for Sorting {
    fn batch(&mut self, decoded: Decoded) -> Result<(), Stopped> {
        if self.abandoned.load(Ordering::Relaxed) {
            return self.stop(Error::Overtaken);
        }
        let batch = match self.checked(decoded) {
            Ok(batch) => batch,
            Err(error) => return self.stop(error),
        };
        if batch.num_rows() > 0 && self.rows_wanted {
            self.rows_wanted = self.rows.blocking_send(Ok(batch)).is_ok();
        }
        Ok(())
    }

    fn reject(&mut self, mut reject: Reject) -> Result<(), Stopped> {
        reject.file = self.shown_file();
        self.refuse(&reject).or_else(|error| self.stop(error))
    }
}

impl Sorting {
    fn end_object(&mut self, decoder: Option<Decoder>) -> Result<()> {
        let Some(mut decoder) = decoder else { return Ok(()) };
        let ended = decoder.finish(self).map_err(|error| self.cause(error))?;
        self.summary.records += ended.records_in;
        self.summary.bytes += ended.bytes;
        self.summary.empty &= ended.empty;
        Ok(())
    }

    /// Why decoding ended: what this stopped it for, or what is wrong with the object.
    fn cause(&mut self, error: DecodeError) -> Error {
        match (self.failure.take(), self.shown_file()) {
            (Some(failure), _) => failure,
            (None, Some(object)) => Error::DecodeOf { object: object.to_string(), source: error },
            (None, None) => error.into(),
        }
    }

    fn stop(&mut self, error: Error) -> Result<(), Stopped> {
        self.failure = Some(error);
        Err(Stopped)
    }

    /// The object at hand as rejects name it, where there are several.
    fn shown_file(&self) -> Option<Arc<str>> {
        let (_, file) = self.file.as_ref()?;
        file.is_one_of_many.then(|| Arc::clone(&file.name))
    }

    fn refuse(&mut self, reject: &Reject) -> Result<()> {
        if self.abandoned.load(Ordering::Relaxed) {
            return Err(Error::Overtaken);
        }
        self.rejects.take(reject)
    }

    /// The rows of a batch that meet every check, with their origins; the others become rejects, or fail the job.
    fn checked(&mut self, decoded: Decoded) -> Result<RecordBatch> {
        let file = self.file.as_ref().map_or(0, |(number, _)| *number);
        self.rejects.keep(file, &decoded);
        let batch = attach(&decoded.batch, file, &decoded.origins);
        let batch = batch.map_err(|error| Error::Sql(error.to_string()))?;
        let mut failed: BTreeMap<usize, Vec<RejectProblem>> = BTreeMap::new();
        for (check, condition) in &self.checks {
            let found = unmet_rows(condition.as_ref(), &batch)?;
            if !found.unmet.is_empty() && check.otherwise == CheckElse::Fail {
                let rows = found.unmet.len() as u64;
                return Err(Error::CheckFailed { check: check.name.to_string(), rows });
            }
            for row in found.unmet {
                failed.entry(row).or_default().push(RejectProblem {
                    column: None,
                    code: check.name.to_string(),
                    message: format!("does not meet `{}`", check.condition),
                });
            }
            for (row, fault) in found.faults {
                let RowFault { column, message } = fault.in_check(check.name.as_str());
                let problem = RejectProblem { column, code: SQL_FAILED.to_owned(), message };
                failed.entry(row).or_default().push(problem);
            }
        }
        if failed.is_empty() {
            return Ok(batch);
        }
        let kept = (0..batch.num_rows()).map(|row| Some(!failed.contains_key(&row))).collect();
        for (row, problems) in failed {
            let origin = decoded.origins[row];
            let start = (origin.byte_start - decoded.raw_start) as usize;
            let end = ((origin.byte_end - decoded.raw_start) as usize).min(start + self.raw_bytes_max);
            let raw = decoded.raw.slice(start..end);
            let file = self.shown_file();
            self.refuse(&Reject { origin, file, stage: "check", problems, raw, output_row: None })?;
        }
        filter_record_batch(&batch, &kept).map_err(|error| Error::Sql(error.to_string()))
    }
}

/// Whether the rejects of a whole file are within the pipeline's error budget.
pub(crate) fn within_budget(budget: &ErrorBudget, summary: &Summary) -> bool {
    match budget.tolerate {
        Tolerance::Records(most) => summary.rejected <= most,
        Tolerance::Percent(percent) => summary.rejected as f64 * 100.0 <= percent * summary.records as f64,
    }
}

/// What the pipeline makes of the rejects of a whole file: an error when it is over budget and aborts.
pub(crate) fn judge(pipeline: &Pipeline, allow_empty: bool, summary: &Summary) -> Result<()> {
    if summary.records == 0 && !allow_empty {
        let what_else = match &pipeline.format {
            _ if summary.empty => ": it is empty",
            Format::Csv(format) if format.header == Header::Names => ", only a header",
            _ => "",
        };
        return Err(Error::NoRecords { what_else });
    }
    if pipeline.rejects.then == Then::Abort && !within_budget(&pipeline.rejects, summary) {
        let tolerated = match pipeline.rejects.tolerate {
            Tolerance::Percent(percent) => format!("{percent}%"),
            Tolerance::Records(records) => records.to_string(),
        };
        return Err(Error::OverErrorBudget {
            records: summary.records,
            rejected: summary.rejected,
            tolerated,
        });
    }
    Ok(())
}
