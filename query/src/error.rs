//! What may go wrong with a statement: refused (its author mends it), too costly, no place, or a part that is away.
//! It travels from the worker to the one who asked as JSON.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Short for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a statement has no answer, or no whole one.
#[derive(Debug, Clone, PartialEq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Error {
    /// The statement is wrong or not allowed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its time is over; its worker was killed.
    #[error("the statement took longer than {seconds} s and was stopped; ask for less, or filter earlier")]
    TimedOut {
        /// The time it had.
        seconds: u64,
    },
    /// It needed more memory than a worker has.
    #[error("the statement needs more memory than the {mebibytes} MiB it may use; ask for less at once")]
    Memory {
        /// The memory it had.
        mebibytes: u64,
    },
    /// It used more CPU time than a worker has.
    #[error("the statement used more than its CPU time and was stopped; ask for less, or filter earlier")]
    Cpu,
    /// No place came free in time.
    #[error("{who} run already; try again in {retry_after_seconds} s")]
    Busy {
        /// Whose statements, with their number.
        who: String,
        /// Whether it is the user who has too many, not the installation.
        by_user: bool,
        /// When to try again.
        retry_after_seconds: u64,
    },
    /// A database or the object store did not answer.
    #[error("failed to read: {message}")]
    Unavailable {
        /// Which, and why; for the log.
        message: String,
    },
    /// A worker could not be started, or broke down.
    #[error("the query worker failed: {message}")]
    Worker {
        /// How; for the log.
        message: String,
    },
}

/// Why a statement was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What kind of mistake.
    pub code: Code,
    /// What is wrong with what, and what to write instead.
    pub message: String,
    /// Where in the statement.
    pub position: Option<Position>,
}

/// A place in a statement; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The line.
    pub line: u64,
    /// The character of the line.
    pub column: u64,
}

/// The kinds of mistakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// It is no SQL.
    Syntax,
    /// There is no such table, or it is not for this user.
    UnknownTable,
    /// There is no such column.
    UnknownColumn,
    /// Several tables have this column.
    AmbiguousColumn,
    /// There is no such function.
    UnknownFunction,
    /// It would do more than read.
    NotAllowed,
    /// The text or its parameters are too long.
    TooLong,
    /// It is nested too deeply, or has too many operators or tables.
    TooComplex,
    /// A parameter is missing or of another type.
    BadParameter,
    /// It cannot be planned: types that do not fit, columns that are not grouped.
    Invalid,
    /// It failed on a value: a division by zero, a text that is no number.
    Failed,
}

impl Code {
    /// The stable word for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Syntax => "syntax",
            Code::UnknownTable => "unknown_table",
            Code::UnknownColumn => "unknown_column",
            Code::AmbiguousColumn => "ambiguous_column",
            Code::UnknownFunction => "unknown_function",
            Code::NotAllowed => "only_reading",
            Code::TooLong => "too_long",
            Code::TooComplex => "too_complex",
            Code::BadParameter => "bad_parameter",
            Code::Invalid => "invalid_statement",
            Code::Failed => "statement_failed",
        }
    }
}

impl Refusal {
    /// Without a place.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), position: None }
    }

    /// With a place, when it is known.
    pub(crate) fn at(mut self, position: Option<Position>) -> Self {
        self.position = self.position.or(position);
        self
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.position {
            Some(Position { line, column }) => write!(f, " (line {line}, column {column})"),
            None => Ok(()),
        }
    }
}
