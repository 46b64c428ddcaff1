//! Reads of a table: one SELECT, which SQLite answers from one snapshot, streamed row by row into batches.
//! A task holds the connection; it ends with the stream.

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use futures::stream::{BoxStream, poll_fn};
use futures::{StreamExt, TryStreamExt};
use sqlx::sqlite::SqlitePool;
use sqlx::{AssertSqlSafe, Row};
use tokio::sync::mpsc;

use super::catalog::{self, quoted};
use super::filter::{Bound, Sqlite};
use super::from_sqlx;
use super::values::push_value;
use crate::builder::{BATCH_ROWS, BATCHES_WAITING_MAX, Builders, chosen, missing, send_counts};
use crate::selection::condition;
use crate::{Result, Selection};

/// Starts to read a selection.
pub(crate) async fn select(
    pool: &SqlitePool,
    selection: &Selection,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let Selection { table, columns, filters, limit } = selection;
    let there = catalog::table(pool, table.as_str()).await?;
    let there = there.ok_or_else(|| missing(format!("there is no table `{table}`")))?;
    let schema = chosen(&there.schema(), table, columns)?;
    let (condition, values) = match condition(&Sqlite, filters) {
        Some((condition, values)) => (format!(" WHERE {condition}"), values),
        None => (String::new(), Vec::new()),
    };
    let limit = limit.map(|limit| format!(" LIMIT {limit}")).unwrap_or_default();
    let from = format!("FROM \"{}\"{condition}{limit}", there.name);
    let sql = match columns.as_slice() {
        [] => format!("SELECT count(*) FROM (SELECT 1 {from})"),
        columns => format!("SELECT {} {from}", quoted(columns.iter())),
    };
    let (sender, mut receiver) = mpsc::channel(BATCHES_WAITING_MAX);
    tokio::spawn(read(pool.clone(), sql, values, schema, sender));
    Ok(poll_fn(move |context| receiver.poll_recv(context)).boxed())
}

async fn read(
    pool: SqlitePool,
    sql: String,
    values: Vec<Bound>,
    schema: SchemaRef,
    sender: mpsc::Sender<Result<RecordBatch>>,
) {
    tokio::select! {
        // The reader went away; the rest of the rows is not worth their way.
        () = sender.closed() => {}
        ended = pump(&pool, sql, values, schema, &sender) => {
            if let Err(error) = ended {
                drop(sender.send(Err(error)).await);
            }
        }
    }
}

async fn pump(
    pool: &SqlitePool,
    sql: String,
    values: Vec<Bound>,
    schema: SchemaRef,
    sender: &mpsc::Sender<Result<RecordBatch>>,
) -> Result<()> {
    let failed = |error| from_sqlx("read the table", error);
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for value in values {
        query = match value {
            Bound::Int64(value) => query.bind(value),
            Bound::Float64(value) => query.bind(value),
            Bound::Text(value) => query.bind(value),
        };
    }
    let mut rows = query.fetch(pool);
    if schema.fields().is_empty() {
        let row = rows.try_next().await.map_err(failed)?;
        let count = row.map_or(Ok(0), |row| row.try_get::<i64, _>(0)).map_err(failed)?;
        return send_counts(&schema, u64::try_from(count).unwrap_or(0), sender).await;
    }
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
