//! Properties of the decoder as a whole, over windows made small so that small inputs cross many of them.

use std::collections::HashMap;

use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tidemill_pipelines::{Column, ColumnType, CsvFormat, Format, Header};

use super::*;

/// What came out, rows as texts.
#[derive(Debug, Default, PartialEq)]
struct Collected {
    rows: Vec<(Origin, Vec<Option<String>>)>,
    rejects: Vec<Reject>,
    summary: DecodeSummary,
    batch_rows_most: usize,
    /// Texts of the rows by their origins, from the raw bytes of their batches.
    raws: Vec<Bytes>,
}

impl DecodeOutput for Collected {
    fn batch(&mut self, decoded: Decoded) -> Result<(), Stopped> {
        let batch = &decoded.batch;
        assert_eq!(batch.num_rows(), decoded.origins.len());
        self.batch_rows_most = self.batch_rows_most.max(batch.num_rows());
        for (row, origin) in decoded.origins.iter().enumerate() {
            let value = |column: &arrow::array::ArrayRef| {
                column.is_valid(row).then(|| array_value_to_string(column, row).unwrap())
            };
            self.rows.push((*origin, batch.columns().iter().map(value).collect()));
            let place = |offset: u64| (offset - decoded.raw_start) as usize;
            self.raws.push(decoded.raw.slice(place(origin.byte_start)..place(origin.byte_end)));
        }
        Ok(())
    }

    fn reject(&mut self, reject: Reject) -> Result<(), Stopped> {
        self.rejects.push(reject);
        Ok(())
    }
}

fn column(name: &str, kind: ColumnType, required: bool) -> Column {
    Column { name: name.parse().unwrap(), path: None, kind, required, references: None }
}

fn texts(count: usize) -> Vec<Column> {
    let text = |i: usize| column(&format!("c{i}"), ColumnType::Text { max_length: None }, false);
    (0..count).map(text).collect()
}

fn mixed() -> Vec<Column> {
    vec![
        column("id", ColumnType::Int64, true),
        column("name", ColumnType::Text { max_length: Some(4) }, false),
        column("score", ColumnType::Float64, false),
    ]
}

fn format(null: &[&str]) -> CsvFormat {
    let null = null.iter().map(|&text| text.to_owned()).collect();
    CsvFormat { header: Header::None, delimiter: b',', quote: Some(b'"'), null, trim: false }
}

fn limits(record_bytes_max: usize) -> DecodeLimits {
    DecodeLimits { record_bytes_max, raw_bytes_max: 16, document_bytes_max: 1 << 20, batch_rows: 5 }
}

fn decode<'a>(
    format: &CsvFormat,
    columns: &[Column],
    limits: DecodeLimits,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Collected, DecodeError> {
    let mut decoder = Decoder::new(&Format::Csv(format.clone()), columns, HashMap::new(), limits);
    let mut out = Collected::default();
    for chunk in chunks {
        decoder.feed(Bytes::copy_from_slice(chunk), &mut out)?;
    }
    out.summary = decoder.finish(&mut out)?;
    Ok(out)
}

/// Cuts at the sizes, again and again; the rest is one chunk when there are no sizes.
fn chunks<'a>(bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let mut chunks = Vec::new();
    for &size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (chunk, behind) = rest.split_at(size.min(rest.len()));
        chunks.push(chunk);
        rest = behind;
    }
    if sizes.is_empty() { vec![bytes] } else { chunks }
}

/// Bytes of which many mean something to the decoder, begun so that they are not taken for binary data.
fn csv_like() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&[u8]> = vec![
        b",",
        b",",
        b",",
        b"\n",
        b"\n",
        b"\r\n",
        b"\r",
        b"\"",
        b"\"",
        b"\"\"",
        b"\",\"",
        b"1",
        b"-7",
        b"2.5",
        b"x",
        b"long text",
        b"\xc3\xa9",
        b"\xff",
        b"\0",
        b"NA",
        b" ",
        b"1,a,2.5\n",
        b"2,\"b\",3\n",
    ];
    vec(prop::sample::select(pieces), 0..120).prop_map(|pieces| {
        let begin: Vec<u8> = b"0,begin of a text that is not binary,1\n".repeat(4);
        [begin, pieces.concat()].concat()
    })
}

/// Every byte is in one record, or is a line end between them.
fn assert_accounted(input: &[u8], record_bytes_max: usize, out: &Collected) {
    let summary = out.summary;
    assert_eq!(summary.records_in, summary.good + summary.rejected);
    assert_eq!(summary.good, out.rows.len() as u64);
    assert_eq!(summary.rejected, out.rejects.len() as u64);
    assert_eq!(summary.bytes, input.len() as u64);
    let slice = |origin: &Origin| &input[origin.byte_start as usize..origin.byte_end as usize];
    for ((origin, _), raw) in out.rows.iter().zip(&out.raws) {
        assert_eq!(slice(origin), &raw[..]);
    }
    for reject in &out.rejects {
        assert!(!reject.problems.is_empty());
        let raw = slice(&reject.origin);
        assert_eq!(&raw[..raw.len().min(16).min(record_bytes_max)], &reject.raw[..]);
    }
    let mut origins: Vec<&Origin> = out.rows.iter().map(|(origin, _)| origin).collect();
    origins.extend(out.rejects.iter().map(|reject| &reject.origin));
    origins.sort_by_key(|origin| origin.byte_start);
    let mut end = 0;
    for origin in origins {
        let between = &input[end..origin.byte_start as usize];
        assert!(between.iter().all(|byte| matches!(byte, b'\r' | b'\n')), "{between:?} is in no record");
        let before = String::from_utf8_lossy(&input[..origin.byte_start as usize]).into_owned();
        let lines = before.replace("\r\n", "\n").replace('\r', "\n").matches('\n').count();
        assert_eq!(origin.line, lines as u64 + 1);
        end = origin.byte_end as usize;
    }
    assert!(input[end..].iter().all(|byte| matches!(byte, b'\r' | b'\n')));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_chunking_gives_what_one_chunk_gives(
        input in csv_like(),
        sizes in vec(1usize..90, 1..5),
        record_bytes_max in prop::sample::select(vec![3usize, 20, 40, 1000]),
        columns in prop::sample::select(vec![mixed(), texts(1), texts(2)]),
    ) {
        let run = |sizes: &[usize]| decode(&format(&["NA", ""]), &columns, limits(record_bytes_max), chunks(&input, sizes));
        prop_assert_eq!(run(&sizes), run(&[]));
    }

    #[test]
    fn each_record_is_in_exactly_one_place(
        input in csv_like(),
        record_bytes_max in prop::sample::select(vec![3usize, 20, 40, 1000]),
        columns in prop::sample::select(vec![mixed(), texts(2)]),
    ) {
        let out = decode(&format(&["NA"]), &columns, limits(record_bytes_max), [&input[..]]).unwrap();
        assert_accounted(&input, record_bytes_max, &out);
        prop_assert!(out.batch_rows_most <= 5);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(input in vec(any::<u8>(), 0..400), header: bool) {
        let format = CsvFormat { header: if header { Header::Names } else { Header::None }, ..format(&[]) };
        if let Ok(out) = decode(&format, &mixed(), limits(50), chunks(&input, &[7])) {
            prop_assert_eq!(out.summary.records_in, out.summary.good + out.summary.rejected);
        }
    }

    #[test]
    fn what_a_csv_writer_wrote_is_read_back(
        records in vec(vec("[a-c\",;\r\né \u{1F30A}]{0,12}", 3), 0..40),
        always: bool,
        crlf: bool,
        sizes in vec(1usize..200, 1..4),
    ) {
        let mut writer = csv::WriterBuilder::new()
            .quote_style(if always { csv::QuoteStyle::Always } else { csv::QuoteStyle::Necessary })
            .terminator(if crlf { csv::Terminator::CRLF } else { csv::Terminator::Any(b'\n') })
            .from_writer(Vec::new());
        records.iter().for_each(|record| writer.write_record(record).unwrap());
        let input = writer.into_inner().unwrap();
        let out = decode(&format(&[]), &texts(3), limits(1000), chunks(&input, &sizes)).unwrap();
        let rows: Vec<Vec<String>> = out.rows.into_iter().map(|(_, row)| row.into_iter().flatten().collect()).collect();
        prop_assert_eq!(out.rejects, vec![]);
        prop_assert_eq!(rows, records);
    }

    #[test]
    fn good_lines_survive_broken_quotes_around_them(
        lines in vec(prop::sample::select(vec!["1,ok,2.5", "x,\"open,1", "1,\"a\"b,2", "2,fine,", "\"3"]), 1..60),
    ) {
        let input = lines.join("\n");
        let out = decode(&format(&[""]), &mixed(), limits(1000), [input.as_bytes()]).unwrap();
        let good = lines.iter().filter(|line| line.ends_with("ok,2.5") || line.ends_with("fine,")).count();
        assert_accounted(input.as_bytes(), 1000, &out);
        prop_assert_eq!(out.rows.len(), good);
        prop_assert!(out.rejects.iter().all(|reject| reject.problems[0].code == "quote"));
    }
}

#[test]
fn a_stopped_consumer_stops_the_decoder() {
    struct Full;
    impl DecodeOutput for Full {
        fn batch(&mut self, _: Decoded) -> Result<(), Stopped> {
            Err(Stopped)
        }
        fn reject(&mut self, _: Reject) -> Result<(), Stopped> {
            Err(Stopped)
        }
    }
    for input in ["1,a,2\n", "x,a,2\n"] {
        let mut decoder = Decoder::new(&Format::Csv(format(&[])), &mixed(), HashMap::new(), limits(100));
        let fed = decoder.feed(Bytes::from(input), &mut Full).and_then(|()| decoder.finish(&mut Full));
        assert_eq!(fed, Err(DecodeError::Stopped));
    }
}

#[test]
fn a_zone_that_is_none_fails_with_the_column() {
    let kind = ColumnType::Timestamp { formats: vec![], zone: "Mars/Olympus".to_owned() };
    let error = decode(&format(&[]), &[column("at", kind, true)], limits(100), [&b"x"[..]]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "column `at` of the pipeline cannot be used: `Mars/Olympus` is not the name of a time zone"
    );
}

#[test]
fn a_line_over_the_limit_is_skipped_to_its_end() {
    let long = "y".repeat(500);
    let input = format!("1,a,2\n{long}\r\n2,b,3\n");
    let out = decode(&format(&[]), &mixed(), limits(40), chunks(input.as_bytes(), &[13])).unwrap();
    assert_eq!(out.rows.len(), 2);
    let reject = &out.rejects[0];
    assert_eq!(reject.origin, Origin { line: 2, byte_start: 6, byte_end: 506 });
    assert_eq!(reject.problems[0].code, "record_too_long");
    assert_eq!(reject.problems[0].message, "the line has 500 bytes, more than 40");
    assert_eq!(&reject.raw[..], "y".repeat(16).as_bytes());
    assert_eq!(out.rows[1].0, Origin { line: 3, byte_start: 508, byte_end: 513 });
}

#[test]
fn a_quote_that_never_closes_costs_only_its_line() {
    let lines = (0..200).map(|i| format!("{i},n,{i}\n"));
    let input: String = ["7,\"open,1\n".to_owned()].into_iter().chain(lines).collect();
    let out = decode(&format(&[]), &mixed(), limits(100), [input.as_bytes()]).unwrap();
    assert_eq!((out.rows.len(), out.rejects.len()), (200, 1));
    assert_eq!(out.rejects[0].problems[0].code, "quote");
    assert_eq!(&out.rejects[0].raw[..], b"7,\"open,1");
}

#[test]
fn nothing_is_empty_and_blank_lines_are_nothing() {
    for input in [&b""[..], b"\xef\xbb\xbf", b"\n\r\n\n"] {
        let out = decode(&format(&[]), &mixed(), limits(100), [input]).unwrap();
        assert!(out.summary.empty && out.summary.records_in == 0, "{input:?}");
    }
    let named = CsvFormat { header: Header::Names, ..format(&[]) };
    let out = decode(&named, &mixed(), limits(100), [&b"id,name,score\n"[..]]).unwrap();
    assert!(!out.summary.empty && out.summary.records_in == 0);
    assert!(decode(&named, &mixed(), limits(100), [&b""[..]]).unwrap().summary.empty);
}

#[test]
fn a_record_as_long_as_the_limit_may_end_where_a_window_ends() {
    let begin = format!("11,a,2\n{}", "1,a,2\n".repeat(6));
    let input = format!("{begin}1,a,0000000000000002\r\n3,c,3\n");
    // The carriage return is the last of the 64 bytes of the first window, and the limit of a record is 20.
    assert_eq!(input.as_bytes()[63], b'\r');
    let out = decode(&format(&[]), &mixed(), limits(20), [input.as_bytes()]).unwrap();
    assert_eq!(out.rejects, vec![]);
    assert_eq!(out.rows.len(), 9);
}
