//! `tidemill dev`: all roles in one process, on embedded parts kept in one folder.
//!
//! The same code as the roles; only the parts differ. One process at a time may use the folder.

mod home;

use std::sync::Arc;

use anyhow::Result;
use tidemill_gateway::Users;
use tidemill_jobs::{JobStore, Settler};
use tidemill_processor::SinkLedger;

use super::fetcher::add_fetcher;
use super::gateway::add_gateway;
use super::notifier::add_notifier;
use super::postgres::{add_wire, listen_in_dev};
use super::processor::add_processor;
use super::{NOTIFIERS, PROCESSORS, Start, listen};
use crate::parts::Parts;
use crate::settings::{Secret, Settings};

use home::Home;

/// Where state is kept when no folder is named.
const DATA: &str = "tidemill-data";
/// The user that the first start makes.
const ADMIN: &str = "admin";
/// The variable with that user's password.
const ADMIN_PASSWORD: &str = "TIDEMILL_ADMIN_PASSWORD";

/// Runs until told to stop.
pub async fn run(mut settings: Settings) -> Result<()> {
    let data = settings.data.get_or_insert_with(|| DATA.into()).clone();
    let home = Home::take(&data)?;
    if settings.gateway.jwt_secret.is_none() {
        settings.gateway.jwt_secret = Some(home.jwt_secret()?);
    }
    // Users of a laptop have plain names; their mail goes to files, whatever the domain.
    if settings.notifier.smtp.host.is_none() {
        settings.notifier.default_domain.get_or_insert_with(|| "localhost".to_owned());
    }
    // Bound first: with port 0 the address of the banner and the links is the one the system chose.
    let listener = listen(settings.gateway.listen).await?;
    let wire = listen_in_dev(&settings).await?;
    settings.postgres.listen = Some(wire.local_addr()?);
    settings.gateway.listen = listener.local_addr()?;
    settings.migrate = true;
    let start = Start::new(settings, vec![PROCESSORS, NOTIFIERS]).await?;
    let sink = start.sink().await?;
    let Start { parts, mut crew, registry, shared } = start;
    let pipelines = Arc::clone(&shared.pipelines);
    // One process at a time holds the folder, so an earlier one of its name is dead, and its jobs are taken up at once.
    let worker = home.worker_name()?;
    shared.jobs.end_leases_of(&worker).await?;
    let password = make_admin(&shared.jobs).await?;

    add_fetcher(&mut crew, &parts, &registry, shared.clone())?;
    // One sink for all: on SQLite an attempt learns from its own process that its fence was raised.
    let ledger = SinkLedger::new(Arc::clone(&sink), Arc::clone(&shared.objects));
    let settler = Settler::new(shared.jobs.clone(), Arc::new(ledger));
    add_processor(&mut crew, &parts, &registry, shared.clone(), sink, worker)?;
    add_notifier(&mut crew, &parts, &registry, shared.clone())?;
    let workers = parts.workers()?;
    workers.warm_up().await?;
    add_wire(&mut crew, &parts, wire, &shared, workers.clone())?;
    add_gateway(&mut crew, &parts, &registry, listener, workers, settler, shared)?;

    println!("{}", banner(&parts, pipelines.len(), password.as_ref()));
    crew.work().await
}

/// Makes the first user; gives the password when it was made here.
async fn make_admin(jobs: &JobStore) -> Result<Option<Secret>> {
    let users = Users::new(jobs);
    if users.get(ADMIN).await?.is_some() {
        return Ok(None);
    }
    let (password, made_here) = match std::env::var(ADMIN_PASSWORD) {
        Ok(password) => (Secret::new(password), false),
        Err(_) => (crate::commands::random_password(), true),
    };
    users.add(ADMIN, password.to_secrecy(), true).await?;
    Ok(made_here.then_some(password))
}

fn banner(parts: &Parts, pipelines: usize, password: Option<&Secret>) -> String {
    let url = parts.public_url();
    let wire = parts.settings().postgres.listen.unwrap_or(super::postgres::DEV);
    let data = parts.settings().data.as_deref().unwrap_or(DATA.as_ref()).display().to_string();
    let (first, password) = match password {
        Some(password) => {
            let line = format!("\n  user       {ADMIN}, password {} (told only now)", password.expose());
            (line, password.expose())
        }
        None => (String::new(), "PASSWORD"),
    };
    format!(
        "
Tidemill is up: {url}

  state      {data}
  pipelines  {pipelines} in {folder}
  jobs       {database}
  tables     {tables}
  mail       {mail}
  postgres   psql postgresql://{ADMIN}@{wire}/tidemill{first}

Log in and send a file:
  token=$(curl -sf -u {ADMIN}:{password} -X POST {url}/v1/login | sed 's/.*\"token\":\"\\([^\"]*\\)\".*/\\1/')
  curl -H \"Authorization: Bearer $token\" {url}/v1/pipelines
  curl -H \"Authorization: Bearer $token\" -F file=@departments.csv \\
      {url}/v1/pipelines/departments/uploads

Look at jobs and tables from another terminal:
  tidemill --data {data} jobs list
  tidemill --data {data} query 'SELECT * FROM departments LIMIT 10'

Ctrl-C stops it; what runs is finished or put back.
",
        folder = parts.settings().pipelines.display(),
        database = parts.database_place(),
        tables = parts.tables_place(),
        mail = parts.mail_place(),
    )
}
