//! Decimals as PostgreSQL's `numeric`, of every precision that Arrow has.
//!
//! The library's own way goes through a type of 28 digits and fails beyond. Pure; called by `rows.rs`.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use pgwire::types::ToSqlText;
use pgwire::types::format::FormatOptions;
use postgres_types::{IsNull, ToSql, Type, to_sql_checked};

/// A decimal as it is written: `-12.340`.
#[derive(Debug)]
pub(super) struct Numeric(pub(super) String);

impl ToSqlText for Numeric {
    fn to_sql_text(
        &self,
        _: &Type,
        out: &mut BytesMut,
        _: &FormatOptions,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}

impl ToSql for Numeric {
    /// Groups of four digits, counted from the point; see `numeric_send` in PostgreSQL's `numeric.c`.
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let (sign, digits) = match self.0.strip_prefix('-') {
            Some(digits) => (0x4000, digits),
            None => (0x0000, self.0.as_str()),
        };
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        let whole = whole.trim_start_matches('0');
        let padded = format!("{}{whole}{part}{}", "0".repeat(pad(whole.len())), "0".repeat(pad(part.len())));
        let groups = padded.as_bytes().chunks(4).map(|group| {
            group.iter().fold(0_u16, |sum, digit| sum * 10 + u16::from(digit.saturating_sub(b'0')))
        });
        let groups: Vec<u16> = groups.collect();
        let first = groups.iter().position(|group| *group != 0).unwrap_or(groups.len());
        let last = groups.iter().rposition(|group| *group != 0).map_or(first, |at| at + 1);
        let groups = &groups[first..last];
        let weight = whole.len().div_ceil(4) as i16 - 1 - first as i16;
        out.put_u16(groups.len() as u16);
        out.put_i16(if groups.is_empty() { 0 } else { weight });
        out.put_u16(if groups.is_empty() { 0 } else { sign });
        out.put_u16(part.len() as u16);
        groups.iter().for_each(|group| out.put_u16(*group));
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::NUMERIC
    }

    to_sql_checked!();
}

/// Zeros that fill a group of four.
fn pad(digits: usize) -> usize {
    (4 - digits % 4) % 4
}

/// The digits of a `numeric` that a client sent in binary; `None` when it is none, or not a number.
pub(super) fn read(bytes: &[u8]) -> Option<String> {
    let words: Vec<u16> =
        bytes.chunks(2).map(|pair| Some(u16::from_be_bytes(pair.try_into().ok()?))).collect::<Option<_>>()?;
    let [count, weight, sign, scale, groups @ ..] = words.as_slice() else { return None };
    let (weight, scale) = (i32::from(*weight as i16), usize::from(*scale));
    if groups.len() != usize::from(*count)
        || groups.iter().any(|group| *group > 9999)
        || ![0, 0x4000].contains(sign)
        || weight.unsigned_abs() > 100
        || scale > 400
    {
        return None;
    }
    let group = |at: i32| usize::try_from(at).ok().and_then(|at| groups.get(at)).copied().unwrap_or(0);
    let whole: String = (0..=weight).map(|at| format!("{:04}", group(at))).collect();
    let after = scale.div_ceil(4) as i32;
    let part: String = (weight + 1..=weight + after).map(|at| format!("{:04}", group(at))).collect();
    let whole = whole.trim_start_matches('0');
    let sign = if *sign == 0 { "" } else { "-" };
    let whole = if whole.is_empty() { "0" } else { whole };
    Some(if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{}", &part[..scale]) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(text: &str) -> Vec<u8> {
        let mut out = BytesMut::new();
        Numeric(text.to_owned()).to_sql(&Type::NUMERIC, &mut out).unwrap();
        out.to_vec()
    }

    #[test]
    fn decimals_are_grouped_as_postgresql_does() {
        for (text, words) in [
            ("0", &[0, 0, 0, 0][..]),
            ("0.00", &[0, 0, 0, 2]),
            ("1", &[1, 0, 0, 0, 1]),
            ("12345.678", &[3, 1, 0, 3, 1, 2345, 6780]),
            ("-0.0001", &[1, 0xffff, 0x4000, 4, 1]),
            ("10000", &[1, 1, 0, 0, 1]),
            ("0.5", &[1, 0xffff, 0, 1, 5000]),
            ("-9999", &[1, 0, 0x4000, 0, 9999]),
        ] {
            let expected: Vec<u8> = words.iter().flat_map(|word: &u16| word.to_be_bytes()).collect();
            assert_eq!(binary(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let long = format!("-{}.{}", "9".repeat(38), "123456789".repeat(4));
        for text in ["0", "0.00", "1", "-1", "12345.678", "0.0001", "10000", "100000000.00000001", &long] {
            assert_eq!(read(&binary(text)).as_deref(), Some(text));
        }
        for wrong in [&b""[..], b"\0\x01\0\0\0\0\0\0", b"\0\0\0\0\xc0\0\0\0", b"\0\0\x7f\xff\0\0\0\0", b"\0"]
        {
            assert_eq!(read(wrong), None);
        }
    }
}
