//! The decoder holds no more than its limits, whatever a line is. Alone in its program: it reads the peak of the
//! memory of the whole process, as Linux tells it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashMap;

use bytes::Bytes;
use tidemill_pipelines::{Column, ColumnType, CsvFormat, Format, Header};
use tidemill_processor::decode::{DecodeLimits, DecodeOutput, Decoded, Decoder, Reject, Stopped};

const CHUNK_BYTES: usize = 64 * 1024;
const CHUNKS: usize = 1600;
/// A window, a batch and the allocator's slack; a hundred megabytes would show.
const GROWTH_BYTES_MAX: u64 = 32 * 1024 * 1024;

#[derive(Default)]
struct Counted {
    rows: usize,
    rejects: Vec<(String, usize)>,
}

impl DecodeOutput for Counted {
    fn batch(&mut self, decoded: Decoded) -> Result<(), Stopped> {
        self.rows += decoded.batch.num_rows();
        Ok(())
    }

    fn reject(&mut self, reject: Reject) -> Result<(), Stopped> {
        self.rejects.push((reject.problems[0].code.clone(), reject.raw.len()));
        Ok(())
    }
}

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Decodes a good line, `begin`, a hundred megabytes of `byte`, and another good line.
fn decode(format: &Format, good: &'static str, begin: &'static str, byte: u8) -> Counted {
    let text = |name: &str| Column {
        name: name.parse().unwrap(),
        path: None,
        kind: ColumnType::Text { max_length: None },
        required: false,
        references: None,
    };
    let mut decoder = Decoder::new(format, &[text("a"), text("b")], HashMap::new(), DecodeLimits::default());
    let mut out = Counted::default();
    decoder.feed(Bytes::from(good), &mut out).unwrap();
    decoder.feed(Bytes::from(begin), &mut out).unwrap();
    let chunk = Bytes::from(vec![byte; CHUNK_BYTES]);
    for _ in 0..CHUNKS {
        decoder.feed(chunk.clone(), &mut out).unwrap();
    }
    decoder.feed(Bytes::from("\n"), &mut out).unwrap();
    decoder.feed(Bytes::from(good), &mut out).unwrap();
    let summary = decoder.finish(&mut out).unwrap();
    assert_eq!(summary.records_in, summary.good + summary.rejected);
    out
}

#[test]
fn a_line_of_a_hundred_megabytes_is_refused_in_bounded_memory() {
    let before = peak_bytes();
    let csv =
        CsvFormat { header: Header::None, delimiter: b',', quote: Some(b'"'), null: vec![], trim: false };
    let csv = (Format::Csv(csv), "good,1\n");
    let lines = (Format::JsonLines, "{\"a\": \"good\", \"b\": \"1\"}\n");
    for ((format, good), begin, byte) in [
        (&csv, "x", b'x'),
        (&csv, "\"", b'x'),
        (&csv, "", b','),
        (&csv, "a,\"", b'"'),
        (&lines, "{\"a\": \"", b'x'),
        (&lines, "", b'['),
    ] {
        let out = decode(format, good, begin, byte);
        assert_eq!(out.rows, 2, "{begin:?}");
        assert_eq!(out.rejects, [("record_too_long".to_owned(), 64 * 1024)], "{begin:?}");
    }
    let grown = peak_bytes() - before;
    assert!(grown < GROWTH_BYTES_MAX, "the peak of memory grew by {grown} bytes");
}
