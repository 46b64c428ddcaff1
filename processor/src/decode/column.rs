//! The columns of a batch in the making: each field goes straight into a typed buffer, or is a fault.
//!
//! A record goes in whole or not at all: after a fault all columns fall back to the rows before it. Called by
//! `decoder`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::util::bit_util;
use chrono_tz::Tz;
use tidemill_pipelines::{Column, ColumnType, Reference};

use super::time::Formats;
use super::{numbers, time};

/// What stands in the columns that the pipeline's columns refer to. A reference that is not in the map is to an
/// empty column.
pub type References = HashMap<Reference, Arc<KnownKeys>>;

/// The values of a column that others refer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KnownKeys {
    /// Of an integer column.
    Int64(HashSet<i64>),
    /// Of any other column: as text, compared with the text of the field.
    Text(HashSet<String>),
}

impl KnownKeys {
    fn contains(&self, text: &[u8]) -> bool {
        match self {
            KnownKeys::Int64(keys) => numbers::int64(text).is_ok_and(|key| keys.contains(&key)),
            KnownKeys::Text(keys) => std::str::from_utf8(text).is_ok_and(|key| keys.contains(key)),
        }
    }
}

/// The Arrow schema of the batches that these columns are decoded to.
pub fn schema(columns: &[Column]) -> SchemaRef {
    let field = |column: &Column| Field::new(column.name.as_str(), data_type(&column.kind), !column.required);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

fn data_type(kind: &ColumnType) -> DataType {
    match kind {
        ColumnType::Int64 => DataType::Int64,
        ColumnType::Float64 => DataType::Float64,
        ColumnType::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
        ColumnType::Bool { .. } => DataType::Boolean,
        ColumnType::Text { .. } => DataType::Utf8,
        ColumnType::Date { .. } => DataType::Date32,
        ColumnType::Timestamp { .. } => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
    }
}

const UTC: &str = "UTC";

/// Why a field is refused. What it holds is the end of the sentence that begins with the field's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Required,
    Type(&'static str),
    /// Fits none of the column's time formats.
    Format,
    Range(&'static str),
    Length,
    Reference,
}

impl Fault {
    /// The stable word of the reject.
    pub fn code(self) -> &'static str {
        match self {
            Fault::Required => "required",
            Fault::Type(_) | Fault::Format => "type",
            Fault::Range(_) => "range",
            Fault::Length => "length",
            Fault::Reference => "reference",
        }
    }
}

/// One column of the batch in the making.
pub(super) struct ColumnBuffer {
    pub name: String,
    required: bool,
    reference: Option<(Reference, Arc<KnownKeys>)>,
    kind: ColumnType,
    values: Values,
    /// Rows without a value; few, so that a value costs nothing here.
    null_rows: Vec<usize>,
}

enum Values {
    Int64(Vec<i64>),
    Float64(Vec<f64>),
    Decimal { values: Vec<i128>, precision: u8, scale: i8 },
    Bool { values: Vec<bool>, true_texts: Vec<String>, false_texts: Vec<String> },
    Text { bytes: Vec<u8>, ends: Vec<i32>, max_length: Option<u32> },
    Date { values: Vec<i32>, formats: Formats },
    Timestamp { values: Vec<i64>, formats: Formats, zone: Tz },
}

impl ColumnBuffer {
    /// Fails with a message when a format or zone cannot be used.
    pub fn new(column: &Column, references: &References) -> Result<Self, String> {
        let known = |reference: &Reference| {
            let none = || Arc::new(KnownKeys::Text(HashSet::new()));
            (reference.clone(), references.get(reference).cloned().unwrap_or_else(none))
        };
        Ok(ColumnBuffer {
            name: column.name.as_str().to_owned(),
            required: column.required,
            reference: column.references.as_ref().map(known),
            kind: column.kind.clone(),
            values: Values::new(&column.kind)?,
            null_rows: Vec::new(),
        })
    }

    /// Appends a value; after a fault nothing is appended.
    #[inline]
    pub fn value(&mut self, text: &[u8]) -> Result<(), Fault> {
        self.values.push(text)?;
        self.referred(text)
    }

    /// Appends a truth as it is, whatever the column's texts for it are.
    pub fn boolean(&mut self, truth: bool) -> Result<(), Fault> {
        let text: &[u8] = if truth { b"true" } else { b"false" };
        match &mut self.values {
            Values::Bool { values, .. } => values.push(truth),
            _ => return self.value(text),
        }
        self.referred(text)
    }

    #[inline]
    fn referred(&self, text: &[u8]) -> Result<(), Fault> {
        match &self.reference {
            Some((_, known)) if !known.contains(text) => Err(Fault::Reference),
            _ => Ok(()),
        }
    }

    /// Appends a missing value as row number `row`.
    #[inline]
    pub fn null(&mut self, row: usize) -> Result<(), Fault> {
        if self.required {
            return Err(Fault::Required);
        }
        self.values.push_default();
        self.null_rows.push(row);
        Ok(())
    }

    /// Forgets all but the first `rows` rows.
    pub fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        let kept = self.null_rows.partition_point(|&row| row < rows);
        self.null_rows.truncate(kept);
    }

    /// Makes an array of the `rows` rows and begins anew.
    pub fn finish(&mut self, rows: usize) -> Result<ArrayRef, ArrowError> {
        let nulls = nulls(rows, &self.null_rows);
        self.null_rows.clear();
        self.values.finish(rows, nulls)
    }

    /// The fault in words; `text` is the field's text, already fit to be shown.
    pub fn describe(&self, fault: Fault, text: &str) -> String {
        match fault {
            Fault::Required => match text {
                "" => "a value is required".to_owned(),
                null => format!("a value is required, and `{null}` stands for a missing one"),
            },
            Fault::Type(what) => format!("`{text}` {what}{}", self.expected()),
            Fault::Format => format!("`{text}` fits none of the column's formats{}", self.formats()),
            Fault::Range(what) => format!("`{text}` {what}{}", self.expected()),
            Fault::Length => match &self.kind {
                ColumnType::Text { max_length: Some(max) } => {
                    format!("`{text}` is longer than {max} characters")
                }
                _ => format!("`{text}` is too long"),
            },
            Fault::Reference => match &self.reference {
                Some((Reference { table, column }, _)) => format!("`{text}` is not in `{table}.{column}`"),
                None => format!("`{text}` is not in the column referred to"),
            },
        }
    }

    /// What the settings of this column add to the message.
    fn expected(&self) -> String {
        match &self.kind {
            ColumnType::Decimal { precision, scale } => format!(" (decimal({precision}, {scale}))"),
            ColumnType::Bool { true_texts, false_texts, .. } => {
                format!(" ({} or {})", true_texts.join(", "), false_texts.join(", "))
            }
            _ => String::new(),
        }
    }

    fn formats(&self) -> String {
        match &self.kind {
            ColumnType::Date { formats } | ColumnType::Timestamp { formats, .. } => {
                let formats: Vec<_> = formats.iter().map(|format| format!("`{}`", format.as_str())).collect();
                format!(" ({})", formats.join(", "))
            }
            _ => String::new(),
        }
    }
}

impl Values {
    fn new(kind: &ColumnType) -> Result<Self, String> {
        Ok(match kind {
            ColumnType::Int64 => Values::Int64(Vec::new()),
            ColumnType::Float64 => Values::Float64(Vec::new()),
            &ColumnType::Decimal { precision, scale } => {
                Values::Decimal { values: Vec::new(), precision, scale }
            }
            ColumnType::Bool { true_texts, false_texts } => Values::Bool {
                values: Vec::new(),
                true_texts: true_texts.clone(),
                false_texts: false_texts.clone(),
            },
            &ColumnType::Text { max_length } => {
                Values::Text { bytes: Vec::new(), ends: Vec::new(), max_length }
            }
            ColumnType::Date { formats } => {
                Values::Date { values: Vec::new(), formats: Formats::new(formats)? }
            }
            ColumnType::Timestamp { formats, zone } => Values::Timestamp {
                values: Vec::new(),
                formats: Formats::new(formats)?,
                zone: zone.parse().map_err(|_| format!("`{zone}` is not the name of a time zone"))?,
            },
        })
    }

    #[inline]
    fn push(&mut self, text: &[u8]) -> Result<(), Fault> {
        match self {
            Values::Int64(values) => values.push(numbers::int64(text)?),
            Values::Float64(values) => values.push(numbers::float64(text)?),
            Values::Decimal { values, precision, scale } => {
                values.push(numbers::decimal128(text, *precision, *scale)?);
            }
            Values::Bool { values, true_texts, false_texts } => {
                values.push(numbers::boolean(text, true_texts, false_texts)?);
            }
            Values::Text { bytes, ends, max_length } => {
                if max_length.is_some_and(|max| is_longer(text, max as usize)) {
                    return Err(Fault::Length);
                }
                bytes.extend_from_slice(text);
                ends.push(bytes.len() as i32);
            }
            Values::Date { values, formats } => values.push(time::date(text, formats)?),
            Values::Timestamp { values, formats, zone } => {
                values.push(time::timestamp(text, formats, *zone)?)
            }
        }
        Ok(())
    }

    fn push_default(&mut self) {
        match self {
            Values::Int64(values) | Values::Timestamp { values, .. } => values.push(0),
            Values::Float64(values) => values.push(0.0),
            Values::Decimal { values, .. } => values.push(0),
            Values::Bool { values, .. } => values.push(false),
            Values::Text { bytes, ends, .. } => ends.push(bytes.len() as i32),
            Values::Date { values, .. } => values.push(0),
        }
    }

    fn truncate(&mut self, rows: usize) {
        match self {
            Values::Int64(values) | Values::Timestamp { values, .. } => values.truncate(rows),
            Values::Float64(values) => values.truncate(rows),
            Values::Decimal { values, .. } => values.truncate(rows),
            Values::Bool { values, .. } => values.truncate(rows),
            Values::Text { bytes, ends, .. } => {
                ends.truncate(rows);
                bytes.truncate(ends.last().map_or(0, |&end| end as usize));
            }
            Values::Date { values, .. } => values.truncate(rows),
        }
    }

    fn finish(&mut self, rows: usize, nulls: Option<NullBuffer>) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Values::Int64(values) => Arc::new(Int64Array::try_new(taken(values, rows), nulls)?),
            Values::Float64(values) => Arc::new(Float64Array::try_new(taken(values, rows), nulls)?),
            Values::Decimal { values, precision, scale } => {
                let array = Decimal128Array::try_new(taken(values, rows), nulls)?;
                Arc::new(array.with_precision_and_scale(*precision, *scale)?)
            }
            Values::Bool { values, .. } => {
                let bits = values.as_slice().into();
                values.clear();
                Arc::new(BooleanArray::new(bits, nulls))
            }
            Values::Text { bytes, ends, .. } => {
                let lengths = std::iter::once(0).chain(ends.iter().copied()).collect::<Vec<i32>>();
                let text = std::mem::replace(bytes, Vec::with_capacity(bytes.len()));
                ends.clear();
                let offsets = OffsetBuffer::new(lengths.into());
                Arc::new(StringArray::try_new(offsets, Buffer::from_vec(text), nulls)?)
            }
            Values::Date { values, .. } => Arc::new(Date32Array::try_new(taken(values, rows), nulls)?),
            Values::Timestamp { values, .. } => {
                let array = TimestampMicrosecondArray::try_new(taken(values, rows), nulls)?;
                Arc::new(array.with_timezone(UTC))
            }
        })
    }
}

/// Takes the values and leaves room for as many.
fn taken<T: arrow::datatypes::ArrowNativeType>(values: &mut Vec<T>, rows: usize) -> ScalarBuffer<T> {
    std::mem::replace(values, Vec::with_capacity(rows)).into()
}

fn nulls(rows: usize, null_rows: &[usize]) -> Option<NullBuffer> {
    if null_rows.is_empty() {
        return None;
    }
    let mut bits = vec![0xff; rows.div_ceil(8)];
    null_rows.iter().for_each(|&row| bit_util::unset_bit(&mut bits, row));
    let bits = arrow::buffer::BooleanBuffer::new(bits.into(), 0, rows);
    Some(NullBuffer::new(bits))
}

/// Whether a UTF-8 text has more than `max` characters: bytes that go on with a character are not counted.
fn is_longer(text: &[u8], max: usize) -> bool {
    text.len() > max && text.iter().filter(|&&byte| byte & 0xc0 != 0x80).count() > max
}
