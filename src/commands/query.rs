//! `tidemill query`: one statement over the tables of the sinks, answered by a worker process as the gateway does it.

use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use arrow::json::writer::{JsonArray, WriterBuilder};
use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use futures::{Stream, TryStreamExt};
use tidemill_query::{Answer, Flavour, Format, Parameter, Statement, Visible};

use super::print_text;
use crate::cli::{QueryArgs, RowFormat};
use crate::parts::Parts;

/// Rows of a table for people; they are held in memory to find the widths.
const TABLE_ROWS_MAX: usize = 100_000;

/// Answers the statement on stdout.
pub async fn run(parts: &Parts, args: &QueryArgs, json: bool) -> Result<ExitCode> {
    let format = match args.format {
        Some(format) => format,
        None if args.csv => RowFormat::Csv,
        None if json => RowFormat::Json,
        None => RowFormat::Table,
    };
    let statement = Statement {
        user: "operator".to_owned(),
        sql: args.sql.clone(),
        parameters: args.param.iter().map(|text| Parameter::Text(text.clone())).collect(),
        visible: Visible::All,
        flavour: Flavour::Plain,
        format: if format == RowFormat::Csv { Format::Csv } else { Format::Arrow },
        limit: None,
        timeout: None,
    };
    let answer = parts.workers()?.run(&statement).await?;
    match format {
        RowFormat::Csv | RowFormat::Arrow => print_bytes(answer).await?,
        RowFormat::Json => print_objects(answer.into_batches()).await?,
        RowFormat::Table => print_table(answer).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn print_bytes(mut answer: Answer) -> Result<()> {
    while let Some(bytes) = answer.chunk().await? {
        // A reader that has gone away (`| head`) is no failure.
        if stdout().write_all(&bytes).is_err() {
            break;
        }
    }
    Ok(())
}

async fn print_objects(batches: impl Stream<Item = tidemill_query::Result<RecordBatch>>) -> Result<()> {
    let builder = WriterBuilder::new().with_explicit_nulls(true);
    let mut writer = builder.build::<_, JsonArray>(stdout());
    let mut batches = std::pin::pin!(batches);
    while let Some(batch) = batches.try_next().await? {
        writer.write(&batch)?;
    }
    writer.finish()?;
    print_text("");
    Ok(())
}

async fn print_table(answer: Answer) -> Result<()> {
    let mut shown = vec![RecordBatch::new_empty(answer.schema().clone())];
    let mut rows = 0;
    let mut batches = std::pin::pin!(answer.into_batches());
    while let Some(batch) = batches.try_next().await? {
        rows += batch.num_rows();
        ensure!(
            rows <= TABLE_ROWS_MAX,
            "there are more than {TABLE_ROWS_MAX} rows: write them with --format csv"
        );
        shown.push(batch);
    }
    print_text(&pretty_format_batches(&shown)?.to_string());
    Ok(())
}
