//! Reads integers, floats, decimals and booleans from text, exactly or not at all. Called by `column`.

use super::column::Fault;

const NO_INTEGER: Fault = Fault::Type("is not an integer");
const NO_FLOAT: Fault = Fault::Type("is not a decimal number");
const NO_DECIMAL: Fault = Fault::Type("is not a decimal number without exponent");

/// Digits of which any number fits 64 bits.
const SAFE_DIGITS: usize = 18;

/// A signed integer in decimal digits.
#[inline]
pub(super) fn int64(text: &[u8]) -> Result<i64, Fault> {
    let (negative, digits) = sign(text);
    if digits.is_empty() || digits.len() > SAFE_DIGITS {
        return long_int64(negative, digits);
    }
    let mut value: i64 = 0;
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(NO_INTEGER);
        }
        value = value * 10 + i64::from(digit);
    }
    Ok(if negative { -value } else { value })
}

/// Many digits: leading zeros, the ends of the range, or too large.
#[cold]
fn long_int64(negative: bool, digits: &[u8]) -> Result<i64, Fault> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NO_INTEGER);
    }
    let value = digits.iter().try_fold(0i64, |value, &byte| {
        let digit = i64::from(byte - b'0');
        let shifted = value.checked_mul(10)?;
        if negative { shifted.checked_sub(digit) } else { shifted.checked_add(digit) }
    });
    value.ok_or(Fault::Range("does not fit into a signed 64-bit integer"))
}

/// Largest integer up to which all integers are doubles.
const EXACT_MANTISSA_MAX: u64 = 1 << 53;

/// Powers of ten that are doubles exactly: a product or quotient of exact doubles is rounded once, as it must be
/// (Clinger 1990).
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// A finite double in decimal notation, correctly rounded.
#[inline]
pub(super) fn float64(text: &[u8]) -> Result<f64, Fault> {
    match short_float64(text) {
        Some(value) => Ok(value),
        None => any_float64(text),
    }
}

/// Numbers of few digits without exponent, in one multiplication or division.
#[inline]
fn short_float64(text: &[u8]) -> Option<f64> {
    let (negative, digits) = sign(text);
    if digits.is_empty() || digits.len() > SAFE_DIGITS {
        return None;
    }
    let mut mantissa: u64 = 0;
    let mut point = None;
    for (i, &byte) in digits.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit <= 9 {
            mantissa = mantissa * 10 + u64::from(digit);
        } else if byte == b'.' && point.is_none() && digits.len() > 1 {
            point = Some(i);
        } else {
            return None;
        }
    }
    let decimals = point.map_or(0, |point| digits.len() - point - 1);
    let power = EXACT_POWERS.get(decimals)?;
    let value = (mantissa <= EXACT_MANTISSA_MAX).then(|| mantissa as f64 / power)?;
    Some(if negative { -value } else { value })
}

fn any_float64(text: &[u8]) -> Result<f64, Fault> {
    // The words `inf` and `nan`, which the standard library reads, are kept out here.
    let decimal = |byte: &u8| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
    if !text.iter().all(decimal) {
        return Err(NO_FLOAT);
    }
    let text = std::str::from_utf8(text).map_err(|_| NO_FLOAT)?;
    let value: f64 = text.parse().map_err(|_| NO_FLOAT)?;
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let zero = !mantissa.bytes().any(|byte| matches!(byte, b'1'..=b'9'));
    if value.is_infinite() || (value == 0.0 && !zero) {
        return Err(Fault::Range("does not fit into a 64-bit float"));
    }
    Ok(value)
}

/// A decimal of at most `precision` digits, `scale` of them behind the point, as an integer of units of the last
/// digit. Digits are never dropped, unless they are zeros.
pub(super) fn decimal128(text: &[u8], precision: u8, scale: i8) -> Result<i128, Fault> {
    let (negative, digits) = sign(text);
    let (whole, fraction) = match memchr::memchr(b'.', digits) {
        Some(point) => (&digits[..point], &digits[point + 1..]),
        None => (digits, &[][..]),
    };
    let all_digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
    if whole.len() + fraction.len() == 0 || !all_digits(whole) || !all_digits(fraction) {
        return Err(NO_DECIMAL);
    }
    let scale = usize::try_from(scale).unwrap_or(0);
    let kept = fraction.len().min(scale);
    if fraction[kept..].iter().any(|&byte| byte != b'0') {
        return Err(Fault::Range("has more digits after the point than the column keeps"));
    }
    let padding = std::iter::repeat_n(&b'0', scale - kept);
    let units = whole.iter().chain(&fraction[..kept]).chain(padding);
    let value = units
        .copied()
        .try_fold(0i128, |value, byte| value.checked_mul(10)?.checked_add(i128::from(byte - b'0')));
    let limit = 10i128.checked_pow(u32::from(precision)).unwrap_or(i128::MAX);
    match value {
        Some(value) if value < limit => Ok(if negative { -value } else { value }),
        _ => Err(Fault::Range("has more digits than the column keeps")),
    }
}

/// A boolean by its texts.
pub(super) fn boolean(text: &[u8], true_texts: &[String], false_texts: &[String]) -> Result<bool, Fault> {
    let is_in = |texts: &[String]| texts.iter().any(|word| word.as_bytes().eq_ignore_ascii_case(text));
    if is_in(true_texts) {
        Ok(true)
    } else if is_in(false_texts) {
        Ok(false)
    } else {
        Err(Fault::Type("is not a boolean"))
    }
}

#[inline(always)]
fn sign(text: &[u8]) -> (bool, &[u8]) {
    match text.first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn is_range<T>(result: Result<T, Fault>) -> bool {
        matches!(result, Err(Fault::Range(_)))
    }

    fn is_type<T>(result: Result<T, Fault>) -> bool {
        matches!(result, Err(Fault::Type(_)))
    }

    #[test]
    fn integers_are_read_to_the_ends_of_their_range() {
        for (text, value) in [
            ("0", 0),
            ("-0", 0),
            ("+7", 7),
            ("007", 7),
            ("000000000000000000000000042", 42),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(int64(text.as_bytes()).ok(), Some(value), "{text}");
        }
        for text in ["9223372036854775808", "-9223372036854775809", "99999999999999999999999999"] {
            assert!(is_range(int64(text.as_bytes())), "{text}");
        }
        for text in ["", "-", "+", "--1", "1.0", " 1", "1 ", "0x1f", "1e3", "1_000", "12345678901234567890x"]
        {
            assert!(is_type(int64(text.as_bytes())), "{text}");
        }
    }

    #[test]
    fn floats_are_finite_and_decimal() {
        for (text, value) in
            [("1", 1.0), ("-2.5", -2.5), (".5", 0.5), ("5.", 5.0), ("1e3", 1000.0), ("0e-999", 0.0)]
        {
            assert_eq!(float64(text.as_bytes()).ok(), Some(value), "{text}");
        }
        for text in ["1e400", "-1e400", "1e-400"] {
            assert!(is_range(float64(text.as_bytes())), "{text}");
        }
        for text in
            ["", ".", "-", "-.", "inf", "nan", "NaN", "infinity", "0x1p3", "1,5", "1e", "e5", "1.2.3", " 1"]
        {
            assert!(is_type(float64(text.as_bytes())), "{text}");
        }
    }

    #[test]
    fn decimals_keep_every_digit_or_are_refused() {
        for (text, value) in [
            ("1", 100),
            ("-1.5", -150),
            ("1.23", 123),
            ("1.2300", 123),
            (".5", 50),
            ("5.", 500),
            ("+0.01", 1),
            ("999.99", 99999),
            ("000000000000000000000000000000000000000000000000001", 100),
        ] {
            assert_eq!(decimal128(text.as_bytes(), 5, 2).ok(), Some(value), "{text}");
        }
        for text in ["1.234", "1000", "-1000.00", "99999999999999999999999999999999999999999999"] {
            assert!(is_range(decimal128(text.as_bytes(), 5, 2)), "{text}");
        }
        for text in ["", ".", "-", "1e2", "1.2.3", "abc", "1,5"] {
            assert!(is_type(decimal128(text.as_bytes(), 5, 2)), "{text}");
        }
        let widest = "9".repeat(38);
        assert_eq!(decimal128(widest.as_bytes(), 38, 0).ok(), widest.parse().ok());
    }

    #[test]
    fn booleans_are_compared_without_case() {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let (yes, no) = (words(&["true", "Y"]), words(&["false", "N"]));
        assert_eq!(boolean(b"TRUE", &yes, &no).ok(), Some(true));
        assert_eq!(boolean(b"n", &yes, &no).ok(), Some(false));
        assert!(is_type(boolean(b"maybe", &yes, &no)));
    }

    proptest! {
        #[test]
        fn each_integer_survives(value: i64) {
            prop_assert_eq!(int64(value.to_string().as_bytes()).ok(), Some(value));
        }

        #[test]
        fn floats_equal_those_of_the_standard_library(text in "[+-]?[0-9]{0,12}(\\.[0-9]{0,12})?(e[+-]?[0-9]{1,2})?") {
            prop_assert_eq!(float64(text.as_bytes()).ok(), text.parse::<f64>().ok());
        }
    }
}
