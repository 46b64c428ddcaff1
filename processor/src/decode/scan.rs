//! Finds the records of a delimited text and the fields of each (RFC 4180), without looking at values.
//!
//! Line ends are `\n`, `\r\n` and `\r`. A quote that does not open a field is data. A quoted field that never
//! closes, or that is followed by text, is told with the place where that showed; the caller decides where to go
//! on. Called by `decoder`.

use super::blocks::{Alphabet, Marks};

/// One field, as positions in the scanned bytes, without its quotes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Field {
    pub start: u32,
    pub end: u32,
    /// Stood in quotes: never a null, never trimmed.
    pub quoted: bool,
    /// Holds doubled quotes.
    pub doubled: bool,
}

/// The fields of one record. Holds no more than the caller wants to know, but counts all.
pub(super) struct Fields {
    kept: Vec<Field>,
    count: usize,
    /// The record holds a NUL byte.
    pub nul: bool,
}

impl Fields {
    /// Keeps at most `kept_max` fields of a record.
    pub fn new(kept_max: usize) -> Self {
        Fields { kept: vec![Field::default(); kept_max], count: 0, nul: false }
    }

    /// How many fields the record has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The fields kept.
    pub fn kept(&self) -> &[Field] {
        &self.kept[..self.count.min(self.kept.len())]
    }

    fn clear(&mut self) {
        self.count = 0;
        self.nul = false;
    }

    #[inline(always)]
    fn push(&mut self, field: Field) {
        if let Some(slot) = self.kept.get_mut(self.count) {
            *slot = field;
        }
        self.count += 1;
    }
}

/// The end of a line: where its text ends and where the next line begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LineEnd {
    pub end: usize,
    pub next: usize,
}

/// What stands at a position.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A record; its fields are in [`Fields`].
    Record {
        /// Where it ends.
        line_end: LineEnd,
        /// Line ends inside its quotes.
        inner_lines: u64,
    },
    /// A quoted field that is not closed, or has text behind its closing quote.
    BadQuote {
        /// Where the fault showed.
        fault: usize,
        /// Text behind a closing quote; else the quote is not closed.
        text_behind: bool,
    },
    /// The bytes end before the record does, and more are to come.
    More,
}

/// Scans one piece of the text, from record to record.
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    marks: Marks<'a>,
    alphabet: Alphabet,
    /// The bytes are the end of the text.
    last: bool,
}

impl<'a> Scanner<'a> {
    /// Begins at the first byte.
    pub fn new(bytes: &'a [u8], delimiter: u8, quote: Option<u8>, last: bool) -> Self {
        let alphabet = Alphabet { delimiter, quote: quote.unwrap_or(b'\n') };
        Scanner { bytes, marks: Marks::new(bytes, alphabet, 0), alphabet, last }
    }

    /// Goes on at `position`, the begin of a line.
    pub fn seek(&mut self, position: usize) {
        self.marks.seek(position);
    }

    /// Reads the record that begins at `start`, where the last one ended. Its quoted fields may go
    /// over line ends only from position `one_line_until` on.
    #[inline]
    pub fn find(&mut self, start: usize, one_line_until: usize, fields: &mut Fields) -> Found {
        fields.clear();
        let mut lines = InnerLines { count: 0, one_line_until };
        let mut from = start;
        loop {
            let Some(position) = self.marks.next() else {
                return self.at_end(from, lines.count, fields);
            };
            let byte = self.bytes[position];
            if byte == self.alphabet.delimiter {
                fields.push(plain(from, position));
                from = position + 1;
            } else if byte == b'\n' || byte == b'\r' {
                let Some(line_end) = self.line_end(position) else {
                    return Found::More;
                };
                fields.push(plain(from, position));
                return Found::Record { line_end, inner_lines: lines.count };
            } else if byte == self.alphabet.quote {
                if position == from {
                    match self.quoted(from + 1, &mut lines, fields) {
                        Quoted::NextField(next) => from = next,
                        Quoted::Found(found) => return found,
                    }
                }
            } else {
                fields.nul = true;
            }
        }
    }

    /// Reads a quoted field that begins at `from`, and what ends it.
    fn quoted(&mut self, from: usize, lines: &mut InnerLines, fields: &mut Fields) -> Quoted {
        let mut doubled = false;
        while let Some(position) = self.marks.next() {
            let byte = self.bytes[position];
            if byte == self.alphabet.quote {
                match self.bytes.get(position + 1) {
                    Some(&next) if next == self.alphabet.quote => {
                        doubled = true;
                        self.marks.next();
                    }
                    next => {
                        let field = Field { quoted: true, doubled, ..plain(from, position) };
                        return self.closed(field, position + 1, next.copied(), lines, fields);
                    }
                }
            } else if byte == b'\n' || byte == b'\r' {
                match self.line_end(position) {
                    Some(_) if position >= lines.one_line_until => lines.count += 1,
                    Some(_) => return bad_quote(position, false),
                    None => return Quoted::Found(Found::More),
                }
            } else if byte == 0 {
                fields.nul = true;
            }
        }
        match self.last {
            true => bad_quote(self.bytes.len(), false),
            false => Quoted::Found(Found::More),
        }
    }

    /// What stands at `position`, behind the closing quote of `field`.
    fn closed(
        &mut self,
        field: Field,
        position: usize,
        next: Option<u8>,
        lines: &InnerLines,
        fields: &mut Fields,
    ) -> Quoted {
        let Some(next) = next else {
            if !self.last {
                return Quoted::Found(Found::More);
            }
            fields.push(field);
            let line_end = LineEnd { end: position, next: position };
            return Quoted::Found(Found::Record { line_end, inner_lines: lines.count });
        };
        if next == self.alphabet.delimiter {
            self.marks.next();
            fields.push(field);
            return Quoted::NextField(position + 1);
        }
        if next != b'\n' && next != b'\r' {
            return bad_quote(position, true);
        }
        self.marks.next();
        let Some(line_end) = self.line_end(position) else {
            return Quoted::Found(Found::More);
        };
        fields.push(field);
        Quoted::Found(Found::Record { line_end, inner_lines: lines.count })
    }

    /// The bytes are over inside an unquoted field.
    fn at_end(&self, from: usize, inner_lines: u64, fields: &mut Fields) -> Found {
        if !self.last {
            return Found::More;
        }
        fields.push(plain(from, self.bytes.len()));
        let line_end = LineEnd { end: self.bytes.len(), next: self.bytes.len() };
        Found::Record { line_end, inner_lines }
    }

    /// The line end at `position`; `None` for a `\r` at the end of bytes when a `\n` may be to come.
    #[inline(always)]
    fn line_end(&mut self, position: usize) -> Option<LineEnd> {
        if self.bytes[position] == b'\n' {
            return Some(LineEnd { end: position, next: position + 1 });
        }
        let line_end = carriage_return(self.bytes, position, self.last)?;
        if line_end.next == position + 2 {
            self.marks.next();
        }
        Some(line_end)
    }
}

/// The first line end of `bytes`.
pub(super) fn find_line_end(bytes: &[u8], last: bool) -> Option<LineEnd> {
    let position = memchr::memchr2(b'\n', b'\r', bytes)?;
    match bytes[position] {
        b'\n' => Some(LineEnd { end: position, next: position + 1 }),
        _ => carriage_return(bytes, position, last),
    }
}

fn carriage_return(bytes: &[u8], position: usize, last: bool) -> Option<LineEnd> {
    match bytes.get(position + 1) {
        Some(b'\n') => Some(LineEnd { end: position, next: position + 2 }),
        None if !last => None,
        _ => Some(LineEnd { end: position, next: position + 1 }),
    }
}

enum Quoted {
    /// The next field begins here.
    NextField(usize),
    Found(Found),
}

/// The line ends inside the quotes of one record.
struct InnerLines {
    count: u64,
    one_line_until: usize,
}

fn bad_quote(fault: usize, text_behind: bool) -> Quoted {
    Quoted::Found(Found::BadQuote { fault, text_behind })
}

/// Positions fit 32 bits: the decoder keeps its windows below `WINDOW_BYTES_MAX`.
#[inline(always)]
fn plain(start: usize, end: usize) -> Field {
    Field { start: start as u32, end: end as u32, quoted: false, doubled: false }
}
