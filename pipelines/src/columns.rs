//! The columns of the records that come in: name, type, and what makes a field acceptable.

use crate::{ColumnName, JsonPath, TableName};

/// One column of the input, in the order of the file (or found by its name in the header).
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Name in the table `input`; also the name looked for in a header or in a JSON object.
    pub name: ColumnName,
    /// Where the value stands in a JSON record; without it, the member of the column's name.
    pub path: Option<JsonPath>,
    /// What a field must parse as.
    pub kind: ColumnType,
    /// A missing value (a null text) is a reject with code `required`. The default is true.
    pub required: bool,
    /// The value must be found in this column of another table of the sinks.
    pub references: Option<Reference>,
}

/// The type of a column, with what is needed to read it from text.
#[derive(Debug, Clone, PartialEq)]
pub enum ColumnType {
    /// Signed 64-bit integer; Arrow Int64.
    Int64,
    /// IEEE 754 double, finite; Arrow Float64.
    Float64,
    /// Exact decimal; Arrow Decimal128(precision, scale). More digits than `scale` are refused, not rounded.
    Decimal {
        /// Digits in all, 1 to 38.
        precision: u8,
        /// Digits after the point, 0 to `precision`.
        scale: i8,
    },
    /// Boolean; Arrow Boolean. Texts are compared without regard to ASCII case.
    Bool {
        /// Texts read as true; default `true`, `t`, `yes`, `y`, `1`.
        true_texts: Vec<String>,
        /// Texts read as false; default `false`, `f`, `no`, `n`, `0`.
        false_texts: Vec<String>,
    },
    /// UTF-8 text; Arrow Utf8.
    Text {
        /// Longest value in characters (Unicode scalar values), not bytes.
        max_length: Option<u32>,
    },
    /// Calendar date; Arrow Date32.
    Date {
        /// Tried in order; empty means ISO 8601 `YYYY-MM-DD`.
        formats: Vec<TimeFormat>,
    },
    /// Instant; Arrow Timestamp(Microsecond, "UTC"). Stored in UTC.
    Timestamp {
        /// Tried in order; empty means RFC 3339, also with a space for `T`; without offset, in `zone`.
        formats: Vec<TimeFormat>,
        /// IANA name of the zone of texts that carry no offset; default `UTC`.
        zone: String,
    },
}

impl ColumnType {
    /// The word for the type in a pipeline file.
    pub fn word(&self) -> &'static str {
        match self {
            ColumnType::Int64 => "int64",
            ColumnType::Float64 => "float64",
            ColumnType::Decimal { .. } => "decimal",
            ColumnType::Bool { .. } => "bool",
            ColumnType::Text { .. } => "text",
            ColumnType::Date { .. } => "date",
            ColumnType::Timestamp { .. } => "timestamp",
        }
    }
}

/// A strftime format as chrono reads it, checked when the pipeline was parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeFormat(pub(crate) String);

impl TimeFormat {
    /// The format as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A column of another table, written `table.column`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// The table of the sinks.
    pub table: TableName,
    /// Its column.
    pub column: ColumnName,
}
