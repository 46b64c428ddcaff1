//! Rows of a scan into batches. Shared by both databases.

use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder, Int64Builder,
    RecordBatchOptions, StringBuilder, TimestampMicrosecondBuilder, make_builder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use tidemill_pipelines::{ColumnName, TableName};
use tokio::sync::mpsc;

use crate::{Error, Result};

/// Rows of one batch of a scan.
pub(crate) const BATCH_ROWS: usize = 8_192;

/// Batches that may wait for the reader of a scan.
pub(crate) const BATCHES_WAITING_MAX: usize = 2;

/// A scan of what is not there.
pub(crate) fn missing(message: String) -> Error {
    Error::Refused { action: "read the table", message }
}

/// The columns of a selection, out of those that a table has.
pub(crate) fn chosen(all: &Schema, table: &TableName, columns: &[ColumnName]) -> Result<SchemaRef> {
    let fields = columns.iter().map(|name| {
        let found = all.field_with_name(name.as_str()).cloned();
        found.map_err(|_| missing(format!("table `{table}` has no column `{name}`")))
    });
    Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<Field>>>()?)))
}

/// Sends batches without columns that stand for this many rows.
pub(crate) async fn send_counts(
    schema: &SchemaRef,
    mut rows: u64,
    sender: &mpsc::Sender<Result<RecordBatch>>,
) -> Result<()> {
    while rows > 0 {
        let these = rows.min(BATCH_ROWS as u64);
        rows -= these;
        let options = RecordBatchOptions::new().with_row_count(usize::try_from(these).ok());
        let batch = RecordBatch::try_new_with_options(schema.clone(), Vec::new(), &options)
            .map_err(|error| missing(error.to_string()));
        if sender.send(batch).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// One builder for each column. Appending tells `false`, and does nothing, when the column has another type.
pub(crate) struct Builders {
    schema: SchemaRef,
    builders: Vec<Box<dyn ArrayBuilder>>,
    rows: usize,
}

macro_rules! append {
    ($method:ident, $builder:ty, $value:ty) => {
        pub(crate) fn $method(&mut self, index: usize, value: $value) -> bool {
            self.builder::<$builder>(index).map(|builder| builder.append_value(value)).is_some()
        }
    };
}

impl Builders {
    pub(crate) fn new(schema: SchemaRef) -> Self {
        let builders = schema.fields().iter().map(|f| make_builder(f.data_type(), BATCH_ROWS));
        Self { builders: builders.collect(), rows: 0, schema }
    }

    pub(crate) fn columns(&self) -> usize {
        self.builders.len()
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn kind(&self, index: usize) -> &DataType {
        self.schema.field(index).data_type()
    }

    pub(crate) fn name(&self, index: usize) -> &str {
        self.schema.field(index).name()
    }

    append!(int64, Int64Builder, i64);
    append!(float64, Float64Builder, f64);
    append!(boolean, BooleanBuilder, bool);
    append!(decimal, Decimal128Builder, i128);
    append!(utf8, StringBuilder, &str);
    append!(date, Date32Builder, i32);
    append!(timestamp, TimestampMicrosecondBuilder, i64);

    pub(crate) fn null(&mut self, index: usize) -> bool {
        let appended = match self.kind(index) {
            DataType::Int64 => self.builder(index).map(Int64Builder::append_null),
            DataType::Float64 => self.builder(index).map(Float64Builder::append_null),
            DataType::Boolean => self.builder(index).map(BooleanBuilder::append_null),
            DataType::Decimal128(..) => self.builder(index).map(Decimal128Builder::append_null),
            DataType::Date32 => self.builder(index).map(Date32Builder::append_null),
            DataType::Timestamp(..) => self.builder(index).map(TimestampMicrosecondBuilder::append_null),
            _ => self.builder(index).map(StringBuilder::append_null),
        };
        appended.is_some()
    }

    fn builder<B: ArrayBuilder>(&mut self, index: usize) -> Option<&mut B> {
        self.builders.get_mut(index)?.as_any_mut().downcast_mut()
    }

    pub(crate) fn end_row(&mut self) {
        self.rows += 1;
    }

    /// The batch of what came, and an empty start for the next.
    pub(crate) fn finish(&mut self) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        self.rows = 0;
        let columns = self.builders.iter_mut().map(|b| b.finish()).collect();
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
            .map_err(|error| missing(error.to_string()))
    }
}
