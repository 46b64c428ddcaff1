//! Writes refused records as CSV: `line,byte_start,byte_end,column,stage,code,message,problems,raw`, and the last
//! column `file` where a job has several.
//!
//! Gives its bytes out in chunks while it is written, so that a file of nothing but rejects needs no more memory
//! than one. Called by the run of a job and by the command line.

use std::io::{self, Write};

use bytes::Bytes;

use super::Reject;

/// Bytes after which a chunk is given out: large enough for few writes, small beside a part of an upload.
const CHUNK_BYTES: usize = 256 * 1024;

const HEADER: &str = "line,byte_start,byte_end,column,stage,code,message,problems,raw";

/// Makes CSV of rejects.
///
/// Column and code are names, without a byte that needs quotes. Message, problems and raw are always in quotes and
/// otherwise left as they are, also when they begin with a character that a spreadsheet takes for a formula: what
/// was refused must be seen as it was sent.
#[derive(Debug)]
pub struct RejectWriter {
    buffer: Vec<u8>,
    count: u64,
    files: bool,
}

impl RejectWriter {
    /// Begins with the header.
    pub fn new() -> Self {
        RejectWriter { buffer: format!("{HEADER}\n").into_bytes(), count: 0, files: false }
    }

    /// Begins with the header of several files.
    pub fn of_files() -> Self {
        RejectWriter { buffer: format!("{HEADER},file\n").into_bytes(), count: 0, files: true }
    }

    /// Adds a reject. Fails only when its problems cannot be put as JSON.
    pub fn write(&mut self, reject: &Reject) -> io::Result<()> {
        let problems = serde_json::to_string(&reject.problems)?;
        let first = reject.problems.first();
        let column = first.and_then(|problem| problem.column.as_deref()).unwrap_or_default();
        let (code, message) = first.map_or(("", ""), |problem| (&problem.code, &problem.message));
        let origin = reject.origin;
        match reject.output_row {
            Some(_) => self.buffer.extend_from_slice(b",,,"),
            None => write!(self.buffer, "{},{},{},", origin.line, origin.byte_start, origin.byte_end)?,
        }
        write!(self.buffer, "{column},{},{code},", reject.stage)?;
        quoted(&mut self.buffer, message);
        self.buffer.push(b',');
        quoted(&mut self.buffer, &problems);
        self.buffer.push(b',');
        quoted(&mut self.buffer, &String::from_utf8_lossy(&reject.raw));
        if self.files {
            self.buffer.push(b',');
            quoted(&mut self.buffer, reject.file.as_deref().unwrap_or_default());
        }
        self.buffer.push(b'\n');
        self.count += 1;
        Ok(())
    }

    /// How many rejects were written.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The bytes so far, once they are worth a write (256 KiB); to be asked after each reject.
    pub fn take_chunk(&mut self) -> Option<Bytes> {
        (self.buffer.len() >= CHUNK_BYTES).then(|| Bytes::from(std::mem::take(&mut self.buffer)))
    }

    /// The bytes that were not taken; the header alone when there was no reject.
    pub fn finish(self) -> Bytes {
        Bytes::from(self.buffer)
    }
}

impl Default for RejectWriter {
    fn default() -> Self {
        Self::new()
    }
}

fn quoted(buffer: &mut Vec<u8>, text: &str) {
    buffer.push(b'"');
    for (i, part) in text.split('"').enumerate() {
        if i > 0 {
            buffer.extend_from_slice(b"\"\"");
        }
        buffer.extend_from_slice(part.as_bytes());
    }
    buffer.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::super::{Origin, RejectProblem};
    use super::*;

    fn reject(message: &str, raw: &'static [u8]) -> Reject {
        let problem = |column: Option<&str>| RejectProblem {
            column: column.map(str::to_owned),
            code: "type".to_owned(),
            message: message.to_owned(),
        };
        Reject {
            origin: Origin { line: 3, byte_start: 10, byte_end: 20 },
            file: Some("landing/a \"b\"".into()),
            stage: "decode",
            problems: vec![problem(Some("id")), problem(None)],
            raw: Bytes::from_static(raw),
            output_row: None,
        }
    }

    #[test]
    fn a_csv_reader_gets_back_what_was_refused() {
        let mut writer = RejectWriter::new();
        writer.write(&reject("`\"x\"` is not an integer", b"=1+\"x\",\r\n\xffy")).unwrap();
        assert_eq!(writer.count(), 1);
        let text = writer.finish();
        let mut reader = csv::Reader::from_reader(&text[..]);
        assert_eq!(reader.headers().unwrap().len(), 9);
        let record = reader.records().next().unwrap().unwrap();
        assert_eq!(&record.iter().take(6).collect::<Vec<_>>(), &["3", "10", "20", "id", "decode", "type"]);
        assert_eq!(&record[6], "`\"x\"` is not an integer");
        let problems: serde_json::Value = serde_json::from_str(&record[7]).unwrap();
        assert_eq!(problems[1]["column"], serde_json::Value::Null);
        assert_eq!(problems[0]["code"], "type");
        assert_eq!(&record[8], "=1+\"x\",\r\n\u{fffd}y");
    }

    #[test]
    fn of_several_files_each_reject_names_its_own() {
        let mut writer = RejectWriter::of_files();
        writer.write(&reject("no", b"a")).unwrap();
        let text = writer.finish();
        let mut reader = csv::Reader::from_reader(&text[..]);
        assert_eq!(reader.headers().unwrap().iter().next_back(), Some("file"));
        assert_eq!(&reader.records().next().unwrap().unwrap()[9], "landing/a \"b\"");
    }

    #[test]
    fn chunks_are_given_out_before_the_end() {
        let mut writer = RejectWriter::new();
        let mut whole = Vec::new();
        let mut largest = 0;
        for _ in 0..10_000 {
            writer.write(&reject("no", b"a,b,c")).unwrap();
            if let Some(chunk) = writer.take_chunk() {
                largest = largest.max(chunk.len());
                whole.extend_from_slice(&chunk);
            }
        }
        assert!(largest > 0 && largest < 2 * CHUNK_BYTES);
        whole.extend_from_slice(&writer.finish());
        assert_eq!(csv::Reader::from_reader(&whole[..]).records().count(), 10_000);
    }
}
