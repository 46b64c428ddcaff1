//! Names of pipelines, tables and columns, parsed once at the edge into types.
//!
//! A name is safe to be part of an object key, a metric label and, quoted, of an SQL statement.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::program::{OWN_NAMES, artifact_name_fits};

/// Longest name in bytes; MySQL allows identifiers of 64 characters, and suffixes are added to some.
pub const NAME_BYTES_MAX: usize = 63;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text} is not a {what} name: use 1 to {NAME_BYTES_MAX} of {allowed}, not starting with a digit")]
pub struct NameError {
    text: String,
    what: &'static str,
    allowed: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $allowed:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let ok: fn(u8) -> bool = $ok;
                let good = !text.is_empty()
                    && text.len() <= NAME_BYTES_MAX
                    && !text.as_bytes()[0].is_ascii_digit()
                    && text.bytes().all(ok);
                if good {
                    Ok(Self(text.to_owned()))
                } else {
                    let text = crate::problem::quoted(text);
                    Err(NameError { text, what: $what, allowed: $allowed })
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The name of a pipeline; also the stem of its file.
    PipelineName, "pipeline", "a-z, 0-9 and _", |b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')
);
name!(
    /// The name of a table in a sink.
    TableName, "table", "a-z, A-Z, 0-9 and _", |b| b.is_ascii_alphanumeric() || b == b'_'
);
name!(
    /// The name of a column of the input or of a sink's table.
    ColumnName, "column", "a-z, A-Z, 0-9 and _", |b| b.is_ascii_alphanumeric() || b == b'_'
);

/// The name of a file that is made of a job: one part of an object key and of a URL, on every system a file name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileName(String);

impl FileName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FileName {
    type Err = FileNameError;
    fn from_str(text: &str) -> Result<Self, FileNameError> {
        match artifact_name_fits(text) {
            _ if OWN_NAMES.contains(&text) => Err(FileNameError::Taken(crate::problem::quoted(text))),
            true => Ok(Self(text.to_owned())),
            false => Err(FileNameError::Unsafe(crate::problem::quoted(text))),
        }
    }
}

impl TryFrom<String> for FileName {
    type Error = FileNameError;
    fn try_from(text: String) -> Result<Self, FileNameError> {
        text.parse()
    }
}

impl From<FileName> for String {
    fn from(name: FileName) -> String {
        name.0
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is not the name of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileNameError {
    /// It could leave its folder, or is no file name everywhere.
    #[error(
        "{0} is not a file name: use 1 to 200 of a-z, A-Z, 0-9, `.`, `-` and `_`, not starting with a dot"
    )]
    Unsafe(String),
    /// Each job has a file of this name already.
    #[error("the file name {0} is taken by Tidemill itself")]
    Taken(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_cannot_leave_its_folder() {
        for bad in ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "é", "rejects.csv", &"x".repeat(201)] {
            assert!(bad.parse::<FileName>().is_err(), "{bad}");
        }
        assert_eq!("report-1_2.csv".parse::<FileName>().unwrap().as_str(), "report-1_2.csv");
    }

    #[test]
    fn a_name_is_refused_with_what_to_write() {
        for bad in ["", "1st", "a-b", "a b", "é", "A"] {
            let error = bad.parse::<PipelineName>().unwrap_err().to_string();
            assert!(error.contains("use 1 to 63 of a-z"), "{error}");
        }
        assert!("x".repeat(64).parse::<TableName>().is_err());
        assert_eq!("Hired_1".parse::<TableName>().unwrap().as_str(), "Hired_1");
    }
}
