//! Filters as SQLite decides them: never with fewer rows than the reader would take. Pure.

use tidemill_pipelines::ColumnName;

use crate::cells::{civil_of_day, civil_of_micros, push_clock, push_date, within_years};
use crate::selection::{Comparison, Dialect, Literal};

/// How SQLite writes it.
pub(crate) struct Sqlite;

/// A bound value.
pub(crate) enum Bound {
    Int64(i64),
    Float64(f64),
    Text(String),
}

impl Dialect for Sqlite {
    type Value = Bound;

    fn quoted(&self, column: &ColumnName) -> String {
        format!("\"{column}\"")
    }

    fn compare(
        &self,
        column: &ColumnName,
        sign: Comparison,
        literal: &Literal,
    ) -> Option<(String, Vec<Bound>)> {
        let column = &self.quoted(column);
        let plain = |sign: Comparison, value| Some((format!("{column} {} ?", sign.sign()), vec![value]));
        match literal {
            Literal::Int64(value) => plain(sign, Bound::Int64(*value)),
            // -0 and 0 are equal here and part in the reader's total order.
            Literal::Float64(value) if value.is_finite() => plain(sign.or_equal(), Bound::Float64(*value)),
            Literal::Boolean(value) if sign == Comparison::Equal => {
                Some((format!("{column} {} 0", if *value { "<>" } else { "=" }), Vec::new()))
            }
            Literal::Text(text) if sign == Comparison::Equal => plain(sign, Bound::Text(text.clone())),
            // Ten characters of fixed places: the order of the texts is that of the days.
            Literal::Date(day) if within_years(*day) => {
                let mut text = Vec::new();
                push_date(&mut text, civil_of_day(*day));
                plain(sign, Bound::Text(String::from_utf8(text).ok()?))
            }
            Literal::Timestamp(micros) => seconds(column, sign, *micros),
            // Decimals are texts of any number of digits.
            _ => None,
        }
    }
}

/// Compares whole seconds, which have fixed places; what follows them is written in more than one way.
fn seconds(column: &str, sign: Comparison, micros: i64) -> Option<(String, Vec<Bound>)> {
    let second = micros.div_euclid(1_000_000);
    let from = (format!("{column} >= ?"), prefix(second)?);
    let below = (format!("{column} < ?"), prefix(second + 1)?);
    match sign {
        Comparison::Greater | Comparison::GreaterOrEqual => Some((from.0, vec![from.1])),
        Comparison::Less | Comparison::LessOrEqual => Some((below.0, vec![below.1])),
        Comparison::Equal => Some((format!("({} AND {})", from.0, below.0), vec![from.1, below.1])),
    }
}

/// A time up to its second, as it is stored.
fn prefix(second: i64) -> Option<Bound> {
    let day = i32::try_from(second.div_euclid(86_400)).ok().filter(|day| within_years(*day))?;
    let at = civil_of_micros(second * 1_000_000);
    let mut text = Vec::new();
    push_date(&mut text, civil_of_day(day));
    text.push(b'T');
    push_clock(&mut text, at);
    String::from_utf8(text).ok().map(Bound::Text)
}
