//! Metrics of statements and of the Postgres wire. [`crate::Workers`] make them; the role that answers shows them.

use prometheus::core::Collector;
use prometheus::{IntCounterVec, IntGauge, Opts};

use crate::frames::Kind;
use crate::{Error, Flavour};

/// What a statement comes to; `left` is one whose client cancelled it or went away.
const OUTCOMES: [&str; 6] = ["answered", "refused", "stopped", "busy", "failed", LEFT];
const LEFT: &str = "left";
const LOGINS: [&str; 3] = ["accepted", "wrong_password", "refused"];

/// The instruments. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    statements: IntCounterVec,
    pub(crate) connections: IntGauge,
    logins: IntCounterVec,
}

impl Metrics {
    /// Makes them, with all outcomes from the start; nothing is registered yet.
    pub fn new() -> prometheus::Result<Self> {
        let statements = "SQL statements by surface (http, postgres) and outcome: answered, refused, stopped (at a limit), \
                          busy (no place), failed, left (by the client).";
        let statements =
            IntCounterVec::new(Opts::new("tidemill_statements_total", statements), &["surface", "outcome"])?;
        let connections =
            IntGauge::new("tidemill_postgres_connections", "Open connections of Postgres clients.")?;
        let logins = "Logins of Postgres clients by outcome: accepted, wrong_password, refused.";
        let logins = IntCounterVec::new(Opts::new("tidemill_postgres_logins_total", logins), &["outcome"])?;
        for surface in ["http", "postgres"] {
            for outcome in OUTCOMES {
                statements.with_label_values(&[surface, outcome]);
            }
        }
        for outcome in LOGINS {
            logins.with_label_values(&[outcome]);
        }
        Ok(Self { statements, connections, logins })
    }

    /// The instruments, to be registered, and as they are told of in docs/metrics.md.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let Self { statements, connections, logins } = self.clone();
        vec![Box::new(statements), Box::new(connections), Box::new(logins)]
    }

    pub(crate) fn login(&self, outcome: &str) {
        self.logins.with_label_values(&[outcome]).inc();
    }

    /// Counts a statement when what is given here is dropped. A description counts only when it fails: its statement
    /// will not be run.
    pub(crate) fn statement(&self, kind: Kind, flavour: &Flavour) -> Count {
        let surface = match flavour {
            Flavour::Plain => "http",
            Flavour::Postgres { .. } => "postgres",
        };
        let outcome = matches!(kind, Kind::Run).then_some(LEFT);
        Count { counter: self.statements.clone(), surface, outcome }
    }
}

/// A statement that is counted when it is dropped.
pub(crate) struct Count {
    counter: IntCounterVec,
    surface: &'static str,
    outcome: Option<&'static str>,
}

impl Count {
    pub(crate) fn answered(&mut self) {
        self.outcome = self.outcome.and(Some("answered"));
    }

    /// Takes note of an error and gives it on.
    pub(crate) fn failed(&mut self, error: Error) -> Error {
        self.outcome = Some(match error {
            Error::Refused(_) => "refused",
            Error::TimedOut { .. } | Error::Memory { .. } | Error::Cpu => "stopped",
            Error::Busy { .. } => "busy",
            Error::Unavailable { .. } | Error::Worker { .. } => "failed",
        });
        error
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        if let Some(outcome) = self.outcome {
            self.counter.with_label_values(&[self.surface, outcome]).inc();
        }
    }
}
