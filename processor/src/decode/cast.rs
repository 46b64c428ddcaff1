//! Casts of texts, decimals and floats by the decoder's own parsers: exact, or a fault of one row. Called by `exact`.
//!
//! The rules are those of columns (`numbers`, `time`): no spaces, no separators of thousands, no digit dropped.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Decimal128Array, PrimitiveArray, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, DecimalType, Float64Type, Int64Type, TimeUnit,
    TimestampMicrosecondType,
};
use chrono_tz::Tz;

use super::column::Fault;
use super::rows::shown;
use super::time::Formats;
use super::{numbers, time};

/// The widest precision of a 128-bit decimal.
const DIGITS_MAX: u8 = 38;

/// Whether this module makes `to` of `from`; all other casts are the engine's.
pub(crate) fn is_exact(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::Dictionary(_, value), _) => is_exact(value, to),
        (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, _) => match to {
            DataType::Timestamp(_, zone) => zone_of(zone.as_deref()).is_some(),
            DataType::Date32 | DataType::Date64 | DataType::Float32 | DataType::Float64 => true,
            _ => to.is_integer() || decimal(to).is_some_and(|(_, scale)| scale >= 0),
        },
        _ => match (decimal(from), decimal(to)) {
            (Some((_, from)), Some((_, to))) => 0 <= to && to < from,
            (None, Some((_, to))) => from.is_floating() && to >= 0,
            _ => false,
        },
    }
}

fn decimal(kind: &DataType) -> Option<(u8, i8)> {
    match *kind {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => Some((precision, scale)),
        _ => None,
    }
}

fn zone_of(zone: Option<&str>) -> Option<Tz> {
    zone.map_or(Some(Tz::UTC), |zone| zone.parse().ok())
}

/// Casts the values. With `tries`, what cannot be read becomes null; what can be read but not kept is a fault all the same.
/// The error tells the first value at fault and what is wrong with it.
pub(crate) fn cast(values: &ArrayRef, to: &DataType, tries: bool) -> Result<ArrayRef, String> {
    if decimal(values.data_type()).is_some() {
        return fewer_digits(values, to);
    }
    let texts: ArrayRef = match values.data_type() {
        kind if kind.is_floating() => Arc::new(digits_of(values)?),
        _ => engine(values, &DataType::Utf8)?,
    };
    let are_floats = values.data_type().is_floating();
    let texts = Texts { values: texts.as_string::<i32>(), are_floats, to, tries };
    match to {
        DataType::Timestamp(unit, zone) => texts.timestamps(*unit, zone.as_ref()),
        DataType::Date32 | DataType::Date64 => {
            let formats = Formats::new(&[])?;
            engine(&texts.read::<Date32Type>(|text| time::date(text, &formats))?, to)
        }
        DataType::Float64 => texts.read::<Float64Type>(numbers::float64),
        DataType::Float32 => {
            let fits = |value: &f64| (*value as f32).is_finite();
            let read = |text: &[u8]| {
                let value = numbers::float64(text)?;
                Some(value).filter(fits).ok_or(Fault::Range("does not fit into a 32-bit float"))
            };
            engine(&texts.read::<Float64Type>(read)?, to)
        }
        DataType::UInt64 => engine(&texts.decimals(20, 0)?, to),
        kind => match decimal(kind) {
            Some((precision, scale)) => engine(&texts.decimals(precision.min(DIGITS_MAX), scale)?, to),
            None => engine(&texts.read::<Int64Type>(numbers::int64)?, to),
        },
    }
}

/// Texts to be read as values of one type.
struct Texts<'a> {
    values: &'a StringArray,
    are_floats: bool,
    to: &'a DataType,
    tries: bool,
}

impl Texts<'_> {
    fn read<T: ArrowPrimitiveType>(
        &self,
        read: impl Fn(&[u8]) -> Result<T::Native, Fault>,
    ) -> Result<ArrayRef, String> {
        let value = |text: Option<&str>| match text.map(|text| (text, read(text.as_bytes()))) {
            None => Ok(None),
            Some((_, Ok(value))) => Ok(Some(value)),
            Some((_, Err(Fault::Type(_) | Fault::Format))) if self.tries => Ok(None),
            Some((text, Err(fault))) => Err(self.describe(text, fault)),
        };
        let values: PrimitiveArray<T> = self.values.iter().map(value).collect::<Result<_, _>>()?;
        Ok(Arc::new(values))
    }

    fn decimals(&self, precision: u8, scale: i8) -> Result<ArrayRef, String> {
        let units = self.read::<Decimal128Type>(|text| numbers::decimal128(text, precision, scale))?;
        let units = units.as_primitive::<Decimal128Type>().clone();
        Ok(Arc::new(units.with_precision_and_scale(precision, scale).map_err(|error| error.to_string())?))
    }

    /// Unlike a column without a format, this takes a date alone, as its midnight: SQL does.
    fn timestamps(&self, unit: TimeUnit, zone: Option<&Arc<str>>) -> Result<ArrayRef, String> {
        let tz = zone_of(zone.map(AsRef::as_ref)).ok_or("the time zone is unknown")?;
        let formats = Formats::new(&[])?;
        let coarse = match unit {
            TimeUnit::Second => 1_000_000,
            TimeUnit::Millisecond => 1_000,
            TimeUnit::Microsecond | TimeUnit::Nanosecond => 1,
        };
        let read = |text: &[u8]| {
            let micros = match text.len() {
                10 => time::timestamp(&[text, b"T00:00:00"].concat(), &formats, tz)?,
                _ => time::timestamp(text, &formats, tz)?,
            };
            if micros % coarse == 0 { Ok(micros) } else { Err(Fault::Range("is finer than the type keeps")) }
        };
        let micros = self.read::<TimestampMicrosecondType>(read)?;
        let micros: TimestampMicrosecondArray = micros.as_primitive().clone();
        let micros: ArrayRef = Arc::new(micros.with_timezone_opt(zone.cloned()));
        engine(&micros, self.to)
    }

    fn describe(&self, text: &str, fault: Fault) -> String {
        let (Fault::Type(what) | Fault::Range(what)) = fault else {
            return format!("`{}` is not a value of type {}", shown(text.as_bytes()), self.to);
        };
        if let (true, Fault::Range(_), Some((precision, scale))) = (self.are_floats, fault, decimal(self.to))
        {
            return unrounded(text, precision, scale);
        }
        let kind = decimal(self.to).map(|(precision, scale)| format!(" (decimal({precision}, {scale}))"));
        format!("`{}` {what}{}", shown(text.as_bytes()), kind.unwrap_or_default())
    }
}

/// A decimal with fewer digits after the point; only zeros are dropped.
fn fewer_digits(values: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
    let (Some((_, from_scale)), Some((precision, scale))) = (decimal(values.data_type()), decimal(to)) else {
        return engine(values, to);
    };
    let (precision, wide) = (precision.min(DIGITS_MAX), DataType::Decimal128(DIGITS_MAX, from_scale));
    let wide = engine(values, &wide)?;
    let wide: &Decimal128Array = wide.as_primitive();
    let unit = 10_i128.pow((i32::from(from_scale) - i32::from(scale)).clamp(0, 38).unsigned_abs());
    let limit = 10_i128.checked_pow(u32::from(precision)).unwrap_or(i128::MAX);
    let told = |value: i128| {
        unrounded(&Decimal128Type::format_decimal(value, DIGITS_MAX, from_scale), precision, scale)
    };
    let cut = |value: i128| match (value % unit, value / unit) {
        (0, kept) if kept.abs() < limit => Ok(kept),
        _ => Err(told(value)),
    };
    let cut: Decimal128Array = wide.try_unary(cut)?;
    let cut = cut.with_precision_and_scale(precision, scale).map_err(|error| error.to_string())?;
    let cut: ArrayRef = Arc::new(cut);
    engine(&cut, to)
}

fn unrounded(text: &str, precision: u8, scale: i8) -> String {
    format!("`{text}` does not fit decimal({precision}, {scale}) without being rounded; use round(…)")
}

/// Floats as the shortest decimals that stand for them.
fn digits_of(values: &ArrayRef) -> Result<StringArray, String> {
    match values.data_type() {
        DataType::Float32 => {
            let floats = values.as_primitive::<arrow::datatypes::Float32Type>();
            Ok(floats.iter().map(|value| value.map(|value| value.to_string())).collect())
        }
        _ => {
            let floats = engine(values, &DataType::Float64)?;
            let floats = floats.as_primitive::<Float64Type>();
            Ok(floats.iter().map(|value| value.map(|value| value.to_string())).collect())
        }
    }
}

/// A cast that loses nothing or fails.
fn engine(values: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(values, to, &options).map_err(|error| error.to_string())
}
