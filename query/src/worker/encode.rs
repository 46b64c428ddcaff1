//! Rows as bytes: JSON, CSV or an Arrow IPC stream, sent in chunks as they come.

use std::io::{self, Stdout, Write};
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow::csv;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::JsonArray;
use arrow::json::{self, StructMode};
use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use serde_json::json;

use crate::Format;
use crate::catalog::kind_word;
use crate::frames::{self, Kind};
use crate::limits::CHUNK_BYTES;

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// A schema as an Arrow IPC stream without batches.
pub(super) fn schema_bytes(schema: &Schema) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    StreamWriter::try_new(&mut bytes, schema)?.finish()?;
    Ok(bytes)
}

/// Writes rows in one format.
pub(super) enum Encoder<'a> {
    Arrow(Box<StreamWriter<Chunks<'a>>>),
    Csv(Box<csv::Writer<Chunks<'a>>>),
    Json { writer: json::Writer<Chunks<'a>, JsonArray>, plain: SchemaRef, rows: usize },
}

impl<'a> Encoder<'a> {
    pub(super) fn new(format: Format, schema: &SchemaRef, out: &'a mut Stdout) -> Result<Self> {
        let mut chunks = Chunks { out, bytes: Vec::with_capacity(CHUNK_BYTES) };
        Ok(match format {
            Format::Arrow => Encoder::Arrow(Box::new(StreamWriter::try_new(chunks, schema)?)),
            Format::Csv => {
                let mut writer = csv::WriterBuilder::new().with_header(true).build(chunks);
                // The header comes with the first batch, also when that has no rows.
                writer.write(&RecordBatch::new_empty(Arc::clone(schema)))?;
                Encoder::Csv(Box::new(writer))
            }
            Format::Json => {
                let columns = schema.fields().iter();
                let columns = columns.map(|f| json!({"name": f.name(), "type": kind_word(f.data_type())}));
                let columns = serde_json::Value::Array(columns.collect());
                write!(chunks, "{{\"columns\":{columns},\"rows\":")?;
                let builder = json::WriterBuilder::new().with_struct_mode(StructMode::ListOnly);
                Encoder::Json { writer: builder.build(chunks), plain: plain(schema), rows: 0 }
            }
        })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Encoder::Arrow(writer) => Ok(writer.write(batch)?),
            Encoder::Csv(writer) => Ok(writer.write(batch)?),
            Encoder::Json { writer, plain, rows } => {
                *rows += batch.num_rows();
                let columns = batch.columns().iter().zip(plain.fields());
                let columns = columns.map(|(column, field)| cast(column, field.data_type()));
                let columns = columns.collect::<Result<Vec<ArrayRef>, ArrowError>>()?;
                let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                let batch = RecordBatch::try_new_with_options(Arc::clone(plain), columns, &options)?;
                Ok(writer.write(&batch)?)
            }
        }
    }

    pub(super) fn finish(self) -> Result<()> {
        let mut chunks = match self {
            Encoder::Arrow(writer) => writer.into_inner()?,
            Encoder::Csv(writer) => writer.into_inner(),
            Encoder::Json { mut writer, rows, .. } => {
                writer.finish()?;
                let mut chunks = writer.into_inner();
                write!(chunks, ",\"row_count\":{rows}}}")?;
                chunks
            }
        };
        chunks.send().map_err(DataFusionError::IoError)
    }
}

/// Columns as JSON can carry them exactly: decimals as texts.
fn plain(schema: &SchemaRef) -> SchemaRef {
    let field = |field: &Arc<Field>| match field.data_type() {
        DataType::Decimal128(..) | DataType::Decimal256(..) => {
            Field::new(field.name(), DataType::Utf8, field.is_nullable())
        }
        kind => Field::new(field.name(), kind.clone(), field.is_nullable()),
    };
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// Bytes on their way to the parent, in frames of bounded length.
pub(super) struct Chunks<'a> {
    out: &'a mut Stdout,
    bytes: Vec<u8>,
}

impl Chunks<'_> {
    fn send(&mut self) -> io::Result<()> {
        for chunk in self.bytes.chunks(CHUNK_BYTES) {
            frames::write(self.out, Kind::Chunk, chunk)?;
        }
        self.bytes.clear();
        Ok(())
    }
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = (CHUNK_BYTES - self.bytes.len()).min(bytes.len());
        self.bytes.extend_from_slice(&bytes[..room]);
        if self.bytes.len() == CHUNK_BYTES {
            self.send()?;
        }
        Ok(room)
    }

    // Whoever writes here flushes after each line; chunks are sent when they are full, and at the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
