//! What clients are told when something is refused or fails: a message with its SQLSTATE, as PostgreSQL's clients know it.

use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::{ErrorResponse, NoticeResponse};

/// The codes of PostgreSQL's manual, "PostgreSQL Error Codes", that are used here.
pub(super) mod code {
    pub(crate) const PROTOCOL: &str = "08P01";
    pub(crate) const UNSUPPORTED: &str = "0A000";
    pub(crate) const BAD_VALUE: &str = "22023";
    pub(crate) const BAD_TEXT: &str = "22P02";
    pub(crate) const READ_ONLY: &str = "25006";
    pub(crate) const ABORTED: &str = "25P02";
    pub(crate) const NO_STATEMENT: &str = "26000";
    pub(crate) const NOT_ALLOWED: &str = "28000";
    pub(crate) const BAD_PASSWORD: &str = "28P01";
    pub(crate) const NO_PORTAL: &str = "34000";
    pub(crate) const NO_DATABASE: &str = "3D000";
    pub(crate) const SYNTAX: &str = "42601";
    pub(crate) const NO_SETTING: &str = "42704";
    pub(crate) const TOO_MANY_CONNECTIONS: &str = "53300";
    pub(crate) const LIMIT: &str = "54000";
    pub(crate) const CANCELED: &str = "57014";
    pub(crate) const SHUTDOWN: &str = "57P01";
    pub(crate) const IDLE: &str = "57P05";
    pub(crate) const INTERNAL: &str = "XX000";
}

/// An error for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) hint: Option<String>,
    /// Where in the text of the statement, in characters from 1.
    pub(super) position: Option<usize>,
    /// Whether the connection ends with it.
    pub(super) fatal: bool,
}

impl Refusal {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, position: None, fatal: false }
    }

    /// One that ends the connection.
    pub(super) fn fatal(code: &'static str, message: impl Into<String>) -> Self {
        Self { fatal: true, ..Self::new(code, message) }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn at(mut self, position: usize) -> Self {
        self.position = Some(position);
        self
    }

    /// Our own fault; what it was goes to the log, not to the client.
    pub(super) fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "a statement of the postgres wire failed");
        Self::new(code::INTERNAL, "internal error; the log of the gateway tells more")
    }

    fn fields(self) -> Vec<(u8, String)> {
        let severity = if self.fatal { "FATAL" } else { "ERROR" };
        let mut fields = fields(severity, self.code, self.message);
        fields.extend(self.hint.map(|hint| (b'H', hint)));
        fields.extend(self.position.map(|position| (b'P', position.to_string())));
        fields
    }
}

impl From<Refusal> for PgWireBackendMessage {
    fn from(refusal: Refusal) -> Self {
        PgWireBackendMessage::ErrorResponse(ErrorResponse::new(refusal.fields()))
    }
}

/// A word beside the answer, which is no error.
pub(super) fn warning(code: &'static str, message: &str) -> PgWireBackendMessage {
    PgWireBackendMessage::NoticeResponse(NoticeResponse::new(fields("WARNING", code, message.to_owned())))
}

fn fields(severity: &str, code: &str, message: String) -> Vec<(u8, String)> {
    // A zero byte ends a field; a message that quotes one must not end early.
    let message = message.replace('\0', "\u{fffd}");
    vec![(b'S', severity.to_owned()), (b'V', severity.to_owned()), (b'C', code.to_owned()), (b'M', message)]
}
