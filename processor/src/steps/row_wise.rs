//! Steps that work record by record: evaluated batch by batch, so that a record on which SQL fails becomes a reject and the
//! others go on.
//!
//! When a batch fails it is halved until the records at fault stand alone: at most 2 × faults × log₂(batch) evaluations. A
//! record goes through all such steps in a row as one, so it is used or refused as a whole, and its rows stay together.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use datafusion::common::JoinType;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use futures::TryStreamExt;

use super::input::Input;
use super::{shape, unmet};
use crate::decode::RejectProblem;
use crate::error::{Error, Result};
use crate::exact::RowFault;
use crate::origins::{Origins, in_file_order};
use crate::refuse::Rejects;

/// The code of a record on which SQL fails.
pub(crate) const SQL_FAILED: &str = "sql_failed";

/// Runs of a plan after which it is made afresh: each run leaves its figures in it.
const RUNS_MAX: usize = 1_024;

/// Rows that a batch may become at once; a join that makes more of it gets smaller batches.
const ROWS_OUT_MAX: usize = 1 << 17;

/// Steps in a row that work record by record.
pub(super) struct RowSteps {
    pub steps: Vec<RowStep>,
    pub rejects: Rejects,
    /// More rejects than this fail the job in any case: then no more is evaluated.
    pub rejects_max: Option<u64>,
}

/// One step that works record by record.
pub(super) enum RowStep {
    Sql(RowSql),
    /// All rows must meet it, or the job fails.
    Check {
        name: String,
        condition: Arc<dyn PhysicalExpr>,
    },
    /// To the columns that are delivered.
    Shape(SchemaRef),
}

/// Why records could not be evaluated together.
enum Failed {
    /// One of them is at fault.
    Fault(&'static str, RowFault),
    /// They make too many rows at once.
    TooMany,
    /// It is not about records.
    Other(DataFusionError),
}

impl RowSteps {
    /// What the steps make of a batch, in its order; records at fault become rejects.
    pub(super) async fn run(&self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        let mut made = Vec::new();
        let mut todo = vec![0..batch.num_rows()];
        while let Some(range) = todo.pop() {
            if self.rejects_max.is_some_and(|most| self.rejects.count() > most) {
                break;
            }
            match self.evaluate(batch.slice(range.start, range.len())).await {
                Ok(rows) => made.extend(rows),
                Err(Failed::Other(error)) => return Err(error.into()),
                Err(Failed::Fault(stage, fault)) if range.len() == 1 => {
                    self.refuse(&batch, range.start, stage, fault).await?;
                }
                Err(Failed::Fault(..) | Failed::TooMany) => todo.extend(halves(range)),
            }
        }
        together(made)
    }

    async fn evaluate(&self, batch: RecordBatch) -> Result<Option<RecordBatch>, Failed> {
        let mut batch = batch;
        for step in &self.steps {
            let whole = batch.num_rows() == 1;
            batch = step.run(batch).await.map_err(|error| Failed::of(step, error))?;
            if batch.num_rows() > ROWS_OUT_MAX && !whole {
                return Err(Failed::TooMany);
            }
        }
        Ok((batch.num_rows() > 0).then_some(batch))
    }

    async fn refuse(
        &self,
        batch: &RecordBatch,
        row: usize,
        stage: &'static str,
        fault: RowFault,
    ) -> Result<()> {
        let (batch, origins) = Origins::split(batch.clone(), 0);
        let RowFault { column, message } = fault;
        let problem = RejectProblem { column, code: SQL_FAILED.to_owned(), message };
        self.rejects.refuse(&origins, &batch, row, stage, problem).await
    }
}

/// The later half first: the stack gives the earlier one first.
pub(super) fn halves(range: Range<usize>) -> [Range<usize>; 2] {
    let middle = range.start + range.len().div_ceil(2);
    [middle..range.end, range.start..middle]
}

/// Small batches as one, so that rows of one record stay in one batch and sinks get few.
fn together(batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    match batches.first() {
        Some(first) if batches.len() > 1 && rows <= ROWS_OUT_MAX => {
            let schema = first.schema();
            Ok(vec![concat_batches(&schema, &batches).map_err(DataFusionError::from)?])
        }
        _ => Ok(batches),
    }
}

impl RowStep {
    async fn run(&self, batch: RecordBatch) -> Result<RecordBatch, DataFusionError> {
        match self {
            RowStep::Sql(sql) => sql.run(batch).await,
            RowStep::Shape(schema) => shape(&batch, schema),
            RowStep::Check { name, condition } => {
                match unmet(condition.as_ref(), &batch)?.true_count() as u64 {
                    0 => Ok(batch),
                    rows => Err(Error::CheckFailed { check: name.clone(), rows }.into()),
                }
            }
        }
    }

    fn stage(&self) -> &'static str {
        match self {
            RowStep::Check { .. } => "check",
            RowStep::Sql(_) | RowStep::Shape(_) => "sql",
        }
    }
}

impl Failed {
    fn of(step: &RowStep, error: DataFusionError) -> Self {
        match (fault(&error), step) {
            (Some(found), RowStep::Check { name, .. }) => Failed::Fault(step.stage(), found.in_check(name)),
            (Some(found), _) => Failed::Fault(step.stage(), found),
            (None, _) => Failed::Other(error),
        }
    }
}

/// What is wrong with a row, if the error is of the values of one. An error that comes out of what is read once for all rows is
/// shared, and so none of theirs.
pub(crate) fn fault(error: &DataFusionError) -> Option<RowFault> {
    let told =
        |message: String| Some(RowFault { column: None, message: format!("sql fails on it: {message}") });
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => fault(inner),
        DataFusionError::External(inner) => inner.downcast_ref::<RowFault>().cloned(),
        DataFusionError::Execution(message) => told(message.lines().next().unwrap_or_default().to_owned()),
        DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
            ArrowError::ExternalError(inner) => inner
                .downcast_ref::<DataFusionError>()
                .and_then(fault)
                .or_else(|| inner.downcast_ref().cloned()),
            ArrowError::DivideByZero => told("a division by zero".to_owned()),
            ArrowError::ArithmeticOverflow(message)
            | ArrowError::ComputeError(message)
            | ArrowError::CastError(message)
            | ArrowError::ParseError(message)
            | ArrowError::InvalidArgumentError(message) => told(message.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// A statement whose plan works record by record, over one batch at a time.
pub(super) struct RowSql {
    input: Arc<Input>,
    plan: Mutex<(Arc<dyn ExecutionPlan>, usize)>,
    context: Arc<TaskContext>,
}

impl RowSql {
    /// `None` when the plan needs more than one record at a time.
    pub(super) fn new(
        input: &Arc<Input>,
        plan: &Arc<dyn ExecutionPlan>,
        context: Arc<TaskContext>,
    ) -> Option<Self> {
        let plan = (works_by_record(plan)).then(|| Mutex::new((Arc::clone(plan), 0)))?;
        Some(Self { input: Arc::clone(input), plan, context })
    }

    async fn run(&self, batch: RecordBatch) -> Result<RecordBatch, DataFusionError> {
        let plan = self.plan()?;
        self.input.put(batch);
        let stream = plan.execute(0, Arc::clone(&self.context))?;
        let schema = stream.schema();
        let mut made: Vec<RecordBatch> = stream.try_collect().await?;
        let made = match made.len() {
            1 => made.remove(0),
            _ => concat_batches(&schema, &made)?,
        };
        Ok(in_file_order(made)?)
    }

    fn plan(&self) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let mut held = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let (plan, runs) = &mut *held;
        *runs += 1;
        if *runs > RUNS_MAX {
            (*plan, *runs) = (reset_plan_states(Arc::clone(plan))?, 1);
        }
        Ok(Arc::clone(plan))
    }
}

/// Whether a plan may run again and again over parts of its input, and make the same rows in the same order.
fn works_by_record(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let children = plan.children();
    if plan.fetch().is_some() {
        return false;
    }
    match (plan.name(), children.as_slice()) {
        (INPUT_EXEC, []) => true,
        (
            "ProjectionExec" | "FilterExec" | "CoalesceBatchesExec" | "CooperativeExec" | "UnnestExec",
            [child],
        ) => works_by_record(child),
        // The left side is read once and held.
        ("HashJoinExec" | "NestedLoopJoinExec" | "CrossJoinExec", [held, streamed]) => {
            let kind = plan.downcast_ref::<HashJoinExec>().map_or(JoinType::Inner, |join| *join.join_type());
            let by_streamed = matches!(
                kind,
                JoinType::Inner
                    | JoinType::Right
                    | JoinType::RightSemi
                    | JoinType::RightAnti
                    | JoinType::RightMark
            );
            by_streamed && !reads_input(held) && works_by_record(streamed)
        }
        _ => false,
    }
}

/// Only `input` streams; all other tables are held in memory.
const INPUT_EXEC: &str = "StreamingTableExec";

fn reads_input(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.name() == INPUT_EXEC || plan.children().into_iter().any(reads_input)
}
