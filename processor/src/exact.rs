//! Casts in SQL that are exact or refuse the row: `CAST` and `TRY_CAST` of texts to numbers, decimals, dates and times, and
//! of decimals and floats to decimals of fewer digits.
//!
//! The engine rounds `0.005` to `decimal(10,2)`. Here a rule of the planner puts functions over the decoder's parsers in
//! place of its casts, written or implied; [`Engine::session`](crate::engine::Engine) adds it.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::{Cast, ScalarFunction, TryCast};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{AnalyzerRule, OptimizerConfig, OptimizerRule};

use crate::decode::cast;

/// What is wrong with one row, in the author's words.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}{message}", .column.as_ref().map(|column| format!("column `{column}`: ")).unwrap_or_default())]
pub(crate) struct RowFault {
    /// The column that the cast reads, when it is one.
    pub column: Option<String>,
    /// What is wrong with its value.
    pub message: String,
}

impl RowFault {
    /// The same, found by a check.
    pub(crate) fn in_check(self, check: &str) -> Self {
        Self { message: format!("the check `{check}` cannot be evaluated: {}", self.message), ..self }
    }
}

/// Puts exact casts in place of the engine's: once types are known, and once more at the end, for casts that simplifying makes
/// (`arrow_cast`).
#[derive(Debug)]
pub(crate) struct ExactCasts;

impl AnalyzerRule for ExactCasts {
    fn name(&self) -> &str {
        "exact_casts"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(in_node)?.data)
    }
}

impl OptimizerRule for ExactCasts {
    fn name(&self) -> &str {
        "exact_casts"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        in_node(plan)
    }
}

fn in_node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
    }
    let names = NamePreserver::new(&plan);
    let replaced = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        Ok(in_expr(expr, &schema)?.update_data(|expr| name.restore(expr)))
    })?;
    if replaced.transformed { replaced.map_data(LogicalPlan::recompute_schema) } else { Ok(replaced) }
}

/// The expression with exact casts.
pub(crate) fn in_expr(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expr.transform_up(|expr| {
        let (inner, to, tries) = match &expr {
            Expr::Cast(Cast { expr, field }) => (expr, field.data_type(), false),
            Expr::TryCast(TryCast { expr, field }) => (expr, field.data_type(), true),
            _ => return Ok(Transformed::no(expr)),
        };
        if !cast::is_exact(&inner.get_type(schema)?, to) || is_time_literal(inner, to) {
            return Ok(Transformed::no(expr));
        }
        let exact = ExactCast { to: to.clone(), tries, column: column_of(inner), signature: signature() };
        let call =
            ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(exact)), vec![(**inner).clone()]);
        Ok(Transformed::yes(Expr::ScalarFunction(call)))
    })
}

/// A time that the author wrote, `DATE '2024-05-01'` or `day > '2024-05-01'`: the engine reads more ways to write it, and no
/// row is at fault.
fn is_time_literal(expr: &Expr, to: &DataType) -> bool {
    matches!(expr, Expr::Literal(..)) && to.is_temporal()
}

/// The one column that an expression reads.
fn column_of(expr: &Expr) -> Option<String> {
    let columns = expr.column_refs();
    let mut columns = columns.into_iter();
    match (columns.next(), columns.next()) {
        (Some(Column { name, .. }), None) => Some(name.clone()),
        _ => None,
    }
}

/// A cast as a function of one argument.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ExactCast {
    to: DataType,
    tries: bool,
    column: Option<String>,
    signature: Signature,
}

fn signature() -> Signature {
    Signature::any(1, Volatility::Immutable)
}

impl ScalarUDFImpl for ExactCast {
    fn name(&self) -> &str {
        if self.tries { "exact_try_cast" } else { "exact_cast" }
    }

    fn schema_name(&self, arguments: &[Expr]) -> Result<String> {
        let argument = arguments.first().map(|argument| argument.schema_name().to_string());
        Ok(format!("{}({}, {})", self.name(), argument.unwrap_or_default(), self.to))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(self.to.clone())
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> Result<FieldRef> {
        let nullable = self.tries || arguments.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.to.clone(), nullable)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(value) = arguments.args.first() else {
            return Err(DataFusionError::Internal("a cast without a value".to_owned()));
        };
        let values = value.to_array(1)?;
        let values = cast::cast(&values, &self.to, self.tries).map_err(|message| {
            DataFusionError::External(Box::new(RowFault { column: self.column.clone(), message }))
        })?;
        match value {
            ColumnarValue::Array(_) => Ok(ColumnarValue::Array(values)),
            ColumnarValue::Scalar(_) => {
                Ok(ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&values, 0)?))
            }
        }
    }
}
