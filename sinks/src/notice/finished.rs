//! What a notice tells: the facts of a finished job, given by the notifier role (this crate knows no jobs).
//!
//! Texts that came from outside are cleaned before they reach a message: see [`clean`].

use chrono::{DateTime, Utc};
use tidemill_pipelines::Blame;

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All is written.
    Success,
    /// Nothing is written.
    Failed,
}

impl Ending {
    /// The word of the job's status.
    pub fn as_str(self) -> &'static str {
        match self {
            Ending::Success => "success",
            Ending::Failed => "failed",
        }
    }
}

/// A finished job, as far as a notice tells of it.
#[derive(Debug, Clone)]
pub struct FinishedNotice {
    /// The job's id.
    pub job_id: String,
    /// Its pipeline.
    pub pipeline: String,
    /// How it ended.
    pub status: Ending,
    /// The user who sent it.
    pub sender: String,
    /// The sender's name for the file.
    pub file_name: Option<String>,
    /// Records found.
    pub records_in: u64,
    /// Rows written.
    pub records_written: u64,
    /// Records refused.
    pub records_rejected: u64,
    /// Records that the steps dropped or merged.
    pub records_filtered: u64,
    /// Why it failed.
    pub error: Option<NoticeCause>,
    /// The first refused records, in the order of the file.
    pub rejects: Vec<RejectLine>,
    /// When it landed.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    /// URLs of the files that were made.
    pub files: Vec<String>,
    /// The gateway's public address, such as `https://tidemill.example.org`; links begin with it.
    pub links: String,
}

/// Why a job failed.
#[derive(Debug, Clone)]
pub struct NoticeCause {
    /// A stable word.
    pub code: String,
    /// For people.
    pub message: String,
    /// Whose fault it is; decides what the message says is to be done.
    pub blame: Blame,
}

/// One refused record.
#[derive(Debug, Clone)]
pub struct RejectLine {
    /// 1-based line of the file; 0 for a row behind an aggregate.
    pub line: u64,
    /// The column, when one is at fault.
    pub column: Option<String>,
    /// The reason as a stable word.
    pub code: String,
    /// The reason for people.
    pub message: String,
}

/// Makes one line of a text that came from outside: control characters and those that turn the direction
/// of text become spaces, and what is longer than `chars_max` characters ends in `…`.
pub(super) fn clean(text: &str, chars_max: usize) -> String {
    let mut line: String = text.chars().take(chars_max).map(|c| if harmless(c) { c } else { ' ' }).collect();
    if text.chars().nth(chars_max).is_some() {
        line.push('…');
    }
    line.trim().to_owned()
}

/// Neither a control character nor one of Unicode's line separators, bidirectional controls or byte order marks.
fn harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn a_text_from_outside_becomes_one_line_of_bounded_length() {
        let cases = [
            ("staff.csv", "staff.csv"),
            ("a\r\nBcc: x@y.example", "a  Bcc: x@y.example"),
            ("a\u{0}b\u{85}c\u{2028}d", "a b c d"),
            ("invoice\u{202e}vsc.exe", "invoice vsc.exe"),
            ("Gehälter-Übersicht 東京 🦀.csv", "Gehälter-Übersicht 東京 🦀.csv"),
            ("   ", ""),
        ];
        for (text, expect) in cases {
            assert_eq!(clean(text, 100), expect);
        }
        assert_eq!(clean("ééééé", 3), "ééé…");
        assert_eq!(clean("ééé", 3), "ééé");
    }
}
