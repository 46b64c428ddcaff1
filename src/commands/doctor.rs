//! `tidemill doctor`: reaches every part of the settings and says how long it took, or what to do.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::Serialize;
use serde_json::json;
use tidemill_processor::find_program;

use super::{print_json, print_text, status};
use crate::parts::Parts;

/// Longest look at one part.
const LOOK_MAX: Duration = Duration::from_secs(15);
/// Key of the object that is written, read and deleted.
const PROBE: &str = "tidemill-doctor/probe";

/// What was found at one part.
#[derive(Serialize)]
struct Finding {
    part: &'static str,
    place: String,
    milliseconds: u128,
    error: Option<String>,
    help: &'static str,
}

/// Looks at all parts at once; exit status 1 when one does not answer.
pub async fn run(parts: &Parts, json: bool) -> Result<ExitCode> {
    let findings = futures::future::join_all([
        look(
            "pipelines",
            parts.settings().pipelines.display().to_string(),
            PIPELINES,
            Box::pin(folder(parts)),
        ),
        look("programs", "PATH of this machine".to_owned(), PROGRAMS, Box::pin(programs(parts))),
        look("job database", parts.database_place(), DATABASE, Box::pin(database(parts))),
        look("events", parts.database_place(), EVENTS, Box::pin(events(parts))),
        look("tables", parts.tables_place(), TABLES, Box::pin(tables(parts))),
        look("objects", parts.objects_place(), OBJECTS, Box::pin(objects(parts))),
        look("broker", parts.broker_place(), BROKER, Box::pin(broker(parts))),
        look("mail", parts.mail_place(), MAIL, Box::pin(mail(parts))),
    ])
    .await;
    let well = findings.iter().all(|finding| finding.error.is_none());
    if json {
        print_json(&json!({ "well": well, "parts": findings }))?;
    } else {
        findings.iter().for_each(tell);
    }
    Ok(status(well))
}

const PIPELINES: &str = "run `tidemill check`, it tells every problem with its line";
const PROGRAMS: &str = "an image gets Debian packages by `docker build --build-arg PROGRAMS=\"…\"`";
const DATABASE: &str = "is the server up, and are host, user, password and database of database.url right?";
const EVENTS: &str = "see `tidemill jobs dead-letters`: publish each again, or drop it";
const TABLES: &str = "is the server up, and are host, user, password and database of tables.url right?";
const OBJECTS: &str = "does the bucket of objects.url exist, and may the keys put, get and delete in it?";
const BROKER: &str = "is Kafka up at broker.servers, and does broker.client say how to log in?";
const MAIL: &str = "is the server of notifier.smtp up, and are port, tls, user and password right?";

async fn look(
    part: &'static str,
    place: String,
    help: &'static str,
    ask: BoxFuture<'_, Result<()>>,
) -> Finding {
    let began = Instant::now();
    let answer = tokio::time::timeout(LOOK_MAX, ask).await;
    let answer = answer.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {} s", LOOK_MAX.as_secs())));
    let error = answer.err().map(|error| format!("{error:#}"));
    Finding { part, place, milliseconds: began.elapsed().as_millis(), error, help }
}

fn tell(finding: &Finding) {
    let Finding { part, place, milliseconds, error, help } = finding;
    match error {
        None => print_text(&format!("✓ {part:<13} {place}  {milliseconds} ms")),
        Some(error) => print_text(&format!("✗ {part:<13} {place}  {error}\n  {help}")),
    }
}

async fn folder(parts: &Parts) -> Result<()> {
    parts.pipelines().map(drop)
}

/// What steps of pipelines start. A folder that cannot be read is told by its own part.
async fn programs(parts: &Parts) -> Result<()> {
    let Ok(pipelines) = parts.pipelines() else { return Ok(()) };
    let missing: Vec<_> = pipelines
        .iter()
        .flat_map(|pipeline| pipeline.programs.iter().map(move |program| (&pipeline.name, program)))
        .filter_map(|(name, program)| Some(format!("{name}: {}", find_program(program).err()?)))
        .collect();
    ensure!(missing.is_empty(), missing.join("; "));
    Ok(())
}

async fn database(parts: &Parts) -> Result<()> {
    Ok(parts.jobs().await?.ping().await?)
}

/// Dead letters. A job database that does not answer, or has no tables yet, is told by its own part.
async fn events(parts: &Parts) -> Result<()> {
    let Ok(jobs) = parts.jobs().await else { return Ok(()) };
    let dead = jobs.dead_letters(1_000).await.unwrap_or_default().len();
    ensure!(dead == 0, "{dead} events were refused by the broker for good: nobody hears of them");
    Ok(())
}

async fn tables(parts: &Parts) -> Result<()> {
    Ok(parts.sink().await?.ping().await?)
}

async fn broker(parts: &Parts) -> Result<()> {
    Ok(parts.log().await?.ping().await?)
}

async fn mail(parts: &Parts) -> Result<()> {
    Ok(parts.notifiers()?.mail.ping().await?)
}

async fn objects(parts: &Parts) -> Result<()> {
    let store: Arc<dyn ObjectStore> = parts.objects()?;
    let (key, bytes) = (Path::from(PROBE), b"probe".as_slice());
    store.put(&key, bytes.into()).await.context("failed to put an object")?;
    let read = store.get(&key).await.context("failed to get an object")?.bytes().await?;
    ensure!(read == bytes, "an object came back with other bytes");
    store.delete(&key).await.context("failed to delete an object")
}
