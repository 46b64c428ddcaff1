//! The values that a client binds: texts or binary, into the parameters of a statement. Pure.
//!
//! What the client sends as text of no type stays a text, which the worker reads as what its place asks for.

use chrono::{DateTime, NaiveDate, NaiveDateTime};
use pgwire::api::Type;

use super::frames::Bind;
use super::numeric;
use super::refusal::{Refusal, code};
use crate::Parameter;

/// Microseconds from 1970 to 2000, where PostgreSQL's times begin; and days.
const MICROS_TO_2000: i64 = 946_684_800_000_000;
const DAYS_TO_2000: i32 = 10_957;

/// Reads the values of a Bind; `types` has one for each.
pub(super) fn read(bind: &Bind, types: &[Type]) -> Result<Vec<Parameter>, Refusal> {
    let count = bind.values.len();
    if count != types.len() {
        let (name, wanted) = (&bind.statement, types.len());
        let message = format!(
            "bind message supplies {count} parameters, but prepared statement \"{name}\" requires {wanted}"
        );
        return Err(Refusal::new(code::PROTOCOL, message));
    }
    if bind.formats.len() > 1 && bind.formats.len() != count {
        let message =
            format!("bind message has {} parameter formats but {count} parameters", bind.formats.len());
        return Err(Refusal::new(code::PROTOCOL, message));
    }
    let value = |at: usize| {
        let Some(bytes) = &bind.values[at] else {
            return Ok(Parameter::Null);
        };
        let format = bind.formats.get(at).or(bind.formats.first()).copied().unwrap_or(0);
        let found = if format == 0 { text(bytes, &types[at]) } else { binary(bytes, &types[at]) };
        found.ok_or_else(|| {
            let message = format!("invalid input for parameter ${} of type {}", at + 1, types[at].name());
            Refusal::new(code::BAD_TEXT, message)
        })
    };
    (0..count).map(value).collect()
}

/// Whether values of this type can be read.
pub(super) fn is_known(ty: &Type) -> bool {
    const KNOWN: [Type; 11] = [
        Type::BOOL,
        Type::INT2,
        Type::INT4,
        Type::INT8,
        Type::OID,
        Type::FLOAT4,
        Type::FLOAT8,
        Type::NUMERIC,
        Type::DATE,
        Type::TIMESTAMP,
        Type::TIMESTAMPTZ,
    ];
    is_text(ty) || KNOWN.contains(ty)
}

/// Some value of this type; null where none is known.
pub(super) fn sample(ty: &Type) -> Parameter {
    match *ty {
        Type::BOOL => Parameter::Boolean(false),
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => Parameter::Int64(0),
        Type::FLOAT4 | Type::FLOAT8 => Parameter::Float64(0.5),
        Type::NUMERIC => Parameter::Decimal("0.5".to_owned()),
        Type::DATE => Parameter::Date(0),
        Type::TIMESTAMP | Type::TIMESTAMPTZ => Parameter::Timestamp(0),
        Type::UNKNOWN => Parameter::Null,
        _ => Parameter::Text(String::new()),
    }
}

fn text(bytes: &[u8], ty: &Type) -> Option<Parameter> {
    let text = std::str::from_utf8(bytes).ok()?;
    Some(match *ty {
        Type::BOOL => Parameter::Boolean(boolean(text)?),
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => Parameter::Int64(text.trim().parse().ok()?),
        Type::FLOAT4 | Type::FLOAT8 => Parameter::Float64(text.trim().parse().ok()?),
        Type::NUMERIC => Parameter::Decimal(decimal(text.trim())?),
        Type::DATE => Parameter::Date(days(text.trim().parse().ok()?)?),
        Type::TIMESTAMP => Parameter::Timestamp(time(text.trim())?),
        Type::TIMESTAMPTZ => Parameter::Timestamp(time_with_zone(text.trim()).or_else(|| time(text.trim()))?),
        _ if is_text(ty) => Parameter::Text(text.to_owned()),
        _ => return None,
    })
}

fn binary(bytes: &[u8], ty: &Type) -> Option<Parameter> {
    Some(match *ty {
        Type::BOOL => Parameter::Boolean(*bytes.first().filter(|_| bytes.len() == 1)? != 0),
        Type::INT2 => Parameter::Int64(i16::from_be_bytes(bytes.try_into().ok()?).into()),
        Type::INT4 => Parameter::Int64(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        Type::OID => Parameter::Int64(u32::from_be_bytes(bytes.try_into().ok()?).into()),
        Type::INT8 => Parameter::Int64(i64::from_be_bytes(bytes.try_into().ok()?)),
        Type::FLOAT4 => Parameter::Float64(f32::from_be_bytes(bytes.try_into().ok()?).into()),
        Type::FLOAT8 => Parameter::Float64(f64::from_be_bytes(bytes.try_into().ok()?)),
        Type::NUMERIC => Parameter::Decimal(decimal(&numeric::read(bytes)?)?),
        Type::DATE => Parameter::Date(i32::from_be_bytes(bytes.try_into().ok()?).checked_add(DAYS_TO_2000)?),
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            Parameter::Timestamp(i64::from_be_bytes(bytes.try_into().ok()?).checked_add(MICROS_TO_2000)?)
        }
        Type::UUID => Parameter::Text(uuid(bytes)?),
        _ if is_text(ty) => Parameter::Text(std::str::from_utf8(bytes).ok()?.to_owned()),
        _ => return None,
    })
}

fn is_text(ty: &Type) -> bool {
    [Type::TEXT, Type::VARCHAR, Type::BPCHAR, Type::NAME, Type::UNKNOWN, Type::JSON, Type::UUID].contains(ty)
}

fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "t" | "true" | "y" | "yes" | "on" | "1" => Some(true),
        "f" | "false" | "n" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// Digits with one point at most; `NaN` and exponents have no place in a decimal here.
fn decimal(text: &str) -> Option<String> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let right = whole.len() + part.len() > 0
        && [whole, part].iter().all(|text| text.bytes().all(|b| b.is_ascii_digit()));
    right.then(|| text.to_owned())
}

fn days(date: NaiveDate) -> Option<i32> {
    i32::try_from(date.signed_duration_since(NaiveDate::default()).num_days()).ok()
}

fn time(text: &str) -> Option<i64> {
    let whole = if text.len() > 10 { text.to_owned() } else { format!("{text} 00:00:00") };
    let parsed = NaiveDateTime::parse_from_str(&whole.replacen('T', " ", 1), "%Y-%m-%d %H:%M:%S%.f");
    parsed.ok().map(|time| time.and_utc().timestamp_micros())
}

fn time_with_zone(text: &str) -> Option<i64> {
    let text = text.replacen('T', " ", 1);
    DateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S%.f%#z").ok().map(|time| time.timestamp_micros())
}

fn uuid(bytes: &[u8]) -> Option<String> {
    let text = format!("{:032x}", u128::from_be_bytes(bytes.try_into().ok()?));
    let parts = [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]];
    Some(parts.join("-"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn one(ty: Type, format: i16, bytes: &[u8]) -> Result<Parameter, Refusal> {
        let bind = Bind {
            portal: String::new(),
            statement: String::new(),
            formats: vec![format],
            values: vec![Some(Bytes::copy_from_slice(bytes))],
            result_formats: vec![],
        };
        read(&bind, &[ty]).map(|mut values| values.remove(0))
    }

    #[test]
    fn texts_and_binaries_of_one_value_are_equal() {
        for (ty, text, binary, value) in [
            (Type::BOOL, "t", &[1][..], Parameter::Boolean(true)),
            (Type::INT2, "-2", &[0xff, 0xfe], Parameter::Int64(-2)),
            (Type::INT4, "258", &[0, 0, 1, 2], Parameter::Int64(258)),
            (Type::INT8, "-1", &[0xff; 8], Parameter::Int64(-1)),
            (Type::FLOAT8, "1.5", &1.5_f64.to_be_bytes(), Parameter::Float64(1.5)),
            (
                Type::NUMERIC,
                "-1.50",
                &[0, 2, 0, 0, 0x40, 0, 0, 2, 0, 1, 0x13, 0x88],
                Parameter::Decimal("-1.50".into()),
            ),
            (Type::DATE, "2000-01-02", &[0, 0, 0, 1], Parameter::Date(10_958)),
            (
                Type::TIMESTAMP,
                "2000-01-01 00:00:01",
                &1_000_000_i64.to_be_bytes(),
                Parameter::Timestamp(MICROS_TO_2000 + 1_000_000),
            ),
            (Type::TIMESTAMPTZ, "2000-01-01 01:00:00+01", &[0; 8], Parameter::Timestamp(MICROS_TO_2000)),
            (Type::TIMESTAMPTZ, "2000-01-01T01:00:00+01:00", &[0; 8], Parameter::Timestamp(MICROS_TO_2000)),
            (Type::TEXT, "a", b"a", Parameter::Text("a".into())),
        ] {
            assert_eq!(one(ty.clone(), 0, text.as_bytes()).unwrap(), value, "{ty}");
            assert_eq!(one(ty.clone(), 1, binary).unwrap(), value, "{ty}");
        }
    }

    #[test]
    fn what_is_no_value_of_its_type_is_refused() {
        for (ty, format, bytes) in [
            (Type::INT4, 0, &b"12x"[..]),
            (Type::INT4, 0, b""),
            (Type::INT4, 1, b"\0\0"),
            (Type::BOOL, 1, b""),
            (Type::NUMERIC, 0, b"1.2.3"),
            (Type::NUMERIC, 0, b"NaN"),
            (Type::NUMERIC, 0, b"."),
            (Type::DATE, 0, b"2021-13-01"),
            (Type::TEXT, 1, b"\xff"),
            (Type::INT4_ARRAY, 1, b"\0\0\0\x01"),
            (Type::BYTEA, 1, b"a"),
            (Type::TIMESTAMP, 1, &i64::MAX.to_be_bytes()),
            (Type::UUID, 1, b"short"),
        ] {
            assert_eq!(one(ty.clone(), format, bytes).unwrap_err().code, code::BAD_TEXT, "{ty} {bytes:?}");
        }
    }
}
