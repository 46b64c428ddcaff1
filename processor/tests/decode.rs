//! The decoder on files: each `decode/<case>.csv` (`.json`, `.jsonl`) with the pipeline's format and columns in `<case>.yaml` must give
//! `<case>.expected`. A new case needs no Rust: write the first two files, run the tests with
//! `UPDATE_EXPECTED=1`, and read what they wrote.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use arrow::util::display::array_value_to_string;
use bytes::Bytes;
use tidemill_pipelines::Pipeline;
use tidemill_processor::decode::{
    DecodeError, DecodeLimits, DecodeOutput, DecodeSummary, Decoded, Decoder, KnownKeys, References, Reject,
    RejectWriter, Stopped, schema,
};

/// Small, so that small files meet them.
const LIMITS: DecodeLimits =
    DecodeLimits { record_bytes_max: 200, raw_bytes_max: 60, document_bytes_max: 1000, batch_rows: 3 };

#[derive(Default)]
struct Collected {
    rows: Vec<(u64, String)>,
    rejects: Vec<Reject>,
}

impl DecodeOutput for Collected {
    fn batch(&mut self, decoded: Decoded) -> Result<(), Stopped> {
        for (row, origin) in decoded.origins.iter().enumerate() {
            let value = |column: &Arc<dyn Array>| match column.data_type() {
                _ if column.is_null(row) => "null".to_owned(),
                DataType::Timestamp(..) => {
                    let instants = column.as_primitive::<TimestampMicrosecondType>();
                    format!("{:?}Z", instants.value_as_datetime(row).unwrap())
                }
                _ => format!("{:?}", array_value_to_string(column, row).unwrap()),
            };
            let values: Vec<String> = decoded.batch.columns().iter().map(value).collect();
            self.rows.push((origin.line, values.join(" ")));
        }
        Ok(())
    }

    fn reject(&mut self, reject: Reject) -> Result<(), Stopped> {
        self.rejects.push(reject);
        Ok(())
    }
}

fn decode(
    pipeline: &Pipeline,
    references: References,
    limits: DecodeLimits,
    bytes: Vec<u8>,
) -> Result<(Collected, DecodeSummary), DecodeError> {
    let mut decoder = Decoder::new(&pipeline.format, &pipeline.columns, references, limits);
    let mut out = Collected::default();
    decoder.feed(Bytes::from(bytes), &mut out)?;
    let summary = decoder.finish(&mut out)?;
    Ok((out, summary))
}

/// A pipeline of these format and columns.
fn pipeline(file: &Path) -> Pipeline {
    let columns = std::fs::read_to_string(file).unwrap();
    let text = format!(
        "pipeline: case\ndescription: a case\nsource: {{ upload: {{}} }}\n{columns}\nsinks:\n  - table: {{ name: t, mode: append }}\n"
    );
    Pipeline::parse(&file.to_string_lossy(), &text).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// What stands in the tables that cases refer to.
fn references(pipeline: &Pipeline) -> References {
    let known = |name: String| match name.as_str() {
        "departments.id" => KnownKeys::Int64((1..=12).collect()),
        "codes.code" => KnownKeys::Text(["aa", "bb"].map(str::to_owned).into()),
        other => panic!("no case knows the keys of {other}"),
    };
    let all = pipeline.columns.iter().filter_map(|column| column.references.clone());
    all.map(|to| (to.clone(), Arc::new(known(format!("{}.{}", to.table, to.column))))).collect()
}

fn told(result: Result<(Collected, DecodeSummary), DecodeError>) -> String {
    let (out, summary) = match result {
        Ok(decoded) => decoded,
        Err(error) => return format!("error {} ({}): {error}\n", error.code(), error.blame().as_str()),
    };
    let DecodeSummary { records_in, good, rejected, empty, .. } = summary;
    let mut text = format!(
        "{records_in} records: {good} good, {rejected} rejected{}\n",
        if empty { ", empty" } else { "" }
    );
    for (line, row) in &out.rows {
        writeln!(text, "{line}: {row}").unwrap();
    }
    for reject in &out.rejects {
        let origin = reject.origin;
        let raw = String::from_utf8_lossy(&reject.raw);
        writeln!(text, "reject {}, bytes {} to {}: {raw:?}", origin.line, origin.byte_start, origin.byte_end)
            .unwrap();
        for problem in &reject.problems {
            let column = problem.column.as_deref().unwrap_or("-");
            writeln!(text, "  {column} {}: {}", problem.code, problem.message).unwrap();
        }
    }
    text
}

/// How a file is cut into chunks changes nothing.
#[test]
fn each_case_gives_the_same_in_small_chunks() {
    for case in cases() {
        let pipeline = pipeline(&case.with_extension("yaml"));
        let mut decoder = Decoder::new(&pipeline.format, &pipeline.columns, references(&pipeline), LIMITS);
        let (mut out, bytes) = (Collected::default(), std::fs::read(&case).unwrap());
        let mut chunks = bytes.chunks(7).map(Bytes::copy_from_slice);
        let fed = chunks.try_for_each(|chunk| decoder.feed(chunk, &mut out));
        let result = fed.and_then(|()| decoder.finish(&mut out)).map(|summary| (out, summary));
        let expected = std::fs::read_to_string(case.with_extension("expected")).unwrap();
        assert_eq!(told(result), expected, "{}", case.display());
    }
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/decode");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> =
        files.filter(|file| file.extension().is_some_and(|end| end != "yaml" && end != "expected")).collect();
    cases.sort();
    cases
}

#[test]
fn each_case_gives_what_is_expected() {
    let mut wrong = Vec::new();
    let cases = cases();
    assert!(cases.len() >= 20, "only {} cases were found", cases.len());
    for case in cases {
        let pipeline = pipeline(&case.with_extension("yaml"));
        let result = decode(&pipeline, references(&pipeline), LIMITS, std::fs::read(&case).unwrap());
        let (found, file) = (told(result), case.with_extension("expected"));
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(&file, &found).unwrap();
        }
        if std::fs::read_to_string(&file).unwrap_or_default() != found {
            wrong.push(format!("{} should be:\n{found}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data").join(name)
}

fn shipped(name: &str) -> Pipeline {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../pipelines/{name}.yaml"));
    Pipeline::parse(name, &std::fs::read_to_string(file).unwrap()).unwrap()
}

fn ids(file: &str) -> KnownKeys {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_path(data(file)).unwrap();
    KnownKeys::Int64(reader.records().map(|record| record.unwrap()[0].parse().unwrap()).collect())
}

#[test]
fn the_employees_are_refused_exactly_as_expected() {
    let pipeline = shipped("hired_employees");
    let known = HashMap::from([
        ("departments", ids("employees/departments.csv")),
        ("jobs", ids("employees/jobs.csv")),
    ]);
    let wanted = pipeline.columns.iter().filter_map(|column| column.references.clone());
    let references = wanted.map(|to| (to.clone(), Arc::new(known[to.table.as_str()].clone()))).collect();
    let bytes = std::fs::read(data("employees/hired_employees.csv")).unwrap();
    let (out, summary) = decode(&pipeline, references, DecodeLimits::default(), bytes).unwrap();
    let mut found = "line,column,reason\n".to_owned();
    for reject in &out.rejects {
        let problem = &reject.problems[0];
        writeln!(found, "{},{},{}", reject.origin.line, problem.column.as_deref().unwrap(), problem.code)
            .unwrap();
    }
    assert_eq!(found, std::fs::read_to_string(data("employees/expected/rejects.csv")).unwrap());
    assert_eq!((summary.records_in, summary.good), (2000, 1926));
}

#[test]
fn rejects_are_written_as_csv_that_says_all() {
    let pipeline = pipeline(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/decode/reject_csv.yaml"));
    let bytes = b"=1+1,a,1\n@x,\"say \"\"no\"\"\",1\n".to_vec();
    let (out, _) = decode(&pipeline, HashMap::new(), DecodeLimits::default(), bytes).unwrap();
    let mut writer = RejectWriter::new();
    out.rejects.iter().for_each(|reject| writer.write(reject).unwrap());
    let text = String::from_utf8(writer.finish().to_vec()).unwrap();
    let expected = concat!(
        "line,byte_start,byte_end,column,stage,code,message,problems,raw\n",
        "1,0,8,id,decode,type,\"`=1+1` is not an integer\",\"[{\"\"column\"\":\"\"id\"\",\"\"code\"\":\"\"type\"\",",
        "\"\"message\"\":\"\"`=1+1` is not an integer\"\"}]\",\"=1+1,a,1\"\n",
        "2,9,26,id,decode,type,\"`@x` is not an integer\",\"[{\"\"column\"\":\"\"id\"\",\"\"code\"\":\"\"type\"\",",
        "\"\"message\"\":\"\"`@x` is not an integer\"\"},{\"\"column\"\":\"\"name\"\",\"\"code\"\":\"\"length\"\",",
        "\"\"message\"\":\"\"`say \\\"\"no\\\"\"` is longer than 5 characters\"\"}]\",\"@x,\"\"say \"\"\"\"no\"\"\"\"\"\",1\"\n",
    );
    assert_eq!(text, expected);
}

#[test]
fn the_schema_is_that_of_the_batches() {
    for name in ["hired_employees", "flights", "weather", "airports"] {
        let pipeline = shipped(name);
        let schema = schema(&pipeline.columns);
        assert_eq!(schema.fields().len(), pipeline.columns.len());
        for (field, column) in schema.fields().iter().zip(&pipeline.columns) {
            assert_eq!(field.is_nullable(), !column.required, "{name}.{}", column.name);
        }
    }
}

#[test]
fn the_weather_comes_in_whole_with_all_its_digits() {
    let pipeline = shipped("weather");
    let bytes = std::fs::read(data("nycflights13/weather.csv")).unwrap();
    let (out, summary) = decode(&pipeline, HashMap::new(), DecodeLimits::default(), bytes.clone()).unwrap();
    assert_eq!((summary.records_in, out.rejects.len()), (26_115, 0));
    let mut reader = csv::Reader::from_reader(&bytes[..]);
    let temp = reader.headers().unwrap().iter().position(|name| name == "temp").unwrap();
    let place = pipeline.columns.iter().position(|column| column.name.as_str() == "temp").unwrap();
    for (record, (_, row)) in reader.records().zip(&out.rows) {
        let expected: Option<f64> = record.unwrap()[temp].parse().ok();
        let found: Option<f64> =
            row.split(' ').nth(place).and_then(|value| value.trim_matches('"').parse().ok());
        assert_eq!(found, expected);
    }
}

/// Each line opens a quote that the next one closes and opens again. Were every line read to where its fault shows,
/// a megabyte on, this test would take days.
#[test]
fn a_file_of_broken_quotes_is_read_a_few_times_at_most() {
    let lines = 300_000;
    let bytes = "z\",\"\n".repeat(lines).into_bytes();
    let pipeline = pipeline(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/decode/quotes.yaml"));
    let (out, summary) = decode(&pipeline, HashMap::new(), DecodeLimits::default(), bytes).unwrap();
    assert_eq!((summary.records_in, out.rejects.len()), (lines as u64, lines));
}
