//! The longest texts that a statement makes, from the declared lengths of its input: what a table's VARCHAR must hold.
//!
//! Followed where the plan hands a text on as it is, trimmed, or cut; unknown elsewhere. Called by `plan`.

use std::collections::HashMap;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::plan::INPUT;

/// Longest values in characters by column; a column that is not there has none that is known.
pub(crate) type Lengths = HashMap<String, u32>;

/// The lengths of a statement's result.
pub(crate) fn of_result(plan: &LogicalPlan, input: &Lengths) -> Lengths {
    let named = plan.schema().fields().iter().map(|field| field.name().clone()).zip(of_node(plan, input));
    named.filter_map(|(name, length)| Some((name, length?))).collect()
}

/// One for each column of the node.
fn of_node(plan: &LogicalPlan, input: &Lengths) -> Vec<Option<u32>> {
    let unknown = || vec![None; plan.schema().fields().len()];
    match plan {
        LogicalPlan::TableScan(scan) if scan.table_name.table() == INPUT => {
            plan.schema().fields().iter().map(|field| input.get(field.name()).copied()).collect()
        }
        LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Distinct(_) => match plan.inputs().first() {
            Some(child) if child.schema().fields().len() == plan.schema().fields().len() => {
                of_node(child, input)
            }
            _ => unknown(),
        },
        LogicalPlan::Join(join) => {
            let mut both = of_node(&join.left, input);
            both.extend(of_node(&join.right, input));
            if both.len() == plan.schema().fields().len() { both } else { unknown() }
        }
        LogicalPlan::Union(union) => {
            let branches: Vec<_> = union.inputs.iter().map(|branch| of_node(branch, input)).collect();
            let longest = |index: usize| {
                let lengths = branches.iter().map(|branch| branch.get(index).copied().flatten());
                lengths.collect::<Option<Vec<_>>>()?.into_iter().max()
            };
            (0..plan.schema().fields().len()).map(longest).collect()
        }
        LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_) => {
            let Some(child) = plan.inputs().first().copied() else { return unknown() };
            let known = of_node(child, input);
            let column = |column: &datafusion::common::Column| {
                known.get(child.schema().maybe_index_of_column(column)?).copied().flatten()
            };
            let lengths: Vec<_> = plan.expressions().iter().map(|expr| longest(expr, &column)).collect();
            if lengths.len() == plan.schema().fields().len() { lengths } else { unknown() }
        }
        _ => unknown(),
    }
}

/// The longest text that an expression makes.
fn longest(expr: &Expr, column: &dyn Fn(&datafusion::common::Column) -> Option<u32>) -> Option<u32> {
    let literal = |expr: &Expr| match expr {
        Expr::Literal(ScalarValue::Int64(Some(count)), _) => u32::try_from(*count).ok(),
        _ => None,
    };
    match expr {
        Expr::Column(name) => column(name),
        Expr::Alias(alias) => longest(&alias.expr, column),
        Expr::Literal(ScalarValue::Utf8(Some(text)), _) => u32::try_from(text.chars().count()).ok(),
        Expr::AggregateFunction(call) if matches!(call.func.name(), "min" | "max" | "first_value") => {
            call.params.args.first().and_then(|argument| longest(argument, column))
        }
        Expr::ScalarFunction(call) => match (call.name(), call.args.as_slice()) {
            ("btrim" | "ltrim" | "rtrim" | "trim", [text, ..]) => longest(text, column),
            ("left" | "right", [_, count]) | ("substr" | "substring", [_, _, count]) => literal(count),
            ("md5", _) => Some(32),
            _ => None,
        },
        _ => None,
    }
}
