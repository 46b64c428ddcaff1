//! Whose fault an error is, and whether to try again: the two questions that every error of
//! Tidemill answers. Used by the error enum of each crate.

use serde::{Deserialize, Serialize};

/// Whose fault an error is; it decides who is told and what they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Blame {
    /// The sender of the data: the file has to be mended and sent again.
    Sender,
    /// The author of the pipeline file: the pipeline has to be mended.
    Author,
    /// The operator: a setting, a permission or a resource of this installation.
    Operator,
    /// The world: a server or a network that did not answer; it passes.
    World,
}

/// Whether the same work may succeed when it is done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// At once: a deadlock, a lost race.
    Now,
    /// After a pause: a server that is away.
    Later,
    /// Never: the same input gives the same error.
    Never,
}

impl Blame {
    /// The word that stands in the API and in the job table.
    pub fn as_str(self) -> &'static str {
        match self {
            Blame::Sender => "sender",
            Blame::Author => "author",
            Blame::Operator => "operator",
            Blame::World => "world",
        }
    }

    /// The reverse of [`Blame::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "sender" => Blame::Sender,
            "author" => Blame::Author,
            "operator" => Blame::Operator,
            "world" => Blame::World,
            _ => return None,
        })
    }
}
