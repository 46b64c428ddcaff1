//! A delivery into MySQL: one transaction on one connection, from the fence to COMMIT.
//!
//! Rows go by LOAD DATA LOCAL where the server allows it. An upsert into a table that holds rows goes by
//! a temporary table and one INSERT … SELECT in the order of the key, which keeps deliveries of the same
//! keys from deadlocks. A load that the server took with a warning is rolled back; the sink then remembers
//! that this commit needs the strict way ([`super::insert`]), which names the row at the next attempt.

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
use crate::cells::{cells, check};
use crate::{CommitKey, Delivery, Error, LedgerRow, Opened, Result, TablePlan};

/// The temporary table of an upsert; seen by its own connection only.
const STAGING: &str = "tidemill_staging";

/// An open delivery.
struct MySqlDelivery {
    database: Shared,
    plan: TablePlan,
    key: CommitKey,
    rows: u64,
    staged: bool,
    way: Way,
}

/// Where the connection is and how rows go.
enum Way {
    /// By LOAD DATA, which starts with the first row.
    ToLoad(Box<Session>),
    /// By LOAD DATA, which runs.
    Loading(Load),
    /// By INSERTs.
    Insert(Box<Session>),
    /// An error took the connection.
    Failed,
}

/// Raises the fence, looks into the ledger, begins the transaction.
pub(crate) async fn open(database: &Shared, plan: &TablePlan, key: &CommitKey) -> Result<Opened> {
    let mut session = database.session().await?;
    ledger::raise_fence(&mut session, key).await?;
    if let Some(row) = ledger::find(&mut session, key).await? {
        return Ok(Opened::Committed(row));
    }
    ledger::make_table_row(&mut session, plan.table.as_str()).await?;
    let by_load = session.local_infile && !database.is_strict(key);
    let staged = by_load && plan.mode == Mode::Upsert && !replaceable(&mut session, plan).await?;
    if staged {
        // Before the transaction: a server with enforced GTID consistency takes it only here.
        session.run("make the temporary table", &staging_table(plan, database.flavour())?).await?;
    }
    session.run("begin", "START TRANSACTION").await?;
    let alone = plan.mode == Mode::Replace;
    ledger::lock_table_row(&mut session, plan.table.as_str(), alone).await?;
    if alone {
        session.run("empty the table", &format!("DELETE FROM `{}`", plan.table)).await?;
    }
    let session = Box::new(session);
    Ok(Opened::Delivery(Box::new(MySqlDelivery {
        database: Arc::clone(database),
        plan: plan.clone(),
        key: key.clone(),
        rows: 0,
        staged,
        way: if by_load { Way::ToLoad(session) } else { Way::Insert(session) },
    })))
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

fn staging_table(plan: &TablePlan, flavour: super::session::Flavour) -> Result<String> {
    let columns = plan.columns.iter().map(|column| {
        let kind = column_type(column, plan.key.contains(&column.name))?;
        Ok(format!("`{}` {kind}", column.name))
    });
    Ok(format!(
        "CREATE TEMPORARY TABLE `{STAGING}` ({}, PRIMARY KEY ({})) \
         ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {}",
        columns.collect::<Result<Vec<_>>>()?.join(", "),
        quoted(plan.key.iter().map(|k| k.as_str())),
        flavour.exact_collation()
    ))
}

fn merge_statement(plan: &TablePlan) -> String {
    let names = || plan.columns.iter().map(|c| c.name.as_str());
    let from = |name: &str| format!("s.`{name}`");
    format!(
        "INSERT INTO `{}` ({}) SELECT {} FROM `{STAGING}` AS s ORDER BY {} ON DUPLICATE KEY UPDATE {}",
        plan.table,
        quoted(names()),
        names().map(from).collect::<Vec<_>>().join(", "),
        plan.key.iter().map(|k| from(k.as_str())).collect::<Vec<_>>().join(", "),
        insert::update_clause(plan, from)
    )
}

impl MySqlDelivery {
    /// Ends the rows: afterwards all of them are in the table, uncommitted.
    async fn end_rows(&mut self) -> Result<Session> {
        match std::mem::replace(&mut self.way, Way::Failed) {
            Way::ToLoad(session) | Way::Insert(session) => Ok(*session),
            Way::Loading(load) => {
                let mut session = self.end_load(load).await?;
                if self.staged {
                    self.merge(&mut session).await?;
                }
                Ok(session)
            }
            Way::Failed => Err(failed()),
        }
    }

    fn start_load(&self, session: Session) -> Load {
        let table = if self.staged { STAGING } else { self.plan.table.as_str() };
        Load::start(session, table, &self.plan, self.staged)
    }

    async fn end_load(&self, load: Load) -> Result<Session> {
        let (session, loaded) = load.finish().await?;
        match loaded? {
            Loaded::Rows(rows) if rows == self.rows => Ok(session),
            Loaded::Rows(rows) => {
                Err(self.needs_strict(format!("the server read {rows} rows of {}", self.rows)))
            }
            Loaded::Refused(message) => Err(self.needs_strict(message)),
        }
    }

    async fn merge(&self, session: &mut Session) -> Result<()> {
        let action = "merge the rows into the table";
        match session.write_rows(action, &merge_statement(&self.plan), Vec::new()).await? {
            None => Ok(()),
            Some(message) => Err(self.needs_strict(message)),
        }
    }

    fn needs_strict(&self, message: String) -> Error {
        self.database.remember_strict(&self.key);
        Error::Unavailable {
            action: "load the rows",
            message: format!("{message}; the next attempt inserts them and names the row"),
            retry: Retry::Now,
        }
    }

    /// The last statements of the transaction. `Err` of the inner result: COMMIT was sent, and its fate
    /// is not known.
    async fn finish(&mut self, session: &mut Session) -> Result<Result<LedgerRow, Error>> {
        ledger::hold_fence(session, &self.key).await?;
        // The fence is held, so a twin of this delivery either is in the ledger now or never will be.
        if let Some(twin) = ledger::find(session, &self.key).await? {
            session.run("roll back", "ROLLBACK").await?;
            return Ok(Ok(twin));
        }
        ledger::write(session, &self.key, self.plan.table.as_str(), self.rows).await?;
        let row = ledger::find(session, &self.key).await?.ok_or_else(|| Error::Refused {
            action: "write the ledger",
            message: "the row just written is not there".to_owned(),
        })?;
        Ok(session.run("commit", "COMMIT").await.map(|()| row))
    }
}

#[async_trait]
impl Delivery for MySqlDelivery {
    async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let columns = cells(&self.plan, &batch)?;
        check(&self.plan, &columns, self.rows)?;
        let before = self.rows;
        self.rows += batch.num_rows() as u64;
        let mut load = match std::mem::replace(&mut self.way, Way::Failed) {
            Way::Insert(mut session) => {
                insert::insert(&mut session, &self.plan, &batch, before).await?;
                self.way = Way::Insert(session);
                return Ok(());
            }
            Way::ToLoad(session) => self.start_load(*session),
            Way::Loading(load) => load,
            Way::Failed => return Err(failed()),
        };
        if load.write(&columns, 0..batch.num_rows()).await? {
            self.way = Way::Loading(load);
            return Ok(());
        }
        // The statement ended before its rows did: its error says why.
        self.end_load(load).await.and(Err(failed()))
    }

    async fn commit(mut self: Box<Self>) -> Result<LedgerRow> {
        let mut session = self.end_rows().await?;
        match self.finish(&mut session).await? {
            Ok(row) => Ok(row),
            Err(error) => {
                tracing::warn!(job_id = self.key.job_id, %error, "the answer to commit was lost");
                // Its transaction may still hold the fence that settling waits for.
                session.disconnect().await;
                ledger::settle(&self.database, &self.key).await?.ok_or(error)
            }
        }
    }

    async fn rollback(mut self: Box<Self>) -> Result<()> {
        match std::mem::replace(&mut self.way, Way::Failed) {
            Way::ToLoad(mut session) | Way::Insert(mut session) => session.run("roll back", "ROLLBACK").await,
            // A load that is broken off closes its connection, and the server rolls back.
            Way::Loading(load) => {
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
