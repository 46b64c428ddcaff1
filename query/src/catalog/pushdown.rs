//! Which conditions of a statement the database may apply before the engine does. What is not understood here is only
//! not spared; nothing is decided here for good. Pure.

use arrow::datatypes::{DataType, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Operator, expr::InList};
use tidemill_pipelines::ColumnName;
use tidemill_sinks::{Comparison, Filter, Literal};

use crate::limits::LITERALS_MAX;

/// The filter of a condition over the columns of a table.
pub(super) fn filter_of(condition: &Expr, schema: &Schema) -> Option<Filter> {
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            let parts = [filter_of(left, schema), filter_of(right, schema)];
            let parts: Vec<Filter> = parts.into_iter().flatten().collect();
            (!parts.is_empty()).then_some(Filter::All(parts))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            Some(Filter::Any(vec![filter_of(left, schema)?, filter_of(right, schema)?]))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let sign = comparison(*op)?;
            compare(left, sign, right, schema).or_else(|| compare(right, mirrored(sign), left, schema))
        }
        Expr::Between(Between { expr, negated: false, low, high }) => {
            let low = compare(expr, Comparison::GreaterOrEqual, low, schema)?;
            Some(Filter::All(vec![low, compare(expr, Comparison::LessOrEqual, high, schema)?]))
        }
        Expr::InList(InList { expr, list, negated: false }) if list.len() <= LITERALS_MAX => {
            let (column, kind) = column(expr, schema)?;
            let values = list.iter().map(|value| literal(value, &kind)).collect::<Option<_>>()?;
            Some(Filter::OneOf(column, values))
        }
        Expr::IsNull(expr) => Some(Filter::IsNull(column(expr, schema)?.0)),
        Expr::IsNotNull(expr) => Some(Filter::IsNotNull(column(expr, schema)?.0)),
        Expr::Column(_) => truth(condition, true, schema),
        Expr::Not(expr) => truth(expr, false, schema),
        _ => None,
    }
}

fn truth(expr: &Expr, wanted: bool, schema: &Schema) -> Option<Filter> {
    let (column, kind) = column(expr, schema)?;
    let equal = || Filter::Compare(column, Comparison::Equal, Literal::Boolean(wanted));
    (kind == DataType::Boolean).then(equal)
}

fn compare(left: &Expr, sign: Comparison, right: &Expr, schema: &Schema) -> Option<Filter> {
    let (column, kind) = column(left, schema)?;
    Some(Filter::Compare(column, sign, literal(right, &kind)?))
}

fn column(expr: &Expr, schema: &Schema) -> Option<(ColumnName, DataType)> {
    let Expr::Column(column) = expr else {
        return None;
    };
    let field = schema.field_with_name(&column.name).ok()?;
    Some((column.name.parse().ok()?, field.data_type().clone()))
}

/// A value of exactly the column's type; any other would be compared after a cast.
fn literal(expr: &Expr, kind: &DataType) -> Option<Literal> {
    let Expr::Literal(value, _) = expr else {
        return None;
    };
    if value.data_type() != *kind {
        return None;
    }
    Some(match value {
        ScalarValue::Int64(Some(value)) => Literal::Int64(*value),
        ScalarValue::Float64(Some(value)) => Literal::Float64(*value),
        ScalarValue::Boolean(Some(value)) => Literal::Boolean(*value),
        ScalarValue::Utf8(Some(text)) => Literal::Text(text.clone()),
        ScalarValue::Date32(Some(day)) => Literal::Date(*day),
        ScalarValue::TimestampMicrosecond(Some(micros), _) => Literal::Timestamp(*micros),
        ScalarValue::Decimal128(Some(value), _, scale) => {
            Literal::Decimal(*value, u32::try_from(*scale).ok()?)
        }
        _ => return None,
    })
}

fn comparison(op: Operator) -> Option<Comparison> {
    Some(match op {
        Operator::Eq => Comparison::Equal,
        Operator::Lt => Comparison::Less,
        Operator::LtEq => Comparison::LessOrEqual,
        Operator::Gt => Comparison::Greater,
        Operator::GtEq => Comparison::GreaterOrEqual,
        _ => return None,
    })
}

/// The comparison with its sides exchanged.
fn mirrored(sign: Comparison) -> Comparison {
    match sign {
        Comparison::Equal => Comparison::Equal,
        Comparison::Less => Comparison::Greater,
        Comparison::LessOrEqual => Comparison::GreaterOrEqual,
        Comparison::Greater => Comparison::Less,
        Comparison::GreaterOrEqual => Comparison::LessOrEqual,
    }
}
