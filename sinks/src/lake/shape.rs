//! Whether a Delta table can take a plan's rows: all differences in words. Pure.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Field};
use deltalake_core::kernel::EagerSnapshot;

use super::day::Day;
use crate::plan::check_plan;
use crate::{Result, TablePlan};

/// Settings that every table is made with.
pub(crate) fn properties() -> HashMap<String, Option<String>> {
    [
        // Opening a table reads the checkpoint and the commits after it: at most 20 small objects.
        ("delta.checkpointInterval", "20"),
        // An application transaction for each job would be kept for ever; a job is not delivered again after a year.
        ("delta.setTransactionRetentionDuration", "interval 365 days"),
    ]
    .map(|(key, value)| (key.to_owned(), Some(value.to_owned())))
    .into()
}

/// Refuses a plan that cannot be a table of the lake.
pub(crate) fn check(plan: &TablePlan) -> Result<()> {
    check_plan(plan)?;
    Day::of(plan).map(drop)
}

/// The statement that makes a plan's table, in the words of Spark; told, never run.
pub(crate) fn ddl(plan: &TablePlan) -> String {
    let Ok(day) = Day::of(plan) else { return String::new() };
    let lines = day.schema.fields().iter().map(|field| {
        let null = if field.is_nullable() { "" } else { " NOT NULL" };
        format!("  `{}` {}{null}", field.name(), words(field.data_type()))
    });
    let lines = lines.collect::<Vec<_>>().join(",\n");
    format!("CREATE TABLE lake.`{}` (\n{lines}\n) USING DELTA PARTITIONED BY (`{}`)", plan.table, day.name)
}

/// Every difference that matters; none means that the table fits.
pub(crate) fn differences(plan: &TablePlan, there: &EagerSnapshot) -> Vec<String> {
    let Ok(day) = Day::of(plan) else { return Vec::new() };
    let there_schema = there.arrow_schema();
    let mut found = Vec::new();
    for field in day.schema.fields() {
        let same_name = |other: &&std::sync::Arc<Field>| other.name().eq_ignore_ascii_case(field.name());
        match there_schema.fields().iter().find(same_name) {
            Some(there) => found.extend(field_differences(field, there)),
            None => found.push(format!(
                "column `{}` is missing, the pipeline needs {}",
                field.name(),
                words(field.data_type())
            )),
        }
    }
    for extra in there_schema.fields().iter().filter(|field| !field.is_nullable()) {
        if !day.schema.fields().iter().any(|field| field.name().eq_ignore_ascii_case(extra.name())) {
            found.push(format!("column `{}` is not in the pipeline and may not be null", extra.name()));
        }
    }
    let partitions = there.metadata().partition_columns();
    if partitions != [day.name.as_str()] {
        found.push(format!(
            "it is partitioned by ({}), the pipeline's day is in `{}`",
            partitions.join(", "),
            day.name
        ));
    }
    found
}

fn field_differences(needed: &Field, there: &Field) -> Vec<String> {
    let name = needed.name();
    let mut found = Vec::new();
    if there.name() != name {
        found.push(format!("column `{name}` is written `{}`", there.name()));
    }
    if there.data_type() != needed.data_type() {
        found.push(format!(
            "column `{name}` is {}, the pipeline needs {}",
            words(there.data_type()),
            words(needed.data_type())
        ));
    }
    if needed.is_nullable() && !there.is_nullable() {
        found.push(format!("column `{name}` is NOT NULL, the pipeline may write null"));
    }
    found
}

/// A type in the words of Spark's SQL.
fn words(kind: &DataType) -> String {
    match kind {
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision},{scale})"),
        DataType::Utf8 => "STRING".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP".to_owned(),
        other => other.to_string(),
    }
}
