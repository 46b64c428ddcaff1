//! Rows as the text that LOAD DATA reads: fields split by tab, rows by newline, `\N` for null, backslash
//! before tab, newline, backslash and NUL. Pure, and on the hot path: no allocation for a field.

use std::io::Write;
use std::ops::Range;

use crate::cells::{Cell, Cells, civil_of_day, civil_of_micros, push_clock, push_date, push_decimal};

/// Appends rows of a batch until `out` holds so many bytes; tells the first row that was left.
pub(crate) fn push_rows(
    out: &mut Vec<u8>,
    columns: &[Cells<'_>],
    rows: Range<usize>,
    bytes_enough: usize,
) -> usize {
    let mut digits = itoa::Buffer::new();
    for row in rows.clone() {
        if out.len() >= bytes_enough {
            return row;
        }
        for (index, column) in columns.iter().enumerate() {
            if index > 0 {
                out.push(b'\t');
            }
            push_cell(out, column.get(row), &mut digits);
        }
        out.push(b'\n');
    }
    rows.end
}

#[inline]
fn push_cell(out: &mut Vec<u8>, cell: Cell<'_>, digits: &mut itoa::Buffer) {
    match cell {
        Cell::Null => out.extend_from_slice(b"\\N"),
        Cell::Int64(value) => out.extend_from_slice(digits.format(value).as_bytes()),
        Cell::Utf8(text) => push_escaped(out, text.as_bytes()),
        Cell::Timestamp(micros) => {
            let at = civil_of_micros(micros);
            push_date(out, at);
            out.push(b' ');
            push_clock(out, at);
        }
        Cell::Date(day) => push_date(out, civil_of_day(day)),
        Cell::Boolean(value) => out.push(if value { b'1' } else { b'0' }),
        Cell::Decimal(value, scale) => push_decimal(out, value, scale),
        // The shortest digits that read back as the same double. Writing into a Vec cannot fail.
        Cell::Float64(value) => drop(write!(out, "{value:e}")),
    }
}

fn push_escaped(out: &mut Vec<u8>, text: &[u8]) {
    let special = |b: &u8| matches!(b, b'\t' | b'\n' | b'\\' | 0);
    let mut rest = text;
    while let Some(at) = rest.iter().position(special) {
        out.extend_from_slice(&rest[..at]);
        out.push(b'\\');
        out.push(match rest[at] {
            b'\t' => b't',
            b'\n' => b'n',
            0 => b'0',
            other => other,
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use arrow::array::{Float64Array, Int64Array, StringArray};

    #[test]
    fn what_load_data_would_split_or_unescape_is_escaped() {
        let text = StringArray::from(vec![Some("a\tb\nc\\N\0d"), Some(""), None]);
        let number = Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(7)]));
        let float = Float64Array::from(vec![5e-324, 0.1, -1e300]);
        let columns = [Cells::Utf8(&text), Cells::Int64(&number), Cells::Float64(&float)];
        let mut out = Vec::new();
        assert_eq!(push_rows(&mut out, &columns, 0..3, usize::MAX), 3);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "a\\tb\\nc\\\\N\\0d\t-9223372036854775808\t5e-324\n\t\\N\t1e-1\n\\N\t7\t-1e300\n"
        );
    }

    #[test]
    fn rows_are_appended_until_there_are_enough_bytes() {
        let text = StringArray::from(vec!["x".repeat(9); 5]);
        let mut out = vec![b'-'; 5];
        assert_eq!(push_rows(&mut out, &[Cells::Utf8(&text)], 1..5, 20), 3);
        assert_eq!(out.len(), 25);
        assert_eq!(push_rows(&mut out, &[Cells::Utf8(&text)], 3..5, 20), 3);
    }
}
