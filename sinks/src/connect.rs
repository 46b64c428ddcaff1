//! Opens the sink that a URL names, with its limits. Called by the roles and by the command line.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemill_pipelines::Retry;

use crate::{Error, MySqlSink, Result, Sink, SqliteSink};

/// The bounds of a sink; every wait and every pool has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SinkLimits {
    /// Connections to the database at once. A delivery holds one from open to commit, a scan one until
    /// its end. Default 16: more than one processor's jobs, less than a server's default of 151.
    pub connections_max: usize,
    /// How long to wait for a connection: a free one of the pool, or a new one. Default 10 s.
    pub connect_timeout_seconds: u64,
    /// How long to wait for rows that another transaction holds; after it, the delivery is tried again.
    /// Default 50 s, the server's own default; in SQLite also the wait for the one writer.
    pub lock_wait_seconds: u64,
    /// How long one statement or one chunk of rows may take before the server counts as hanging.
    /// Default 600 s: deleting a large table for `replace` takes minutes.
    pub statement_timeout_seconds: u64,
    /// How long to ask for the fate of a COMMIT whose answer was lost. Default 30 s.
    pub settle_timeout_seconds: u64,
    /// Whether rows may be streamed by LOAD DATA LOCAL where the MySQL server allows it; else by
    /// INSERT, three times slower. Default true.
    pub local_infile: bool,
}

impl Default for SinkLimits {
    fn default() -> Self {
        Self {
            connections_max: 16,
            connect_timeout_seconds: 10,
            lock_wait_seconds: 50,
            statement_timeout_seconds: 600,
            settle_timeout_seconds: 30,
            local_infile: true,
        }
    }
}

/// Opens the sink of a URL: `mysql://user:password@host:port/database` (also `mariadb://`; TLS by
/// `?require_ssl=true`), or `sqlite:path/to/file.db`. Reaches the database once.
pub async fn connect(url: &str, limits: SinkLimits) -> Result<Arc<dyn Sink>> {
    if let Some(rest) = url.strip_prefix("mariadb://") {
        return Ok(Arc::new(MySqlSink::connect(&format!("mysql://{rest}"), limits).await?));
    }
    if url.starts_with("mysql://") {
        return Ok(Arc::new(MySqlSink::connect(url, limits).await?));
    }
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return Ok(Arc::new(SqliteSink::open_with(path, limits).await?));
    }
    Err(unknown_scheme(url))
}

/// Opens the database of a URL for reading only, as above: it makes nothing, and its transactions refuse to write.
pub async fn connect_read_only(url: &str, limits: SinkLimits) -> Result<Arc<dyn Sink>> {
    if let Some((_, rest)) = url.split_once("://").filter(|(scheme, _)| ["mariadb", "mysql"].contains(scheme))
    {
        return Ok(Arc::new(MySqlSink::connect_read_only(&format!("mysql://{rest}"), limits).await?));
    }
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return Ok(Arc::new(SqliteSink::open_read_only(path, limits)));
    }
    Err(unknown_scheme(url))
}

fn unknown_scheme(url: &str) -> Error {
    // The URL itself may carry a password: only its scheme is told.
    let scheme: String = url.chars().take_while(|c| *c != ':').take(20).collect();
    Error::Refused {
        action: "read the url",
        message: format!("scheme `{scheme}` is none of mysql, mariadb, sqlite"),
    }
}

/// Bounds a wait; what runs out of time is told as a server that does not answer.
pub(crate) async fn within<T>(
    seconds: u64,
    action: &'static str,
    future: impl Future<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(std::time::Duration::from_secs(seconds), future).await {
        Ok(result) => result,
        Err(_) => Err(Error::Unavailable {
            action,
            message: format!("no answer within {seconds} s"),
            retry: Retry::Later,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wrong_url_is_refused_without_telling_its_password() {
        for url in ["postgres://u:hunter2@h/d", "mysql://u:hunter2@h:x/d", "mysql://u:hunter2@h/"] {
            let Err(error) = connect(url, SinkLimits::default()).await else {
                panic!("{url} was taken");
            };
            assert!(matches!(error, Error::Refused { .. }), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
