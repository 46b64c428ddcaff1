//! Decode: bytes of a delimited text or of JSON into Arrow batches of the declared types; what is wrong becomes a reject.
//!
//! The caller feeds chunks as they come; each record ends up in exactly one place: in a batch or in a reject.
//! The story is in `reading`; `scan` finds records and fields, `json` values in JSON, `rows`, `column` and its parsers read the values,
//! `header` and `sniff` refuse files that are something else, `rejects` writes the refused records as CSV.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use bytes::Bytes;

mod blocks;
pub(crate) mod cast;
mod column;
mod decoder;
mod error;
mod header;
mod json;
mod numbers;
mod reading;
mod rejects;
mod rows;
mod scan;
mod sniff;
#[cfg(test)]
mod tests;
mod time;
mod utf8;
mod window;

pub use column::{KnownKeys, References, schema};
pub use decoder::{DecodeLimits, DecodeSummary, Decoder};
pub use error::{DecodeError, UnknownName};
pub use rejects::RejectWriter;

/// Where a record stood in the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// 1-based line on which the record begins.
    pub line: u64,
    /// Byte range in the object: from the record's first byte to before its line end.
    pub byte_start: u64,
    /// End of the range, exclusive.
    pub byte_end: u64,
}

/// Records that decoded well, with where each one stood.
pub struct Decoded {
    /// One column for each column of the pipeline, in its order.
    pub batch: RecordBatch,
    /// One for each row.
    pub origins: Vec<Origin>,
    /// The bytes of these records, for rejects that checks make later: `raw[origin.byte_start - raw_start..]`.
    pub raw: Bytes,
    /// Offset in the object of the first byte of `raw`.
    pub raw_start: u64,
}

/// What is wrong with one field, or with the record as a whole.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RejectProblem {
    /// The column's name, when one is at fault.
    pub column: Option<String>,
    /// A stable word: `width`, `required`, `type`, `range`, `length`, `quote`, `encoding`, `nul`,
    /// `record_too_long`, `reference`, `json`, `duplicate`, `sql_failed`, a code of the database, or the name of a check.
    pub code: String,
    /// For people: what was found and what was expected.
    pub message: String,
}

/// A refused record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Where it stood; zeros where a number of an output row stands instead.
    pub origin: Origin,
    /// The object it stood in, where a job has several.
    pub file: Option<Arc<str>>,
    /// `decode`, `check`, `sql` or `deliver`.
    pub stage: &'static str,
    /// At least one; the first is the one told first.
    pub problems: Vec<RejectProblem>,
    /// The record's bytes, cut at the limit of the settings; of an output row, its values as CSV.
    pub raw: Bytes,
    /// 1-based number of an output row: behind an aggregate a row has no record.
    pub output_row: Option<u64>,
}

/// Takes what the decoder makes, in the order of the file within each kind.
pub trait DecodeOutput {
    /// A batch of good records. An error stops the decoding.
    fn batch(&mut self, decoded: Decoded) -> Result<(), Stopped>;
    /// A refused record.
    fn reject(&mut self, reject: Reject) -> Result<(), Stopped>;
}

/// The consumer wants no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;
