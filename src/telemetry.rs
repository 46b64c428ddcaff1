//! Telemetry: log lines of each role, and the metrics that come from looking at queue and broker.
//!
//! One job id leads through all lines: fields of the spans (`job_id`, `request_id`) stand in each line.

mod lines;
#[cfg(test)]
mod page;
mod queue;
mod server;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::settings::{LogFormat, Telemetry};

pub use queue::{Group, QueueWatch};
pub use server::{Readiness, serve, with_causes};

/// Starts logging to stderr for a role; later calls change nothing.
pub fn start_logging(settings: &Telemetry, role: &'static str) {
    let filter = EnvFilter::try_new(&settings.log).unwrap_or_else(|_| EnvFilter::new("info"));
    let text = match settings.format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let registry = tracing_subscriber::registry().with(filter);
    let started = if text {
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
        registry.with(layer.with_ansi(std::io::stderr().is_terminal())).try_init()
    } else {
        registry.with(lines::JsonLines::to_stderr(role)).try_init()
    };
    // A second start finds the first one's subscriber in place, which serves as well.
    started.ok();
}

/// Logging of commands: warnings as text, so that stdout and stderr stay for their answers.
pub fn start_command_logging(settings: &Telemetry) {
    let asked = std::env::var_os("TIDEMILL_LOG").is_some();
    let level = if asked { settings.log.clone() } else { "error".to_owned() };
    start_logging(&Telemetry { log: level, format: LogFormat::Text, ..settings.clone() }, "command");
}
