//! Cells as bound values of SQLite and back: decimals, dates and times are texts. Pure.

use arrow::datatypes::DataType;
use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments, Row};

use crate::Result;
use crate::builder::{Builders, missing};
use crate::cells::{
    Cell, civil_of_day, civil_of_micros, day_of, micros_of, parse_decimal, push_clock, push_date,
    push_decimal,
};

/// Appends a cell. `text` is scratch space.
pub(crate) fn push_argument(
    arguments: &mut SqliteArguments,
    cell: Cell<'_>,
    text: &mut Vec<u8>,
) -> Result<(), BoxDynError> {
    text.clear();
    match cell {
        Cell::Null => return arguments.add(None::<i64>),
        Cell::Int64(value) => return arguments.add(value),
        Cell::Float64(value) => return arguments.add(value),
        Cell::Boolean(value) => return arguments.add(i64::from(value)),
        Cell::Utf8(value) => return arguments.add(value),
        Cell::Decimal(value, scale) => push_decimal(text, value, scale),
        Cell::Date(day) => push_date(text, civil_of_day(day)),
        Cell::Timestamp(micros) => {
            let at = civil_of_micros(micros);
            push_date(text, at);
            text.push(b'T');
            push_clock(text, at);
            text.push(b'Z');
        }
    }
    arguments.add(std::str::from_utf8(text)?)
}

/// Appends a value of a row to its column.
pub(crate) fn push_value(builders: &mut Builders, row: &SqliteRow, index: usize) -> Result<()> {
    let wrong = |what| missing(format!("column `{}` holds {what}", builders.name(index)));
    match builders.kind(index).clone() {
        DataType::Int64 => match get::<i64>(row, index).map_err(wrong)? {
            Some(value) => builders.int64(index, value),
            None => builders.null(index),
        },
        DataType::Boolean => match get::<i64>(row, index).map_err(wrong)? {
            Some(value) => builders.boolean(index, value != 0),
            None => builders.null(index),
        },
        DataType::Float64 => match get::<f64>(row, index).map_err(wrong)? {
            Some(value) => builders.float64(index, value),
            None => builders.null(index),
        },
        kind => match get::<&str>(row, index).map_err(wrong)? {
            Some(text) => return push_text(builders, index, &kind, text),
            None => builders.null(index),
        },
    };
    Ok(())
}

fn get<'r, T>(row: &'r SqliteRow, index: usize) -> std::result::Result<Option<T>, String>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get::<Option<T>, _>(index).map_err(|error| error.to_string())
}

fn push_text(builders: &mut Builders, index: usize, kind: &DataType, text: &str) -> Result<()> {
    let taken = match kind {
        DataType::Decimal128(_, scale) => parse_decimal(text, u32::from(scale.unsigned_abs()))
            .is_some_and(|value| builders.decimal(index, value)),
        DataType::Date32 => parse_date(text).is_some_and(|day| builders.date(index, day)),
        DataType::Timestamp(..) => parse_time(text).is_some_and(|at| builders.timestamp(index, at)),
        _ => builders.utf8(index, text),
    };
    if taken {
        return Ok(());
    }
    Err(missing(format!("column `{}` holds `{text}`, which is no {kind}", builders.name(index))))
}

fn parse_date(text: &str) -> Option<i32> {
    let mut parts = text.splitn(3, '-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    day_of(digits(year, 4)? as i32, digits(month, 2)?, digits(day, 2)?)
}

fn parse_time(text: &str) -> Option<i64> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "000000"));
    let mut parts = clock.splitn(3, ':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next()?);
    micros_of(
        parse_date(date)?,
        digits(hour, 2)?,
        digits(minute, 2)?,
        digits(second, 2)?,
        digits(fraction, 6)?,
    )
}

fn digits(text: &str, count: usize) -> Option<u32> {
    let good = text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    good.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written_and_nothing_else_is() {
        assert_eq!(parse_time("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse_time("1970-01-02T00:00:00.000001Z"), Some(86_400_000_001));
        for bad in ["", "1970-01-01", "1970-01-01T00:00:00", "1970-13-01T00:00:00Z", "1970-01-01T00:00:00.1Z"]
        {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }
}
