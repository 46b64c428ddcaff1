//! Finds the pipeline's columns by the names of the header, or tells every difference. Called by `decoder`.

use std::collections::HashMap;

use tidemill_pipelines::Column;

use super::error::{DecodeError, UnknownName};

/// More fields than this are no header that anyone wrote; it bounds the memory taken for one.
pub(super) const HEADER_FIELDS_MAX: usize = 16_384;

/// Characters shown and compared of a name.
const NAME_CHARS_MAX: usize = 80;

/// Names that are this similar (Jaro-Winkler, 0 to 1) may be one another's misspelling.
const SIMILAR: f64 = 0.8;

/// For each field of the file, the index of its column.
pub(super) fn order(names: &[String], columns: &[Column], line: u64) -> Result<Vec<usize>, DecodeError> {
    let index: HashMap<&str, usize> =
        columns.iter().enumerate().map(|(i, column)| (column.name.as_str(), i)).collect();
    let mut fields_of = vec![0usize; columns.len()];
    let mut order = Vec::with_capacity(columns.len());
    let mut strangers = Vec::new();
    for name in names {
        match index.get(name.as_str()) {
            Some(&column) => {
                fields_of[column] += 1;
                order.push(column);
            }
            None => strangers.push(name.as_str()),
        }
    }
    let named = |wanted: fn(usize) -> bool| -> Vec<String> {
        let found = columns.iter().zip(&fields_of).filter(|(_, fields)| wanted(**fields));
        found.map(|(column, _)| column.name.to_string()).collect()
    };
    let (missing, duplicate) = (named(|fields| fields == 0), named(|fields| fields > 1));
    if missing.is_empty() && duplicate.is_empty() && strangers.is_empty() {
        return Ok(order);
    }
    let unknown = strangers.into_iter().map(|name| unknown(name, columns)).collect();
    Err(DecodeError::Header { line, missing, unknown, duplicate })
}

fn unknown(name: &str, columns: &[Column]) -> UnknownName {
    let name: String = name.chars().take(NAME_CHARS_MAX).collect();
    let lower = name.to_lowercase();
    let similarity = |column: &Column| strsim::jaro_winkler(&lower, &column.name.as_str().to_lowercase());
    let scored = columns.iter().map(|column| (similarity(column), column.name.as_str()));
    let nearest = scored.filter(|(score, _)| *score >= SIMILAR).max_by(|a, b| a.0.total_cmp(&b.0));
    UnknownName { nearest: nearest.map(|(_, column)| column.to_owned()), name }
}
