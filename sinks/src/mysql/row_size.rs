//! Whether a row of a planned table fits MySQL and MariaDB: 65,535 bytes of columns in all, and half a page of InnoDB for
//! what is kept in the row itself. Pure; called for plans of every database (`plan`).
//!
//! Source: “Limits on Table Column Count and Row Size” and “InnoDB Row Formats” of the MySQL manual; both servers refuse
//! the table with error 1118.

use arrow::datatypes::DataType;

use super::ddl::column_type;
use crate::plan::PlanProblem;
use crate::{TableColumn, TablePlan};

/// Columns of a row together, in bytes.
const ROW_BYTES_MAX: usize = 65_535;
/// A row within a page of 16 KiB, in bytes. MariaDB 10.11 takes a table of 197 texts and then refuses a row of 197 × 40 bytes.
const PAGE_BYTES_MAX: usize = 8_125;
/// Bytes of a long value that may stay in the row.
const LOCAL_BYTES_MAX: usize = 40;
/// Header, transaction and rollback pointer, and the row id of a table without a key.
const PAGE_HEADER_BYTES: usize = 5 + 6 + 7 + 6;
const COLUMNS_MAX: usize = 1_017;

/// Why the rows are too long, and what to write.
pub(crate) fn problem(plan: &TablePlan) -> Option<PlanProblem> {
    let in_key = |column: &TableColumn| plan.key.contains(&column.name);
    let nulls = plan.columns.iter().filter(|column| column.nullable).count() / 8 + 1;
    let row: usize = plan.columns.iter().map(|column| bytes(column, in_key(column))).sum::<usize>() + nulls;
    let page: usize = plan.columns.iter().map(|column| local_bytes(column, in_key(column))).sum::<usize>()
        + nulls
        + PAGE_HEADER_BYTES;
    let table = &plan.table;
    let (message, help) = if plan.columns.len() > COLUMNS_MAX {
        (
            format!("table `{table}` has {} columns, MySQL holds {COLUMNS_MAX}", plan.columns.len()),
            "select fewer columns in the last sql step".to_owned(),
        )
    } else if row > ROW_BYTES_MAX {
        (
            format!("a row of table `{table}` takes up to {row} bytes, MySQL holds {ROW_BYTES_MAX}"),
            "give texts a smaller max_length (a character takes 4 bytes), or one over 2000, which is kept outside of the row"
                .to_owned(),
        )
    } else if page > PAGE_BYTES_MAX {
        (
            format!("a row of table `{table}` keeps {page} bytes in its page, MySQL holds {PAGE_BYTES_MAX}"),
            "select fewer columns in the last sql step, or give texts a max_length under 10".to_owned(),
        )
    } else {
        return None;
    };
    Some(PlanProblem { of_key: false, message, help })
}

/// Bytes of a column in a row.
fn bytes(column: &TableColumn, in_key: bool) -> usize {
    match &column.kind {
        DataType::Utf8 => match text(column, in_key) {
            Text::InRow(bytes) => bytes + length_bytes(bytes),
            Text::Outside => 12,
        },
        DataType::Decimal128(precision, scale) => {
            let scale = usize::from(scale.unsigned_abs());
            digits(usize::from(*precision).saturating_sub(scale)) + digits(scale)
        }
        DataType::Boolean => 1,
        DataType::Date32 => 3,
        _ => 8,
    }
}

/// Bytes of a column that stay in its page.
fn local_bytes(column: &TableColumn, in_key: bool) -> usize {
    match (&column.kind, text(column, in_key)) {
        (DataType::Utf8, Text::InRow(bytes)) if in_key => bytes + length_bytes(bytes),
        (DataType::Utf8, Text::InRow(bytes)) => bytes.min(LOCAL_BYTES_MAX) + 1,
        (DataType::Utf8, Text::Outside) => LOCAL_BYTES_MAX + 1,
        _ => bytes(column, in_key),
    }
}

enum Text {
    /// VARCHAR: bytes of the longest value.
    InRow(usize),
    /// TEXT and its like: a pointer.
    Outside,
}

fn text(column: &TableColumn, in_key: bool) -> Text {
    let is_varchar = column_type(column, in_key).is_ok_and(|kind| kind.starts_with("VARCHAR"));
    match column.max_length {
        Some(chars) if is_varchar => Text::InRow(4 * chars.max(1) as usize),
        _ => Text::Outside,
    }
}

fn length_bytes(bytes: usize) -> usize {
    if bytes > 255 { 2 } else { 1 }
}

/// Bytes of decimal digits: nine in four bytes.
fn digits(count: usize) -> usize {
    count / 9 * 4 + (count % 9).div_ceil(2)
}
