//! Reads dates and instants: ISO 8601 and RFC 3339 by a few lines over bytes, other formats by chrono.
//!
//! Only years 1 to 9999 are taken, which all databases hold; nothing is rounded. Called by `column`.

use chrono::format::{Item, Parsed, StrftimeItems, parse};
use chrono::{DateTime, Datelike, MappedLocalTime, NaiveDate, NaiveDateTime, NaiveTime, TimeZone, Utc};
use chrono_tz::Tz;
use tidemill_pipelines::TimeFormat;

use super::column::Fault;

const NO_DATE: Fault = Fault::Type("is not a date such as 2021-09-26");
const NO_TIMESTAMP: Fault = Fault::Type("is not a timestamp such as 2021-09-26T17:36:40Z");
const NOT_THERE: Fault = Fault::Type("does not exist in the column's zone: the clocks skip it");
const TWICE: Fault =
    Fault::Type("comes twice in the column's zone, when the clocks go back: it needs an offset");
const YEAR: Fault = Fault::Range("lies outside the years 0001 to 9999");
const TOO_FINE: Fault = Fault::Range("is finer than a microsecond");

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// The first microsecond of year 1 and of year 10000.
const MICROS_MIN: i64 = -62_135_596_800 * MICROS_PER_SECOND;
const MICROS_END: i64 = 253_402_300_800 * MICROS_PER_SECOND;

/// Formats as chrono wants them, split once.
pub(super) struct Formats(Vec<Vec<Item<'static>>>);

impl Formats {
    /// Fails with the format that chrono does not read.
    pub fn new(formats: &[TimeFormat]) -> Result<Self, String> {
        let split = |format: &TimeFormat| {
            let items = StrftimeItems::new(format.as_str()).parse_to_owned();
            items.map_err(|_| format!("`{}` is not a time format", format.as_str()))
        };
        formats.iter().map(split).collect::<Result<_, _>>().map(Formats)
    }

    /// The first reading that `make` accepts; else the fault of the first format that fits at all.
    fn read<T>(&self, text: &[u8], make: impl Fn(&Parsed) -> Option<Result<T, Fault>>) -> Result<T, Fault> {
        let text = std::str::from_utf8(text).map_err(|_| Fault::Format)?;
        let mut fault = None;
        for items in &self.0 {
            let mut parsed = Parsed::new();
            if parse(&mut parsed, text, items.iter()).is_err() {
                continue;
            }
            match make(&parsed) {
                Some(Ok(value)) => return Ok(value),
                Some(Err(found)) => fault = fault.or(Some(found)),
                None => {}
            }
        }
        Err(fault.unwrap_or(Fault::Format))
    }
}

/// Days since 1970-01-01.
pub(super) fn date(text: &[u8], formats: &Formats) -> Result<i32, Fault> {
    if !formats.0.is_empty() {
        return formats.read(text, |parsed| Some(days_of(parsed.to_naive_date().ok()?)));
    }
    let (&date, &[]) = text.split_first_chunk().ok_or(NO_DATE)? else {
        return Err(NO_DATE);
    };
    iso_date(date).ok_or(NO_DATE)?
}

fn days_of(date: NaiveDate) -> Result<i32, Fault> {
    match date.year() {
        1..=9999 => Ok(date.to_epoch_days()),
        _ => Err(YEAR),
    }
}

/// Microseconds since 1970-01-01T00:00:00Z.
#[inline]
pub(super) fn timestamp(text: &[u8], formats: &Formats, zone: Tz) -> Result<i64, Fault> {
    if !formats.0.is_empty() {
        return formats.read(text, |parsed| instant_of(parsed, zone));
    }
    let (micros, offset_text) = iso_local(text)?;
    let micros = match offset_text {
        b"Z" | b"z" => micros,
        b"" => in_zone(micros, zone)?,
        offset => micros - offset_seconds(offset).ok_or(NO_TIMESTAMP)? * MICROS_PER_SECOND,
    };
    in_range(micros)
}

#[inline]
fn in_range(micros: i64) -> Result<i64, Fault> {
    if (MICROS_MIN..MICROS_END).contains(&micros) { Ok(micros) } else { Err(YEAR) }
}

/// The local time of `YYYY-MM-DDTHH:MM:SS[.f…]` as if it were UTC, and the text behind it.
#[inline]
fn iso_local(text: &[u8]) -> Result<(i64, &[u8]), Fault> {
    let (&date, rest) = text.split_first_chunk::<10>().ok_or(NO_TIMESTAMP)?;
    let (&clock, rest) = rest.split_first_chunk::<9>().ok_or(NO_TIMESTAMP)?;
    let days = iso_date(date).ok_or(NO_TIMESTAMP)??;
    let seconds = iso_clock(clock).ok_or(NO_TIMESTAMP)?;
    let (fraction, rest) = match rest.first() {
        Some(b'.') => micros_of_fraction(&rest[1..])?,
        _ => (0, rest),
    };
    let seconds = i64::from(days) * SECONDS_PER_DAY + i64::from(seconds);
    Ok((seconds * MICROS_PER_SECOND + fraction, rest))
}

/// `THH:MM:SS` as seconds of the day; a leap second is refused, for no database holds one.
#[inline]
fn iso_clock(text: [u8; 9]) -> Option<u32> {
    let [t, h1, h0, b':', m1, m0, b':', s1, s0] = text else {
        return None;
    };
    let (hour, minute, second) = (two(h1, h0)?, two(m1, m0)?, two(s1, s0)?);
    let good = matches!(t, b'T' | b't' | b' ') && hour < 24 && minute < 60 && second < 60;
    good.then_some(hour * 3600 + minute * 60 + second)
}

/// `YYYY-MM-DD` as days since 1970-01-01; the inner fault is a year out of range.
#[inline]
fn iso_date(text: [u8; 10]) -> Option<Result<i32, Fault>> {
    let [y3, y2, y1, y0, b'-', m1, m0, b'-', d1, d0] = text else {
        return None;
    };
    let year = two(y3, y2)? * 100 + two(y1, y0)?;
    let (month, day) = (two(m1, m0)?, two(d1, d0)?);
    if day == 0 || day > days_in_month(year, month) {
        return None;
    }
    Some(if year == 0 { Err(YEAR) } else { Ok(days_from_civil(year, month, day)) })
}

#[inline]
fn days_in_month(year: u32, month: u32) -> u32 {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 0,
    }
}

/// Days since 1970-01-01 of a date of the Gregorian calendar. Years are counted from March, so that the leap day
/// is the last of its year; 153 days are five months from March or August on.
#[inline]
fn days_from_civil(year: u32, month: u32, day: u32) -> i32 {
    let year = if month <= 2 { year - 1 } else { year };
    let from_march = (month + 9) % 12;
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year;
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    days as i32 - 719_468
}

#[inline]
fn two(tens: u8, ones: u8) -> Option<u32> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then_some(u32::from(tens) * 10 + u32::from(ones))
}

/// Digits behind the point as microseconds, and the text behind them.
fn micros_of_fraction(text: &[u8]) -> Result<(i64, &[u8]), Fault> {
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(length);
    if digits.is_empty() {
        return Err(NO_TIMESTAMP);
    }
    let (kept, finer) = digits.split_at(digits.len().min(6));
    if finer.iter().any(|&byte| byte != b'0') {
        return Err(TOO_FINE);
    }
    let padded = kept.iter().chain(std::iter::repeat(&b'0')).take(6);
    Ok((padded.fold(0, |micros, byte| micros * 10 + i64::from(byte - b'0')), rest))
}

/// `+HH:MM` or `-HH:MM` in seconds east of Greenwich.
fn offset_seconds(text: &[u8]) -> Option<i64> {
    let [sign, h1, h0, b':', m1, m0] = *text else {
        return None;
    };
    let (hours, minutes) = (two(h1, h0)?, two(m1, m0)?);
    let seconds = i64::from(hours * 3600 + minutes * 60);
    match sign {
        _ if hours > 23 || minutes > 59 => None,
        b'+' => Some(seconds),
        b'-' => Some(-seconds),
        _ => None,
    }
}

/// The instant of a local time, given as if it were UTC.
fn in_zone(micros: i64, zone: Tz) -> Result<i64, Fault> {
    if zone == Tz::UTC {
        return Ok(micros);
    }
    let local = DateTime::from_timestamp_micros(micros).ok_or(YEAR)?.naive_utc();
    match zone.from_local_datetime(&local) {
        MappedLocalTime::Single(time) => Ok(time.timestamp_micros()),
        MappedLocalTime::Ambiguous(..) => Err(TWICE),
        MappedLocalTime::None => Err(NOT_THERE),
    }
}

/// The instant of what a format read: with its own offset, or local in `zone`; a date alone is its midnight.
fn instant_of(parsed: &Parsed, zone: Tz) -> Option<Result<i64, Fault>> {
    let has_offset = parsed.offset().is_some() || parsed.timestamp().is_some();
    let local = match parsed.to_naive_datetime_with_offset(parsed.offset().unwrap_or(0)) {
        Ok(local) => local,
        Err(_) if parsed.hour_div_12().is_none() && parsed.hour_mod_12().is_none() => {
            NaiveDateTime::new(parsed.to_naive_date().ok()?, NaiveTime::MIN)
        }
        Err(_) => return None,
    };
    let micros = match micros_of(local) {
        Ok(micros) => micros,
        Err(fault) => return Some(Err(fault)),
    };
    let utc = match parsed.timestamp() {
        Some(_) => Ok(micros),
        None if has_offset => Ok(micros - i64::from(parsed.offset().unwrap_or(0)) * MICROS_PER_SECOND),
        None => in_zone(micros, zone),
    };
    Some(utc.and_then(in_range))
}

fn micros_of(local: NaiveDateTime) -> Result<i64, Fault> {
    let time: DateTime<Utc> = local.and_utc();
    match time.timestamp_subsec_nanos() {
        1_000_000_000.. => Err(Fault::Type("is a leap second, which cannot be stored")),
        nanos if nanos % 1000 != 0 => Err(TOO_FINE),
        _ => Ok(time.timestamp_micros()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ISO: Formats = Formats(Vec::new());

    fn formats(texts: &[&'static str]) -> Formats {
        let split = |text: &&'static str| StrftimeItems::new(text).parse().unwrap();
        Formats(texts.iter().map(split).collect())
    }

    fn utc(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
    }

    #[test]
    fn timestamps_are_read_to_the_microsecond() {
        for (text, expected) in [
            ("2021-09-26T17:36:40Z", "2021-09-26T17:36:40Z"),
            ("2021-09-26t17:36:40z", "2021-09-26T17:36:40Z"),
            ("2021-09-26 17:36:40", "2021-09-26T17:36:40Z"),
            ("2021-09-26T17:36:40+02:30", "2021-09-26T15:06:40Z"),
            ("2021-01-01T00:00:00.000001-01:00", "2021-01-01T01:00:00.000001Z"),
            ("2020-02-29T23:59:59.5Z", "2020-02-29T23:59:59.5Z"),
            ("2020-02-29T23:59:59.123456000Z", "2020-02-29T23:59:59.123456Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
            ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ] {
            assert_eq!(timestamp(text.as_bytes(), &ISO, Tz::UTC), Ok(utc(expected)), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let read = |text: &str| timestamp(text.as_bytes(), &ISO, Tz::UTC);
        assert_eq!(read("2021-01-01T00:00:00.0000001Z"), Err(TOO_FINE));
        for text in ["0000-01-01T00:00:00Z", "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"] {
            assert_eq!(read(text), Err(YEAR), "{text}");
        }
        for text in [
            "",
            "2021-09-26",
            "2021-09-26T17:36",
            "2021-09-26T17:36:4",
            "2021-02-29T00:00:00Z",
            "2021-13-01T00:00:00Z",
            "2021-00-01T00:00:00Z",
            "2021-01-00T00:00:00Z",
            "2021-01-01T24:00:00Z",
            "2021-01-01T23:60:00Z",
            "2016-12-31T23:59:60Z",
            "2021-01-01T00:00:00.Z",
            "2021-01-01T00:00:00X",
            "2021-01-01T00:00:00+0100",
            "2021-01-01T00:00:00+24:00",
            "2021-01-01T00:00:00Z ",
            "2021/01/01 00:00:00",
            "1999-0é-01T00:00:00Z",
        ] {
            assert_eq!(read(text), Err(NO_TIMESTAMP), "{text}");
        }
    }

    #[test]
    fn local_times_that_are_not_one_instant_are_refused() {
        let read = |text: &str| timestamp(text.as_bytes(), &ISO, Tz::Europe__Berlin);
        assert_eq!(read("2021-07-01 12:00:00"), Ok(utc("2021-07-01T10:00:00Z")));
        assert_eq!(read("2021-07-01 12:00:00Z"), Ok(utc("2021-07-01T12:00:00Z")));
        assert_eq!(read("2021-03-28 02:30:00"), Err(NOT_THERE));
        assert_eq!(read("2021-10-31 02:30:00"), Err(TWICE));
        assert_eq!(read("2021-10-31 02:30:00+01:00"), Ok(utc("2021-10-31T01:30:00Z")));
    }

    #[test]
    fn formats_are_tried_in_order() {
        let formats = formats(&["%d.%m.%Y %H:%M", "%m/%d/%Y", "%s", "%Y-%m-%dT%H:%M:%S%.f%z"]);
        let read = |text: &str| timestamp(text.as_bytes(), &formats, Tz::Europe__Berlin);
        assert_eq!(read("26.09.2021 17:36"), Ok(utc("2021-09-26T15:36:00Z")));
        assert_eq!(read("09/26/2021"), Ok(utc("2021-09-25T22:00:00Z")));
        assert_eq!(read("1632677800"), Ok(utc("2021-09-26T17:36:40Z")));
        assert_eq!(read("2021-09-26T17:36:40.25+0100"), Ok(utc("2021-09-26T16:36:40.25Z")));
        assert_eq!(read("2021-09-26T17:36:40.1234567+0100"), Err(TOO_FINE));
        assert_eq!(read("28.03.2021 02:30"), Err(NOT_THERE));
        assert_eq!(read("2021-09-26"), Err(Fault::Format));
    }

    #[test]
    fn dates_are_days_of_the_years_1_to_9999() {
        assert_eq!(date(b"1970-01-02", &ISO), Ok(1));
        assert_eq!(date(b"0000-01-01", &ISO), Err(YEAR));
        for text in ["2021-02-29", "2021-1-1", "2021-01-01 ", "20210101", "1900-02-29", ""] {
            assert_eq!(date(text.as_bytes(), &ISO), Err(NO_DATE), "{text}");
        }
        let formats = formats(&["%d/%m/%y", "%Y%m%d"]);
        assert_eq!(date(b"02/01/70", &formats), Ok(1));
        assert_eq!(date(b"19700103", &formats), Ok(2));
        assert_eq!(date(b"1970-01-03", &formats), Err(Fault::Format));
    }

    proptest! {
        #[test]
        fn each_date_equals_that_of_chrono(year in 1i32..=9999, month in 0u32..=13, day in 0u32..=32) {
            let text = format!("{year:04}-{month:02}-{day:02}");
            let expected = NaiveDate::from_ymd_opt(year, month, day).map(|date| date.to_epoch_days());
            prop_assert_eq!(date(text.as_bytes(), &ISO).ok(), expected);
        }

        #[test]
        fn each_instant_survives(micros in MICROS_MIN..MICROS_END) {
            let text = DateTime::from_timestamp_micros(micros).unwrap().to_rfc3339();
            prop_assert_eq!(timestamp(text.as_bytes(), &ISO, Tz::UTC), Ok(micros));
        }
    }
}
