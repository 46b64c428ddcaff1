//! Opening the job database: pool, session settings, schema. Called once by each process.

use std::sync::{Arc, Once};
use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::mysql::MySqlDatabaseError;
use sqlx::{AnyConnection, Connection, Executor};
use tokio::sync::Semaphore;
use tracing::warn;

use super::{Dialect, Handover, JobStore, StoreLimits};
use crate::{Error, Result};

static MYSQL: Migrator = sqlx::migrate!("./migrations/mysql");
static SQLITE: Migrator = sqlx::migrate!("./migrations/sqlite");
static DRIVERS: Once = Once::new();

/// The table that holds which migrations ran; beside it live tables of sinks, which may have any name.
const MIGRATIONS_TABLE: &str = "tidemill_jobs_migrations";
/// Two processes that begin together on a new SQLite file may get into each other's way.
const MIGRATE_TRIES: u32 = 3;
/// Pause between these tries.
const MIGRATE_PAUSE: Duration = Duration::from_millis(200);

/// MySQL's number for a table that is not there.
const NO_SUCH_TABLE: u16 = 1146;

/// Strict: a value that does not fit is an error. READ COMMITTED: no gap locks, so fewer deadlocks.
const MYSQL_SESSION: &str = "SET SESSION \
    sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', \
    time_zone = '+00:00', innodb_lock_wait_timeout = 10, transaction_isolation = 'READ-COMMITTED'";
/// The name of `transaction_isolation` in MariaDB before 11.1.
const MARIADB_SESSION: &str = "SET SESSION \
    sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', \
    time_zone = '+00:00', innodb_lock_wait_timeout = 10, tx_isolation = 'READ-COMMITTED'";
/// WAL with full sync: a committed job survives a power cut.
const SQLITE_SESSION: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; \
    PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON";

impl JobStore {
    /// Opens `mysql://user:password@host:port/database` or `sqlite:///path` (the file is made when missing).
    pub async fn connect(url: &str, limits: StoreLimits) -> Result<Self> {
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let dialect = if url.starts_with("sqlite:") { Dialect::Sqlite } else { Dialect::MySql };
        let pool = AnyPoolOptions::new()
            .max_connections(limits.connections)
            .acquire_timeout(limits.acquire_timeout)
            .after_connect(move |connection, _| Box::pin(prepare_session(connection, dialect)))
            // On a full disk SQLite rolls back by itself, and the client believes for ever that a transaction is open.
            .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
            .connect(&with_create(url, dialect))
            .await
            .map_err(failed("connect"))?;
        let writers = match dialect {
            Dialect::Sqlite => 1,
            Dialect::MySql => limits.connections as usize,
        };
        let writers = Arc::new(Semaphore::new(writers));
        Ok(Self { pool, dialect, limits, writers, handover: Handover::default() })
    }

    /// Brings the schema up to date. Safe to repeat, and by several processes at once.
    pub async fn migrate(&self) -> Result<()> {
        let mut tries = 1;
        loop {
            match self.migrate_once().await {
                Err(error) if tries < MIGRATE_TRIES => warn!(%error, "failed to migrate, trying again"),
                done => return done.map_err(Error::Migrate),
            }
            tries += 1;
            tokio::time::sleep(MIGRATE_PAUSE).await;
        }
    }

    /// On a connection that ends with it: a migration that fails does not give its lock back, and every other process
    /// would wait for that without end.
    async fn migrate_once(&self) -> Result<(), MigrateError> {
        let mut connection = self.pool.acquire().await?.detach();
        migrations(self.dialect).run(&mut connection).await
    }

    /// Reaches the database, for readiness and `tidemill doctor`. A server that takes no writes does not pass.
    pub async fn ping(&self) -> Result<()> {
        let question = match self.dialect {
            Dialect::Sqlite => "SELECT 1",
            // Changes no row, and a server that is read-only refuses it all the same.
            Dialect::MySql => "UPDATE tidemill_jobs SET attempt = attempt WHERE job_id = ''",
        };
        match self.bounded(sqlx::query(question).execute(&self.pool)).await {
            // Reached before the schema was made.
            Err(error) if number(&error) == Some(NO_SUCH_TABLE) => Ok(()),
            answer => answer.map(drop).map_err(failed("ping")),
        }
    }

    /// Closes the connections once those in use are given back.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

fn number(error: &sqlx::Error) -> Option<u16> {
    Some(error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?.number())
}

/// An error of the database during `action`.
pub(super) fn failed(action: &'static str) -> impl FnOnce(sqlx::Error) -> Error {
    move |source| Error::Database { action, source }
}

fn migrations(dialect: Dialect) -> Migrator {
    let known = match dialect {
        Dialect::MySql => &MYSQL,
        Dialect::Sqlite => &SQLITE,
    };
    let mut migrator = Migrator::with_migrations(known.iter().cloned().collect());
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    migrator
}

fn with_create(url: &str, dialect: Dialect) -> String {
    match dialect {
        Dialect::Sqlite if !url.contains('?') => format!("{url}?mode=rwc"),
        _ => url.to_owned(),
    }
}

async fn prepare_session(connection: &mut AnyConnection, dialect: Dialect) -> sqlx::Result<()> {
    match dialect {
        Dialect::Sqlite => connection.execute(SQLITE_SESSION).await.map(drop),
        Dialect::MySql => match connection.execute(MYSQL_SESSION).await {
            Ok(_) => Ok(()),
            Err(_) => connection.execute(MARIADB_SESSION).await.map(drop),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fill(store: &JobStore) -> sqlx::Result<()> {
        let mut transaction = store.pool.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("CREATE TABLE filler (bytes BLOB)").execute(&mut *transaction).await?;
        for _ in 0..100 {
            sqlx::query("INSERT INTO filler VALUES (zeroblob(100000))").execute(&mut *transaction).await?;
        }
        transaction.commit().await
    }

    #[tokio::test]
    async fn a_store_that_was_full_goes_on_once_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/jobs.db", folder.path().display());
        let limits = StoreLimits { connections: 1, ..StoreLimits::default() };
        let store = JobStore::connect(&url, limits).await.unwrap();
        sqlx::query("PRAGMA max_page_count = 60").execute(&store.pool).await.unwrap();
        fill(&store).await.unwrap_err();
        fill(&store).await.unwrap();
    }
}
