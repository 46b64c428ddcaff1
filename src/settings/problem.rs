//! A wrong setting: where it stands, what is wrong, what to write instead.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// Where a setting was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A line of a file.
    File {
        /// The file.
        path: PathBuf,
        /// 1-based line.
        line: usize,
        /// 1-based column.
        column: usize,
    },
    /// A variable of the environment.
    Variable(String),
    /// A flag of the command line.
    Flag(String),
    /// Nowhere: it is missing, or a default.
    Nowhere,
}

impl Origin {
    /// The order in which problems are told: the file from its top, variables, flags, what is nowhere.
    pub fn rank(&self) -> (u8, usize, String) {
        match self {
            Origin::File { line, .. } => (0, *line, String::new()),
            Origin::Variable(name) => (1, 0, name.clone()),
            Origin::Flag(name) => (2, 0, name.clone()),
            Origin::Nowhere => (3, 0, String::new()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Origin::Variable(name) => write!(f, "variable {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
            Origin::Nowhere => f.write_str("settings"),
        }
    }
}

/// One wrong setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettingsProblem {
    /// Where it was given.
    pub origin: Origin,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

impl fmt::Display for SettingsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n  help: {}", self.origin, self.message, self.help)
    }
}

/// All wrong settings, as an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsProblems(pub Vec<SettingsProblem>);

impl fmt::Display for SettingsProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} wrong setting{}", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

impl std::error::Error for SettingsProblems {}
