//! Plans, batches and deliveries of the tests.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use tidemill_pipelines::{ColumnName, Mode, Retry, TableName};
use tidemill_sinks::{
    Commit, CommitKey, Delivery, Error, LedgerRow, Place, RefusedRow, Result, Sink, TableColumn, TablePlan,
};

pub fn column(name: &str, kind: DataType) -> TableColumn {
    TableColumn { name: name.parse().unwrap(), kind, nullable: true, max_length: None }
}

pub fn text(name: &str, max_length: u32) -> TableColumn {
    TableColumn { max_length: Some(max_length), ..column(name, DataType::Utf8) }
}

pub fn plan(mode: Mode, columns: Vec<TableColumn>, key: &[&str]) -> TablePlan {
    let key = key.iter().map(|name| name.parse().unwrap()).collect();
    TablePlan { table: "people".parse().unwrap(), columns, key, mode, place: Place::Database }
}

/// The table `people (id, name)`, keyed by `id`.
pub fn people(mode: Mode) -> TablePlan {
    plan(mode, vec![column("id", DataType::Int64), text("name", 50)], &["id"])
}

pub fn schema(plan: &TablePlan) -> SchemaRef {
    let field = |c: &TableColumn| {
        let nullable = c.nullable && !plan.key.contains(&c.name);
        Field::new(c.name.as_str(), c.kind.clone(), nullable)
    };
    Arc::new(Schema::new(plan.columns.iter().map(field).collect::<Vec<_>>()))
}

/// A batch of the plan's columns; nullability as in the plan, so that a test can break it.
pub fn batch(plan: &TablePlan, arrays: Vec<ArrayRef>) -> RecordBatch {
    let fields = plan.columns.iter().map(|c| Field::new(c.name.as_str(), c.kind.clone(), true));
    RecordBatch::try_new(Arc::new(Schema::new(fields.collect::<Vec<_>>())), arrays).unwrap()
}

/// Rows of `people`.
pub fn folk(rows: &[(i64, &str)]) -> RecordBatch {
    let ids: Int64Array = rows.iter().map(|(id, _)| Some(*id)).collect();
    let names: StringArray = rows.iter().map(|(_, name)| Some(*name)).collect();
    batch(&people(Mode::Append), vec![Arc::new(ids), Arc::new(names)])
}

pub fn key(job: &str, attempt: u32) -> CommitKey {
    CommitKey { job_id: job.to_owned(), chunk: 0, attempt }
}

/// A delivery into one table, by a caller that tolerates no refused row.
pub struct Open {
    pub delivery: Box<dyn Delivery>,
    table: String,
    rows: u64,
}

impl Open {
    pub async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let before = self.rows;
        self.rows += batch.num_rows() as u64;
        match self.delivery.write(0, batch).await?.into_iter().next() {
            None => Ok(()),
            Some(RefusedRow { row, message }) => {
                Err(Error::Row { table: self.table.clone(), row: before + row as u64 + 1, message })
            }
        }
    }

    pub async fn commit(self) -> Result<LedgerRow> {
        let commit = Commit { summary: Some("{}"), lake: &[] };
        Ok(self.delivery.commit(commit).await?.remove(0))
    }

    pub async fn rollback(self) -> Result<()> {
        self.delivery.rollback().await
    }
}

/// The commit of an earlier attempt, else a delivery.
async fn open(
    sink: &dyn Sink,
    plan: &TablePlan,
    key: &CommitKey,
) -> Result<std::result::Result<Open, LedgerRow>> {
    let rows = sink.raise(&key.job_id, key.attempt).await?;
    if let Some(row) = rows.into_iter().find(|row| row.key.chunk == key.chunk) {
        return Ok(Err(row));
    }
    let delivery = sink.open(std::slice::from_ref(plan), key).await?;
    Ok(Ok(Open { delivery, table: plan.table.to_string(), rows: 0 }))
}

pub async fn begin(sink: &dyn Sink, plan: &TablePlan, key: &CommitKey) -> Result<Open> {
    match open(sink, plan, key).await? {
        Ok(delivery) => Ok(delivery),
        Err(row) => panic!("{row:?} was committed before"),
    }
}

/// One attempt, whole.
pub async fn attempt(
    sink: &dyn Sink,
    plan: &TablePlan,
    key: &CommitKey,
    batches: &[RecordBatch],
) -> Result<LedgerRow> {
    let mut delivery = match open(sink, plan, key).await? {
        Ok(delivery) => delivery,
        Err(row) => return Ok(row),
    };
    for batch in batches {
        delivery.write(batch.clone()).await?;
    }
    delivery.commit().await
}

/// Attempts until one succeeds or fails for good, as a processor does.
pub async fn deliver(
    sink: &dyn Sink,
    plan: &TablePlan,
    job: &str,
    batches: &[RecordBatch],
) -> Result<LedgerRow> {
    for number in 1..20 {
        match attempt(sink, plan, &key(job, number), batches).await {
            Err(error) if error.retry() == Retry::Now => continue,
            ended => return ended,
        }
    }
    panic!("no attempt came to an end");
}

/// All rows of these columns.
pub async fn read(sink: &dyn Sink, table: &TableName, columns: &[ColumnName]) -> RecordBatch {
    let batches: Vec<RecordBatch> = sink.scan(table, columns).await.unwrap().try_collect().await.unwrap();
    match batches.first() {
        Some(first) => concat_batches(&first.schema(), &batches).unwrap(),
        None => RecordBatch::new_empty(Arc::new(Schema::empty())),
    }
}

/// The rows of `people` in the order of `id`.
pub async fn everybody(sink: &dyn Sink) -> Vec<(i64, String)> {
    let plan = people(Mode::Append);
    let names: Vec<ColumnName> = plan.columns.iter().map(|c| c.name.clone()).collect();
    let rows = read(sink, &plan.table, &names).await;
    if rows.num_rows() == 0 {
        return Vec::new();
    }
    let (ids, names) = (rows.column(0).as_primitive::<Int64Type>(), rows.column(1).as_string::<i32>());
    let mut all: Vec<_> =
        (0..rows.num_rows()).map(|row| (ids.value(row), names.value(row).to_owned())).collect();
    all.sort();
    all
}

pub fn owned(rows: &[(i64, &str)]) -> Vec<(i64, String)> {
    rows.iter().map(|(id, name)| (*id, (*name).to_owned())).collect()
}

pub fn error<T>(result: Result<T>) -> Error {
    match result {
        Ok(_) => panic!("it succeeded"),
        Err(error) => error,
    }
}
