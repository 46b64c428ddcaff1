//! From bytes to batches and rejects: each record is counted once and ends up once.
//!
//! Memory is bounded by the limits, whatever the bytes: a window of records, and the batch made of it. A broken
//! quote costs one line: the lines behind it, up to where the fault showed, are read again, each on its own. So a
//! byte is scanned a few times at most, also in a file made to be slow. Called by `decoder`.

mod json;

use bytes::Bytes;
use json::Json;
use tidemill_pipelines::{Column, CsvFormat, Format, Header};

use super::column::References;
use super::decoder::{DecodeLimits, DecodeSummary};
use super::error::DecodeError;
use super::header::{self, HEADER_FIELDS_MAX};
use super::rows::{Rows, unquoted};
use super::scan::{Fields, Found, LineEnd, Scanner, find_line_end};
use super::utf8::Utf8;
use super::window::Windows;
use super::{DecodeOutput, Decoded, Origin, Reject, RejectProblem, sniff};

/// Bytes in which records are found at a time, and most that a batch is made of, but for large records: enough for
/// full batches of usual records, and little beside what a batch of values needs.
const WINDOW_BYTES: usize = if cfg!(test) { 64 } else { 4 * 1024 * 1024 };

/// Positions in a window must fit 32 bits; larger limits are cut to this.
const WINDOW_BYTES_MAX: usize = 1 << 31;

/// Lines as they are: no byte that JSON has outside of a text or in it is looked for.
const LINES: CsvFormat =
    CsvFormat { header: Header::None, delimiter: 0x1f, quote: None, null: Vec::new(), trim: false };

/// One file in the reading.
pub(super) struct Reading {
    format: CsvFormat,
    columns: Vec<Column>,
    limits: DecodeLimits,
    windows: Windows,
    fields: Fields,
    rows: Rows,
    /// For the formats of JSON.
    json: Option<Json>,
    /// One for each row.
    origins: Vec<Origin>,
    /// Offset in the object of the window's first byte.
    position: u64,
    /// Line that the next record begins on.
    line: u64,
    begun: bool,
    /// The next record is the header.
    header_due: bool,
    /// Lines that end before this offset are read each on its own, after a broken quote.
    one_line_until: u64,
    skip: Option<Skip>,
    summary: DecodeSummary,
}

/// A line too long to be held, whose end is still looked for.
struct Skip {
    byte_start: u64,
    raw: Bytes,
}

/// The window at hand.
#[derive(Clone, Copy)]
struct View<'a> {
    bytes: &'a Bytes,
    /// The file ends with it.
    last: bool,
}

impl Reading {
    /// Fails when a column cannot be used.
    pub fn new(
        format: &Format,
        columns: &[Column],
        references: &References,
        limits: DecodeLimits,
    ) -> Result<Self, DecodeError> {
        let record_bytes_max = limits.record_bytes_max.clamp(1, WINDOW_BYTES_MAX / 4);
        let limits = DecodeLimits {
            record_bytes_max,
            // No more than this is held of a record that is too long.
            raw_bytes_max: limits.raw_bytes_max.min(record_bytes_max),
            batch_rows: limits.batch_rows.max(1),
            ..limits
        };
        let json = Json::new(format, columns);
        let format = match format {
            Format::Csv(format) => format.clone(),
            Format::Json(_) | Format::JsonLines | Format::File => LINES,
        };
        // Twice the largest record, so that no more than half of a window comes again in the next one; and room
        // for a byte order mark and a line end.
        let window_bytes = WINDOW_BYTES.max(2 * limits.record_bytes_max + 16);
        let header_due = format.header == Header::Names;
        Ok(Reading {
            columns: columns.to_vec(),
            limits,
            windows: Windows::new(window_bytes),
            fields: Fields::new(if header_due { HEADER_FIELDS_MAX } else { columns.len() }),
            rows: Rows::new(&format, columns, references)?,
            json,
            format,
            origins: Vec::new(),
            position: 0,
            line: 1,
            begun: false,
            header_due,
            one_line_until: 0,
            skip: None,
            summary: DecodeSummary::default(),
        })
    }

    pub fn feed(&mut self, mut chunk: Bytes, out: &mut impl DecodeOutput) -> Result<(), DecodeError> {
        self.summary.bytes += chunk.len() as u64;
        if let Some(json) = &mut self.json {
            match json.hold(chunk, self.limits.document_bytes_max)? {
                Some(lines) => chunk = lines,
                None => return Ok(()),
            }
        }
        while let Some(window) = self.windows.next(&mut chunk) {
            let used = self.window(View { bytes: &window.bytes, last: false }, out)?;
            self.windows.used(&window, used, &mut chunk);
        }
        Ok(())
    }

    pub fn finish(&mut self, out: &mut impl DecodeOutput) -> Result<DecodeSummary, DecodeError> {
        if self.document(out)? {
            return Ok(self.summary);
        }
        let rest = self.windows.rest();
        self.window(View { bytes: &rest, last: true }, out)?;
        let no_header = self.header_due || self.format.header == Header::None;
        self.summary.empty = no_header && self.summary.records_in == 0;
        Ok(self.summary)
    }

    /// Decodes a window, and says how many of its bytes are done.
    fn window(&mut self, view: View, out: &mut impl DecodeOutput) -> Result<usize, DecodeError> {
        let start = if self.begun { 0 } else { sniff::begin(view.bytes)? };
        if self.json.is_some() && !self.begun {
            json::begin(view.bytes, start)?;
        }
        self.begun = true;
        let at = self.skip_on(view, start, out)?;
        let at = if self.skip.is_none() { self.records(view, at, out)? } else { at };
        self.flush(view, out)?;
        self.position += at as u64;
        Ok(at)
    }

    /// Reads records from `at` on, and says where it stopped.
    fn records(
        &mut self,
        view: View,
        mut at: usize,
        out: &mut impl DecodeOutput,
    ) -> Result<usize, DecodeError> {
        let mut scanner = Scanner::new(view.bytes, self.format.delimiter, self.format.quote, view.last);
        let mut utf8 = Utf8::new(view.bytes);
        let record_bytes_max = self.limits.record_bytes_max;
        scanner.seek(at);
        while at < view.bytes.len() {
            let one_line_until = self.one_line_until.saturating_sub(self.position) as usize;
            match scanner.find(at, one_line_until, &mut self.fields) {
                Found::Record { line_end, inner_lines } if line_end.end - at <= record_bytes_max => {
                    self.record(view, at, line_end, &mut utf8, out)?;
                    self.line += 1 + inner_lines;
                    at = line_end.next;
                }
                broken => {
                    let Some(next) = self.broken(view, at, &broken, out)? else {
                        break;
                    };
                    at = next;
                    scanner.seek(at);
                }
            }
            if self.skip.is_some() {
                break;
            }
        }
        Ok(at)
    }

    /// Takes a record that was found whole.
    #[inline]
    fn record(
        &mut self,
        view: View,
        at: usize,
        line_end: LineEnd,
        utf8: &mut Utf8,
        out: &mut impl DecodeOutput,
    ) -> Result<(), DecodeError> {
        if self.json.is_some() {
            return self.json_line(view, at..line_end.end, utf8, out);
        }
        let blank = line_end.end == at;
        if blank && (self.header_due || self.columns.len() > 1) {
            return Ok(());
        }
        if self.header_due {
            return self.header(view);
        }
        if self.fields.count() == self.columns.len() {
            let clean = !self.fields.nul && utf8.holds(at, line_end.end);
            if !(clean && self.rows.push(view.bytes, self.fields.kept())) {
                let problems = self.rows.diagnose(view.bytes, self.fields.kept());
                if !problems.is_empty() {
                    return self.reject(view, at, line_end.end, problems, out);
                }
            }
            return self.good(view, at, line_end.end, out);
        }
        let (found, expected) = (self.fields.count(), self.columns.len());
        let fields = if found == 1 { "field" } else { "fields" };
        let problem = problem("width", format!("found {found} {fields}, expected {expected}"));
        self.reject(view, at, line_end.end, vec![problem], out)
    }

    /// Counts a record whose row was added.
    #[inline]
    fn good(
        &mut self,
        view: View,
        start: usize,
        end: usize,
        out: &mut impl DecodeOutput,
    ) -> Result<(), DecodeError> {
        self.summary.records_in += 1;
        self.summary.good += 1;
        let (byte_start, byte_end) = (self.position + start as u64, self.position + end as u64);
        self.origins.push(Origin { line: self.line, byte_start, byte_end });
        match self.rows.count() < self.limits.batch_rows {
            true => Ok(()),
            false => self.flush(view, out),
        }
    }

    /// Finds the columns by the header's names.
    fn header(&mut self, view: View) -> Result<(), DecodeError> {
        let found = self.fields.count();
        if found > HEADER_FIELDS_MAX {
            return Err(self.no_header(format!("it has {found} fields, more than {HEADER_FIELDS_MAX}")));
        }
        let (mut scratch, quote) = (Vec::new(), self.format.quote.unwrap_or_default());
        let mut name = |field: &super::scan::Field| {
            let text = &view.bytes[field.start as usize..field.end as usize];
            let text = unquoted(text, *field, quote, &mut scratch);
            String::from_utf8_lossy(text).trim().to_owned()
        };
        let names: Vec<String> = self.fields.kept().iter().map(&mut name).collect();
        self.rows.set_order(header::order(&names, &self.columns, self.line)?);
        self.fields = Fields::new(self.columns.len());
        self.header_due = false;
        Ok(())
    }

    fn no_header(&self, message: String) -> DecodeError {
        DecodeError::HeaderUnreadable { line: self.line, message }
    }

    /// Refuses the first line of what is no record, and says where to go on; `None` when it takes more bytes to
    /// tell.
    fn broken(
        &mut self,
        view: View,
        at: usize,
        found: &Found,
        out: &mut impl DecodeOutput,
    ) -> Result<Option<usize>, DecodeError> {
        let max = self.limits.record_bytes_max;
        // A record may be as long as the limit, and a line end is up to two bytes.
        let too_long = view.bytes.len() - at > max + 2;
        if *found == Found::More && !too_long {
            return Ok(None);
        }
        match first_line(view, at) {
            Some(line) if line.end - at <= max => self.bad_quote(view, at, line, found, out).map(Some),
            None if !view.last && !too_long => Ok(None),
            _ if self.header_due => Err(self.no_header(format!("it is longer than {max} bytes"))),
            _ => {
                let raw = self.cut(view, at, view.bytes.len());
                self.skip = Some(Skip { byte_start: self.position + at as u64, raw });
                self.skip_on(view, at, out).map(Some)
            }
        }
    }

    /// Refuses a line with a broken quote.
    fn bad_quote(
        &mut self,
        view: View,
        at: usize,
        line: LineEnd,
        found: &Found,
        out: &mut impl DecodeOutput,
    ) -> Result<usize, DecodeError> {
        let max = self.limits.record_bytes_max;
        let message = match *found {
            Found::BadQuote { text_behind: true, fault } if fault - at <= max => {
                "text follows the closing quote of a field".to_owned()
            }
            Found::BadQuote { fault, .. } if fault - at <= max => "a quoted field is not closed".to_owned(),
            _ => format!("a quoted field is not closed within {max} bytes"),
        };
        if self.header_due {
            return Err(self.no_header(message));
        }
        let fault = match *found {
            Found::BadQuote { fault, .. } => fault.min(at + max),
            _ => at + max,
        };
        self.one_line_until = self.one_line_until.max(self.position + fault as u64);
        self.reject(view, at, line.end, vec![problem("quote", message)], out)?;
        self.line += 1;
        Ok(line.next)
    }

    /// Looks for the end of a line that is too long; says where the next one begins.
    fn skip_on(&mut self, view: View, at: usize, out: &mut impl DecodeOutput) -> Result<usize, DecodeError> {
        let Some(skip) = self.skip.take() else {
            return Ok(at);
        };
        let Some(line) = first_line(view, at) else {
            self.skip = Some(skip);
            // Whether a line feed follows a carriage return is seen only with the next bytes.
            return Ok(view.bytes.len() - usize::from(view.bytes.ends_with(b"\r")));
        };
        let byte_end = self.position + line.end as u64;
        let origin = Origin { line: self.line, byte_start: skip.byte_start, byte_end };
        let length = byte_end - skip.byte_start;
        let max = self.limits.record_bytes_max;
        let problem = problem("record_too_long", format!("the line has {length} bytes, more than {max}"));
        self.line += 1;
        let raw = skip.raw.slice(..skip.raw.len().min(usize::try_from(length).unwrap_or(usize::MAX)));
        self.refuse(
            Reject { origin, file: None, stage: "decode", problems: vec![problem], raw, output_row: None },
            out,
        )?;
        Ok(line.next)
    }

    fn reject(
        &mut self,
        view: View,
        start: usize,
        end: usize,
        problems: Vec<RejectProblem>,
        out: &mut impl DecodeOutput,
    ) -> Result<(), DecodeError> {
        let (byte_start, byte_end) = (self.position + start as u64, self.position + end as u64);
        let origin = Origin { line: self.line, byte_start, byte_end };
        let raw = self.cut(view, start, end);
        self.refuse(Reject { origin, file: None, stage: "decode", problems, raw, output_row: None }, out)
    }

    fn refuse(&mut self, reject: Reject, out: &mut impl DecodeOutput) -> Result<(), DecodeError> {
        self.summary.records_in += 1;
        self.summary.rejected += 1;
        Ok(out.reject(reject)?)
    }

    /// The raw bytes of a reject: a copy, so that a kept reject does not keep its whole window.
    fn cut(&self, view: View, start: usize, end: usize) -> Bytes {
        Bytes::copy_from_slice(&view.bytes[start..end.min(start + self.limits.raw_bytes_max)])
    }

    /// Gives out the rows as a batch.
    fn flush(&mut self, view: View, out: &mut impl DecodeOutput) -> Result<(), DecodeError> {
        let (Some(first), Some(last)) = (self.origins.first(), self.origins.last()) else {
            return Ok(());
        };
        let raw_start = first.byte_start;
        let in_window = |offset: u64| (offset - self.position) as usize;
        let raw = view.bytes.slice(in_window(raw_start)..in_window(last.byte_end));
        let batch = self.rows.finish()?;
        let origins = std::mem::replace(&mut self.origins, Vec::with_capacity(batch.num_rows()));
        Ok(out.batch(Decoded { batch, origins, raw, raw_start })?)
    }
}

/// The end of the line that holds `at`; that of the last line is the end of the file.
fn first_line(view: View, at: usize) -> Option<LineEnd> {
    let end = view.bytes.len();
    match find_line_end(&view.bytes[at..], view.last) {
        Some(found) => Some(LineEnd { end: at + found.end, next: at + found.next }),
        None => view.last.then_some(LineEnd { end, next: end }),
    }
}

fn problem(code: &str, message: String) -> RejectProblem {
    RejectProblem { column: None, code: code.to_owned(), message }
}
