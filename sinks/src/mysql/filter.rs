//! Filters as MySQL decides them: never with fewer rows than the reader would take. Pure.

use mysql_async::Value;
use tidemill_pipelines::ColumnName;

use super::catalog::TableThere;
use crate::cells::{civil_of_day, civil_of_micros, push_decimal, within_years};
use crate::selection::{Comparison, Dialect, Literal};

/// Most digits after the point of a DECIMAL in MySQL; MariaDB has 38.
const SCALE_MAX: u32 = 30;

/// How MySQL and MariaDB write it.
pub(crate) struct MySql<'a>(pub(crate) &'a TableThere);

impl MySql<'_> {
    /// Texts are not equal to JSON of the same text, and times beyond 1970 to 2038 not comparable with a TIMESTAMP.
    fn compares_well(&self, column: &ColumnName) -> bool {
        let there = self.0.columns.iter().find(|c| c.name == column.as_str());
        there.is_some_and(|c| !matches!(c.data_type.as_str(), "json" | "timestamp"))
    }
}

impl Dialect for MySql<'_> {
    type Value = Value;

    fn quoted(&self, column: &ColumnName) -> String {
        format!("`{column}`")
    }

    fn compare(
        &self,
        column: &ColumnName,
        sign: Comparison,
        literal: &Literal,
    ) -> Option<(String, Vec<Value>)> {
        if !self.compares_well(column) {
            return None;
        }
        let column = self.quoted(column);
        let plain = |sign: Comparison, value| Some((format!("{column} {} ?", sign.sign()), vec![value]));
        match literal {
            Literal::Int64(value) => plain(sign, Value::Int(*value)),
            // -0 and 0 are equal here and part in the reader's total order.
            Literal::Float64(value) if value.is_finite() => plain(sign.or_equal(), Value::Double(*value)),
            Literal::Float64(_) => None,
            // A text beside a DECIMAL would be compared as double.
            Literal::Decimal(_, scale) if *scale > SCALE_MAX => None,
            Literal::Decimal(value, scale) => {
                let mut text = Vec::new();
                push_decimal(&mut text, *value, *scale);
                let cast = format!("CAST(? AS DECIMAL(65,{scale}))");
                Some((format!("{column} {} {cast}", sign.sign()), vec![Value::Bytes(text)]))
            }
            // What is stored may be any number; all but 0 are true.
            Literal::Boolean(value) if sign == Comparison::Equal => {
                Some((format!("{column} {} 0", if *value { "<>" } else { "=" }), Vec::new()))
            }
            Literal::Boolean(_) => None,
            // Under every collation a text equals itself; what else is equal or less differs.
            Literal::Text(text) if sign == Comparison::Equal => plain(sign, Value::from(text.as_str())),
            Literal::Text(_) => None,
            Literal::Date(day) if within_years(*day) => {
                let at = civil_of_day(*day);
                plain(sign, Value::Date(at.year, at.month, at.day, 0, 0, 0, 0))
            }
            Literal::Timestamp(micros) if within_years(day(*micros)) => {
                let at = civil_of_micros(*micros);
                plain(sign, Value::Date(at.year, at.month, at.day, at.hour, at.minute, at.second, at.micro))
            }
            Literal::Date(_) | Literal::Timestamp(_) => None,
        }
    }
}

fn day(micros: i64) -> i32 {
    // More days than fit are beyond all years.
    i32::try_from(micros.div_euclid(86_400_000_000)).unwrap_or(i32::MAX)
}
