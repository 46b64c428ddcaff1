//! Reads of a table: one SELECT, which InnoDB answers from one snapshot, streamed row by row into batches.
//! A task holds the connection; it ends with the stream, and closes the connection if rows are left.

use std::time::Duration;

use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use futures::stream::{BoxStream, poll_fn};
use mysql_async::prelude::Queryable;
use mysql_async::{Row, Value};
use tokio::sync::mpsc;

use super::catalog;
use super::ddl::quoted;
use super::errors::{from_client, later};
use super::filter::MySql;
use super::session::{Session, Shared, number, positional};
use crate::builder::{BATCH_ROWS, BATCHES_WAITING_MAX, Builders, chosen, missing, send_counts};
use crate::cells::{day_of, micros_of, parse_decimal};
use crate::selection::condition;
use crate::{Error, Result, Selection};

const ACTION: &str = "read the table";

/// Starts to read a selection.
pub(crate) async fn select(
    database: &Shared,
    selection: &Selection,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let Selection { table, columns, filters, limit } = selection;
    let mut session = database.session().await?;
    let there = catalog::table(&mut session, table.as_str()).await?;
    let there = there.ok_or_else(|| missing(format!("there is no table `{table}`")))?;
    let schema = chosen(&there.schema(), table, columns)?;
    let (condition, values) = match condition(&MySql(&there), filters) {
        Some((condition, values)) => (format!(" WHERE {condition}"), values),
        None => (String::new(), Vec::new()),
    };
    let limit = limit.map(|limit| format!(" LIMIT {limit}")).unwrap_or_default();
    let from = format!("FROM `{}`{condition}{limit}", there.name);
    let sql = match columns.as_slice() {
        [] => format!("SELECT COUNT(*) FROM (SELECT 1 {from}) AS chosen"),
        columns => format!("SELECT {} {from}", quoted(columns.iter().map(|c| c.as_str()))),
    };
    let (sender, mut receiver) = mpsc::channel(BATCHES_WAITING_MAX);
    tokio::spawn(read(session, sql, values, schema, sender));
    Ok(poll_fn(move |context| receiver.poll_recv(context)).boxed())
}

async fn read(
    mut session: Session,
    sql: String,
    values: Vec<Value>,
    schema: SchemaRef,
    sender: mpsc::Sender<Result<RecordBatch>>,
) {
    let ended = tokio::select! {
        // The reader went away; the rest of the rows is not worth their way.
        () = sender.closed() => false,
        ended = pump(&mut session, &sql, values, schema, &sender) => match ended {
            Ok(()) => true,
            Err(error) => {
                drop(sender.send(Err(error)).await);
                false
            }
        },
    };
    if !ended {
        session.disconnect().await;
    }
}

async fn pump(
    session: &mut Session,
    sql: &str,
    values: Vec<Value>,
    schema: SchemaRef,
    sender: &mpsc::Sender<Result<RecordBatch>>,
) -> Result<()> {
    let limit = session.statement_timeout();
    // The binary protocol: doubles and times come as numbers, exactly.
    let mut result = bounded(limit, session.conn().exec_iter(sql, positional(values))).await?;
    if schema.fields().is_empty() {
        let row = bounded(limit, result.next()).await?.map(Row::unwrap);
        let count = row.as_ref().and_then(|row| row.first()).and_then(number).unwrap_or(0);
        drop(result);
        return send_counts(&schema, count, sender).await;
    }
    let mut builders = Builders::new(schema);
    while let Some(row) = bounded(limit, result.next()).await? {
        push_row(&mut builders, row)?;
        if builders.rows() == BATCH_ROWS && sender.send(builders.finish()).await.is_err() {
            return Ok(());
        }
    }
    if builders.rows() > 0 {
        drop(sender.send(builders.finish()).await);
    }
    Ok(())
}

/// Waits for the server no longer than a statement may take.
async fn bounded<T>(limit: Duration, answer: impl Future<Output = mysql_async::Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map_err(|error| from_client(ACTION, error)),
        Err(_) => Err(later(ACTION, format!("no answer within {} s", limit.as_secs()))),
    }
}

fn push_row(builders: &mut Builders, row: Row) -> Result<()> {
    for (index, value) in row.unwrap().into_iter().enumerate() {
        push(builders, index, value)?;
    }
    builders.end_row();
    Ok(())
}

fn push(builders: &mut Builders, index: usize, value: Value) -> Result<()> {
    let kind = builders.kind(index).clone();
    let taken = match (&kind, &value) {
        (_, Value::NULL) => builders.null(index),
        (DataType::Int64, Value::Int(v)) => builders.int64(index, *v),
        (DataType::Int64, Value::UInt(v)) => i64::try_from(*v).is_ok_and(|v| builders.int64(index, v)),
        (DataType::Float64, Value::Double(v)) => builders.float64(index, *v),
        (DataType::Float64, Value::Float(v)) => builders.float64(index, f64::from(*v)),
        (DataType::Boolean, Value::Int(v)) => builders.boolean(index, *v != 0),
        (DataType::Decimal128(..), Value::UInt(v)) => builders.decimal(index, i128::from(*v)),
        (DataType::Decimal128(..), Value::Int(v)) => builders.decimal(index, i128::from(*v)),
        (DataType::Decimal128(_, scale), Value::Bytes(text)) => std::str::from_utf8(text)
            .ok()
            .and_then(|text| parse_decimal(text, u32::from(scale.unsigned_abs())))
            .is_some_and(|v| builders.decimal(index, v)),
        (DataType::Utf8, Value::Bytes(text)) => {
            std::str::from_utf8(text).is_ok_and(|text| builders.utf8(index, text))
        }
        (DataType::Date32, Value::Date(year, month, day, ..)) => {
            day_of(i32::from(*year), u32::from(*month), u32::from(*day))
                .is_some_and(|day| builders.date(index, day))
        }
        (DataType::Timestamp(..), value) => {
            micros(value).is_some_and(|micros| builders.timestamp(index, micros))
        }
        _ => false,
    };
    if taken {
        return Ok(());
    }
    Err(Error::Refused {
        action: ACTION,
        message: format!(
            "column `{}` holds {}, which is no {kind}",
            builders.name(index),
            value.as_sql(false)
        ),
    })
}

fn micros(value: &Value) -> Option<i64> {
    let Value::Date(year, month, day, hour, minute, second, micro) = value else {
        return None;
    };
    let day = day_of(i32::from(*year), u32::from(*month), u32::from(*day))?;
    micros_of(day, u32::from(*hour), u32::from(*minute), u32::from(*second), *micro)
}
