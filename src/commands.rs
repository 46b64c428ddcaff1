//! The commands: each does one thing with the parts of the settings, answers on stdout, and ends.

mod check;
mod collect;
mod dead_letters;
mod doctor;
mod fetch;
mod jobs;
mod migrate;
mod mock_api;
mod query;
mod run_file;
mod send;
mod submit;
mod tables;
mod test_cases;
mod users;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use rand::Rng;
use rand::distr::Alphanumeric;
use tidemill_jobs::JobStore;
use tidemill_pipelines::{Pipeline, PipelineSet};

use crate::cli::{Command, JobsCommand};
use crate::parts::{COMMAND_WAIT, Parts};
use crate::settings::{self, Purpose, Secret, Sources, Span};
use crate::telemetry;

/// Runs a command that is no role.
pub async fn run(command: &Command, sources: &Sources, json: bool) -> Result<ExitCode> {
    match command {
        Command::Check { role } => check::run(sources, *role, json).await,
        Command::MockApi(args) => mock_api::run(args, json).await,
        Command::Schema => print_json(&tidemill_pipelines::json_schema()),
        Command::Test { pipeline } => test_cases::run(&parts(sources)?, pipeline.as_deref(), json).await,
        Command::Run(args) => run_file::run(&parts(sources)?, args, json).await,
        Command::Send(args) => send::run(args, json).await,
        Command::Fetch(args) => fetch::run(&standing_parts(sources)?, args, json).await,
        Command::Query(args) => query::run(&standing_parts(sources)?, args, json).await,
        // A client of a gateway: it needs none of the parts.
        Command::Jobs(JobsCommand::Submit(args)) => submit::run(args, json).await,
        Command::Jobs(command) => jobs::run(&standing_parts(sources)?, command, json).await,
        Command::Collect { pipeline } => collect::run(&standing_parts(sources)?, pipeline, json).await,
        Command::User(command) => users::run(&parts(sources)?, command, json).await,
        Command::Migrate => migrate::run(&parts(sources)?, json).await,
        Command::Doctor => doctor::run(&parts(sources)?, json).await,
        Command::QueryWorker
        | Command::Dev { .. }
        | Command::Gateway { .. }
        | Command::Processor { .. }
        | Command::Fetcher { .. }
        | Command::Notifier { .. }
        | Command::Confine { .. } => {
            anyhow::bail!("a role is not run as a command")
        }
    }
}

/// The parts of a command: a person waits, so a server that is away is told soon.
fn parts(sources: &Sources) -> Result<Parts> {
    let mut settings = settings::load(sources).settings_for(Purpose::Command)?;
    telemetry::start_command_logging(&settings.telemetry);
    settings.connect_wait = settings.connect_wait.min(Span::of(COMMAND_WAIT));
    Ok(Parts::new(settings))
}

/// The parts of a command that looks at what stands: a misspelt folder is not made anew and found empty.
fn standing_parts(sources: &Sources) -> Result<Parts> {
    let parts = parts(sources)?;
    if let Some(data) = &parts.settings().data {
        anyhow::ensure!(
            data.is_dir(),
            "there is no folder `{}`; `tidemill dev --data` makes one",
            data.display()
        );
    }
    Ok(parts)
}

/// The job store, with its schema.
async fn job_store(parts: &Parts) -> Result<JobStore> {
    let jobs = parts.jobs().await?;
    if parts.settings().migrate {
        parts.migrate_jobs(&jobs).await?;
    }
    Ok(jobs)
}

/// A pipeline of the set; the error names the nearest.
fn pipeline<'a>(set: &'a PipelineSet, name: &str) -> Result<&'a Pipeline> {
    name.parse().ok().and_then(|name| set.get(&name)).with_context(|| match set.nearest(name) {
        Some(near) => format!("there is no pipeline `{name}`; did you mean `{near}`?"),
        None => format!("there is no pipeline `{name}`"),
    })
}

/// A random password that nobody has to remember.
pub fn random_password() -> Secret {
    Secret::new(random_text(20))
}

/// Letters and digits from the system's generator; each is worth 5.9 bits.
pub fn random_text(length: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect()
}

/// Prints a value for programs.
fn print_json(value: &impl serde::Serialize) -> Result<ExitCode> {
    print_text(&serde_json::to_string_pretty(value)?);
    Ok(ExitCode::SUCCESS)
}

/// Prints lines; a reader that has gone away (`| head`) is no failure.
fn print_text(text: &str) {
    use std::io::Write;
    writeln!(std::io::stdout(), "{text}").ok();
}

/// 0 when all is well, 1 when something was refused.
fn status(well: bool) -> ExitCode {
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The pipelines of the folder.
fn pipelines(parts: &Parts) -> Result<Arc<PipelineSet>> {
    parts.pipelines()
}
