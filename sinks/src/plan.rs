//! What every database asks of a plan, so that a pipeline that runs on a laptop runs in production. Pure.

use arrow::datatypes::DataType;
use tidemill_pipelines::Mode;

use crate::cells::supported;
use crate::{Error, Result, TableColumn, TablePlan};

/// InnoDB's longest index entry, 3,072 bytes, in characters of utf8mb4.
const KEY_CHARS_MAX: u32 = 768;

/// Refuses a plan that cannot be a table with this key.
pub(crate) fn check_plan(plan: &TablePlan) -> Result<()> {
    if let Some(column) = plan.columns.iter().find(|c| !supported(&c.kind)) {
        let (column, kind) = (column.name.to_string(), column.kind.to_string());
        return Err(Error::Type { column, kind });
    }
    let mut differences = doubled_names(plan);
    differences.extend(key_problems(plan));
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

fn key_problems(plan: &TablePlan) -> Vec<String> {
    let mut problems = Vec::new();
    let mut chars = 0u32;
    for name in &plan.key {
        match plan.columns.iter().find(|column| column.name == *name) {
            None => problems.push(format!("key column `{name}` is not among the columns")),
            Some(TableColumn { kind: DataType::Utf8, max_length: None, .. }) => {
                problems.push(format!("key column `{name}` is text of unknown length: give it a max_length"))
            }
            Some(column) => chars = chars.saturating_add(column.max_length.unwrap_or(2)),
        }
    }
    if plan.key.is_empty() && plan.mode == Mode::Upsert {
        problems.push("an upsert needs a key".to_owned());
    }
    if chars > KEY_CHARS_MAX {
        problems.push(format!("the key has {chars} characters, the longest is {KEY_CHARS_MAX}"));
    }
    problems
}
