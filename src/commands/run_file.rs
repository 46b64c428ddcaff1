//! `tidemill run`: one file through one pipeline, without servers.
//!
//! Rows go to stdout or `--out`, refused records to `--rejects`, the summary to stderr (with `--json` to stdout).

mod files;
pub mod local;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::json;
use tidemill_pipelines::{Format, Pipeline, PipelineSet};
use tidemill_processor::{Engine, LocalFile, LocalRun, Lookups, Plan};
use tidemill_sinks::{TablePlan, TableState};
use tokio_util::io::ReaderStream;

use super::{pipeline, print_json, status};
use crate::cli::RunArgs;
use crate::folder;
use crate::parts::Parts;

/// Bytes of one read of the file.
const CHUNK_BYTES: usize = 256 << 10;

/// Runs the file; exit status 1 when a job with it would fail, for its records or for the table that is there.
pub async fn run(parts: &Parts, args: &RunArgs, json: bool) -> Result<ExitCode> {
    let (set, pipeline) = find(parts, &args.pipeline)?;
    let pipeline = with_parameters(pipeline, &args.parameter)?;
    if pipeline.format == Format::File {
        return files::run(parts, &pipeline, args, json).await;
    }
    let limits = parts.processor_limits();
    let lookups = lookups(parts, &set, args).await?;
    let engine = Engine::new(&limits)?;
    let plan = tidemill_processor::plan(&engine, &pipeline, &set, Some(&lookups)).await?;
    let mut out = rows_out(args, json)?.map(|out| local::csv_writer(out, &plan.output)).transpose()?;
    let (rejects, take) = local::reject_writer(args.rejects.as_deref())?;
    let mut write = |batch: RecordBatch| match &mut out {
        Some(out) => out.write(&batch).map_err(|error| std::io::Error::other(error).into()),
        None => Ok(()),
    };
    let name = args.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let input = LocalFile { name, bytes: input(&args.file).await? };
    let ran = tidemill_processor::run_local(&pipeline, &set, &lookups, &limits, input, &mut write, take)
        .await
        .with_context(|| format!("`{}` cannot be run through `{}`", args.file.display(), pipeline.name))?;
    rejects.finish()?;
    if let Some(out) = out {
        out.into_inner().flush().context("failed to write the rows")?;
    }
    let tables = if args.dry_run { inspected(parts, &plan).await? } else { Vec::new() };
    tell(&ran, &tables, json)?;
    let fits = |(_, state): &(TablePlan, Option<TableState>)| !matches!(state, Some(TableState::Differs(_)));
    Ok(status(ran.verdict.is_ok() && tables.iter().all(fits)))
}

/// The pipeline with the values that were given by hand.
fn with_parameters(pipeline: Pipeline, given: &[(String, String)]) -> Result<Pipeline> {
    let kind = |name: &str| pipeline.parameters.iter().find(|parameter| parameter.name.as_str() == name);
    let value = |(name, text): &(String, String)| {
        let value = kind(name).map(|parameter| parameter.kind.parse(text).map(|value| value.to_json()));
        // What is no parameter is told with all else that is wrong.
        let value = value.unwrap_or(Ok(text.as_str().into()));
        value
            .map(|value| (name.clone(), value))
            .map_err(|error| anyhow::anyhow!("parameter `{name}` {error}"))
    };
    let values = given.iter().map(value).collect::<Result<_>>()?;
    pipeline.clone().with_parameters(&values).map_err(anyhow::Error::msg)
}

/// A pipeline of the folder by its name, or a file with the other pipelines of its folder.
fn find(parts: &Parts, name: &str) -> Result<(Arc<PipelineSet>, Pipeline)> {
    let path = Path::new(name);
    let is_file = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
    let (set, name) = match (is_file, path.file_stem()) {
        (true, Some(stem)) => {
            let parent =
                path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            (Arc::new(folder::read(parent)?), stem.to_string_lossy().into_owned())
        }
        _ => (parts.pipelines()?, name.to_owned()),
    };
    let found = pipeline(&set, &name)?.clone();
    Ok((set, found))
}

/// Tables given by hand; without any, those of the settings when there are.
async fn lookups(parts: &Parts, set: &PipelineSet, args: &RunArgs) -> Result<Lookups> {
    if args.table.is_empty() && parts.has_tables() {
        return Ok(Lookups::Sink(parts.sink().await?));
    }
    let mut files = Vec::new();
    for (table, file) in &args.table {
        let bytes = tokio::fs::read(file).await.with_context(|| format!("failed to read `{file}`"))?;
        files.push((table.parse()?, Bytes::from(bytes)));
    }
    local::tables(set, &parts.processor_limits(), files).await
}

/// Where rows are written; nowhere in a dry run, and with `--json` only to a file.
fn rows_out(args: &RunArgs, json: bool) -> Result<Option<BufWriter<Box<dyn Write + Send>>>> {
    let out: Box<dyn Write + Send> = match &args.out {
        Some(path) => {
            Box::new(File::create(path).with_context(|| format!("failed to write `{}`", path.display()))?)
        }
        None if args.dry_run || json => return Ok(None),
        None => Box::new(std::io::stdout()),
    };
    Ok(Some(BufWriter::new(out)))
}

async fn input(file: &Path) -> Result<BoxStream<'static, std::io::Result<Bytes>>> {
    if file == Path::new("-") {
        return Ok(ReaderStream::with_capacity(tokio::io::stdin(), CHUNK_BYTES).boxed());
    }
    let opened = tokio::fs::File::open(file).await;
    let opened = opened.with_context(|| format!("failed to open `{}`", file.display()))?;
    Ok(ReaderStream::with_capacity(opened, CHUNK_BYTES).boxed())
}

/// What the tables need: compared with the database of the settings when there is one.
async fn inspected(parts: &Parts, plan: &Plan) -> Result<Vec<(TablePlan, Option<TableState>)>> {
    let sink = if parts.has_tables() { Some(parts.sink().await?) } else { None };
    let mut tables = Vec::new();
    for table in &plan.tables {
        let state = match &sink {
            Some(sink) => Some(sink.inspect(table).await?),
            None => None,
        };
        tables.push((table.clone(), state));
    }
    Ok(tables)
}

fn tell(ran: &LocalRun, tables: &[(TablePlan, Option<TableState>)], json: bool) -> Result<()> {
    let error = ran.verdict.as_ref().err().map(|error| error.to_job_error());
    if json {
        let tables: Vec<_> = tables
            .iter()
            .map(|(plan, state)| json!({ "table": plan.table, "plan": table_lines(plan, state.as_ref()) }))
            .collect();
        let (counts, rows_out) = (ran.counts, ran.rows_out);
        print_json(&json!({ "counts": counts, "rows_out": rows_out, "error": error, "tables": tables }))?;
        return Ok(());
    }
    let counts = &ran.counts;
    eprintln!(
        "{} records in = {} written + {} rejected + {} filtered; {} rows out",
        counts.records_in,
        counts.records_written,
        counts.records_rejected,
        counts.records_filtered,
        ran.rows_out
    );
    for (plan, state) in tables {
        eprintln!("\ntable `{}`:", plan.table);
        table_lines(plan, state.as_ref()).iter().for_each(|line| eprintln!("  {line}"));
    }
    if let Some(error) = error {
        eprintln!("a job with this file fails with {}: {}", error.code, error.message);
    }
    Ok(())
}

fn table_lines(plan: &TablePlan, state: Option<&TableState>) -> Vec<String> {
    match state {
        Some(TableState::Missing { ddl }) => {
            let lines = ddl.lines().map(str::to_owned);
            std::iter::once("is missing and would be made:".to_owned()).chain(lines).collect()
        }
        Some(TableState::Fits) => vec!["is there and fits".to_owned()],
        Some(TableState::Differs(differences)) => {
            let lines = differences.iter().map(|difference| format!("- {difference}"));
            std::iter::once("is there and does not fit:".to_owned()).chain(lines).collect()
        }
        None => columns(plan),
    }
}

fn columns(plan: &TablePlan) -> Vec<String> {
    let keys = plan.key.iter().map(|key| key.as_str()).collect::<Vec<_>>().join(", ");
    let columns = plan.columns.iter().map(|column| {
        let length = column.max_length.map(|length| format!("({length})")).unwrap_or_default();
        let null = if column.nullable { "" } else { " not null" };
        format!("{} {}{length}{null}", column.name, column.kind)
    });
    let key = (!keys.is_empty()).then(|| format!("key ({keys})"));
    columns.chain(key).collect()
}
