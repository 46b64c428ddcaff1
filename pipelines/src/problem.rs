//! A problem of a file that a person wrote: where it is, what is wrong, what to write instead.

use std::fmt;

use serde::Serialize;

/// One problem; all problems of a file are told together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file as the user named it.
    pub file: String,
    /// 1-based line, 0 when the problem is of the whole file.
    pub line: u64,
    /// 1-based column in characters, 0 when the problem is of the whole file.
    pub column: u64,
    /// What is wrong, lowercase, one sentence without a full stop.
    pub message: String,
    /// What to write instead, when that is known.
    pub help: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}
