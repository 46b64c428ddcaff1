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
use crate::cells::{Cells, cells, refused, without};
use crate::{Commit, CommitKey, Delivery, Error, LedgerRow, RefusedRow, Result, TablePlan};

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
    /// The tables, each with the rows stored so far.
    targets: Vec<(TablePlan, u64)>,
    key: CommitKey,
    fence: Fence,
}

/// Begins the transaction.
pub(crate) async fn open(
    sink: &SqliteSink,
    plans: &[TablePlan],
    key: &CommitKey,
) -> Result<Box<dyn Delivery>> {
    let fence = sink.fences.raise(&key.job_id, key.attempt)?;
    let begin = |error| from_sqlx("begin", error);
    let mut transaction = sink.writer.begin_with(BEGIN_WRITE).await.map_err(begin)?;
    for plan in plans.iter().filter(|plan| plan.mode == Mode::Replace) {
        let sql = format!("DELETE FROM \"{}\"", plan.table);
        let emptied = sqlx::query(AssertSqlSafe(sql)).execute(&mut *transaction).await;
        emptied.map_err(|error| from_sqlx("empty the table", error))?;
    }
    Ok(Box::new(SqliteDelivery {
        transaction: Some(transaction),
        reader: sink.reader.clone(),
        targets: plans.iter().map(|plan| (plan.clone(), 0)).collect(),
        key: key.clone(),
        fence,
    }))
}

impl SqliteDelivery {
    /// Inserts a checked batch; where a row is refused, halves until it stands alone, and goes on with the others.
    async fn insert(
        &self,
        transaction: &mut Transaction<'static, Sqlite>,
        plan: &TablePlan,
        batch: &RecordBatch,
    ) -> Result<Vec<RefusedRow>> {
        let rows_max = (PLACEHOLDERS_MAX / plan.columns.len()).clamp(1, ROWS_MAX);
        let full = statement(plan, rows_max);
        let mut waiting = statements(batch.num_rows(), rows_max);
        let mut refused = Vec::new();
        while let Some(range) = waiting.pop() {
            self.fence.check()?;
            let sql = match range.len() {
                rows if rows == rows_max => full.clone(),
                rows => statement(plan, rows),
            };
            let bound = arguments(&cells(plan, batch)?, range.clone())?;
            let done = sqlx::query_with(AssertSqlSafe(sql), bound).execute(&mut **transaction).await;
            let Err(error) = done else { continue };
            if !primary_code(&error).is_some_and(|code| ABOUT_A_ROW.contains(&code)) {
                return Err(from_sqlx(ACTION, error));
            }
            if range.len() == 1 {
                refused.push(RefusedRow { row: range.start, message: error.to_string() });
                continue;
            }
            let middle = range.start + range.len() / 2;
            waiting.push(middle..range.end);
            waiting.push(range.start..middle);
        }
        Ok(refused)
    }

    async fn finish(
        &self,
        transaction: &mut Transaction<'static, Sqlite>,
        commit: &Commit<'_>,
    ) -> Result<Finish> {
        self.fence.check()?;
        ledger::check_fence(transaction, &self.key.job_id, self.key.attempt).await?;
        let twin = ledger::find(transaction, &self.key).await?;
        if !twin.is_empty() {
            return Ok(Finish::Twin(twin));
        }
        let tables = self.targets.iter().map(|(plan, rows)| (&plan.table, *rows));
        for entry in commit.entries(&self.key, tables) {
            ledger::write(transaction, &entry, commit.summary).await?;
        }
        crate::error::failpoint!("deliver::ledger");
        Ok(Finish::Ready(ledger::find(transaction, &self.key).await?))
    }

    /// A COMMIT that failed: the ledger says whether it did.
    async fn settle(&self, error: sqlx::Error) -> Result<Vec<LedgerRow>> {
        let failed = |error| from_sqlx("read the ledger", error);
        let mut connection = self.reader.acquire().await.map_err(failed)?;
        let found = ledger::find(&mut connection, &self.key).await?;
        if found.is_empty() { Err(from_sqlx("commit", error)) } else { Ok(found) }
    }
}

/// What the end of a transaction found.
enum Finish {
    /// The commit was made by another delivery before; this one is dropped.
    Twin(Vec<LedgerRow>),
    /// All is written and may be committed.
    Ready(Vec<LedgerRow>),
}

#[async_trait]
impl Delivery for SqliteDelivery {
    async fn write(&mut self, table: usize, batch: RecordBatch) -> Result<Vec<RefusedRow>> {
        // An error drops the transaction: it rolls back, and the next delivery may begin.
        let mut transaction = self.transaction.take().ok_or_else(failed)?;
        let Some((plan, _)) = self.targets.get(table) else { return Err(failed()) };
        let mut out = refused(plan, &cells(plan, &batch)?);
        let left = without(&batch, &out)?;
        let batch = left.as_ref().map_or(&batch, |(left, _)| left);
        let found = self.insert(&mut transaction, plan, batch).await?;
        let stored = (batch.num_rows() - found.len()) as u64;
        let numbers = left.as_ref().map(|(_, numbers)| numbers);
        let number = |row: usize| numbers.and_then(|numbers| numbers.get(row)).copied().unwrap_or(row);
        out.extend(found.into_iter().map(|found| RefusedRow { row: number(found.row), ..found }));
        out.sort_by_key(|refused| refused.row);
        self.targets[table].1 += stored;
        self.transaction = Some(transaction);
        Ok(out)
    }

    async fn commit(mut self: Box<Self>, commit: Commit<'_>) -> Result<Vec<LedgerRow>> {
        let mut transaction = self.transaction.take().ok_or_else(failed)?;
        match self.finish(&mut transaction, &commit).await? {
            Finish::Twin(rows) => Ok(rows),
            Finish::Ready(rows) => match send_commit(transaction).await {
                Ok(()) => Ok(rows),
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

async fn send_commit(transaction: Transaction<'static, Sqlite>) -> sqlx::Result<()> {
    fail::fail_point!("deliver::commit_sent", |_| Err(lost("deliver::commit_sent")));
    let answer = transaction.commit().await;
    fail::fail_point!("deliver::commit_answered", |_| Err(lost("deliver::commit_answered")));
    answer
}

/// An answer that does not come, for failpoints of test builds.
#[allow(dead_code, reason = "a build without failpoints never makes it")]
fn lost(name: &'static str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::other(crate::error::of_failpoint(name)))
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
