//! Reads a table: one SELECT, which SQLite answers from one snapshot, streamed row by row into batches.
//! A task holds the connection; it ends with the stream.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use futures::stream::{BoxStream, poll_fn};
use futures::{StreamExt, TryStreamExt};
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqlitePool;
use tidemill_pipelines::{ColumnName, TableName};
use tokio::sync::mpsc;

use super::catalog::{self, quoted};
use super::from_sqlx;
use super::values::push_value;
use crate::Result;
use crate::builder::{BATCH_ROWS, BATCHES_WAITING_MAX, Builders, missing};

/// Starts a scan of these columns; no columns give batches that only count rows.
pub(crate) async fn scan(
    pool: &SqlitePool,
    table: &TableName,
    columns: &[ColumnName],
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let there = catalog::table(pool, table.as_str()).await?;
    let there = there.ok_or_else(|| missing(format!("there is no table `{table}`")))?;
    let all = there.schema();
    let fields = columns.iter().map(|name| {
        let found = all.field_with_name(name.as_str()).cloned();
        found.map_err(|_| missing(format!("table `{table}` has no column `{name}`")))
    });
    let schema = Arc::new(Schema::new(fields.collect::<Result<Vec<Field>>>()?));
    let names = if columns.is_empty() { "1".to_owned() } else { quoted(columns.iter()) };
    let sql = format!("SELECT {names} FROM \"{}\"", there.name);
    let (sender, mut receiver) = mpsc::channel(BATCHES_WAITING_MAX);
    tokio::spawn(read(pool.clone(), sql, schema, sender));
    Ok(poll_fn(move |context| receiver.poll_recv(context)).boxed())
}

async fn read(pool: SqlitePool, sql: String, schema: SchemaRef, sender: mpsc::Sender<Result<RecordBatch>>) {
    tokio::select! {
        // The reader went away; the rest of the rows is not worth their way.
        () = sender.closed() => {}
        ended = pump(&pool, sql, schema, &sender) => {
            if let Err(error) = ended {
                drop(sender.send(Err(error)).await);
            }
        }
    }
}

async fn pump(
    pool: &SqlitePool,
    sql: String,
    schema: SchemaRef,
    sender: &mpsc::Sender<Result<RecordBatch>>,
) -> Result<()> {
    let failed = |error| from_sqlx("read the table", error);
    let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(pool);
    let mut builders = Builders::new(schema);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        for index in 0..builders.columns() {
            push_value(&mut builders, &row, index)?;
        }
        builders.end_row();
        if builders.rows() == BATCH_ROWS && sender.send(builders.finish()).await.is_err() {
            return Ok(());
        }
    }
    if builders.rows() > 0 {
        drop(sender.send(builders.finish()).await);
    }
    Ok(())
}
