//! Typed access to the cells of a batch, and the checks that both databases share: what cannot be stored
//! exactly is refused here with the row's number, before any database sees it. Pure.

use std::collections::BTreeMap;

use arrow::array::{
    Array, AsArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use arrow::record_batch::RecordBatch;

use crate::{Error, RefusedRow, Result, TableColumn, TablePlan};

/// Days from 1970-01-01 to 0001-01-01 and to 9999-12-31: what MySQL's DATE and four digits of a year hold.
const DAY_MIN: i32 = -719_162;
const DAY_MAX: i32 = 2_932_896;

/// Microseconds of a day.
const DAY_MICROS: i64 = 86_400_000_000;

/// One column of a batch, downcast once.
pub(crate) enum Cells<'a> {
    Int64(&'a Int64Array),
    Float64(&'a Float64Array),
    Decimal(&'a Decimal128Array, u8, u32),
    Boolean(&'a BooleanArray),
    Utf8(&'a StringArray),
    Date(&'a Date32Array),
    Timestamp(&'a TimestampMicrosecondArray),
}

/// One cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Cell<'a> {
    Null,
    Int64(i64),
    Float64(f64),
    /// The unscaled value and the scale.
    Decimal(i128, u32),
    Boolean(bool),
    Utf8(&'a str),
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since 1970-01-01, UTC.
    Timestamp(i64),
}

impl<'a> Cells<'a> {
    /// The cell of a row. The row must be within the batch.
    #[inline]
    pub(crate) fn get(&self, row: usize) -> Cell<'a> {
        match self {
            Cells::Int64(a) if a.is_valid(row) => Cell::Int64(a.value(row)),
            Cells::Float64(a) if a.is_valid(row) => Cell::Float64(a.value(row)),
            Cells::Decimal(a, _, scale) if a.is_valid(row) => Cell::Decimal(a.value(row), *scale),
            Cells::Boolean(a) if a.is_valid(row) => Cell::Boolean(a.value(row)),
            Cells::Utf8(a) if a.is_valid(row) => Cell::Utf8(a.value(row)),
            Cells::Date(a) if a.is_valid(row) => Cell::Date(a.value(row)),
            Cells::Timestamp(a) if a.is_valid(row) => Cell::Timestamp(a.value(row)),
            _ => Cell::Null,
        }
    }

    fn array(&self) -> &'a dyn Array {
        match self {
            Cells::Int64(a) => *a,
            Cells::Float64(a) => *a,
            Cells::Decimal(a, ..) => *a,
            Cells::Boolean(a) => *a,
            Cells::Utf8(a) => *a,
            Cells::Date(a) => *a,
            Cells::Timestamp(a) => *a,
        }
    }
}

/// Whether a type is one that sinks store.
pub(crate) fn supported(kind: &DataType) -> bool {
    match kind {
        DataType::Int64 | DataType::Float64 | DataType::Boolean => true,
        DataType::Utf8 | DataType::Date32 => true,
        DataType::Decimal128(precision, scale) => *scale >= 0 && *scale as u8 <= *precision,
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) => zone.as_ref() == "UTC",
        _ => false,
    }
}

/// The columns of a batch, which must be those of the plan.
pub(crate) fn cells<'a>(plan: &TablePlan, batch: &'a RecordBatch) -> Result<Vec<Cells<'a>>> {
    if batch.num_columns() != plan.columns.len() {
        return Err(Error::Shape {
            table: plan.table.to_string(),
            differences: vec![format!(
                "the rows have {} columns, the table's plan has {}",
                batch.num_columns(),
                plan.columns.len()
            )],
        });
    }
    plan.columns.iter().zip(batch.columns()).map(|(c, array)| downcast(c, array)).collect()
}

fn downcast<'a>(column: &TableColumn, array: &'a dyn Array) -> Result<Cells<'a>> {
    let kind = array.data_type();
    let cells = match kind {
        DataType::Int64 => array.as_primitive_opt::<Int64Type>().map(Cells::Int64),
        DataType::Float64 => array.as_primitive_opt::<Float64Type>().map(Cells::Float64),
        DataType::Decimal128(precision, scale) => array
            .as_primitive_opt::<Decimal128Type>()
            .map(|a| Cells::Decimal(a, *precision, u32::from(scale.unsigned_abs()))),
        DataType::Boolean => array.as_boolean_opt().map(Cells::Boolean),
        DataType::Utf8 => array.as_string_opt::<i32>().map(Cells::Utf8),
        DataType::Date32 => array.as_primitive_opt::<Date32Type>().map(Cells::Date),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
            array.as_primitive_opt::<TimestampMicrosecondType>().map(Cells::Timestamp)
        }
        _ => None,
    };
    match cells {
        Some(cells) if *kind == column.kind && supported(kind) => Ok(cells),
        _ => Err(Error::Type { column: column.name.to_string(), kind: kind.to_string() }),
    }
}

/// The rows that cannot be stored exactly, each with its first reason, in their order.
pub(crate) fn refused(plan: &TablePlan, columns: &[Cells<'_>]) -> Vec<RefusedRow> {
    let mut found = BTreeMap::new();
    for (column, cells) in plan.columns.iter().zip(columns) {
        problems(plan, column, cells, &mut found);
    }
    found.into_iter().map(|(row, message)| RefusedRow { row, message }).collect()
}

/// The rows of a batch without those that were refused, and the number in the batch of each row that is left; `None`
/// when all are left.
pub(crate) fn without(
    batch: &RecordBatch,
    refused: &[RefusedRow],
) -> Result<Option<(RecordBatch, Vec<usize>)>> {
    if refused.is_empty() {
        return Ok(None);
    }
    let mut keep = vec![true; batch.num_rows()];
    for RefusedRow { row, .. } in refused {
        if let Some(keep) = keep.get_mut(*row) {
            *keep = false;
        }
    }
    let left = filter_record_batch(batch, &BooleanArray::from(keep.clone()));
    let left =
        left.map_err(|error| Error::Refused { action: "sort out rows", message: error.to_string() })?;
    Ok(Some((left, (0..keep.len()).filter(|row| keep[*row]).collect())))
}

fn problems(plan: &TablePlan, column: &TableColumn, cells: &Cells<'_>, found: &mut BTreeMap<usize, String>) {
    let name = &column.name;
    let array = cells.array();
    let required = !column.nullable || plan.key.contains(name);
    if required && array.null_count() > 0 {
        for row in (0..array.len()).filter(|row| array.is_null(*row)) {
            found.entry(row).or_insert_with(|| format!("column `{name}` is null and may not be"));
        }
    }
    if matches!(cells, Cells::Int64(_) | Cells::Boolean(_)) {
        return;
    }
    for row in 0..array.len() {
        if let Some(what) = problem(cells, row, column.max_length) {
            found.entry(row).or_insert_with(|| format!("column `{name}`: {what}"));
        }
    }
}

/// What keeps one cell from being stored exactly.
fn problem(cells: &Cells<'_>, row: usize, max_length: Option<u32>) -> Option<String> {
    match (cells.get(row), cells) {
        (Cell::Float64(v), _) if !v.is_finite() => Some(format!("{v} is no finite number")),
        (Cell::Decimal(v, _), Cells::Decimal(_, precision, _)) => {
            let bound = 10u128.checked_pow(u32::from(*precision))?;
            (v.unsigned_abs() >= bound).then(|| format!("more than {precision} digits"))
        }
        (Cell::Utf8(text), _) => {
            let limit = max_length? as usize;
            let length = if text.len() > limit { text.chars().count() } else { 0 };
            (length > limit).then(|| format!("text of {length} characters, longest is {limit}"))
        }
        (Cell::Date(day), _) => (!within_years(day)).then(beyond_years),
        (Cell::Timestamp(at), _) => {
            let day = at.div_euclid(DAY_MICROS);
            (!(i64::from(DAY_MIN)..=i64::from(DAY_MAX)).contains(&day)).then(beyond_years)
        }
        _ => None,
    }
}

fn beyond_years() -> String {
    "the year is not within 0001 and 9999".to_owned()
}

/// A time as calendar and clock, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Civil {
    pub(crate) year: u16,
    pub(crate) month: u8,
    pub(crate) day: u8,
    pub(crate) hour: u8,
    pub(crate) minute: u8,
    pub(crate) second: u8,
    pub(crate) micro: u32,
}

/// Calendar of a day number within the years 1 to 9999; the algorithm `civil_from_days` of Howard
/// Hinnant, "chrono-Compatible Low-Level Date Algorithms", for eras of 400 years that begin on 1 March.
pub(crate) fn civil_of_day(days: i32) -> Civil {
    let shifted = i64::from(days) + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = (of_year - (153 * month_from_march + 2) / 5 + 1) as u8;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Civil { year: year as u16, month: month as u8, day, hour: 0, minute: 0, second: 0, micro: 0 }
}

/// Calendar and clock of a timestamp within the years 1 to 9999.
pub(crate) fn civil_of_micros(micros: i64) -> Civil {
    let day = micros.div_euclid(DAY_MICROS);
    let clock = micros.rem_euclid(DAY_MICROS);
    let seconds = (clock / 1_000_000) as u32;
    Civil {
        hour: (seconds / 3_600) as u8,
        minute: (seconds / 60 % 60) as u8,
        second: (seconds % 60) as u8,
        micro: (clock % 1_000_000) as u32,
        ..civil_of_day(day as i32)
    }
}

/// Whether a day number lies within the years 1 to 9999.
pub(crate) fn within_years(days: i32) -> bool {
    (DAY_MIN..=DAY_MAX).contains(&days)
}

/// Day number of a calendar date, `None` when there is no such day.
pub(crate) fn day_of(year: i32, month: u32, day: u32) -> Option<i32> {
    let date = chrono::NaiveDate::from_ymd_opt(year, month, day)?;
    let epoch = chrono::NaiveDate::from_ymd_opt(1970, 1, 1)?;
    i32::try_from(date.signed_duration_since(epoch).num_days()).ok()
}

/// Microseconds of a time, `None` when there is no such time.
pub(crate) fn micros_of(day: i32, hour: u32, minute: u32, second: u32, micro: u32) -> Option<i64> {
    if hour > 23 || minute > 59 || second > 59 || micro > 999_999 {
        return None;
    }
    let seconds = i64::from(hour * 3_600 + minute * 60 + second);
    i64::from(day).checked_mul(DAY_MICROS)?.checked_add(seconds * 1_000_000 + i64::from(micro))
}

/// Appends a decimal as text with exactly `scale` digits after the point.
pub(crate) fn push_decimal(out: &mut Vec<u8>, value: i128, scale: u32) {
    if value < 0 {
        out.push(b'-');
    }
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value.unsigned_abs()).as_bytes();
    let scale = scale as usize;
    if scale == 0 {
        return out.extend_from_slice(digits);
    }
    if digits.len() > scale {
        out.extend_from_slice(&digits[..digits.len() - scale]);
    } else {
        out.push(b'0');
    }
    out.push(b'.');
    out.extend(std::iter::repeat_n(b'0', scale.saturating_sub(digits.len())));
    out.extend_from_slice(&digits[digits.len().saturating_sub(scale)..]);
}

/// Reads a decimal text with at most `scale` digits after the point; the reverse of [`push_decimal`].
pub(crate) fn parse_decimal(text: &str, scale: u32) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let missing = (scale as usize).checked_sub(part.len())?;
    if whole.is_empty() && part.is_empty() {
        return None;
    }
    let mut value: i128 = 0;
    for byte in whole.bytes().chain(part.bytes()).chain(std::iter::repeat_n(b'0', missing)) {
        let digit = byte.is_ascii_digit().then(|| i128::from(byte - b'0'))?;
        value = value.checked_mul(10)?.checked_add(digit)?;
    }
    Some(if negative { -value } else { value })
}

/// Appends `YYYY-MM-DD`.
pub(crate) fn push_date(out: &mut Vec<u8>, at: Civil) {
    push_two(out, (at.year / 100) as u8);
    push_two(out, (at.year % 100) as u8);
    out.push(b'-');
    push_two(out, at.month);
    out.push(b'-');
    push_two(out, at.day);
}

/// Appends `HH:MM:SS`, and `.ffffff` unless it is zero.
pub(crate) fn push_clock(out: &mut Vec<u8>, at: Civil) {
    push_two(out, at.hour);
    out.push(b':');
    push_two(out, at.minute);
    out.push(b':');
    push_two(out, at.second);
    if at.micro != 0 {
        out.push(b'.');
        push_two(out, (at.micro / 10_000) as u8);
        push_two(out, (at.micro / 100 % 100) as u8);
        push_two(out, (at.micro % 100) as u8);
    }
}

fn push_two(out: &mut Vec<u8>, value: u8) {
    out.extend_from_slice(&[b'0' + value / 10 % 10, b'0' + value % 10]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_ten_thousand_years_is_the_day_that_chrono_says() {
        for day in (DAY_MIN..=DAY_MAX).step_by(13).chain([DAY_MIN, DAY_MAX]) {
            let at = civil_of_day(day);
            let (year, month) = (i32::from(at.year), u32::from(at.month));
            assert_eq!(day_of(year, month, u32::from(at.day)), Some(day));
        }
        assert_eq!(day_of(1, 1, 1), Some(DAY_MIN));
        assert_eq!(day_of(9999, 12, 31), Some(DAY_MAX));
    }

    #[test]
    fn a_time_before_1970_counts_its_clock_forward() {
        let at = civil_of_micros(-1);
        assert_eq!((at.year, at.month, at.day), (1969, 12, 31));
        assert_eq!((at.hour, at.minute, at.second, at.micro), (23, 59, 59, 999_999));
        assert_eq!(micros_of(-1, 23, 59, 59, 999_999), Some(-1));
        assert_eq!(micros_of(0, 24, 0, 0, 0), None);
    }

    #[test]
    fn decimals_are_written_and_read_exactly() {
        let most = 10i128.pow(38) - 1;
        for (value, scale, text) in [
            (0, 0, "0"),
            (0, 2, "0.00"),
            (5, 2, "0.05"),
            (-5, 2, "-0.05"),
            (12_345, 2, "123.45"),
            (-100, 2, "-1.00"),
            (most, 0, "99999999999999999999999999999999999999"),
            (most, 38, "0.99999999999999999999999999999999999999"),
        ] {
            let mut out = Vec::new();
            push_decimal(&mut out, value, scale);
            assert_eq!(String::from_utf8(out).unwrap(), text);
            assert_eq!(parse_decimal(text, scale), Some(value));
        }
        for bad in ["", "-", ".", "1.234", "1e3", "1 ", "--1"] {
            assert_eq!(parse_decimal(bad, 2), None, "{bad}");
        }
    }
}
