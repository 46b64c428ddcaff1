//! Whether a table that stands can take a plan's rows without changing any: all differences in words. Pure.

use arrow::datatypes::DataType;
use tidemill_pipelines::Mode;

use super::catalog::{ColumnThere, TableThere, affinity, kind_text, storage};
use crate::{TableColumn, TablePlan};

/// Every difference that matters; none means that the table fits.
pub(crate) fn differences(plan: &TablePlan, there: &TableThere) -> Vec<String> {
    if there.view {
        return vec!["it is a view".to_owned()];
    }
    let mut found = Vec::new();
    for column in &plan.columns {
        match there.columns.iter().find(|c| same_name(column, c)) {
            Some(there) => column_differences(plan, column, there, &mut found),
            None => found.push(format!(
                "column `{}` is missing, the pipeline needs {}",
                column.name,
                needed(column)
            )),
        }
    }
    let filled = |c: &&ColumnThere| c.nullable || c.has_default || c.generated || c.key_place > 0;
    for extra in there.columns.iter().filter(|c| !filled(c)) {
        if !plan.columns.iter().any(|column| same_name(column, extra)) {
            found.push(format!(
                "column `{}` is not in the pipeline and has neither null nor a default",
                extra.name
            ));
        }
    }
    key_differences(plan, there, &mut found);
    found
}

fn same_name(column: &TableColumn, there: &ColumnThere) -> bool {
    column.name.as_str().eq_ignore_ascii_case(&there.name)
}

fn needed(column: &TableColumn) -> String {
    let length = match column.max_length {
        Some(length) if column.kind == DataType::Utf8 => format!(" of {length} characters"),
        _ => String::new(),
    };
    format!("{} ({}{length})", storage(&column.kind), kind_text(&column.kind))
}

fn column_differences(plan: &TablePlan, column: &TableColumn, there: &ColumnThere, found: &mut Vec<String>) {
    let name = &column.name;
    if there.generated {
        found.push(format!("column `{name}` is generated and takes no values"));
    }
    let stored = affinity(&there.declared) == Some(storage(&column.kind));
    let made = there.made_as.as_ref();
    let same_kind = made.is_none_or(|(kind, _)| *kind == column.kind);
    let long_enough = match made.and_then(|(_, length)| *length) {
        Some(longest) if column.kind == DataType::Utf8 => {
            column.max_length.is_some_and(|length| length <= longest)
        }
        _ => true,
    };
    if !stored || !same_kind || !long_enough {
        let made = made.map(|(kind, length)| match length {
            Some(length) => format!(" ({} of {length} characters)", kind_text(kind)),
            None => format!(" ({})", kind_text(kind)),
        });
        found.push(format!(
            "column `{name}` is {}{}, the pipeline needs {}",
            there.declared,
            made.unwrap_or_default(),
            needed(column)
        ));
    }
    if column.nullable && !plan.key.contains(name) && !there.nullable {
        found.push(format!("column `{name}` is NOT NULL, the pipeline may write null"));
    }
}

fn key_differences(plan: &TablePlan, there: &TableThere, found: &mut Vec<String>) {
    if plan.key.is_empty() {
        return;
    }
    let mut key: Vec<String> = plan.key.iter().map(|k| k.as_str().to_lowercase()).collect();
    key.sort();
    let keyed = there.columns.iter().filter(|c| c.key_place > 0);
    let mut primary: Vec<String> = keyed.map(|c| c.name.to_lowercase()).collect();
    primary.sort();
    if primary.is_empty() {
        found.push(format!("it has no primary key, the pipeline's key is ({})", key.join(", ")));
    } else if primary != key {
        found.push(format!(
            "its primary key is ({}), the pipeline's key is ({})",
            primary.join(", "),
            key.join(", ")
        ));
    }
    if there.inexact_key {
        found.push("its primary key has a collation under which different texts are equal".into());
    }
    for name in there.unique.iter().filter(|_| plan.mode == Mode::Upsert) {
        found.push(format!(
            "unique index `{name}` stands beside the key: an upsert could meet the row that it finds"
        ));
    }
}
