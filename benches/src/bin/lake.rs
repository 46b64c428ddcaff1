//! Measures aggregates over all flights in the lake: the engine of the query workers on the Delta table, and
//! DuckDB (by `lake_peers.py`) on the same Parquet files, in the same run, with the same answers.
//!
//! `make bench`, or `target/release/lake [ROUNDS]`

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::StreamExt;
use object_store::local::LocalFileSystem;
use tidemill_benches::ROOT;
use tidemill_benches::figures::Figures;
use tidemill_benches::file::{FLIGHTS, FLIGHTS_ROWS, unzip};
use tidemill_pipelines::PipelineSet;
use tidemill_processor::{Engine, LocalFile, Lookups, ProcessorLimits, plan, run_local};
use tidemill_sinks::{Commit, CommitKey, Lake, Sink, Sinks, SqliteSink};

const ROUNDS: usize = 7;
/// The most that a median may be, as a multiple of the peer's.
const RATIO_MAX: f64 = 2.0;

/// Whole numbers only, so that the answers are the same to the last digit.
const QUERIES: [&str; 3] = [
    "SELECT carrier, count(*), count(arr_delay), sum(arr_delay), sum(distance) FROM flights \
     GROUP BY carrier ORDER BY carrier",
    "SELECT time_hour_day, count(*), sum(air_time), max(dep_delay) FROM flights \
     GROUP BY time_hour_day ORDER BY time_hour_day",
    "SELECT count(*), count(dep_time), sum(distance), min(air_time), max(air_time) FROM flights \
     WHERE origin = 'JFK' AND distance > 1000",
];

#[tokio::main]
async fn main() -> Result<()> {
    let rounds = std::env::args().nth(1).map_or(Ok(ROUNDS), |rounds| rounds.parse())?;
    let folder = tempfile::tempdir()?;
    let lake = Lake::new(Arc::new(LocalFileSystem::new_with_prefix(folder.path())?));
    let began = Instant::now();
    let rows = fill(&lake).await?;
    ensure!(rows == FLIGHTS_ROWS, "{rows} rows are not all flights");
    println!("{rows} flights into the lake: {:.1} s", began.elapsed().as_secs_f64());
    let peer = peers(folder.path(), rounds)?;
    for (index, sql) in QUERIES.iter().enumerate() {
        let (mut ours, answer) = (Figures::default(), ask(&lake, sql).await?);
        for _ in 0..rounds {
            let began = Instant::now();
            ask(&lake, sql).await?;
            ours.add(began.elapsed().as_secs_f64() * 1e3);
        }
        let theirs = &peer[index];
        ensure!(theirs["answer"] == serde_json::json!(answer), "other answers to {sql}");
        let theirs = theirs["median_ms"].as_f64().context("lake_peers.py told no time")?;
        let median = ours.median();
        println!(
            "query {}: tidemill {median:.1} ms, duckdb {theirs:.1} ms: {:.2} times (wanted: {RATIO_MAX})",
            index + 1,
            median / theirs
        );
    }
    Ok(())
}

/// Writes the flights as a job of the shipped pipeline would.
async fn fill(lake: &Lake) -> Result<u64> {
    let text = std::fs::read_to_string(Path::new(ROOT).join("pipelines/flights_lake.yaml"))?;
    let set = PipelineSet::from_files(vec![("flights_lake.yaml".to_owned(), text)]);
    let set = set.map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    let pipeline = set.iter().next().context("no pipeline")?;
    let (limits, lookups) = (ProcessorLimits::default(), Lookups::Memory(Default::default()));
    let planned = plan(&Engine::new(&limits)?, pipeline, &set, Some(&lookups)).await?;
    let table = planned.tables.first().context("the pipeline writes no table")?;
    let file = Bytes::from(unzip(FLIGHTS)?);
    let bytes = futures::stream::once(async { Ok(file) }).boxed();
    let input = LocalFile { name: "flights.csv".to_owned(), bytes };
    let mut batches = Vec::new();
    let mut keep = |batch| {
        batches.push(batch);
        Ok(())
    };
    run_local(pipeline, &set, &lookups, &limits, input, &mut keep, Box::new(|_| Ok(()))).await?.verdict?;
    let folder = tempfile::tempdir()?;
    let database = SqliteSink::open(folder.path().join("tables.db")).await?;
    let sinks = Sinks::new(Arc::new(database), Some(lake.clone()));
    sinks.ensure(table).await?;
    let key = CommitKey { job_id: "bench".to_owned(), chunk: 0, attempt: 1 };
    sinks.raise(&key.job_id, key.attempt).await?;
    let mut delivery = sinks.open(std::slice::from_ref(table), &key).await?;
    for batch in batches {
        ensure!(delivery.write(0, batch).await?.is_empty(), "a row was refused");
    }
    let rows = delivery.commit(Commit { summary: Some("{}"), lake: &[] }).await?;
    Ok(rows.iter().map(|row| row.rows).sum())
}

/// One question with everything that a worker does for it: the table's log is read anew.
async fn ask(lake: &Lake, sql: &str) -> Result<Vec<Vec<String>>> {
    let session = SessionContext::new_with_config(SessionConfig::new());
    let table = lake.table(&"flights".parse()?).await?.context("no table in the lake")?;
    session.register_table("flights", table.table_provider().await?)?;
    texts(&session.sql(sql).await?.collect().await?)
}

fn texts(batches: &[RecordBatch]) -> Result<Vec<Vec<String>>> {
    let options = FormatOptions::default();
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options))
            .collect::<Result<_, _>>()?;
        rows.extend(
            (0..batch.num_rows())
                .map(|row| columns.iter().map(|column| column.value(row).to_string()).collect()),
        );
    }
    Ok(rows)
}

/// DuckDB's answers and times, one for each query.
fn peers(folder: &Path, rounds: usize) -> Result<Vec<serde_json::Value>> {
    let script = Path::new(ROOT).join("benches/lake_peers.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(folder.join("lake/flights")).arg(rounds.to_string()).args(QUERIES);
    let told = command.output().context("failed to start python3")?;
    ensure!(told.status.success(), "lake_peers.py: {}", String::from_utf8_lossy(&told.stderr));
    Ok(serde_json::from_slice(&told.stdout)?)
}
