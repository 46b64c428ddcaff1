//! The tables that Tidemill makes: column types and CREATE TABLE. Pure.

use arrow::datatypes::{DataType, TimeUnit};

use super::session::Flavour;
use crate::cells::supported;
use crate::plan::check_plan;
use crate::{Error, Result, TableColumn, TablePlan};

/// Longest VARCHAR we make outside keys, in characters: a row holds 65,535 bytes of them in all.
const VARCHAR_CHARS_MAX: u32 = 2_000;

/// The unseen key of a table whose author names none. No column of a pipeline can have this name.
const COUNTED_KEY: &str = "  `tidemill-row-id` BIGINT UNSIGNED NOT NULL AUTO_INCREMENT INVISIBLE PRIMARY KEY";

/// The statement that makes a plan's table; errors when the plan cannot be a table.
pub(crate) fn create_table(plan: &TablePlan, flavour: Flavour) -> Result<String> {
    check_plan(plan)?;
    let mut lines = Vec::with_capacity(plan.columns.len() + 1);
    for column in &plan.columns {
        let in_key = plan.key.contains(&column.name);
        let null = if column.nullable && !in_key { "NULL" } else { "NOT NULL" };
        lines.push(format!("  `{}` {} {null}", column.name, column_type(column, in_key)?));
    }
    if plan.key.is_empty() && flavour.counted_rows {
        lines.push(COUNTED_KEY.to_owned());
    }
    if !plan.key.is_empty() {
        lines.push(format!("  PRIMARY KEY ({})", quoted(plan.key.iter().map(|k| k.as_str()))));
    }
    Ok(format!(
        "CREATE TABLE IF NOT EXISTS `{}` (\n{}\n) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {}",
        plan.table,
        lines.join(",\n"),
        flavour.exact_collation()
    ))
}

/// Names in backticks, with commas between.
pub(crate) fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The MySQL type of a column.
pub(crate) fn column_type(column: &TableColumn, in_key: bool) -> Result<String> {
    let unsupported = || Error::Type { column: column.name.to_string(), kind: column.kind.to_string() };
    if !supported(&column.kind) {
        return Err(unsupported());
    }
    Ok(match &column.kind {
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision},{scale})"),
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Utf8 => text_type(column.max_length, in_key),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => "DATETIME(6)".to_owned(),
        _ => return Err(unsupported()),
    })
}

/// Texts longer than a VARCHAR go into the smallest TEXT that holds them at four bytes a character.
fn text_type(max_length: Option<u32>, in_key: bool) -> String {
    match max_length {
        Some(chars) if in_key || chars <= VARCHAR_CHARS_MAX => format!("VARCHAR({})", chars.max(1)),
        Some(chars) if chars <= 16_383 => "TEXT".to_owned(),
        Some(chars) if chars <= 4_194_303 => "MEDIUMTEXT".to_owned(),
        _ => "LONGTEXT".to_owned(),
    }
}
