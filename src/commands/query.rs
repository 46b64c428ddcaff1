//! `tidemill query`: one SELECT over the tables of the sinks, on DataFusion.
//!
//! The tables that the statement names are read whole into memory, within a bound, at a snapshot of each.
//! Only reading is allowed: no DDL, no DML, no COPY or SET, no files.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use futures::TryStreamExt;
use tidemill_pipelines::{ColumnName, TableName};
use tidemill_sinks::Sink;

use super::print_text;
use super::run_file::local::csv_writer;
use crate::parts::Parts;

/// Rows of all tables of one statement; they are held in memory.
const ROWS_MAX: usize = 5_000_000;

/// Answers the statement on stdout.
pub async fn run(parts: &Parts, sql: &str, csv: bool, json: bool) -> Result<ExitCode> {
    let sink = parts.sink().await?;
    let memory = parts.processor_limits().memory_bytes;
    let pool = Arc::new(FairSpillPool::new(memory));
    let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc()?;
    let session = SessionContext::new_with_config_rt(SessionConfig::new(), runtime);
    register(&session, sink.as_ref(), sql).await?;
    let allowed = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let answer = session.sql_with_options(sql, allowed).await?;
    let schema = Arc::new(answer.schema().as_arrow().clone());
    let batches = answer.collect().await?;
    if csv {
        let mut writer = csv_writer(std::io::stdout().lock(), &schema)?;
        batches.iter().try_for_each(|batch| writer.write(batch))?;
    } else if json {
        print_text(&as_json(&batches)?);
    } else {
        let shown = if batches.is_empty() { vec![RecordBatch::new_empty(schema)] } else { batches };
        print_text(&pretty_format_batches(&shown)?.to_string());
    }
    Ok(ExitCode::SUCCESS)
}

/// Registers the tables that the statement names.
async fn register(session: &SessionContext, sink: &dyn Sink, sql: &str) -> Result<()> {
    let state = session.state();
    let dialect = state.config_options().sql_parser.dialect;
    let statement = state.sql_to_statement(sql, &dialect)?;
    let mut rows = 0;
    for reference in state.resolve_table_references(&statement)? {
        let name: TableName = reference.table().parse()?;
        let Some(schema) = sink.schema(&name).await? else {
            return unknown(sink, &name).await;
        };
        let columns: Vec<ColumnName> =
            schema.fields().iter().map(|f| f.name().parse()).collect::<Result<_, _>>()?;
        let mut batches = Vec::new();
        let mut scan = sink.scan(&name, &columns).await?;
        while let Some(batch) = scan.try_next().await? {
            rows += batch.num_rows();
            if rows > ROWS_MAX {
                bail!("the tables have more than {ROWS_MAX} rows, the most that a query holds in memory");
            }
            batches.push(batch);
        }
        let table = MemTable::try_new(schema, vec![batches])?;
        session.register_table(reference, Arc::new(table))?;
    }
    Ok(())
}

async fn unknown(sink: &dyn Sink, name: &TableName) -> Result<()> {
    let known = sink.tables().await?;
    let near = known
        .iter()
        .map(|(known, _)| (strsim::normalized_damerau_levenshtein(known.as_str(), name.as_str()), known))
        .filter(|(score, _)| *score > 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, near)) => bail!("there is no table `{name}`; did you mean `{near}`?"),
        None => bail!("there is no table `{name}`"),
    }
}

fn as_json(batches: &[RecordBatch]) -> Result<String> {
    let mut writer = arrow::json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow::json::writer::JsonArray>(Vec::new());
    writer.write_batches(&batches.iter().collect::<Vec<_>>())?;
    writer.finish()?;
    let text = String::from_utf8(writer.into_inner()).context("the answer is not UTF-8")?;
    Ok(if text.is_empty() { "[]".to_owned() } else { text })
}
