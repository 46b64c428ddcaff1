//! The decoder as others see it: its limits, its counts, and what it is made with. The work is done in `reading`.

use bytes::Bytes;
use tidemill_pipelines::{Column, Format};

use super::DecodeOutput;
use super::column::References;
use super::error::DecodeError;
use super::reading::Reading;

/// How much the decoder holds at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Largest record; a longer one is skipped, never held.
    pub record_bytes_max: usize,
    /// Most bytes of a refused record that its reject carries; no more than `record_bytes_max`.
    pub raw_bytes_max: usize,
    /// Largest JSON document, which is held whole; JSON lines and delimited text have no such limit.
    pub document_bytes_max: usize,
    /// Most rows of a batch.
    pub batch_rows: usize,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        DecodeLimits {
            record_bytes_max: 1 << 20,
            raw_bytes_max: 64 << 10,
            document_bytes_max: 64 << 20,
            batch_rows: 8192,
        }
    }
}

/// What became of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DecodeSummary {
    /// Records found: `good + rejected`. The header and blank lines are none.
    pub records_in: u64,
    /// Records in batches.
    pub good: u64,
    /// Records in rejects.
    pub rejected: u64,
    /// Bytes fed.
    pub bytes: u64,
    /// There was nothing at all: no header and no record.
    pub empty: bool,
}

/// Decodes one file of delimited text or of JSON. After an error it is of no more use.
pub struct Decoder {
    /// The error is of a column that cannot be used; it is told when the first bytes come.
    reading: Result<Box<Reading>, DecodeError>,
}

impl Decoder {
    /// A decoder for one file. A reference that `references` does not hold has no known keys.
    pub fn new(format: &Format, columns: &[Column], references: References, limits: DecodeLimits) -> Self {
        Decoder { reading: Reading::new(format, columns, &references, limits).map(Box::new) }
    }

    /// Takes the next bytes of the file. How a file is cut into chunks changes nothing in what comes out.
    pub fn feed(&mut self, chunk: Bytes, out: &mut impl DecodeOutput) -> Result<(), DecodeError> {
        self.reading()?.feed(chunk, out)
    }

    /// The file is over: gives out what is left and tells the counts.
    pub fn finish(&mut self, out: &mut impl DecodeOutput) -> Result<DecodeSummary, DecodeError> {
        self.reading()?.finish(out)
    }

    fn reading(&mut self) -> Result<&mut Reading, DecodeError> {
        match &mut self.reading {
            Ok(reading) => Ok(reading),
            Err(error) => Err(error.clone()),
        }
    }
}
