//! What is asked: one statement, its parameters, what its user may see, and the form of the answer. It travels to the
//! worker as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::datatypes::{DataType, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::catalog::Visible;
use crate::limits::{PARAMETER_BYTES_MAX, PARAMETERS_MAX, SQL_BYTES_MAX};
use crate::{Code, Refusal};

/// One statement of a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// Who asks; statements at once are counted by it.
    pub user: String,
    /// The text; it may only read.
    pub sql: String,
    /// The values of `$1`, `$2`, …
    pub parameters: Vec<Parameter>,
    /// What the user may see.
    pub visible: Visible,
    /// Which catalog and grammar.
    pub flavour: Flavour,
    /// In which form the rows come.
    pub format: Format,
    /// At most so many rows.
    pub limit: Option<u64>,
    /// Less time than the limits give.
    pub timeout: Option<Duration>,
}

/// Which catalog and grammar a statement is read with.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flavour {
    /// Of HTTP and the command line.
    #[default]
    Plain,
    /// Of Postgres clients: `pg_catalog` and its functions beside the tables.
    Postgres {
        /// What `current_setting` tells.
        variables: BTreeMap<String, String>,
    },
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// An Arrow IPC stream.
    #[default]
    Arrow,
    /// `{"columns": [{"name", "type"}], "rows": [[…]], "row_count": n}`.
    Json,
    /// CSV with a header.
    Csv,
}

/// The value of a parameter. It is cast to the type that its place in the statement asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parameter {
    /// Null.
    Null,
    /// True or false.
    Boolean(bool),
    /// Whole number.
    Int64(i64),
    /// Double.
    Float64(f64),
    /// Decimal, in digits.
    Decimal(String),
    /// Text, also of a date or time.
    Text(String),
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since 1970-01-01, UTC.
    Timestamp(i64),
}

/// What a statement would give.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// The columns of its rows.
    pub schema: SchemaRef,
    /// The types of `$1`, `$2`, …, where the statement tells them.
    pub parameters: Vec<Option<DataType>>,
}

impl Statement {
    /// Refuses what is too long to be looked at.
    pub(crate) fn check_size(&self) -> Result<(), Refusal> {
        let too_long = |message: String| Refusal { code: Code::TooLong, message, position: None };
        if self.sql.len() > SQL_BYTES_MAX {
            let bytes = self.sql.len();
            return Err(too_long(format!("the statement has {bytes} bytes, the most are {SQL_BYTES_MAX}")));
        }
        if self.parameters.len() > PARAMETERS_MAX {
            let count = self.parameters.len();
            return Err(too_long(format!("there are {count} parameters, the most are {PARAMETERS_MAX}")));
        }
        let bytes: usize = self.parameters.iter().map(Parameter::bytes).sum();
        if bytes > PARAMETER_BYTES_MAX {
            let most = PARAMETER_BYTES_MAX;
            return Err(too_long(format!("the parameters have {bytes} bytes, the most are {most}")));
        }
        Ok(())
    }
}

impl Parameter {
    fn bytes(&self) -> usize {
        match self {
            Parameter::Decimal(text) | Parameter::Text(text) => text.len(),
            _ => size_of::<Self>(),
        }
    }
}
