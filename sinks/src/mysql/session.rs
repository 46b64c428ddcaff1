//! Connections: a pool, and sessions whose settings are pinned and verified before use.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mysql_async::prelude::{FromValue, Queryable};
use mysql_async::{Conn, Opts, OptsBuilder, Params, Pool, PoolConstraints, PoolOpts, Row, Value};
use tokio::time::error::Elapsed;

use super::errors::{DEPRECATED, from_client, is_about_a_row, later};
use super::pins::{pins, verify};
use crate::connect::within;
use crate::{CommitKey, Error, Result, SinkLimits};

/// Deliveries remembered as in need of the strict way; the oldest is forgotten first. A forgotten one
/// fails its load once more and is remembered again.
const STRICT_MEMORY_MAX: usize = 1_000;

/// Probes of an idle connection: a server that vanished without a word is noticed.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long to wait until a goodbye is sent; without it the connection is dropped.
const GOODBYE: Duration = Duration::from_secs(5);

/// The server's number for a table that is not there.
const NO_SUCH_TABLE: u16 = 1146;

/// What differs between servers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flavour {
    /// MariaDB rather than MySQL.
    pub(crate) mariadb: bool,
    /// A table without a key of its author's gets one that counts its rows, unseen.
    pub(crate) counted_rows: bool,
}

impl Flavour {
    /// The collation under which texts are equal only when their bytes are, also with spaces at the end.
    pub(crate) fn exact_collation(self) -> &'static str {
        if self.mariadb { "utf8mb4_nopad_bin" } else { "utf8mb4_0900_bin" }
    }
}

/// One database: its pool, its flavour, and which deliveries need the strict way.
pub(crate) struct Database {
    pool: Pool,
    pub(crate) limits: SinkLimits,
    flavour: Flavour,
    strict: Mutex<VecDeque<(String, u32)>>,
}

impl Database {
    /// Reads the URL, makes the pool, reaches the server.
    pub(crate) async fn open(url: &str, limits: SinkLimits, read_only: bool) -> Result<Self> {
        let pool = Pool::new(options(url, &limits, read_only)?);
        let flavour = Flavour::default();
        let mut database = Self { pool, limits, flavour, strict: Mutex::default() };
        let mut session = database.session().await?;
        let mariadb = session.version.to_lowercase().contains("mariadb");
        let counted_rows = counts_rows(&mut session).await?;
        drop(session);
        database.flavour = Flavour { mariadb, counted_rows };
        Ok(database)
    }

    pub(crate) fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// A connection, pinned and verified.
    pub(crate) async fn session(&self) -> Result<Session> {
        let connect = async {
            let conn = self.pool.get_conn().await;
            let conn = conn.map_err(|error| from_client("connect", error))?;
            Session::pin(conn, &self.limits).await
        };
        within(self.limits.connect_timeout_seconds, "connect", connect).await
    }

    /// Remembers that this commit's rows must go in one statement at a time.
    pub(crate) fn remember_strict(&self, key: &CommitKey) {
        let mut strict = self.strict.lock().unwrap_or_else(PoisonError::into_inner);
        if strict.len() >= STRICT_MEMORY_MAX {
            strict.pop_front();
        }
        strict.push_back((key.job_id.clone(), key.chunk));
    }

    /// Whether an earlier load of this commit failed.
    pub(crate) fn is_strict(&self, key: &CommitKey) -> bool {
        let strict = self.strict.lock().unwrap_or_else(PoisonError::into_inner);
        strict.iter().any(|(job, chunk)| *job == key.job_id && *chunk == key.chunk)
    }

    pub(crate) async fn close(&self) {
        let closing = self.pool.clone().disconnect();
        let limit = Duration::from_secs(self.limits.connect_timeout_seconds);
        match tokio::time::timeout(limit, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "failed to close connections"),
            Err(_) => tracing::warn!("connections were still in use at shutdown"),
        }
    }
}

/// Whether a table should have a key that the server counts up: where it demands a key, and where counting lets loads
/// into one table run side by side. MariaDB's default of 1 would make the second wait for the end of the first.
async fn counts_rows(session: &mut Session) -> Result<bool> {
    let sql = "SHOW GLOBAL VARIABLES WHERE (variable_name = 'innodb_autoinc_lock_mode' AND value = '2') \
               OR (variable_name IN ('sql_require_primary_key', 'innodb_force_primary_key') AND value = 'ON')";
    Ok(!session.rows("read the server's settings", sql, Vec::new()).await?.is_empty())
}

fn options(url: &str, limits: &SinkLimits, read_only: bool) -> Result<OptsBuilder> {
    let refused = |message: String| Error::Refused { action: "read the url", message };
    let opts = Opts::from_url(url).map_err(|error| refused(error.to_string()))?;
    if opts.db_name().is_none_or(str::is_empty) {
        return Err(refused("it names no database: mysql://user:password@host/database".into()));
    }
    let max = limits.connections_max.max(1);
    let Some(constraints) = PoolConstraints::new(0, max) else {
        return Err(refused("connections_max is too small".into()));
    };
    let pool = PoolOpts::default().with_constraints(constraints).with_reset_connection(true);
    let mut builder = OptsBuilder::from_opts(opts)
        .pool_opts(pool)
        .tcp_keepalive(Some(KEEPALIVE))
        .client_found_rows(false)
        .setup(pins(limits, read_only));
    if !url.contains("prefer_socket=") {
        // Else the client leaves the address of the URL for the server's local socket on its own.
        builder = builder.prefer_socket(false);
    }
    Ok(builder)
}

/// A verified connection with bounded statements. Dropped in mid-statement, it closes the connection,
/// and the server rolls back; dropped between statements, the pool resets it, which rolls back too.
pub(crate) struct Session {
    conn: Conn,
    pub(crate) version: String,
    pub(crate) local_infile: bool,
    pub(crate) max_allowed_packet: usize,
    /// Tables `A` and `a` are two tables.
    pub(crate) exact_names: bool,
    statement_timeout: Duration,
    broken: bool,
}

impl Session {
    async fn pin(mut conn: Conn, limits: &SinkLimits) -> Result<Self> {
        let failed = |error| from_client("verify the session's settings", error);
        let row: Option<Row> = conn
            .query_first(
                "SELECT @@sql_mode, @@time_zone, @@character_set_client, \
                 @@character_set_connection, @@innodb_lock_wait_timeout, VERSION(), \
                 @@local_infile, @@max_allowed_packet, @@lower_case_table_names",
            )
            .await
            .map_err(failed)?;
        let row = row.map(Row::unwrap).unwrap_or_default();
        let value = |index: usize| row.get(index).and_then(text).unwrap_or_default();
        verify(&value(0), &[value(1), value(2), value(3)])?;
        Ok(Self {
            version: value(5),
            local_infile: limits.local_infile && value(6) == "1",
            max_allowed_packet: value(7).parse().unwrap_or(1 << 20),
            exact_names: value(8) == "0",
            statement_timeout: Duration::from_secs(limits.statement_timeout_seconds),
            broken: false,
            conn,
        })
    }

    /// Reaches the server. One that takes no writes refuses the statement, though it changes no row.
    pub(crate) async fn ping(&mut self) -> Result<()> {
        let action = "ping";
        self.enter(action)?;
        let sql = "UPDATE tidemill_fence SET attempt = attempt WHERE job_id = ''";
        let done = tokio::time::timeout(self.statement_timeout, self.conn.query_drop(sql)).await;
        match &done {
            // Reached before the table was made.
            Ok(Err(mysql_async::Error::Server(error))) if error.code == NO_SUCH_TABLE => {
                self.leave(action, Ok(Ok(())))
            }
            _ => self.leave(action, done),
        }
    }

    /// Runs one statement.
    pub(crate) async fn run(&mut self, action: &'static str, sql: &str) -> Result<()> {
        self.enter(action)?;
        let done = tokio::time::timeout(self.statement_timeout, self.conn.query_drop(sql)).await;
        self.leave(action, done)
    }

    /// Runs one statement with bound values; tells the rows it changed.
    pub(crate) async fn execute(
        &mut self,
        action: &'static str,
        sql: &str,
        values: Vec<Value>,
    ) -> Result<u64> {
        self.enter(action)?;
        let run = self.conn.exec_drop(sql, positional(values));
        let done = tokio::time::timeout(self.statement_timeout, run).await;
        self.leave(action, done)?;
        Ok(self.conn.affected_rows())
    }

    /// The rows of a query of small result, as values.
    pub(crate) async fn rows(
        &mut self,
        action: &'static str,
        sql: &str,
        values: Vec<Value>,
    ) -> Result<Vec<Vec<Value>>> {
        self.enter(action)?;
        let limit = self.statement_timeout;
        let run = async {
            // A statement without values is not prepared: some, like SHOW WARNINGS, MySQL does not prepare.
            if values.is_empty() {
                self.conn.query::<Row, _>(sql).await
            } else {
                self.conn.exec::<Row, _, _>(sql, positional(values)).await
            }
        };
        let done = tokio::time::timeout(limit, run).await;
        Ok(self.leave(action, done)?.into_iter().map(Row::unwrap).collect())
    }

    /// Runs a statement that writes rows; `Some` tells in the server's words why it refused one, also
    /// where it only warned. What a refused statement has changed is for the caller to take back.
    pub(crate) async fn write_rows(
        &mut self,
        action: &'static str,
        sql: &str,
        values: Vec<Value>,
    ) -> Result<Option<String>> {
        self.enter(action)?;
        let run = self.conn.exec_drop(sql, positional(values));
        let done = tokio::time::timeout(self.statement_timeout, run).await;
        if let Some(refusal) = refusal(&done) {
            self.leave(action, Ok(Ok(())))?;
            return Ok(Some(refusal));
        }
        self.leave(action, done)?;
        if self.conn.get_warnings() == 0 { Ok(None) } else { self.warning().await }
    }

    /// The first warning of the last statement that is about its rows.
    pub(crate) async fn warning(&mut self) -> Result<Option<String>> {
        let warnings = self.rows("read the warnings", "SHOW WARNINGS", Vec::new()).await?;
        let code = |row: &Vec<Value>| row.get(1).and_then(number);
        let about_rows = warnings.iter().find(|row| code(row) != Some(u64::from(DEPRECATED)));
        Ok(about_rows.map(|row| row.get(2).and_then(text).unwrap_or_default()))
    }

    /// Before a statement: one that broke off leaves the connection unusable.
    pub(crate) fn enter(&mut self, action: &'static str) -> Result<()> {
        if self.broken {
            return Err(later(action, "the connection broke off before".to_owned()));
        }
        self.broken = true;
        Ok(())
    }

    /// After a statement: only an answer of the server, good or bad, leaves the connection usable.
    pub(crate) fn leave<T>(
        &mut self,
        action: &'static str,
        done: std::result::Result<mysql_async::Result<T>, Elapsed>,
    ) -> Result<T> {
        let limit = self.statement_timeout.as_secs();
        let result = done.map_err(|_| later(action, format!("no answer within {limit} s")))?;
        self.broken = matches!(&result, Err(error) if error.is_fatal());
        result.map_err(|error| from_client(action, error))
    }

    /// The connection itself, for statements that need more than the above.
    pub(crate) fn conn(&mut self) -> &mut Conn {
        &mut self.conn
    }

    /// Closes the connection rather than give it back to the pool.
    pub(crate) async fn disconnect(self) {
        match tokio::time::timeout(GOODBYE, self.conn.disconnect()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the connection was closed already"),
            Err(_) => tracing::debug!("the server did not take the goodbye"),
        }
    }

    /// How long one statement may take.
    pub(crate) fn statement_timeout(&self) -> Duration {
        self.statement_timeout
    }
}

/// Why the server refused a value, when that is what happened.
pub(crate) fn refusal<T>(done: &std::result::Result<mysql_async::Result<T>, Elapsed>) -> Option<String> {
    match done {
        Ok(Err(mysql_async::Error::Server(error))) if is_about_a_row(error) => {
            Some(format!("{} ({})", error.message, error.code))
        }
        _ => None,
    }
}

/// Values as the client takes them.
pub(crate) fn positional(values: Vec<Value>) -> Params {
    if values.is_empty() { Params::Empty } else { Params::Positional(values) }
}

/// A value as text, `None` for NULL and for what is no text or number.
pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::Int(number) => Some(number.to_string()),
        Value::UInt(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A value as a number.
pub(crate) fn number(value: &Value) -> Option<u64> {
    u64::from_value_opt(value.clone()).ok().or_else(|| text(value)?.parse().ok())
}

/// Shared handle of a database.
pub(crate) type Shared = Arc<Database>;
