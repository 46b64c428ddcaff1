//! What every database asks of a plan, so that a pipeline that runs on a laptop runs in production. Pure.
//!
//! `tidemill check` tells these problems before a job runs; a sink refuses a plan that has one.

use arrow::datatypes::DataType;
use tidemill_pipelines::Mode;

use crate::cells::supported;
use crate::mysql::row_size;
use crate::{Error, Place, Result, TableColumn, TablePlan};

/// InnoDB's longest index entry, 3,072 bytes, in characters of utf8mb4.
const KEY_CHARS_MAX: u32 = 768;

/// Why a plan cannot be a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanProblem {
    /// Whether the key is at fault, or the columns.
    pub of_key: bool,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// Everything that keeps a plan from being a table of MySQL, and so of any database.
pub fn plan_problems(plan: &TablePlan) -> Vec<PlanProblem> {
    let mut problems = key_problems(plan);
    if plan.place == Place::Database {
        problems.extend(row_size::problem(plan));
    }
    problems
}

/// Refuses a plan that cannot be a table with this key.
pub(crate) fn check_plan(plan: &TablePlan) -> Result<()> {
    if let Some(column) = plan.columns.iter().find(|c| !supported(&c.kind)) {
        let (column, kind) = (column.name.to_string(), column.kind.to_string());
        return Err(Error::Type { column, kind });
    }
    let mut differences = doubled_names(plan);
    differences
        .extend(plan_problems(plan).into_iter().map(|found| format!("{}: {}", found.message, found.help)));
    if plan.columns.is_empty() {
        differences.push("the pipeline gives no columns".to_owned());
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::Shape { table: plan.table.to_string(), differences })
}

fn doubled_names(plan: &TablePlan) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    let names = plan.columns.iter().map(|c| &c.name);
    names
        .filter(|name| !seen.insert(name.as_str().to_lowercase()))
        .map(|name| format!("column `{name}` is there twice (a database does not tell case apart)"))
        .collect()
}

fn key_problems(plan: &TablePlan) -> Vec<PlanProblem> {
    let mut problems = Vec::new();
    let mut problem =
        |message: String, help: String| problems.push(PlanProblem { of_key: true, message, help });
    let mut chars = 0u32;
    for name in &plan.key {
        match plan.columns.iter().find(|column| column.name == *name) {
            None => problem(
                format!("key column `{name}` is not among the columns"),
                "name a column that the steps make".to_owned(),
            ),
            Some(TableColumn { kind: DataType::Utf8, max_length: None, .. }) => problem(
                format!("key column `{name}` is text of unknown length"),
                format!(
                    "give the column a max_length; where a step makes it, write `left(…, 50) AS {name}` in the last sql step"
                ),
            ),
            Some(column) => chars = chars.saturating_add(column.max_length.unwrap_or(2)),
        }
    }
    if plan.key.is_empty() && plan.mode == Mode::Upsert {
        problem("an upsert needs a key".to_owned(), "write `key: [id]`".to_owned());
    }
    if chars > KEY_CHARS_MAX {
        problem(
            format!("the key has {chars} characters, the longest is {KEY_CHARS_MAX}"),
            "give its texts a smaller max_length".to_owned(),
        );
    }
    problems
}
