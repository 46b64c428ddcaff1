//! A delivery into MySQL: one transaction on one connection over all tables, up to COMMIT.
//!
//! Rows go by LOAD DATA LOCAL where the server allows it, one table at a time: rows of another table end the load of
//! the one before. An upsert into a table that holds rows goes by
//! a temporary table and one INSERT … SELECT in the order of the key, which keeps deliveries of the same
//! keys from deadlocks. A load that the server took with a warning is rolled back; the sink then remembers
//! that this commit needs the strict way ([`super::insert`]), which finds the rows at the next attempt.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use mysql_async::Value;
use tidemill_pipelines::{Mode, Retry};

use super::ddl::{column_type, quoted};
use super::errors::later;
use super::load::{Load, Loaded};
use super::session::{Session, Shared, number};
use super::{insert, ledger};
use crate::cells::{cells, refused, without};
use crate::{Commit, CommitKey, Delivery, Error, LedgerRow, RefusedRow, Result, TablePlan};

/// Begins the name of the temporary table of an upsert; it is seen by its own connection only.
const STAGING: &str = "tidemill_staging";

/// An open delivery.
struct MySqlDelivery {
    database: Shared,
    targets: Vec<Target>,
    key: CommitKey,
    by_load: bool,
    way: Way,
}

/// One of its tables.
struct Target {
    plan: TablePlan,
    /// Rows stored so far.
    rows: u64,
    /// The temporary table that its rows wait in, when it is an upsert that needs one.
    staging: Option<String>,
}

/// Where the connection is.
enum Way {
    /// Here: nothing runs on it.
    Idle(Box<Session>),
    /// With a LOAD DATA into the table of this number, which was given so many rows.
    Loading { table: usize, rows: u64, load: Load },
    /// An error took it.
    Failed,
}

/// Begins the transaction.
pub(crate) async fn open(
    database: &Shared,
    plans: &[TablePlan],
    key: &CommitKey,
) -> Result<Box<dyn Delivery>> {
    let mut session = database.session().await?;
    let by_load = session.local_infile && !database.is_strict(key);
    let mut targets = Vec::with_capacity(plans.len());
    // Before the transaction: a server with enforced GTID consistency makes temporary tables only here.
    for (number, plan) in plans.iter().enumerate() {
        ledger::make_table_row(&mut session, plan.table.as_str()).await?;
        let staging = match by_load && plan.mode == Mode::Upsert && !replaceable(&mut session, plan).await? {
            true => Some(make_staging(&mut session, number, plan, database.flavour()).await?),
            false => None,
        };
        targets.push(Target { plan: plan.clone(), rows: 0, staging });
    }
    session.run("begin", "START TRANSACTION").await?;
    lock_tables(&mut session, plans).await?;
    let way = Way::Idle(Box::new(session));
    Ok(Box::new(MySqlDelivery { database: Arc::clone(database), targets, key: key.clone(), by_load, way }))
}

/// In the order of their names, so that two deliveries do not wait for each other.
async fn lock_tables(session: &mut Session, plans: &[TablePlan]) -> Result<()> {
    let mut ordered: Vec<_> = plans.iter().collect();
    ordered.sort_by_key(|plan| plan.table.as_str());
    for plan in ordered {
        let alone = plan.mode == Mode::Replace;
        ledger::lock_table_row(session, plan.table.as_str(), alone).await?;
        if alone {
            session.run("empty the table", &format!("DELETE FROM `{}`", plan.table)).await?;
        }
    }
    Ok(())
}

async fn make_staging(
    session: &mut Session,
    number: usize,
    plan: &TablePlan,
    flavour: super::session::Flavour,
) -> Result<String> {
    let name = format!("{STAGING}_{number}");
    session.run("make the temporary table", &staging_table(&name, plan, flavour)?).await?;
    Ok(name)
}

/// Whether REPLACE straight into the table is the same as an upsert, and faster: the table is empty (what
/// REPLACE deletes are then rows of this delivery), has no other columns to lose and no triggers to run.
async fn replaceable(session: &mut Session, plan: &TablePlan) -> Result<bool> {
    let action = "look at the table";
    let sql = format!("SELECT 1 FROM `{}` LIMIT 1", plan.table);
    if !session.rows(action, &sql, Vec::new()).await?.is_empty() {
        return Ok(false);
    }
    let sql = "SELECT (SELECT COUNT(*) FROM information_schema.columns \
               WHERE table_schema = DATABASE() AND table_name = ?), \
               (SELECT COUNT(*) FROM information_schema.triggers \
               WHERE event_object_schema = DATABASE() AND event_object_table = ?)";
    let name = Value::from(plan.table.as_str());
    let rows = session.rows(action, sql, vec![name.clone(), name]).await?;
    let counts: Vec<_> = rows.iter().flatten().map(number).collect();
    Ok(counts == [Some(plan.columns.len() as u64), Some(0)])
}

fn staging_table(name: &str, plan: &TablePlan, flavour: super::session::Flavour) -> Result<String> {
    let columns = plan.columns.iter().map(|column| {
        let kind = column_type(column, plan.key.contains(&column.name))?;
        Ok(format!("`{}` {kind}", column.name))
    });
    Ok(format!(
        "CREATE TEMPORARY TABLE `{name}` ({}, PRIMARY KEY ({})) \
         ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {}",
        columns.collect::<Result<Vec<_>>>()?.join(", "),
        quoted(plan.key.iter().map(|k| k.as_str())),
        flavour.exact_collation()
    ))
}

fn merge_statement(staging: &str, plan: &TablePlan) -> String {
    let names = || plan.columns.iter().map(|c| c.name.as_str());
    let from = |name: &str| format!("s.`{name}`");
    format!(
        "INSERT INTO `{}` ({}) SELECT {} FROM `{staging}` AS s ORDER BY {} ON DUPLICATE KEY UPDATE {}",
        plan.table,
        quoted(names()),
        names().map(from).collect::<Vec<_>>().join(", "),
        plan.key.iter().map(|k| from(k.as_str())).collect::<Vec<_>>().join(", "),
        insert::update_clause(plan, from)
    )
}

impl MySqlDelivery {
    /// Ends the rows: afterwards all of them are in the tables, uncommitted.
    async fn end_rows(&mut self) -> Result<Session> {
        let mut session = self.idle().await?;
        for target in self.targets.iter().filter(|target| target.rows > 0) {
            if let Some(staging) = &target.staging {
                self.merge(&mut session, staging, &target.plan).await?;
            }
        }
        Ok(*session)
    }

    /// The connection, after the load that runs on it, if one does.
    async fn idle(&mut self) -> Result<Box<Session>> {
        match std::mem::replace(&mut self.way, Way::Failed) {
            Way::Idle(session) => Ok(session),
            Way::Loading { rows, load, .. } => self.end_load(load, rows).await.map(Box::new),
            Way::Failed => Err(failed()),
        }
    }

    async fn end_load(&self, load: Load, sent: u64) -> Result<Session> {
        let (session, loaded) = load.finish().await?;
        match loaded? {
            Loaded::Rows(rows) if rows == sent => Ok(session),
            Loaded::Rows(rows) => Err(self.needs_strict(format!("the server read {rows} rows of {sent}"))),
            Loaded::Refused(message) => Err(self.needs_strict(message)),
        }
    }

    async fn merge(&self, session: &mut Session, staging: &str, plan: &TablePlan) -> Result<()> {
        let action = "merge the rows into the table";
        match session.write_rows(action, &merge_statement(staging, plan), Vec::new()).await? {
            None => Ok(()),
            Some(message) => Err(self.needs_strict(message)),
        }
    }

    fn needs_strict(&self, message: String) -> Error {
        self.database.remember_strict(&self.key);
        Error::Unavailable {
            action: "load the rows",
            message: format!("{message}; the next attempt inserts them and finds the rows at fault"),
            retry: Retry::Now,
        }
    }

    /// Hands rows that were checked to a load into their table.
    async fn load(&mut self, table: usize, batch: &RecordBatch) -> Result<()> {
        let (mut load, before) = match std::mem::replace(&mut self.way, Way::Failed) {
            Way::Loading { table: running, rows, load } if running == table => (load, rows),
            way => {
                self.way = way;
                let session = *self.idle().await?;
                let Target { plan, staging, .. } = &self.targets[table];
                let into = staging.as_deref().unwrap_or(plan.table.as_str());
                (Load::start(session, into, plan, staging.is_some()), 0)
            }
        };
        let rows = before + batch.num_rows() as u64;
        let columns = cells(&self.targets[table].plan, batch)?;
        if load.write(&columns, 0..batch.num_rows()).await? {
            self.way = Way::Loading { table, rows, load };
            return Ok(());
        }
        // The statement ended before its rows did: its error says why.
        self.end_load(load, rows).await.and(Err(failed()))
    }

    /// The last statements of the transaction. `Err` of the inner result: COMMIT was sent, and its fate
    /// is not known.
    async fn finish(
        &mut self,
        session: &mut Session,
        commit: &Commit<'_>,
    ) -> Result<Result<Vec<LedgerRow>, Error>> {
        ledger::hold_fence(session, &self.key).await?;
        // The fence is held, so a twin of this delivery either is in the ledger now or never will be.
        let twin = ledger::find(session, &self.key).await?;
        if !twin.is_empty() {
            session.run("roll back", "ROLLBACK").await?;
            return Ok(Ok(twin));
        }
        let tables = self.targets.iter().map(|target| (&target.plan.table, target.rows));
        for entry in commit.entries(&self.key, tables) {
            ledger::write(session, &entry, commit.summary).await?;
        }
        crate::error::failpoint!("deliver::ledger");
        let rows = ledger::find(session, &self.key).await?;
        fail::fail_point!("deliver::commit_sent", |_| Ok(Err(crate::error::of_failpoint(
            "deliver::commit_sent"
        ))));
        let answer = session.run("commit", "COMMIT").await;
        fail::fail_point!("deliver::commit_answered", |_| Ok(Err(crate::error::of_failpoint(
            "deliver::commit_answered"
        ))));
        Ok(answer.map(|()| rows))
    }
}

#[async_trait]
impl Delivery for MySqlDelivery {
    async fn write(&mut self, table: usize, batch: RecordBatch) -> Result<Vec<RefusedRow>> {
        let Some(target) = self.targets.get(table) else { return Err(failed()) };
        let mut out = refused(&target.plan, &cells(&target.plan, &batch)?);
        let left = without(&batch, &out)?;
        let batch = left.as_ref().map_or(&batch, |(left, _)| left);
        let mut stored = batch.num_rows();
        if stored > 0 && self.by_load {
            self.load(table, batch).await?;
        } else if stored > 0 {
            let mut session = self.idle().await?;
            let found = insert::insert(&mut session, &self.targets[table].plan, batch).await?;
            self.way = Way::Idle(session);
            stored -= found.len();
            let numbers = left.as_ref().map(|(_, numbers)| numbers);
            let number = |row: usize| numbers.and_then(|numbers| numbers.get(row)).copied().unwrap_or(row);
            out.extend(found.into_iter().map(|found| RefusedRow { row: number(found.row), ..found }));
            out.sort_by_key(|refused| refused.row);
        }
        self.targets[table].rows += stored as u64;
        Ok(out)
    }

    async fn commit(mut self: Box<Self>, commit: Commit<'_>) -> Result<Vec<LedgerRow>> {
        let mut session = self.end_rows().await?;
        match self.finish(&mut session, &commit).await? {
            Ok(rows) => Ok(rows),
            Err(error) => {
                tracing::warn!(job_id = self.key.job_id, %error, "the answer to commit was lost");
                // Its transaction may still hold the fence that settling waits for.
                session.disconnect().await;
                let settled = ledger::settle(&self.database, &self.key).await?;
                if settled.is_empty() { Err(error) } else { Ok(settled) }
            }
        }
    }

    async fn rollback(mut self: Box<Self>) -> Result<()> {
        match std::mem::replace(&mut self.way, Way::Failed) {
            Way::Idle(mut session) => session.run("roll back", "ROLLBACK").await,
            // A load that is broken off closes its connection, and the server rolls back.
            Way::Loading { load, .. } => {
                drop(load);
                Ok(())
            }
            Way::Failed => Ok(()),
        }
    }
}

fn failed() -> Error {
    later("deliver", "this delivery failed before".to_owned())
}
