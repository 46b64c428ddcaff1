//! What the engine says, in words for the one who wrote the statement: what is wrong with what, where, and the nearest
//! name. Pure.

use arrow::error::ArrowError;
use datafusion::common::{Column, SchemaError};
use datafusion::error::DataFusionError;
use tidemill_pipelines::nearest;

use super::read::Text;
use crate::{Code, Error, QueryLimits, Refusal};

/// Longest message that is passed on.
const MESSAGE_CHARS_MAX: usize = 400;
/// Columns that are named when none is near.
const COLUMNS_NAMED: usize = 20;

/// An error of planning or running a statement.
pub(super) fn explain(error: &DataFusionError, text: &Text, limits: &QueryLimits) -> Error {
    let refused = |code: Code, message: String| Error::Refused(Refusal::new(code, message));
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
            explain(inner, text, limits)
        }
        DataFusionError::Shared(inner) => explain(inner, text, limits),
        DataFusionError::Collection(errors) if !errors.is_empty() => explain(&errors[0], text, limits),
        DataFusionError::External(inner) => external(inner.as_ref(), text, limits),
        DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
            ArrowError::ExternalError(inner) => external(inner.as_ref(), text, limits),
            ArrowError::MemoryError(_) => out_of_memory(limits),
            ArrowError::DivideByZero => refused(Code::Failed, "division by zero".to_owned()),
            other => refused(Code::Failed, lowered(&other.to_string())),
        },
        DataFusionError::ResourcesExhausted(_) => out_of_memory(limits),
        DataFusionError::SchemaError(schema, _) => of_schema(schema, text).into(),
        DataFusionError::Plan(message) => of_plan(message, text).into(),
        DataFusionError::NotImplemented(message) => {
            refused(Code::Invalid, format!("this is not supported: {}", lowered(message)))
        }
        DataFusionError::Execution(message) => refused(Code::Failed, lowered(message)),
        DataFusionError::ObjectStore(inner) => Error::Unavailable { message: inner.to_string() },
        DataFusionError::IoError(inner) => Error::Unavailable { message: inner.to_string() },
        other => refused(Code::Invalid, lowered(&other.strip_backtrace())),
    }
}

fn external(
    error: &(dyn std::error::Error + Send + Sync + 'static),
    text: &Text,
    limits: &QueryLimits,
) -> Error {
    if let Some(inner) = error.downcast_ref::<DataFusionError>() {
        explain(inner, text, limits)
    } else if let Some(inner) = error.downcast_ref::<Error>() {
        inner.clone()
    } else if let Some(inner) = error.downcast_ref::<ArrowError>() {
        Refusal::new(Code::Failed, lowered(&inner.to_string())).into()
    } else {
        Error::Unavailable { message: error.to_string() }
    }
}

fn out_of_memory(limits: &QueryLimits) -> Error {
    Error::Memory { mebibytes: limits.memory_bytes >> 20 }
}

/// A table that is not there, or not for this user; both are told alike.
pub(super) fn unknown_table(name: &str, known: &[String], text: &Text) -> Refusal {
    if name.contains(['/', '\\', ':']) || [".csv", ".json", ".parquet"].iter().any(|end| name.ends_with(end))
    {
        let message = format!("files and addresses cannot be read: there is no table `{name}`");
        return Refusal::new(Code::NotAllowed, message).at(text.find(name));
    }
    let near = nearest(name, known.iter().map(String::as_str));
    let message = match near {
        Some(near) => format!("there is no table `{name}`; did you mean `{near}`?"),
        None => format!("there is no table `{name}`; SHOW TABLES lists those that you may see"),
    };
    Refusal::new(Code::UnknownTable, message).at(text.find(name))
}

fn of_schema(error: &SchemaError, text: &Text) -> Refusal {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => unknown_column(field, valid_fields, text),
        SchemaError::AmbiguousReference { field } => {
            let message = format!("several tables have a column `{}`; write its table before it", field.name);
            Refusal::new(Code::AmbiguousColumn, message).at(text.find(&field.name))
        }
        SchemaError::DuplicateQualifiedField { name, .. }
        | SchemaError::DuplicateUnqualifiedField { name } => {
            let message =
                format!("the column `{name}` is there twice; give one of them another name with AS");
            Refusal::new(Code::Invalid, message).at(text.find(name))
        }
    }
}

fn unknown_column(field: &Column, valid: &[Column], text: &Text) -> Refusal {
    let name = match &field.relation {
        Some(table) => format!("{}.{}", table.table(), field.name),
        None => field.name.clone(),
    };
    let of_table = |column: &&Column| match (&field.relation, &column.relation) {
        (Some(wanted), Some(table)) => wanted.table() == table.table(),
        _ => true,
    };
    let mut names: Vec<&str> = valid.iter().filter(of_table).map(|column| column.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let hint = match nearest(&field.name, names.iter().copied()) {
        Some(near) if near.eq_ignore_ascii_case(&field.name) => format!("; write it in quotes: \"{near}\""),
        Some(near) => format!("; did you mean `{near}`?"),
        None if names.is_empty() => String::new(),
        None if names.len() <= COLUMNS_NAMED => format!("; there are `{}`", names.join("`, `")),
        None => String::new(),
    };
    Refusal::new(Code::UnknownColumn, format!("there is no column `{name}`{hint}")).at(text.find(&name))
}

/// The engine tells some mistakes only as text.
fn of_plan(message: &str, text: &Text) -> Refusal {
    let quoted = |after: &str| {
        let rest = &message[message.find(after)? + after.len()..];
        rest.split('\'').next().map(str::to_owned)
    };
    if let Some(name) = quoted("Invalid function '") {
        let hint =
            quoted("Did you mean '").map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        let message = format!("there is no function `{name}`{hint}");
        return Refusal::new(Code::UnknownFunction, message).at(text.find(&name));
    }
    Refusal::new(Code::Invalid, lowered(message))
}

/// A message of a library as part of ours: its first sentence lines, lowercase, bounded.
pub(super) fn lowered(message: &str) -> String {
    let message = message.split("\nThis issue was likely").next().unwrap_or(message);
    let message = message.split("\n\nbacktrace:").next().unwrap_or(message);
    let known = ["Error during planning: ", "Execution error: ", "Arrow error: ", "Optimizer rule "];
    let message = known.iter().fold(message.trim(), |text, prefix| text.strip_prefix(prefix).unwrap_or(text));
    let mut text: String = message.chars().take(MESSAGE_CHARS_MAX).collect();
    let second = text.chars().nth(1);
    // `COUNT` and `X` stay as they are.
    if let Some(first) = text.chars().next().filter(|_| second.is_some_and(char::is_lowercase)) {
        text.replace_range(..first.len_utf8(), &first.to_lowercase().to_string());
    }
    text
}
