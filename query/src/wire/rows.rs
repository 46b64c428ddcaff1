//! Arrow batches as rows of the protocol, in text or binary, column by column as the client asked.
//!
//! arrow-pg encodes; what it does wrongly or not at all is turned into what it does well before (an 8-bit integer
//! arrives as 256 times its value in binary), and decimals are encoded here.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Decimal128Array, Decimal256Array, RecordBatch, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use arrow_pg::encoder::encode_value;
use pgwire::api::Type;
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo};
use pgwire::error::PgWireResult;
use pgwire::messages::data::{DataRow, FieldDescription, RowDescription};

use pgwire::types::ToSqlText;
use postgres_types::ToSql;

use super::numeric::Numeric;
use super::refusal::{Refusal, code};

/// The columns of an answer as the protocol tells them.
pub(super) type Fields = Arc<Vec<FieldInfo>>;

/// The columns of a schema. `formats`: none for all texts, one for all, or one each.
pub(super) fn fields(schema: &Schema, formats: &[i16]) -> Result<Fields, Refusal> {
    let count = schema.fields().len();
    if formats.len() > 1 && formats.len() != count {
        let message =
            format!("bind message has {} result formats but the query has {count} columns", formats.len());
        return Err(Refusal::new(code::PROTOCOL, message));
    }
    let format = |at: usize| {
        formats.get(at).or(formats.first()).map_or(FieldFormat::Text, |code| FieldFormat::from(*code))
    };
    let fields = schema.fields().iter().enumerate().map(|(at, field)| {
        let encoded = Arc::new(Field::clone(field).with_data_type(encoded_type(field.data_type())));
        let (datatype, modifier) = match field.data_type() {
            DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
                (Type::NUMERIC, ((i32::from(*precision) << 16) | i32::from(*scale as u8)) + 4)
            }
            _ => (pg_type(&encoded)?, -1),
        };
        let size = size(&datatype);
        let info = FieldInfo::new(field.name().clone(), None, None, datatype, format(at));
        Ok(info.with_type_size(size).with_type_modifier(modifier))
    });
    fields.collect::<Result<Vec<_>, Refusal>>().map(Arc::new)
}

/// The type that a client knows this column by.
pub(super) fn pg_type(field: &Arc<Field>) -> Result<Type, Refusal> {
    arrow_pg::datatypes::field_into_pg_type(field).map_err(|_| {
        let message = format!(
            "column \"{}\" is of type {}, which the wire cannot carry",
            field.name(),
            field.data_type()
        );
        Refusal::new(code::UNSUPPORTED, message).hint("cast it to text: CAST(… AS TEXT)")
    })
}

/// The message that tells the columns.
pub(super) fn description(fields: &Fields) -> RowDescription {
    RowDescription::new(fields.iter().map(FieldDescription::from).collect())
}

/// `pg_type.typlen`.
fn size(datatype: &Type) -> i16 {
    match *datatype {
        Type::BOOL | Type::CHAR => 1,
        Type::INT2 => 2,
        Type::INT4 | Type::FLOAT4 | Type::DATE | Type::OID => 4,
        Type::INT8 | Type::FLOAT8 | Type::TIMESTAMP | Type::TIMESTAMPTZ | Type::TIME => 8,
        Type::INTERVAL => 16,
        _ => -1,
    }
}

/// The types that the columns of a schema are encoded from.
pub(super) fn encoded_types(schema: &Schema) -> Vec<DataType> {
    schema.fields().iter().map(|field| encoded_type(field.data_type())).collect()
}

/// The type that a column is turned into before it is encoded.
fn encoded_type(datatype: &DataType) -> DataType {
    match datatype {
        DataType::Int8 => DataType::Int16,
        DataType::Float16 => DataType::Float32,
        DataType::Null => DataType::Utf8,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        // Through its values: keys of a dictionary are no answer.
        DataType::Dictionary(_, values) => encoded_type(values),
        other => other.clone(),
    }
}

/// The rows of one batch.
pub(super) struct Rows {
    batch: RecordBatch,
    next: usize,
    fields: Fields,
    encoder: DataRowEncoder,
}

impl Rows {
    /// `types` are those that the client was told of.
    pub(super) fn new(batch: &RecordBatch, fields: &Fields, types: &[DataType]) -> Result<Self, Refusal> {
        if batch.num_columns() != fields.len() || types.len() != fields.len() {
            return Err(Refusal::internal(&"an answer has other columns than it was described with"));
        }
        let encoder = DataRowEncoder::new(Arc::clone(fields));
        Ok(Self { batch: adapted(batch, types)?, next: 0, fields: Arc::clone(fields), encoder })
    }

    /// The next row.
    pub(super) fn next(&mut self) -> Option<Result<DataRow, Refusal>> {
        if self.next == self.batch.num_rows() {
            return None;
        }
        let row = self.next;
        self.next += 1;
        let columns =
            self.batch.columns().iter().zip(self.batch.schema_ref().fields()).zip(self.fields.iter());
        for ((column, field), info) in columns {
            let done = if let Some(value) = decimal(column, row) {
                encode(&mut self.encoder, &value, info)
            } else if let Some(value) = time_as_text(column, row, info) {
                encode(&mut self.encoder, &value, info)
            } else {
                encode_value(&mut self.encoder, column, row, field, info)
            };
            if let Err(error) = done {
                return Some(Err(Refusal::internal(&error)));
            }
        }
        Some(Ok(self.encoder.take_row()))
    }
}

fn encode<T: ToSql + ToSqlText>(
    encoder: &mut DataRowEncoder,
    value: &T,
    info: &FieldInfo,
) -> PgWireResult<()> {
    encoder.encode_field_with_type_and_format(value, info.datatype(), info.format(), info.format_options())
}

/// A point in time as PostgreSQL writes it, without zeros at the end; the outer `None` says that it is none, or binary.
fn time_as_text(column: &ArrayRef, row: usize, info: &FieldInfo) -> Option<Option<String>> {
    let zone = match *info.datatype() {
        Type::TIMESTAMPTZ => "+00",
        Type::TIMESTAMP => "",
        _ => return None,
    };
    let column = column.as_any().downcast_ref::<TimestampMicrosecondArray>();
    let column = column.filter(|_| info.format() == FieldFormat::Text)?;
    let time = column.is_valid(row).then(|| column.value_as_datetime(row)).flatten();
    Some(time.map(|time| {
        let text = time.format("%Y-%m-%d %H:%M:%S%.6f").to_string();
        format!("{}{zone}", text.trim_end_matches('0').trim_end_matches('.'))
    }))
}

/// The value of a decimal column; the outer `None` says that it is none.
fn decimal(column: &ArrayRef, row: usize) -> Option<Option<Numeric>> {
    let any = column.as_any();
    let text = if let Some(column) = any.downcast_ref::<Decimal128Array>() {
        column.is_valid(row).then(|| column.value_as_string(row))
    } else {
        let column = any.downcast_ref::<Decimal256Array>()?;
        column.is_valid(row).then(|| column.value_as_string(row))
    };
    Some(text.map(Numeric))
}

/// The columns in the types that are encoded. A value of another type than was told is turned into it only where
/// nothing can be lost: a null, or a text of it.
fn adapted(batch: &RecordBatch, types: &[DataType]) -> Result<RecordBatch, Refusal> {
    let adapt = |((column, field), told): ((&ArrayRef, &Arc<Field>), &DataType)| {
        let own = encoded_type(field.data_type());
        let decimals = own.is_decimal() && told.is_decimal();
        let to = match told {
            told if own == *told || decimals => own,
            told if field.data_type().is_null() || *told == DataType::Utf8 => told.clone(),
            told => {
                let name = field.name();
                let message = format!("column \"{name}\" is of type {own}, and was described as {told}");
                let hint = "cast the parameter that it is made of: CAST($1 AS …)";
                return Err(Refusal::new("42804", message).hint(hint));
            }
        };
        if to == *field.data_type() {
            return Ok((Arc::clone(column), Arc::clone(field)));
        }
        let column = arrow::compute::cast(column, &to).map_err(|error| Refusal::internal(&error))?;
        Ok((column, Arc::new(Field::clone(field).with_data_type(to).with_nullable(true))))
    };
    let columns = batch.columns().iter().zip(batch.schema_ref().fields()).zip(types).map(adapt);
    let columns: Vec<_> = columns.collect::<Result<_, Refusal>>()?;
    let (columns, fields): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let adapted = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options);
    adapted.map_err(|error| Refusal::internal(&error))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int8Array, Int64Array, StringArray};

    use super::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter(columns).unwrap()
    }

    /// The values of the first row, as bytes.
    fn first(batch: &RecordBatch, formats: &[i16]) -> Vec<Option<Vec<u8>>> {
        let fields = fields(batch.schema_ref(), formats).unwrap();
        let types = encoded_types(batch.schema_ref());
        let row = Rows::new(batch, &fields, &types).unwrap().next().unwrap().unwrap();
        let mut rest = &row.data[..];
        let mut values = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = usize::try_from(i32::from_be_bytes(*length)).ok();
            values.push(length.map(|length| after[..length].to_vec()));
            rest = &after[length.unwrap_or(0)..];
        }
        values
    }

    #[test]
    fn a_small_integer_keeps_its_value_in_binary() {
        let batch = batch(vec![("a", Arc::new(Int8Array::from(vec![-2])))]);
        assert_eq!(first(&batch, &[1]), [Some((-2_i16).to_be_bytes().to_vec())]);
        assert_eq!(first(&batch, &[]), [Some(b"-2".to_vec())]);
    }

    #[test]
    fn decimals_of_every_precision_arrive() {
        let large =
            Decimal128Array::from(vec![-i128::pow(10, 37) - 1]).with_precision_and_scale(38, 3).unwrap();
        let batch = batch(vec![("a", Arc::new(large))]);
        let text = "-10000000000000000000000000000000000.001";
        assert_eq!(first(&batch, &[0]), [Some(text.as_bytes().to_vec())]);
        let binary = first(&batch, &[1]).remove(0).unwrap();
        assert_eq!(super::super::numeric::read(&binary).as_deref(), Some(text));
        let fields = fields(batch.schema_ref(), &[]).unwrap();
        assert_eq!((fields[0].datatype(), fields[0].type_modifier()), (&Type::NUMERIC, (38 << 16 | 3) + 4));
    }

    #[test]
    fn a_value_of_another_type_than_was_told_is_never_cut() {
        let double: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![1.5]));
        let batch = batch(vec![("a", double)]);
        let fields = fields(batch.schema_ref(), &[]).unwrap();
        let refused = Rows::new(&batch, &fields, &[DataType::Int64]).err().unwrap();
        assert_eq!(refused.code, "42804");
        Rows::new(&batch, &fields, &[DataType::Utf8]).unwrap();
    }

    #[test]
    fn times_are_written_as_postgresql_writes_them() {
        let times = TimestampMicrosecondArray::from(vec![1_500_000_000_500_000]).with_timezone("UTC");
        let whole = TimestampMicrosecondArray::from(vec![0]);
        let batch = batch(vec![("a", Arc::new(times)), ("b", Arc::new(whole))]);
        let texts = ["2017-07-14 02:40:00.5+00", "1970-01-01 00:00:00"];
        assert_eq!(first(&batch, &[]), texts.map(|text| Some(text.as_bytes().to_vec())));
        assert_eq!(
            first(&batch, &[1]).last(),
            Some(&Some((-946_684_800_000_000_i64).to_be_bytes().to_vec()))
        );
    }

    #[test]
    fn nulls_are_told_from_empty_texts_and_each_column_has_its_format() {
        let batch = batch(vec![
            ("a", Arc::new(StringArray::from(vec![Some("")]))),
            ("b", Arc::new(StringArray::from(vec![None::<&str>]))),
            ("c", Arc::new(Int64Array::from(vec![258]))),
        ]);
        let expected = [Some(vec![]), None, Some(vec![0, 0, 0, 0, 0, 0, 1, 2])];
        assert_eq!(first(&batch, &[0, 0, 1]), expected);
        assert_eq!(fields(batch.schema_ref(), &[1, 1]).unwrap_err().code, code::PROTOCOL);
    }
}
