//! JSON in the reading: each line of JSON lines is a record, a document is held whole and its records are found in it.
//!
//! A line that is no JSON is a reject. A document that is no JSON, or half of one, or something else that came in its
//! place, fails as a whole and is told by what was found: there is no telling where its records are.

use std::convert::Infallible;
use std::ops::Range;

use bytes::Bytes;
use serde::de::IgnoredAny;
use tidemill_pipelines::{Column, Format, JsonFormat, JsonPath, PathStep};

use super::{Reading, View, problem};
use crate::decode::error::DecodeError;
use crate::decode::json::{Wanted, kind_at, skip};
use crate::decode::rows::{Rows, shown};
use crate::decode::utf8::Utf8;
use crate::decode::{DecodeOutput, RejectProblem, sniff};

const SPACE: &[u8] = b" \t\r\n";

/// How JSON records are read.
pub(super) struct Json {
    /// Column `i` is the path number `i`.
    columns: Wanted,
    /// A column is looked up by its name, so records have to be objects.
    has_names: bool,
    /// For each column of the record at hand, where its value stands.
    found: Vec<Option<Range<usize>>>,
    document: Option<Document>,
}

/// The bytes of a document so far.
struct Document {
    records: Option<JsonPath>,
    bytes: Vec<u8>,
}

impl Json {
    /// `None` for other formats.
    pub fn new(format: &Format, columns: &[Column]) -> Option<Self> {
        let document = match format {
            Format::Csv(_) | Format::File => return None,
            Format::Json(JsonFormat { records }) => {
                Some(Document { records: records.clone(), bytes: Vec::new() })
            }
            Format::JsonLines => None,
        };
        let mut wanted = Wanted::default();
        for (number, column) in columns.iter().enumerate() {
            match &column.path {
                Some(path) => wanted.add(path.steps(), number),
                None => wanted.add(&[PathStep::Name(column.name.to_string())], number),
            }
        }
        let has_names = columns.iter().any(|column| column.path.is_none());
        Some(Json { columns: wanted, has_names, found: vec![None; columns.len()], document })
    }

    /// Holds the bytes of a document back until it is whole; gives back what is no document.
    pub fn hold(&mut self, chunk: Bytes, bytes_max: usize) -> Result<Option<Bytes>, DecodeError> {
        let Some(document) = &mut self.document else { return Ok(Some(chunk)) };
        if document.bytes.len() + chunk.len() > bytes_max {
            return Err(DecodeError::TooLarge { bytes_max });
        }
        document.bytes.extend_from_slice(&chunk);
        Ok(None)
    }

    /// Adds the record whose value begins at `at`, or tells all that is wrong with it.
    fn row(&mut self, rows: &mut Rows, bytes: &[u8], at: usize) -> Vec<RejectProblem> {
        let kind = kind_at(bytes, at);
        if self.has_names && bytes.get(at) != Some(&b'{') {
            return vec![problem("type", format!("the record is {kind}, not an object"))];
        }
        let Json { columns, found, .. } = self;
        found.fill(None);
        let mut twice = Vec::new();
        let mut note = |column: usize, range| {
            if found[column].replace(range).is_some() {
                twice.push(column);
            }
            Ok::<_, Infallible>(())
        };
        let Ok(_) = columns.walk(bytes, at, &mut note);
        rows.push_json(bytes, found, &twice)
    }
}

/// Refuses what is no JSON at first sight.
pub(super) fn begin(bytes: &[u8], start: usize) -> Result<(), DecodeError> {
    let start = skip(bytes, start, SPACE);
    match bytes.get(start) {
        Some(b'<') => {
            let begins = shown(&bytes[start..bytes.len().min(start + 400)]);
            Err(DecodeError::NotJson {
                message: format!("the file is HTML or XML, not JSON: it begins with `{begins}`"),
            })
        }
        _ => Ok(()),
    }
}

impl Reading {
    /// Takes one line of JSON lines.
    pub(super) fn json_line(
        &mut self,
        view: View,
        line: Range<usize>,
        utf8: &mut Utf8,
        out: &mut impl DecodeOutput,
    ) -> Result<(), DecodeError> {
        let value = skip(view.bytes, line.start, SPACE);
        if value >= line.end {
            return Ok(());
        }
        let problem = if !utf8.holds(line.start, line.end) {
            Some(problem("encoding", "the line is not UTF-8".to_owned()))
        } else {
            let error = serde_json::from_slice::<IgnoredAny>(&view.bytes[line.clone()]).err();
            error.map(|error| {
                problem("json", format!("the line is no JSON: {}, at byte {}", said(&error), error.column()))
            })
        };
        match problem {
            Some(problem) => self.reject(view, line.start, line.end, vec![problem], out),
            None => self.json_record(view, line, value, out),
        }
    }

    fn json_record(
        &mut self,
        view: View,
        record: Range<usize>,
        value: usize,
        out: &mut impl DecodeOutput,
    ) -> Result<(), DecodeError> {
        let Some(json) = &mut self.json else { return Ok(()) };
        let problems = json.row(&mut self.rows, view.bytes, value);
        match problems.is_empty() {
            true => self.good(view, record.start, record.end, out),
            false => self.reject(view, record.start, record.end, problems, out),
        }
    }

    /// Reads the document, once it is whole; false when the format has none.
    pub(super) fn document(&mut self, out: &mut impl DecodeOutput) -> Result<bool, DecodeError> {
        let Some(document) = self.json.as_mut().and_then(|json| json.document.take()) else {
            return Ok(false);
        };
        let bytes = Bytes::from(document.bytes);
        let view = View { bytes: &bytes, last: true };
        let start = skip(&bytes, sniff::begin(&bytes)?, SPACE);
        self.summary.empty = start == bytes.len();
        if self.summary.empty {
            return Ok(true);
        }
        begin(&bytes, start)?;
        check(&bytes, start)?;
        let records = places(&bytes, start, document.records.as_ref())?;
        let mut counted = 0;
        let record_bytes_max = self.limits.record_bytes_max;
        records.walk(&bytes, start, &mut |_, record: Range<usize>| {
            self.line += memchr::memchr_iter(b'\n', &bytes[counted..record.start]).count() as u64;
            counted = record.start;
            if record.len() > record_bytes_max {
                let message = format!("the record has {} bytes, more than {record_bytes_max}", record.len());
                return self.reject(
                    view,
                    record.start,
                    record.end,
                    vec![problem("record_too_long", message)],
                    out,
                );
            }
            self.json_record(view, record.clone(), record.start, out)
        })?;
        self.flush(view, out)?;
        Ok(true)
    }
}

/// That a document is JSON in UTF-8, from begin to end.
fn check(bytes: &[u8], start: usize) -> Result<(), DecodeError> {
    let not_json = |message: String| Err(DecodeError::NotJson { message });
    if let Err(error) = simdutf8::compat::from_utf8(bytes) {
        return not_json(format!("the JSON document is not UTF-8, after {} bytes", error.valid_up_to()));
    }
    match serde_json::from_slice::<IgnoredAny>(&bytes[start..]) {
        Ok(_) => Ok(()),
        Err(error) if error.is_eof() => {
            let begins = shown(&bytes[start..bytes.len().min(start + 400)]);
            not_json(format!(
                "the JSON document ends in the middle, after {} bytes: only a part of it came (it begins with `{begins}`)",
                bytes.len()
            ))
        }
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            let begins = shown(&bytes[start..bytes.len().min(start + 400)]);
            not_json(format!(
                "the file is no JSON document: {} on line {line}, column {column} (it begins with `{begins}`)",
                said(&error)
            ))
        }
    }
}

/// What serde_json says, without the place at its end.
fn said(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

/// Where the records of a document stand; an error when it has nothing at the place where they should be: an answer
/// such as `{"error": …}` is not taken for one without records.
fn places(bytes: &[u8], start: usize, path: Option<&JsonPath>) -> Result<Wanted, DecodeError> {
    let Some(path) = path else {
        let all: &[PathStep] = if bytes[start] == b'[' { &[PathStep::All] } else { &[] };
        let mut wanted = Wanted::default();
        wanted.add(all, 0);
        return Ok(wanted);
    };
    let head = path.steps().split(|step| *step == PathStep::All).next().unwrap_or_default();
    let mut place = Wanted::default();
    place.add(head, 0);
    let mut stands = None;
    let Ok(_) = place.walk(bytes, start, &mut |_, range| {
        stands = Some(kind_at(bytes, range.start));
        Ok::<_, Infallible>(())
    });
    let told = match stands {
        Some(_) if path.is_singular() => return Ok(Wanted::one(path)),
        Some("an object" | "an array" | "null") => return Ok(Wanted::one(path)),
        Some(other) => format!("{other} where a list should stand"),
        None => "nothing".to_owned(),
    };
    let begins = shown(&bytes[start..bytes.len().min(start + 400)]);
    Err(DecodeError::NoRecordsThere {
        message: format!("at `{path}` the document has {told}; it begins with `{begins}`"),
    })
}
