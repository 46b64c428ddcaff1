//! What is read of a table: columns, filters, a limit. Pure; each database turns it into one SELECT with bound values.
//!
//! A filter only spares work: it may leave in rows that it refuses, but never leaves out a row that it takes, and
//! the reader decides again. So a database may pass over what it would decide otherwise than the reader: texts under
//! a collation, the sign of zero, decimals kept as texts.

use tidemill_pipelines::{ColumnName, TableName};

/// A part of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// The table.
    pub table: TableName,
    /// Its columns, in this order.
    pub columns: Vec<ColumnName>,
    /// Rows have to pass each; columns of a filter need not be among those read.
    pub filters: Vec<Filter>,
    /// At most so many of the rows that are left in. With filters, whoever needs n rows cannot ask for n here.
    pub limit: Option<u64>,
}

/// A condition on a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// The column is not null and compares so.
    Compare(ColumnName, Comparison, Literal),
    /// The column is one of these.
    OneOf(ColumnName, Vec<Literal>),
    /// The column is null.
    IsNull(ColumnName),
    /// The column is not null.
    IsNotNull(ColumnName),
    /// One of these holds.
    Any(Vec<Filter>),
    /// All of these hold.
    All(Vec<Filter>),
}

/// How two values compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// A value to compare with; it has the type of its column.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// Whole number.
    Int64(i64),
    /// Double.
    Float64(f64),
    /// The unscaled value and the scale.
    Decimal(i128, u32),
    /// True or false.
    Boolean(bool),
    /// Text.
    Text(String),
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since 1970-01-01, UTC.
    Timestamp(i64),
}

impl Comparison {
    /// The sign in SQL.
    pub(crate) fn sign(self) -> &'static str {
        match self {
            Comparison::Equal => "=",
            Comparison::Less => "<",
            Comparison::LessOrEqual => "<=",
            Comparison::Greater => ">",
            Comparison::GreaterOrEqual => ">=",
        }
    }

    /// The same with equality let in.
    pub(crate) fn or_equal(self) -> Self {
        match self {
            Comparison::Less => Comparison::LessOrEqual,
            Comparison::Greater => Comparison::GreaterOrEqual,
            other => other,
        }
    }
}

/// What a database says of one comparison: its SQL and values, `None` when it would decide otherwise than the reader.
pub(crate) trait Dialect {
    /// A bound value.
    type Value;
    /// The column's name in quotes.
    fn quoted(&self, column: &ColumnName) -> String;
    /// The SQL of a comparison; it may take more rows, never fewer.
    fn compare(
        &self,
        column: &ColumnName,
        sign: Comparison,
        literal: &Literal,
    ) -> Option<(String, Vec<Self::Value>)>;
}

/// The text after `WHERE` with its values; `None` when nothing is left of the filters.
pub(crate) fn condition<D: Dialect>(dialect: &D, filters: &[Filter]) -> Option<(String, Vec<D::Value>)> {
    let parts: Vec<_> = filters.iter().filter_map(|filter| sql_of(dialect, filter)).collect();
    join(parts, " AND ")
}

fn sql_of<D: Dialect>(dialect: &D, filter: &Filter) -> Option<(String, Vec<D::Value>)> {
    match filter {
        Filter::Compare(column, sign, literal) => dialect.compare(column, *sign, literal),
        Filter::OneOf(column, literals) => {
            let equal = |literal| dialect.compare(column, Comparison::Equal, literal);
            join(literals.iter().map(equal).collect::<Option<_>>()?, " OR ")
        }
        Filter::IsNull(column) => Some((format!("{} IS NULL", dialect.quoted(column)), Vec::new())),
        Filter::IsNotNull(column) => Some((format!("{} IS NOT NULL", dialect.quoted(column)), Vec::new())),
        Filter::Any(filters) => {
            let parts: Option<Vec<_>> = filters.iter().map(|filter| sql_of(dialect, filter)).collect();
            join(parts?, " OR ")
        }
        Filter::All(filters) => condition(dialect, filters),
    }
}

fn join<V>(parts: Vec<(String, Vec<V>)>, word: &str) -> Option<(String, Vec<V>)> {
    if parts.is_empty() {
        return None;
    }
    let (texts, values): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    Some((format!("({})", texts.join(word)), values.into_iter().flatten().collect()))
}
