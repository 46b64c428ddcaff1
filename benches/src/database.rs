//! A database of a measurement's own on the test server, and the server's own client.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::{FromValue, Queryable};
use mysql_async::{Conn, Opts};

use crate::variable;

/// A database that was made for one run. [`Database::drop_it`] takes it away.
pub struct Database {
    /// `mysql://user:password@host:port/name`.
    pub url: String,
    name: String,
    opts: Opts,
    conn: Conn,
}

impl Database {
    /// Makes an empty database on the server of `TIDEMILL_TEST_MARIADB_URL`.
    pub async fn make(purpose: &str) -> Result<Self> {
        let server = variable("TIDEMILL_TEST_MARIADB_URL")?;
        let name = format!("bench_{purpose}_{}", std::process::id());
        let opts = Opts::from_url(&server).context("failed to read TIDEMILL_TEST_MARIADB_URL")?;
        let mut conn = Conn::new(opts.clone()).await.context("failed to reach the database server")?;
        conn.query_drop(format!("CREATE DATABASE `{name}`")).await?;
        conn.query_drop(format!("USE `{name}`")).await?;
        let url = format!("{}/{name}", server.trim_end_matches('/'));
        Ok(Self { url, name, opts, conn })
    }

    /// Runs a statement.
    pub async fn run(&mut self, sql: &str) -> Result<()> {
        Ok(self.conn.query_drop(sql).await?)
    }

    /// The first value of the first row, `None` when there is none.
    pub async fn value<T: FromValue + Send + 'static>(&mut self, sql: &str) -> Result<Option<T>> {
        Ok(self.conn.query_first(sql).await?)
    }

    /// Runs statements in the `mariadb` client, in this database, and gives what it prints.
    pub fn by_client(&self, sql: &str) -> Result<String> {
        let done = Command::new("mariadb")
            .args(["--no-defaults", "--protocol=tcp", "--local-infile=1", "--batch", "--skip-column-names"])
            .arg(format!("--host={}", self.opts.ip_or_hostname()))
            .arg(format!("--port={}", self.opts.tcp_port()))
            .arg(format!("--user={}", self.opts.user().unwrap_or("root")))
            .args(["--execute", sql, &self.name])
            .env("MYSQL_PWD", self.opts.pass().unwrap_or_default())
            .stderr(Stdio::inherit())
            .output()
            .context("failed to run the client `mariadb`")?;
        ensure!(done.status.success(), "the client `mariadb` ended with {}", done.status);
        Ok(String::from_utf8(done.stdout)?.trim().to_owned())
    }

    /// Takes the database away.
    pub async fn drop_it(mut self) -> Result<()> {
        self.conn.query_drop(format!("DROP DATABASE `{}`", self.name)).await?;
        Ok(self.conn.disconnect().await?)
    }
}
