//! Whether a table that stands can take a plan's rows without changing any: all differences in words. Pure.

use arrow::datatypes::DataType;
use tidemill_pipelines::Mode;

use super::catalog::{ColumnThere, TableThere};
use super::ddl::column_type;
use crate::{TableColumn, TablePlan};

/// Collations under which texts are equal only when their bytes are.
const EXACT_COLLATIONS: [&str; 2] = ["utf8mb4_nopad_bin", "utf8mb4_0900_bin"];

/// Every difference that matters; none means that the table fits.
pub(crate) fn differences(plan: &TablePlan, there: &TableThere) -> Vec<String> {
    let mut found = Vec::new();
    if there.view {
        return vec!["it is a view".to_owned()];
    }
    if !there.engine.eq_ignore_ascii_case("InnoDB") {
        found.push(format!("its engine is {}, which has no transactions; InnoDB has", there.engine));
    }
    for column in &plan.columns {
        let in_key = plan.key.contains(&column.name);
        match there.columns.iter().find(|c| c.name.eq_ignore_ascii_case(column.name.as_str())) {
            Some(there) => column_differences(column, there, in_key, &mut found),
            None => found.push(format!(
                "column `{}` is missing, the pipeline needs {}",
                column.name,
                needed(column, in_key)
            )),
        }
    }
    for extra in there.columns.iter().filter(|c| !c.nullable && !c.has_default && !c.generated) {
        let planned = |c: &TableColumn| c.name.as_str().eq_ignore_ascii_case(&extra.name);
        if !plan.columns.iter().any(planned) {
            found.push(format!(
                "column `{}` is not in the pipeline and has neither null nor a default",
                extra.name
            ));
        }
    }
    key_differences(plan, there, &mut found);
    found
}

fn needed(column: &TableColumn, in_key: bool) -> String {
    let null = if column.nullable && !in_key { "" } else { " NOT NULL" };
    format!("{}{null}", column_type(column, in_key).unwrap_or_else(|_| column.kind.to_string()))
}

fn column_differences(column: &TableColumn, there: &ColumnThere, in_key: bool, found: &mut Vec<String>) {
    let name = &column.name;
    if there.generated {
        found.push(format!("column `{name}` is generated and takes no values"));
    }
    if !holds(column, there) {
        found.push(format!(
            "column `{name}` is {}, the pipeline needs {}",
            there.column_type,
            column_type(column, in_key).unwrap_or_else(|_| column.kind.to_string())
        ));
    }
    if column.nullable && !in_key && !there.nullable {
        found.push(format!("column `{name}` is NOT NULL, the pipeline may write null"));
    }
    if column.kind == DataType::Utf8 && !there.charset.is_empty() {
        if there.charset != "utf8mb4" {
            found.push(format!("column `{name}` has character set {}, not utf8mb4", there.charset));
        } else if in_key && !EXACT_COLLATIONS.contains(&there.collation.as_str()) {
            found.push(format!(
                "key column `{name}` has collation {}, under which different texts are equal; use {}",
                there.collation,
                EXACT_COLLATIONS.join(" or ")
            ));
        }
    }
}

/// Whether every value of the planned column is stored exactly.
fn holds(column: &TableColumn, there: &ColumnThere) -> bool {
    let unsigned = there.column_type.contains("unsigned");
    match (&column.kind, there.data_type.as_str()) {
        (DataType::Int64, "bigint") => !unsigned,
        (DataType::Float64, "double") => !unsigned,
        (DataType::Boolean, "tinyint") => true,
        (DataType::Date32, "date") => true,
        (DataType::Timestamp(..), "datetime") => there.fraction == Some(6),
        (DataType::Decimal128(precision, scale), "decimal") => {
            let (p, s) = (there.precision.unwrap_or(0), there.scale.unwrap_or(0));
            let scale = u64::from(scale.unsigned_abs());
            !unsigned && s >= scale && p.saturating_sub(s) >= u64::from(*precision) - scale
        }
        (DataType::Utf8, "varchar") => {
            column.max_length.is_some_and(|n| u64::from(n) <= there.length.unwrap_or(0))
        }
        // Their length is in bytes, and a character takes up to four.
        (DataType::Utf8, "longtext") => true,
        (DataType::Utf8, "tinytext" | "text" | "mediumtext") => {
            column.max_length.is_some_and(|n| u64::from(n) <= there.length.unwrap_or(0) / 4)
        }
        _ => false,
    }
}

fn key_differences(plan: &TablePlan, there: &TableThere, found: &mut Vec<String>) {
    if plan.key.is_empty() {
        return;
    }
    let mut key: Vec<String> = plan.key.iter().map(|k| k.as_str().to_lowercase()).collect();
    key.sort();
    let primary = there.unique.iter().find(|(name, _)| name == "PRIMARY");
    let mut primary_key: Vec<String> = primary.map(|(_, columns)| columns.clone()).unwrap_or_default();
    primary_key.iter_mut().for_each(|name| *name = name.to_lowercase());
    primary_key.sort();
    if primary_key.is_empty() {
        found.push(format!("it has no primary key, the pipeline's key is ({})", key.join(", ")));
    } else if primary_key != key {
        found.push(format!(
            "its primary key is ({}), the pipeline's key is ({})",
            primary_key.join(", "),
            key.join(", ")
        ));
    }
    let others = there.unique.iter().filter(|(name, _)| name != "PRIMARY");
    for (name, columns) in others.filter(|_| plan.mode == Mode::Upsert) {
        found.push(format!(
            "unique index `{name}` ({}) stands beside the key: an upsert could change the row that it finds",
            columns.join(", ")
        ));
    }
}
