//! A delivery into SQLite: one write transaction, INSERTs of many rows with bound values.

use std::ops::Range;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqlitePool};
use sqlx::{AssertSqlSafe, Transaction};
use tidemill_pipelines::{Mode, Retry};

use super::catalog::quoted;
use super::fences::Fence;
use super::values::push_argument;
use super::{BEGIN_WRITE, SqliteSink, from_sqlx, ledger, primary_code};
use crate::cells::{Cells, cells, check};
use crate::{CommitKey, Delivery, Error, LedgerRow, Opened, Result, TablePlan};

/// Placeholders that one statement of SQLite may have.
const PLACEHOLDERS_MAX: usize = 32_766;

/// Rows of one statement; more gain nothing.
const ROWS_MAX: usize = 200;

/// SQLite's result codes about a row: 19 a constraint, 18 too big, 20 of another type.
const ABOUT_A_ROW: [i32; 3] = [19, 18, 20];

const ACTION: &str = "insert the rows";

/// An open delivery. The transaction rolls back when it is dropped.
struct SqliteDelivery {
    transaction: Option<Transaction<'static, Sqlite>>,
    reader: SqlitePool,
    plan: TablePlan,
    key: CommitKey,
    fence: Fence,
    rows: u64,
}

/// Raises the fence, looks into the ledger, begins the transaction.
pub(crate) async fn open(sink: &SqliteSink, plan: &TablePlan, key: &CommitKey) -> Result<Opened> {
    let fence = sink.fences.raise(key)?;
    let begin = |error| from_sqlx("begin", error);
    let mut raising = sink.writer.begin_with(BEGIN_WRITE).await.map_err(begin)?;
    ledger::raise_fence(&mut raising, key).await?;
    let committed = ledger::find(&mut raising, key).await?;
    raising.commit().await.map_err(|error| from_sqlx("raise the fence", error))?;
    if let Some(row) = committed {
        return Ok(Opened::Committed(row));
    }
    let mut transaction = sink.writer.begin_with(BEGIN_WRITE).await.map_err(begin)?;
    if plan.mode == Mode::Replace {
        let sql = format!("DELETE FROM \"{}\"", plan.table);
        let emptied = sqlx::query(AssertSqlSafe(sql)).execute(&mut *transaction).await;
        emptied.map_err(|error| from_sqlx("empty the table", error))?;
    }
    Ok(Opened::Delivery(Box::new(SqliteDelivery {
        transaction: Some(transaction),
        reader: sink.reader.clone(),
        plan: plan.clone(),
        key: key.clone(),
        fence,
        rows: 0,
    })))
}

impl SqliteDelivery {
    /// Inserts a checked batch; where a row is refused, halves until it stands alone and can be named.
    async fn insert(
        &mut self,
        transaction: &mut Transaction<'static, Sqlite>,
        batch: &RecordBatch,
        before: u64,
    ) -> Result<()> {
        let rows_max = (PLACEHOLDERS_MAX / self.plan.columns.len()).clamp(1, ROWS_MAX);
        let full = statement(&self.plan, rows_max);
        let mut waiting = statements(batch.num_rows(), rows_max);
        while let Some(range) = waiting.pop() {
            self.fence.check()?;
            let sql = match range.len() {
                rows if rows == rows_max => full.clone(),
                rows => statement(&self.plan, rows),
            };
            let bound = arguments(&cells(&self.plan, batch)?, range.clone())?;
            let done = sqlx::query_with(AssertSqlSafe(sql), bound).execute(&mut **transaction).await;
            let Err(error) = done else { continue };
            if !primary_code(&error).is_some_and(|code| ABOUT_A_ROW.contains(&code)) {
                return Err(from_sqlx(ACTION, error));
            }
            if range.len() == 1 {
                let row = before + range.start as u64 + 1;
                let table = self.plan.table.to_string();
                return Err(Error::Row { table, row, message: error.to_string() });
            }
            let middle = range.start + range.len() / 2;
            waiting.push(middle..range.end);
            waiting.push(range.start..middle);
        }
        Ok(())
    }

    async fn finish(&self, transaction: &mut Transaction<'static, Sqlite>) -> Result<Finish> {
        self.fence.check()?;
        ledger::check_fence(transaction, &self.key).await?;
        if let Some(twin) = ledger::find(transaction, &self.key).await? {
            return Ok(Finish::Twin(twin));
        }
        ledger::write(transaction, &self.key, self.plan.table.as_str(), self.rows).await?;
        let written = ledger::find(transaction, &self.key).await?;
        written.map(Finish::Ready).ok_or_else(|| Error::Refused {
            action: "write the ledger",
            message: "the row just written is not there".to_owned(),
        })
    }

    /// A COMMIT that failed: the ledger says whether it did.
    async fn settle(&self, error: sqlx::Error) -> Result<LedgerRow> {
        let failed = |error| from_sqlx("read the ledger", error);
        let mut connection = self.reader.acquire().await.map_err(failed)?;
        let found = ledger::find(&mut connection, &self.key).await?;
        found.ok_or_else(|| from_sqlx("commit", error))
    }
}

/// What the end of a transaction found.
enum Finish {
    /// The commit was made by another delivery before; this one is dropped.
    Twin(LedgerRow),
    /// All is written and may be committed.
    Ready(LedgerRow),
}

#[async_trait]
impl Delivery for SqliteDelivery {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let columns = cells(&self.plan, &batch)?;
        check(&self.plan, &columns, self.rows)?;
        drop(columns);
        let before = self.rows;
        self.rows += batch.num_rows() as u64;
        // An error drops the transaction: it rolls back, and the next delivery may begin.
        let mut transaction = self.transaction.take().ok_or_else(failed)?;
        self.insert(&mut transaction, &batch, before).await?;
        self.transaction = Some(transaction);
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<LedgerRow> {
        let mut transaction = self.transaction.take().ok_or_else(failed)?;
        match self.finish(&mut transaction).await? {
            Finish::Twin(row) => Ok(row),
            Finish::Ready(row) => match transaction.commit().await {
                Ok(()) => Ok(row),
                Err(error) => self.settle(error).await,
            },
        }
    }

    async fn rollback(mut self: Box<Self>) -> Result<()> {
        match self.transaction.take() {
            Some(open) => open.rollback().await.map_err(|error| from_sqlx("roll back", error)),
            None => Ok(()),
        }
    }
}

fn failed() -> Error {
    Error::Unavailable {
        action: "deliver",
        message: "this delivery failed before".to_owned(),
        retry: Retry::Later,
    }
}

/// Ranges of rows of one statement each, the first on top.
fn statements(rows: usize, rows_max: usize) -> Vec<Range<usize>> {
    let starts = (0..rows).step_by(rows_max);
    starts.rev().map(|start| start..(start + rows_max).min(rows)).collect()
}

fn statement(plan: &TablePlan, rows: usize) -> String {
    let one = format!("({})", vec!["?"; plan.columns.len()].join(","));
    let names = quoted(plan.columns.iter().map(|c| &c.name));
    let mut sql = format!("INSERT INTO \"{}\" ({names}) VALUES ", plan.table);
    sql.push_str(&vec![one.as_str(); rows].join(","));
    if plan.mode == Mode::Upsert {
        let others = plan.columns.iter().filter(|c| !plan.key.contains(&c.name));
        let sets: Vec<String> = others.map(|c| format!("\"{0}\" = excluded.\"{0}\"", c.name)).collect();
        let action = match sets.is_empty() {
            true => "NOTHING".to_owned(),
            false => format!("UPDATE SET {}", sets.join(", ")),
        };
        sql.push_str(&format!(" ON CONFLICT ({}) DO {action}", quoted(plan.key.iter())));
    }
    sql
}

fn arguments(columns: &[Cells<'_>], rows: Range<usize>) -> Result<SqliteArguments> {
    let mut bound = SqliteArguments::default();
    let mut text = Vec::with_capacity(48);
    for row in rows {
        for column in columns {
            push_argument(&mut bound, column.get(row), &mut text)
                .map_err(|error| Error::Refused { action: ACTION, message: error.to_string() })?;
        }
    }
    Ok(bound)
}
