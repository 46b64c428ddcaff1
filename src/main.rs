//! The binary `tidemill`: command line, settings, roles and commands.
//!
//! A call passes: `cli` (what is asked) → `settings` (all sources, all problems) → a role of `roles/` or a
//! command of `commands/`, which get their parts from `parts`. Exit status: 0 done, 1 refused or failed,
//! 2 wrong usage.

mod cli;
mod commands;
mod crew;
mod folder;
mod parts;
mod roles;
mod settings;
mod telemetry;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};
use settings::{Purpose, Settings, Sources};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Command::Confine { arguments } = &cli.command {
        tidemill_processor::confine::main(arguments)?; // before any thread and setting: it becomes another program
        return Ok(ExitCode::SUCCESS);
    }
    // Two TLS back ends are linked in (one by the lake's kernel); without a choice, rustls would panic at its first use.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Command::QueryWorker = cli.command {
        // Before any runtime: it has threads and limits of its own.
        tidemill_query::serve_worker(parts::open_objects)?;
        return Ok(ExitCode::SUCCESS);
    }
    tidemill_jobs::failpoints::watch();
    let sources = Sources::of_process(cli.common.config.clone(), flags(&cli));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let role = |purpose, name| -> anyhow::Result<Settings> {
        let settings = settings::load(&sources).settings_for(purpose)?;
        telemetry::start_logging(&settings.telemetry, name);
        Ok(settings)
    };
    let done = match &cli.command {
        Command::Dev { .. } => runtime.block_on(roles::dev::run(role(Purpose::Dev, "dev")?)),
        Command::Gateway { .. } => runtime.block_on(roles::gateway::run(role(Purpose::Gateway, "gateway")?)),
        Command::Processor { .. } => {
            runtime.block_on(roles::processor::run(role(Purpose::Processor, "processor")?))
        }
        Command::Fetcher { .. } => runtime.block_on(roles::fetcher::run(role(Purpose::Fetcher, "fetcher")?)),
        Command::Notifier { .. } => {
            runtime.block_on(roles::notifier::run(role(Purpose::Notifier, "notifier")?))
        }
        command => return runtime.block_on(commands::run(command, &sources, cli.common.json)),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Flags that are settings: name as written, path, value.
fn flags(cli: &Cli) -> Vec<(String, String, String)> {
    let common = &cli.common;
    let set = common.set.iter().map(|(key, value)| ("--set".to_owned(), key.clone(), value.clone()));
    let mut flags: Vec<_> = set.collect();
    let mut add = |flag: &str, path: &str, value: Option<String>| {
        flags.extend(value.map(|value| (flag.to_owned(), path.to_owned(), value)));
    };
    let text = |path: &std::path::PathBuf| path.to_string_lossy().into_owned();
    add("--data", "data", common.data.as_ref().map(text));
    add("--pipelines", "pipelines", common.pipelines.as_ref().map(text));
    match &cli.command {
        Command::Dev { listen } | Command::Gateway { listen } => {
            add("--listen", "gateway.listen", listen.clone())
        }
        Command::Processor { listen } | Command::Fetcher { listen } | Command::Notifier { listen } => {
            add("--listen", "telemetry.listen", listen.clone());
        }
        _ => {}
    }
    flags
}
