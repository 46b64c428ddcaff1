//! Measures the decoder: the flights of 2013 (31 MB of CSV, 19 columns) eight times over, in one thread, from
//! memory to typed Arrow batches with rejects on. `decode_peers.py` measures the like. Speeds are told by the clock
//! and, for machines that others use too, by the time on a processor.
//!
//! `cargo run --release -p tidemill-benches --bin decode [flights.csv.zip]`

use std::collections::HashMap;
use std::time::Instant;

use anyhow::{Result, ensure};
use bytes::Bytes;
use tidemill_benches::file::{FLIGHTS, FLIGHTS_ROWS, split_header, unzip};
use tidemill_pipelines::{Column, ColumnName, ColumnType, CsvFormat, Format, Header};
use tidemill_processor::decode::{DecodeLimits, DecodeOutput, Decoded, Decoder, Reject, Stopped};

const TIMES_OVER: usize = 8;
const RUNS: usize = 5;
/// What an object store gives at a time.
const CHUNK_BYTES: usize = 64 * 1024;

const TEXTS: [&str; 4] = ["carrier", "tailnum", "origin", "dest"];

fn main() -> Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| FLIGHTS.to_owned());
    let text = unzip(&path)?;
    let (header, rows) = split_header(&text);
    let columns = columns(std::str::from_utf8(header)?)?;
    let file = Bytes::from([header, &rows.repeat(TIMES_OVER)].concat());
    println!("file: {} bytes, flights.csv {TIMES_OVER} times over", file.len());
    for time_as_text in [false, true] {
        let columns: Vec<Column> =
            columns.iter().cloned().map(|column| as_text(column, time_as_text)).collect();
        for chunk_bytes in [file.len(), CHUNK_BYTES] {
            measure(&file, &columns, chunk_bytes, time_as_text)?;
        }
    }
    Ok(())
}

/// Decodes a few times and prints the best and the median run.
fn measure(file: &Bytes, columns: &[Column], chunk_bytes: usize, time_as_text: bool) -> Result<()> {
    let (mut clock, mut processor) = (Speeds::default(), Speeds::default());
    for _ in 0..RUNS {
        let (begun, used) = (Instant::now(), processor_seconds());
        let counted = decode(file, columns, chunk_bytes)?;
        clock.add(file, begun.elapsed().as_secs_f64());
        processor.add(file, processor_seconds() - used);
        ensure!(
            counted.rows == FLIGHTS_ROWS * TIMES_OVER as u64 && counted.rejects == 0,
            "{counted:?} are not all flights"
        );
    }
    let time = if time_as_text { "time left as text" } else { "time parsed" };
    println!(
        "tidemill: {time}, chunks of {chunk_bytes} bytes: {} (on the processor: {})",
        clock.told(),
        processor.told()
    );
    Ok(())
}

/// Speeds of several runs in MB/s.
#[derive(Default)]
struct Speeds(Vec<f64>);

impl Speeds {
    fn add(&mut self, file: &Bytes, seconds: f64) {
        self.0.push(file.len() as f64 / 1e6 / seconds);
    }

    fn told(&mut self) -> String {
        self.0.sort_by(f64::total_cmp);
        format!("best {:.0}, median {:.0} MB/s", self.0[RUNS - 1], self.0[RUNS / 2])
    }
}

/// Seconds that this thread spent on a processor, as Linux tells them; else not a number.
fn processor_seconds() -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = told.split(' ').next().and_then(|text| text.parse::<f64>().ok());
    nanoseconds.map_or(f64::NAN, |nanoseconds| nanoseconds / 1e9)
}

fn decode(file: &Bytes, columns: &[Column], chunk_bytes: usize) -> Result<Counted> {
    let format = CsvFormat {
        header: Header::Names,
        delimiter: b',',
        quote: Some(b'"'),
        null: vec!["NA".to_owned()],
        trim: false,
    };
    let mut decoder = Decoder::new(&Format::Csv(format), columns, HashMap::new(), DecodeLimits::default());
    let mut counted = Counted::default();
    let mut rest = file.clone();
    while !rest.is_empty() {
        decoder.feed(rest.split_to(chunk_bytes.min(rest.len())), &mut counted)?;
    }
    let summary = decoder.finish(&mut counted)?;
    ensure!(summary.good == counted.rows, "the summary {summary:?} is not what came out");
    Ok(counted)
}

/// Counts what comes out and drops it, as a consumer that is never behind.
#[derive(Debug, Default)]
struct Counted {
    rows: u64,
    rejects: u64,
}

impl DecodeOutput for Counted {
    fn batch(&mut self, decoded: Decoded) -> Result<(), Stopped> {
        self.rows += decoded.batch.num_rows() as u64;
        Ok(())
    }

    fn reject(&mut self, _: Reject) -> Result<(), Stopped> {
        self.rejects += 1;
        Ok(())
    }
}

fn columns(header: &str) -> Result<Vec<Column>> {
    let column = |name: &str| -> Result<Column> {
        let name: ColumnName = name.parse()?;
        let kind = match name.as_str() {
            "time_hour" => ColumnType::Timestamp { formats: Vec::new(), zone: "UTC".to_owned() },
            text if TEXTS.contains(&text) => ColumnType::Text { max_length: None },
            _ => ColumnType::Int64,
        };
        Ok(Column { name, path: None, kind, required: false, references: None })
    };
    header.trim().split(',').map(column).collect()
}

fn as_text(mut column: Column, time_as_text: bool) -> Column {
    if time_as_text && matches!(column.kind, ColumnType::Timestamp { .. }) {
        column.kind = ColumnType::Text { max_length: None };
    }
    column
}
