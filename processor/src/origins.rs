//! Where the rows of a batch came from: a hidden column that travels beside the values, from the decoder to the sinks.
//!
//! [`crate::intake`] puts it on each decoded batch, the steps pass it on by themselves where a row still is a record
//! ([`crate::carry`]), and [`Origins::split`] takes it off before a sink sees the batch. SQL sees `_file` and `_line`.
//! With it any later stage can refuse a record: [`crate::refuse::Rejects::refuse`].
//!
//! The deliverer's part:
//! ```text
//! let (batch, origins) = Origins::split(batch?, self.rows);   // `self.rows`: output rows before this batch
//! …the database refuses row 17 of the batch…
//! let record = origins.record(17);                            // all rows of that record: leave out every one of them
//! rejects.refuse(&origins, &batch, 17, "deliver", RejectProblem { column: None, code, message }).await?;
//! ```
//! `rejects` is the handle that [`crate::run`] gives to the intake and the steps. [`crate::intake::Intake::finish`], called when the stream has
//! ended and all rows were delivered, closes it: the summary counts these rejects, and `judge` weighs them like all others.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StructArray, UInt32Array, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Fields, Int64Type, Schema, SchemaRef, UInt32Type, UInt64Type};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::decode::Origin;

/// The hidden column; no SQL can name it, for it is not there when SQL is planned.
pub(crate) const ORIGIN: &str = "__origin";

static PARTS: LazyLock<Fields> = LazyLock::new(|| {
    Fields::from(vec![
        Field::new("file", DataType::UInt32, false),
        Field::new("line", DataType::Int64, false),
        Field::new("byte_start", DataType::UInt64, false),
        Field::new("byte_end", DataType::UInt64, false),
    ])
});

/// Where the rows of one batch came from. Cheap to clone; 28 bytes a row.
#[derive(Debug, Clone)]
pub(crate) struct Origins {
    /// `None` behind an aggregate, where a row is no record.
    rows: Option<StructArray>,
    /// Output rows of the job before this batch.
    first_row: u64,
}

/// One record: the number of its object within the job, and where it stands there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordOrigin {
    pub file: u32,
    pub origin: Origin,
}

impl Origins {
    /// Takes the hidden column off a batch. `first_row` is the number of output rows before the batch.
    pub(crate) fn split(batch: RecordBatch, first_row: u64) -> (RecordBatch, Self) {
        let Ok(index) = batch.schema_ref().index_of(ORIGIN) else {
            return (batch, Self { rows: None, first_row });
        };
        let mut batch = batch;
        let rows = batch.remove_column(index).as_struct_opt().cloned();
        (batch, Self { rows, first_row })
    }

    /// Where a row came from; `None` behind an aggregate.
    pub(crate) fn of(&self, row: usize) -> Option<RecordOrigin> {
        let rows = self.rows.as_ref().filter(|rows| row < rows.len())?;
        let bytes = |index: usize| rows.column(index).as_primitive::<UInt64Type>().value(row);
        let line = rows.column(1).as_primitive::<Int64Type>().value(row);
        let origin = Origin { line: line.cast_unsigned(), byte_start: bytes(2), byte_end: bytes(3) };
        Some(RecordOrigin { file: rows.column(0).as_primitive::<UInt32Type>().value(row), origin })
    }

    /// The rows that came from the same record as this one: joins and `unnest` make several of one. They stand together.
    #[allow(dead_code, reason = "for the deliverer")]
    pub(crate) fn record(&self, row: usize) -> Range<usize> {
        let Some(rows) = self.rows.as_ref().filter(|rows| row < rows.len()) else { return row..row + 1 };
        let (file, start) = (rows.column(0).as_primitive::<UInt32Type>().values(), starts(rows));
        let same = |other: &usize| file[*other] == file[row] && start[*other] == start[row];
        let before = (0..row).rev().take_while(same).count();
        let after = (row + 1..rows.len()).take_while(same).count();
        row - before..row + after + 1
    }

    /// File and first byte of each row's record; nothing behind an aggregate.
    pub(crate) fn starts(batch: &RecordBatch) -> impl Iterator<Item = (u32, u64)> + '_ {
        let rows = batch.column_by_name(ORIGIN).and_then(AsArray::as_struct_opt);
        rows.into_iter().flat_map(|rows| {
            let files = rows.column(0).as_primitive::<UInt32Type>().values();
            files.iter().copied().zip(starts(rows).iter().copied())
        })
    }

    /// 1-based number of a row among all output rows of the job.
    pub(crate) fn output_row(&self, row: usize) -> u64 {
        self.first_row + row as u64 + 1
    }
}

/// The batch with the column of its origins.
pub(crate) fn attach(batch: &RecordBatch, file: u32, origins: &[Origin]) -> Result<RecordBatch, ArrowError> {
    let parts: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from_value(file, origins.len())),
        Arc::new(Int64Array::from_iter_values(origins.iter().map(|origin| origin.line.cast_signed()))),
        Arc::new(UInt64Array::from_iter_values(origins.iter().map(|origin| origin.byte_start))),
        Arc::new(UInt64Array::from_iter_values(origins.iter().map(|origin| origin.byte_end))),
    ];
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(StructArray::try_new(PARTS.clone(), parts, None)?));
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(full(batch.schema_ref()), columns, &options)
}

/// The batch with its records in the order of the file; joins put those without a partner last.
pub(crate) fn in_file_order(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let records: Vec<(u32, u64)> = Origins::starts(&batch).collect();
    if records.is_sorted() {
        return Ok(batch);
    }
    let mut order: Vec<u32> = (0..records.len() as u32).collect();
    order.sort_by_key(|row| records[*row as usize]);
    take_record_batch(&batch, &UInt32Array::from(order))
}

/// The schema with the hidden column behind all others.
pub(crate) fn full(schema: &SchemaRef) -> SchemaRef {
    let mut fields = schema.fields().to_vec();
    fields.push(Arc::new(field()));
    Arc::new(Schema::new(fields))
}

/// The schema without the hidden column.
pub(crate) fn without_origin(schema: &SchemaRef) -> SchemaRef {
    let seen = schema.fields().iter().filter(|field| field.name() != ORIGIN).cloned();
    Arc::new(Schema::new(seen.collect::<Vec<_>>()))
}

/// The hidden column.
pub(crate) fn field() -> Field {
    Field::new(ORIGIN, DataType::Struct(PARTS.clone()), false)
}

fn starts(rows: &StructArray) -> &[u64] {
    rows.column(2).as_primitive::<UInt64Type>().values()
}
