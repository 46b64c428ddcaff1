//! Where a cluster runs: databases, topics and objects of its own on the servers of the environment, and what is
//! asked of them past Tidemill. The databases are dropped at the end, also when the test fails.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use futures::StreamExt;
use serde_json::{Value, json};
use sqlx::mysql::{MySqlPool, MySqlPoolOptions, MySqlRow};
use sqlx::{AssertSqlSafe, Column, Row};
use tidemill_jobs::{EventLog, KafkaLog, KafkaSettings, Topic};
use tidemill_sinks::Lake;

use crate::bucket;
use crate::databases::databases;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Databases and names of one cluster.
pub struct Place {
    /// Part of every name: databases, topics, objects.
    pub name: String,
    /// The server of the databases.
    server: String,
    pool: MySqlPool,
}

impl Place {
    /// Makes the databases on `mariadb` or `mysql`.
    pub async fn make(database: &str) -> Self {
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tidemill_cluster_{}_{nth}", std::process::id());
        eprintln!("on {database}");
        let (_, server) = databases().into_iter().find(|(name, _)| *name == database).unwrap();
        let pool = MySqlPoolOptions::new().max_connections(2).connect_lazy(&server).unwrap();
        let place = Self { name, server, pool };
        for database in [place.jobs(), place.tables()] {
            place.run(&format!("CREATE DATABASE `{database}` CHARACTER SET utf8mb4")).await;
        }
        place
    }

    fn jobs(&self) -> String {
        format!("{}_jobs", self.name)
    }

    /// The database of the tables that pipelines write.
    pub fn tables(&self) -> String {
        format!("{}_tables", self.name)
    }

    /// The settings of all roles.
    pub fn settings(&self, pipelines: &Path, more: &str) -> String {
        let smtp = variable("TIDEMILL_TEST_SMTP");
        let (host, port) = smtp.trim_start_matches("smtp://").rsplit_once(':').unwrap();
        format!(
            r#"pipelines = "{pipelines}"
database.url = "{server}/{jobs}"
tables.url = "{server}/{tables}"
gateway = {{ listen = "127.0.0.1:0", public_url = "http://tidemill.test", jwt_secret = "{secret}" }}
telemetry = {{ listen = "127.0.0.1:0", poll = "1s" }}

[broker]
servers = "{kafka}"
topic_prefix = "{name}"
partitions = 4

[objects]
url = "s3://{bucket}/{name}"
endpoint = "{s3}"
region = "us-east-1"
access_key = "{key}"
secret_key = "{secret_key}"
allow_http = true

[notifier]
default_domain = "example.com"
webhook_allow = ["127.0.0.0/8"]
webhook_timeout = "2s"
smtp = {{ host = "{host}", port = {port}, tls = "none" }}

[processor]
{more}
"#,
            pipelines = pipelines.display(),
            server = self.server,
            jobs = self.jobs(),
            tables = self.tables(),
            kafka = variable("TIDEMILL_TEST_KAFKA"),
            name = self.name,
            secret = "a secret of the tests, long enough",
            bucket = variable("TIDEMILL_TEST_S3_BUCKET"),
            s3 = variable("TIDEMILL_TEST_S3_URL"),
            key = variable("TIDEMILL_TEST_S3_KEY"),
            secret_key = variable("TIDEMILL_TEST_S3_SECRET"),
        )
    }

    /// How many ends of jobs no notifier has written down.
    pub async fn lag_of_ends(&self) -> i64 {
        let settings = KafkaSettings {
            bootstrap_servers: variable("TIDEMILL_TEST_KAFKA"),
            topic_prefix: self.name.clone(),
            ..KafkaSettings::default()
        };
        let log = KafkaLog::new(settings).unwrap();
        log.lag(Topic::Finished, "notifier").await.unwrap().iter().map(|partition| partition.lag).sum()
    }

    /// Where the checker finds everything, as the head of tests/checker/check.py tells.
    pub fn for_checker(&self) -> Value {
        json!({
            "jobs": format!("{}/{}", self.server, self.jobs()),
            "tables": format!("{}/{}", self.server, self.tables()),
            "objects": {
                "url": format!("s3://{}/{}", variable("TIDEMILL_TEST_S3_BUCKET"), self.name),
                "endpoint": variable("TIDEMILL_TEST_S3_URL"),
                "access_key": variable("TIDEMILL_TEST_S3_KEY"),
                "secret_key": variable("TIDEMILL_TEST_S3_SECRET"),
            },
            "kafka": { "servers": variable("TIDEMILL_TEST_KAFKA"), "prefix": self.name },
        })
    }

    /// Runs a statement past Tidemill.
    pub async fn run(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
    }

    /// All rows of a query on the tables, as the server writes them, below the names of the columns.
    pub async fn ask(&self, sql: &str) -> Vec<Vec<String>> {
        let rows = self.rows(&self.tables(), sql).await;
        let names = rows.first().map(names).unwrap_or_default();
        let texts = rows.iter().map(|row| (0..row.len()).map(|column| text(row, column)).collect());
        std::iter::once(names).chain(texts).collect()
    }

    /// The numbers of the first row of a query on the tables.
    pub async fn numbers(&self, sql: &str) -> Vec<i64> {
        let row = self.ask(sql).await.swap_remove(1);
        row.iter().map(|value| value.parse().unwrap_or_else(|_| panic!("`{value}` of {sql}"))).collect()
    }

    /// Attempt and worker of a job that is being worked on.
    pub async fn worker(&self, job: &str) -> Option<(i64, u32)> {
        let sql = "SELECT attempt, worker FROM tidemill_jobs WHERE status = 'processing'";
        let rows = self.rows(&self.jobs(), &format!("{sql} AND job_id = '{job}'")).await;
        let row = rows.first()?;
        // `host:process token`, the token of this claim.
        let worker = text(row, 1);
        let process = worker.split(' ').next().unwrap().rsplit(':').next().unwrap().parse().unwrap();
        Some((text(row, 0).parse().unwrap(), process))
    }

    /// Jobs in the job table.
    pub async fn jobs_known(&self) -> i64 {
        let rows = self.rows(&self.jobs(), "SELECT count(*) FROM tidemill_jobs").await;
        text(&rows[0], 0).parse().unwrap()
    }

    /// Notices that nobody has taken.
    pub async fn notices_waiting(&self) -> i64 {
        let sql = "SELECT count(*) FROM tidemill_notices WHERE status = 'waiting'";
        text(&self.rows(&self.jobs(), sql).await[0], 0).parse().unwrap()
    }

    /// Attempts that a job has had.
    pub async fn attempts(&self, job: &str) -> i64 {
        let sql = format!("SELECT attempt FROM tidemill_jobs WHERE job_id = '{job}'");
        text(&self.rows(&self.jobs(), &sql).await[0], 0).parse().unwrap()
    }

    /// The rows of a table of the lake.
    pub async fn lake_rows(&self, table: &str) -> usize {
        let lake = Lake::new(Arc::new(bucket::folder(self.name.as_str())));
        let batches = lake.scan(&table.parse().unwrap(), &[]).await.unwrap();
        batches.map(|batch| batch.unwrap().num_rows()).fold(0, async |all, rows| all + rows).await
    }

    async fn rows(&self, database: &str, sql: &str) -> Vec<MySqlRow> {
        let mut connection = self.pool.acquire().await.unwrap();
        let with_database = format!("USE `{database}`");
        sqlx::raw_sql(AssertSqlSafe(with_database)).execute(&mut *connection).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(&mut *connection).await.unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let sql =
            format!("DROP DATABASE IF EXISTS `{}`; DROP DATABASE IF EXISTS `{}`", self.jobs(), self.tables());
        by_client(&self.server, &sql);
    }
}

/// Runs SQL in the client: a drop cannot wait for a pool.
fn by_client(server: &str, sql: &str) {
    let url = server.trim_start_matches("mysql://");
    let (login, address) = url.rsplit_once('@').unwrap_or(("root", url));
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (host, port) = address.split_once(':').unwrap_or((address, "3306"));
    Command::new("mariadb")
        .args(["--no-defaults", "--protocol=tcp", "-h", host, "-P", port, "-u", user, "-e", sql])
        .env("MYSQL_PWD", password)
        .status()
        .ok();
}

/// The MySQL of a place, which takes no writes until this is dropped.
pub struct ReadOnly(String);

impl ReadOnly {
    pub async fn make(place: &Place) -> Self {
        let made = Self(place.server.clone());
        place.run("SET GLOBAL super_read_only = ON").await;
        made
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        by_client(&self.0, "SET GLOBAL super_read_only = OFF; SET GLOBAL read_only = OFF");
    }
}

fn names(row: &MySqlRow) -> Vec<String> {
    row.columns().iter().map(|column| column.name().to_owned()).collect()
}

/// A value as the text protocol carries it.
fn text(row: &MySqlRow, column: usize) -> String {
    row.try_get_unchecked::<Option<String>, _>(column).unwrap().unwrap_or_else(|| "NULL".to_owned())
}

/// A variable of the servers.
pub fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: `make test` starts the servers and sets it"))
}

/// A file of the repository.
pub fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A server that is stopped, and started again at the latest when this is dropped.
pub struct Stopped(&'static str);

impl Stopped {
    /// Stops a server tidily.
    pub fn stop(name: &'static str) -> Self {
        servers(&["stop", name]);
        Self(name)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        servers(&["start", self.0]);
    }
}

fn servers(arguments: &[&str]) {
    let done = Command::new(variable("TIDEMILL_TEST_SERVERS")).args(arguments).status();
    assert!(done.unwrap().success(), "servers {arguments:?}");
}
