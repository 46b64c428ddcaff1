//! Steps: each takes a stream of batches named `input` and gives the next one, under the engine's memory pool.
//!
//! As long as a row is a record, its origin goes along in a hidden column (`steps/carry`), and steps that work record by record
//! refuse those on which SQL fails (`steps/row_wise`). Behind an aggregate a fault of SQL fails the job.

pub(crate) mod carry;
mod input;
pub(crate) mod row_wise;
mod tally;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampNanosecondType};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{PhysicalExpr, execute_stream};
use futures::{Stream, StreamExt, TryStreamExt};
use tidemill_pipelines::{Check, Pipeline, Then, Tolerance};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::exact::RowFault;
use crate::limits::ProcessorLimits;
use crate::lookups::Lookups;
use crate::origins::{ORIGIN, full, without_origin};
use crate::plan::{Plan, Stage, referenced_tables};
use crate::refuse::Rejects;
use carry::{carry, lookups_first, plan_statement, scans_of_input};
use input::Input;
use row_wise::{RowSql, RowStep, RowSteps};
pub(crate) use tally::Tally;

/// Runs all stages of a plan over the decoded batches. The rows have the plan's output schema and, where they are records, the
/// hidden column of their origins last ([`crate::origins`]); the tally is complete when they have ended.
pub(crate) async fn run(
    engine: &Engine,
    pipeline: &Pipeline,
    plan: &Plan,
    lookups: &Lookups,
    limits: &ProcessorLimits,
    rows: SendableRecordBatchStream,
    rejects: &Rejects,
) -> Result<(SendableRecordBatchStream, Arc<Tally>)> {
    let tally = Arc::new(Tally::default());
    let mut steps = Steps {
        engine,
        lookups,
        limits,
        rejects,
        pipeline,
        tally: Arc::clone(&tally),
        rows,
        by_record: Vec::new(),
    };
    for stage in &plan.stages {
        match stage {
            Stage::Sql { sql } => steps.sql(sql).await?,
            Stage::Check(check) => steps.check(check)?,
        }
    }
    steps.shape(&plan.output);
    Ok((tally.count(steps.rows), tally))
}

/// The stages so far.
struct Steps<'a> {
    engine: &'a Engine,
    lookups: &'a Lookups,
    limits: &'a ProcessorLimits,
    rejects: &'a Rejects,
    pipeline: &'a Pipeline,
    tally: Arc<Tally>,
    rows: SendableRecordBatchStream,
    /// Steps behind `rows` that work record by record, with the columns that they make.
    by_record: Vec<(RowStep, SchemaRef)>,
}

impl Steps<'_> {
    /// The columns at hand.
    fn schema(&self) -> SchemaRef {
        self.by_record.last().map_or_else(|| self.rows.schema(), |(_, schema)| Arc::clone(schema))
    }

    fn are_records(&self) -> bool {
        self.schema().index_of(ORIGIN).is_ok()
    }

    async fn sql(&mut self, sql: &str) -> Result<()> {
        let session = self.engine.session();
        for table in referenced_tables(&session, sql)? {
            let (schema, batches) = self.lookups.load(&table, None, self.limits.lookup_rows_max).await?;
            session.register_table(table.as_str(), Arc::new(MemTable::try_new(schema, vec![batches])?))?;
        }
        let (schema, are_records) = (self.schema(), self.are_records());
        let input = Input::new(Arc::clone(&schema));
        let table = |columns: &SchemaRef| input.table(columns, Some(self.rejects));
        let seen = without_origin(&schema);
        let planned = plan_statement(self.engine, &session, sql, &seen, are_records, &table).await?;
        let carried = match are_records {
            true => carry(&planned, table(&full(&planned.input))?)?,
            false => None,
        };
        let is_carried = carried.is_some();
        let state = session.state();
        let logical = lookups_first(state.optimize(&carried.unwrap_or(planned.plan))?)?;
        let scans = scans_of_input(&logical)?;
        let physical = state.create_physical_plan(&logical).await?;
        if is_carried
            && scans == 1
            && let Some(step) = RowSql::new(&input, &physical, session.task_ctx())
        {
            self.by_record.push((RowStep::Sql(step), physical.schema()));
            return Ok(());
        }
        self.flush();
        if are_records && !is_carried {
            let rows = self.take_rows();
            self.rows = self.tally.reach(rows);
        }
        input.feed(self.take_rows());
        if scans > 1 {
            input.spool(self.limits).await?;
        }
        self.rows = execute_stream(physical, session.task_ctx())?;
        Ok(())
    }

    fn check(&mut self, check: &Check) -> Result<()> {
        let schema = self.schema();
        let condition = self.engine.condition(&check.condition, &schema)?;
        let name = check.name.to_string();
        match self.are_records() {
            true => self.by_record.push((RowStep::Check { name, condition }, schema)),
            false => self.rows = checked(self.take_rows(), name, condition),
        }
        Ok(())
    }

    fn shape(&mut self, output: &SchemaRef) {
        if self.are_records() {
            let output = full(output);
            self.by_record.push((RowStep::Shape(Arc::clone(&output)), output));
            return self.flush();
        }
        let (schema, output) = (Arc::clone(output), Arc::clone(output));
        let shaped = self.take_rows().map(move |batch| shape(&batch?, &schema));
        self.rows = Box::pin(RecordBatchStreamAdapter::new(output, shaped));
    }

    /// Puts the steps that work record by record behind the rows.
    fn flush(&mut self) {
        let Some((_, schema)) = self.by_record.last() else { return };
        let (schema, rejects) = (Arc::clone(schema), self.rejects.clone());
        let steps = self.by_record.drain(..).map(|(step, _)| step).collect();
        let rejects_max = match (self.pipeline.rejects.then, self.pipeline.rejects.tolerate) {
            (Then::Abort, Tolerance::Records(most)) => Some(most),
            _ => None,
        };
        let steps = Arc::new(RowSteps { steps, rejects, rejects_max });
        let made = self.take_rows().and_then(move |batch| {
            let steps = Arc::clone(&steps);
            async move {
                let made = steps.run(batch).await.map_err(DataFusionError::from)?;
                Ok(futures::stream::iter(made.into_iter().map(Ok::<_, DataFusionError>)))
            }
        });
        self.rows = Box::pin(RecordBatchStreamAdapter::new(schema, made.try_flatten()));
    }

    fn take_rows(&mut self) -> SendableRecordBatchStream {
        let schema = self.rows.schema();
        let none = RecordBatchStreamAdapter::new(schema, futures::stream::empty());
        std::mem::replace(&mut self.rows, Box::pin(none))
    }
}

fn checked(
    rows: SendableRecordBatchStream,
    name: String,
    condition: Arc<dyn PhysicalExpr>,
) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let checked = rows.map(move |batch| {
        let batch = batch?;
        match unmet(condition.as_ref(), &batch)?.true_count() as u64 {
            0 => Ok(batch),
            rows => Err(Error::CheckFailed { check: name.clone(), rows }.into()),
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, checked))
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

/// What a condition says of the rows of a batch.
#[derive(Default)]
pub(crate) struct Unmet {
    /// Rows that do not meet it.
    pub unmet: Vec<usize>,
    /// Rows on which it cannot be evaluated.
    pub faults: Vec<(usize, RowFault)>,
}

/// Which rows do not meet a condition, or are at fault themselves: a batch that fails is halved until they stand alone.
pub(crate) fn unmet_rows(condition: &dyn PhysicalExpr, batch: &RecordBatch) -> Result<Unmet> {
    let mut found = Unmet::default();
    let mut todo = vec![0..batch.num_rows()];
    while let Some(range) = todo.pop() {
        match unmet(condition, &batch.slice(range.start, range.len())) {
            Ok(unmet) => found.unmet.extend(unmet.values().set_indices().map(|row| range.start + row)),
            Err(error) => match row_wise::fault(&error) {
                Some(fault) if range.len() == 1 => found.faults.push((range.start, fault)),
                Some(_) => todo.extend(row_wise::halves(range)),
                None => return Err(error.into()),
            },
        }
    }
    Ok(found)
}

/// Casts a batch to the delivered schema; a cast that would lose something is an error, but times are cut to the microsecond.
fn shape(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, DataFusionError> {
    if batch.schema().fields() == schema.fields() {
        return Ok(batch.clone());
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (column, field) in batch.columns().iter().zip(schema.fields()) {
        let at_fault =
            |error: ArrowError| RowFault { column: Some(field.name().clone()), message: error.to_string() };
        let cast = cast_with_options(&cut_to_micros(column), field.data_type(), &options);
        columns.push(cast.map_err(|error| DataFusionError::External(Box::new(at_fault(error))))?);
    }
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}

/// `now()` is finer than the microseconds that tables hold. What is finer is dropped, also before 1970: the digits that stay are
/// those of the time.
fn cut_to_micros(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            let nanos = column.as_primitive::<TimestampNanosecondType>();
            let micros = nanos.unary::<_, TimestampMicrosecondType>(|nanos| nanos.div_euclid(1_000));
            Arc::new(micros.with_timezone_opt(zone.clone()))
        }
        _ => Arc::clone(column),
    }
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
