//! Turns the fields of a record into a row of the batch in the making, or into all of its problems. Called by
//! `decoder`.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use tidemill_pipelines::{Column, CsvFormat};

use super::RejectProblem;
use super::column::{ColumnBuffer, Fault, References, schema};
use super::error::DecodeError;
use super::json::{Scalar, scalar};
use super::scan::Field;

/// Characters of a value shown in a message.
const SHOWN_CHARS_MAX: usize = 80;

/// The batch in the making.
pub(super) struct Rows {
    columns: Vec<ColumnBuffer>,
    /// For each field of a record, the index of its column.
    order: Vec<usize>,
    count: usize,
    schema: SchemaRef,
    nulls: Nulls,
    trim: bool,
    quote: u8,
    /// A field of which doubled quotes were made single.
    scratch: Vec<u8>,
}

impl Rows {
    pub fn new(format: &CsvFormat, columns: &[Column], references: &References) -> Result<Self, DecodeError> {
        let buffer = |column: &Column| {
            let name = column.name.to_string();
            ColumnBuffer::new(column, references)
                .map_err(|message| DecodeError::Column { column: name, message })
        };
        Ok(Rows {
            columns: columns.iter().map(buffer).collect::<Result<_, _>>()?,
            order: (0..columns.len()).collect(),
            count: 0,
            schema: schema(columns),
            nulls: Nulls::new(&format.null),
            trim: format.trim,
            quote: format.quote.unwrap_or_default(),
            scratch: Vec::new(),
        })
    }

    /// Fields come in this order of the columns from now on.
    pub fn set_order(&mut self, order: Vec<usize>) {
        self.order = order;
    }

    /// Rows since the last [`Rows::finish`].
    pub fn count(&self) -> usize {
        self.count
    }

    /// Adds a record of text without NUL; false, and nothing is added, when a field is at fault.
    #[inline]
    pub fn push(&mut self, bytes: &[u8], fields: &[Field]) -> bool {
        for (i, field) in fields.iter().enumerate() {
            if self.field(bytes, *field, i).is_err() {
                self.rollback();
                return false;
            }
        }
        self.count += 1;
        true
    }

    /// Adds a record, or tells all that is wrong with it, from left to right.
    #[cold]
    pub fn diagnose(&mut self, bytes: &[u8], fields: &[Field]) -> Vec<RejectProblem> {
        let faulty = |(i, field): (usize, &Field)| self.problem(bytes, *field, i);
        let problems: Vec<_> = fields.iter().enumerate().filter_map(faulty).collect();
        match problems.is_empty() {
            true => self.count += 1,
            false => self.rollback(),
        }
        problems
    }

    /// Adds a JSON record by where the values of its columns stand, or tells all that is wrong with it. `twice` are
    /// the columns that the record gives twice.
    pub fn push_json(
        &mut self,
        bytes: &[u8],
        found: &[Option<Range<usize>>],
        twice: &[usize],
    ) -> Vec<RejectProblem> {
        let faulty = |(i, place): (usize, &Option<Range<usize>>)| {
            let value = place.clone().map_or(&b"null"[..], |place| &bytes[place]);
            match twice.contains(&i) {
                true => Some(("duplicate", "the record gives it twice".to_owned(), i)),
                false => self.json_problem(value, i).map(|(code, message)| (code, message, i)),
            }
        };
        let problems: Vec<_> = found.iter().enumerate().filter_map(faulty).collect();
        match problems.is_empty() {
            true => self.count += 1,
            false => self.rollback(),
        }
        let told = |(code, message, i): (&str, String, usize)| RejectProblem {
            column: Some(self.columns[i].name.clone()),
            code: code.to_owned(),
            message,
        };
        problems.into_iter().map(told).collect()
    }

    /// Puts a JSON value into column `i`: texts and numbers are read as the fields of a CSV file are.
    fn json_problem(&mut self, value: &[u8], i: usize) -> Option<(&'static str, String)> {
        let (column, mut scratch) = (&mut self.columns[i], String::new());
        let (put, text) = match scalar(value, &mut scratch) {
            Scalar::Null => (column.null(self.count), &b""[..]),
            Scalar::Bool(truth) => (column.boolean(truth), value),
            Scalar::Number(text) => (column.value(text), text),
            Scalar::Text(text) => {
                if let Some(position) = memchr::memchr(0, text) {
                    return Some((
                        "nul",
                        format!("a NUL character stands in the text, after {position} bytes"),
                    ));
                }
                (column.value(text), text)
            }
            Scalar::BadText => {
                return Some(("encoding", format!("{} has half of a surrogate pair", shown(value))));
            }
            nested @ (Scalar::Object | Scalar::Array) => {
                let kind = nested.kind();
                return Some((
                    "type",
                    format!("it is {kind}; the column's `path` may lead to a value in it"),
                ));
            }
        };
        let fault = put.err()?;
        Some((fault.code(), column.describe(fault, &shown(text))))
    }

    /// The rows as a batch; begins anew.
    pub fn finish(&mut self) -> Result<RecordBatch, DecodeError> {
        let rows = std::mem::take(&mut self.count);
        let failed = |error: arrow::error::ArrowError| DecodeError::Batch { message: error.to_string() };
        let arrays = self.columns.iter_mut().map(|column| column.finish(rows)).collect::<Result<_, _>>();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays.map_err(failed)?, &options)
            .map_err(failed)
    }

    fn rollback(&mut self) {
        self.columns.iter_mut().for_each(|column| column.truncate(self.count));
    }

    /// Puts field number `i` of a record into its column.
    #[inline(always)]
    fn field(&mut self, bytes: &[u8], field: Field, i: usize) -> Result<(), Fault> {
        let text = &bytes[field.start as usize..field.end as usize];
        let column = &mut self.columns[self.order[i]];
        if field.quoted {
            return column.value(unquoted(text, field, self.quote, &mut self.scratch));
        }
        let text = if self.trim { trimmed(text) } else { text };
        if self.nulls.contains(text) { column.null(self.count) } else { column.value(text) }
    }

    fn problem(&mut self, bytes: &[u8], field: Field, i: usize) -> Option<RejectProblem> {
        let text = &bytes[field.start as usize..field.end as usize];
        let (code, message) = if let Some(position) = memchr::memchr(0, text) {
            ("nul", format!("a NUL byte stands in the field, after {position} bytes"))
        } else if let Err(error) = std::str::from_utf8(text) {
            let position = error.valid_up_to();
            (
                "encoding",
                format!("the field is not UTF-8: byte 0x{:02x} after {position} bytes", text[position]),
            )
        } else {
            let fault = self.field(bytes, field, i).err()?;
            let text = if self.trim && !field.quoted { trimmed(text) } else { text };
            let text = unquoted(text, field, self.quote, &mut self.scratch);
            (fault.code(), self.columns[self.order[i]].describe(fault, &shown(text)))
        };
        let column = Some(self.columns[self.order[i]].name.clone());
        Some(RejectProblem { column, code: code.to_owned(), message })
    }
}

/// A field's text with doubled quotes made single.
#[inline]
pub(super) fn unquoted<'a>(text: &'a [u8], field: Field, quote: u8, scratch: &'a mut Vec<u8>) -> &'a [u8] {
    if !field.doubled {
        return text;
    }
    scratch.clear();
    let mut rest = text;
    while let Some(position) = memchr::memchr(quote, rest) {
        scratch.extend_from_slice(&rest[..=position]);
        rest = rest.get(position + 2..).unwrap_or_default();
    }
    scratch.extend_from_slice(rest);
    scratch
}

fn trimmed(text: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = text.iter().take_while(|byte| blank(byte)).count();
    let end = text.iter().rev().take_while(|byte| blank(byte)).count();
    text.get(start..text.len() - end).unwrap_or_default()
}

/// A value as messages show it: cut, and without control characters.
pub(super) fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut shown = String::new();
    for (i, char) in text.chars().enumerate() {
        match char {
            _ if i == SHOWN_CHARS_MAX => return shown + "…",
            char if char.is_control() => shown.extend(char.escape_default()),
            char => shown.push(char),
        }
    }
    shown
}

/// The texts that stand for a missing value.
struct Nulls {
    empty: bool,
    /// Bytes with which one of the texts begins: most fields begin with none of them.
    first: [bool; 256],
    texts: Vec<Vec<u8>>,
}

impl Nulls {
    fn new(texts: &[String]) -> Self {
        let mut nulls = Nulls { empty: false, first: [false; 256], texts: Vec::new() };
        for text in texts {
            match text.as_bytes().first() {
                Some(&first) => {
                    nulls.first[usize::from(first)] = true;
                    nulls.texts.push(text.clone().into_bytes());
                }
                None => nulls.empty = true,
            }
        }
        nulls
    }

    #[inline(always)]
    fn contains(&self, text: &[u8]) -> bool {
        match text.first() {
            None => self.empty,
            Some(&first) => self.first[usize::from(first)] && self.texts.iter().any(|null| null == text),
        }
    }
}
