//! Steps: each takes a stream of batches named `input` and gives the next one, under the engine's memory pool.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use arrow::array::{Array, BooleanArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use arrow::ipc::{reader::StreamReader, writer::StreamWriter};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::MemTable;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::physical_plan::stream::{RecordBatchReceiverStreamBuilder, RecordBatchStreamAdapter};
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::DataFrame;
use futures::{Stream, StreamExt, TryStreamExt};
use tempfile::NamedTempFile;
use tidemill_pipelines::Check;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::limits::{BATCHES_BETWEEN_STAGES, ProcessorLimits};
use crate::lookups::Lookups;
use crate::plan::{INPUT, Plan, Stage, referenced_tables};

/// Runs all stages of a plan over the decoded batches; the result has the plan's output schema.
pub(crate) async fn run(
    engine: &Engine,
    plan: &Plan,
    lookups: &Lookups,
    limits: &ProcessorLimits,
    mut rows: SendableRecordBatchStream,
) -> Result<SendableRecordBatchStream> {
    for stage in &plan.stages {
        rows = match stage {
            Stage::Sql { sql } => sql_step(engine, sql, lookups, limits, rows).await?,
            Stage::Check(check) => check_step(engine, check, rows)?,
        };
    }
    let output = Arc::clone(&plan.output);
    let schema = Arc::clone(&output);
    let shaped = rows.map(move |batch| shape(&batch?, &schema).map_err(DataFusionError::from));
    Ok(Box::pin(RecordBatchStreamAdapter::new(output, shaped)))
}

async fn sql_step(
    engine: &Engine,
    sql: &str,
    lookups: &Lookups,
    limits: &ProcessorLimits,
    rows: SendableRecordBatchStream,
) -> Result<SendableRecordBatchStream> {
    let session = engine.session();
    for table in referenced_tables(&session, sql)? {
        let (schema, batches) = lookups.load(&table, None, limits.lookup_rows_max).await?;
        session.register_table(table.as_str(), Arc::new(MemTable::try_new(schema, vec![batches])?))?;
    }
    let schema = rows.schema();
    let input = Arc::new(Input { schema: Arc::clone(&schema), rows: Mutex::new(Rows::Once(Some(rows))) });
    let source: Arc<dyn PartitionStream> = Arc::clone(&input) as _;
    session.register_table(INPUT, Arc::new(StreamingTable::try_new(schema, vec![source])?))?;
    let plan = engine.plan(&session, sql).await?;
    if scans_of_input(&session.state().optimize(&plan)?)? > 1 {
        input.spool(limits).await?;
    }
    let frame = DataFrame::new(session.state(), plan);
    Ok(frame.execute_stream().await?)
}

/// How often a plan reads `input`: once is streamed, more often is spooled first.
fn scans_of_input(plan: &LogicalPlan) -> Result<usize> {
    let mut scans = 0;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && scan.table_name.table() == INPUT
        {
            scans += 1;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(scans)
}

/// The table `input`: rows that come once, or, after [`Input::spool`], as often as the plan wants.
struct Input {
    schema: SchemaRef,
    rows: Mutex<Rows>,
}

enum Rows {
    Once(Option<SendableRecordBatchStream>),
    Spooled(Arc<NamedTempFile>),
}

impl Input {
    async fn spool(&self, limits: &ProcessorLimits) -> Result<()> {
        let taken = match self.rows.lock() {
            Ok(mut rows) => match &mut *rows {
                Rows::Once(stream) => stream.take(),
                Rows::Spooled(_) => None,
            },
            Err(_) => None,
        };
        let Some(mut stream) = taken else { return Ok(()) };
        let file = match &limits.spill_dir {
            Some(dir) => NamedTempFile::new_in(dir)?,
            None => NamedTempFile::new()?,
        };
        let handle = file.reopen()?;
        let schema = Arc::clone(&self.schema);
        let (send, mut receive) = tokio::sync::mpsc::channel::<RecordBatch>(BATCHES_BETWEEN_STAGES);
        let writing = tokio::task::spawn_blocking(move || -> Result<(), DataFusionError> {
            let mut writer = StreamWriter::try_new_buffered(handle, &schema)?;
            while let Some(batch) = receive.blocking_recv() {
                writer.write(&batch)?;
            }
            writer.finish()?;
            Ok(())
        });
        while let Some(batch) = stream.try_next().await? {
            if send.send(batch).await.is_err() {
                break; // the writer failed; its error is told below
            }
        }
        drop(send);
        writing.await.map_err(|_| Error::Broken("the spool"))??;
        if let Ok(mut rows) = self.rows.lock() {
            *rows = Rows::Spooled(Arc::new(file));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(INPUT)
    }
}

impl PartitionStream for Input {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let failed = |what: &str| -> SendableRecordBatchStream {
            let error = DataFusionError::Execution(format!("`{INPUT}` {what}"));
            let stream = futures::stream::once(async { Err(error) });
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream))
        };
        match self.rows.lock() {
            Err(_) => failed("broke down"),
            Ok(mut rows) => match &mut *rows {
                Rows::Once(stream) => stream.take().unwrap_or_else(|| failed("was read twice")),
                Rows::Spooled(file) => read_spool(Arc::clone(file), Arc::clone(&self.schema)),
            },
        }
    }
}

fn read_spool(file: Arc<NamedTempFile>, schema: SchemaRef) -> SendableRecordBatchStream {
    let mut builder = RecordBatchReceiverStreamBuilder::new(schema, BATCHES_BETWEEN_STAGES);
    let send = builder.tx();
    builder.spawn_blocking(move || {
        for batch in StreamReader::try_new_buffered(file.reopen()?, None)? {
            if send.blocking_send(batch.map_err(Into::into)).is_err() {
                break; // the reader wants no more
            }
        }
        Ok(())
    });
    builder.build()
}

fn check_step(
    engine: &Engine,
    check: &Check,
    rows: SendableRecordBatchStream,
) -> Result<SendableRecordBatchStream> {
    let schema = rows.schema();
    let condition = engine.condition(&check.condition, &schema)?;
    let name = check.name.to_string();
    let checked = rows.map(move |batch| {
        let batch = batch?;
        let unmet = unmet(condition.as_ref(), &batch)?.true_count() as u64;
        match unmet {
            0 => Ok(batch),
            rows => Err(Error::CheckFailed { check: name.clone(), rows }.into()),
        }
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, checked)))
}

/// Which rows do not meet a condition; null counts as not met.
pub(crate) fn unmet(
    condition: &dyn PhysicalExpr,
    batch: &RecordBatch,
) -> Result<BooleanArray, DataFusionError> {
    let values = condition.evaluate(batch)?.into_array(batch.num_rows())?;
    let met = values
        .as_any()
        .downcast_ref::<BooleanArray>()
        .map(|met| met.iter().map(|met| Some(met != Some(true))).collect());
    Ok(met.unwrap_or_else(|| BooleanArray::from(vec![true; batch.num_rows()])))
}

/// Casts a batch to the delivered schema; a cast that would lose something is an error.
fn shape(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema().fields() == schema.fields() {
        return Ok(batch.clone());
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (column, field) in batch.columns().iter().zip(schema.fields()) {
        let problem = |error: String| Error::Sql(format!("column `{}`: {error}", field.name()));
        let cast = cast_with_options(column, field.data_type(), &options)
            .map_err(|error| problem(error.to_string()))?;
        if let DataType::Timestamp(TimeUnit::Nanosecond, _) = column.data_type() {
            let back = cast_with_options(&cast, column.data_type(), &options)
                .map_err(|error| problem(error.to_string()))?;
            if back.as_ref() != column.as_ref() {
                return Err(problem(
                    "a time is finer than the microseconds that tables hold; use date_trunc".to_owned(),
                ));
            }
        }
        columns.push(cast);
    }
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|error| Error::Sql(error.to_string()))
}

/// A channel of batches as DataFusion's stream.
pub(crate) fn stream_of(
    schema: SchemaRef,
    receive: tokio::sync::mpsc::Receiver<Result<RecordBatch>>,
) -> SendableRecordBatchStream {
    Box::pin(RecordBatchStreamAdapter::new(schema, Received(receive)))
}

struct Received(tokio::sync::mpsc::Receiver<Result<RecordBatch>>);

impl Stream for Received {
    type Item = Result<RecordBatch, DataFusionError>;
    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|item| item.map(|batch| batch.map_err(Into::into)))
    }
}
