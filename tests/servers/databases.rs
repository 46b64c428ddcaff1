//! The database servers that `tests/servers` starts, for tests of every crate: what is promised holds on each of them.

/// Each server's name, as `tests/servers/servers` knows it, and its URL, without a database and a slash.
pub fn databases() -> [(&'static str, String); 2] {
    [("mariadb", "TIDEMILL_TEST_MARIADB_URL"), ("mysql", "TIDEMILL_TEST_MYSQL_URL")].map(
        |(name, variable)| {
            let url = std::env::var(variable).unwrap_or_else(|_| {
                panic!("{variable} is not set: `make test` starts the servers and sets it")
            });
            (name, url.trim_end_matches('/').to_owned())
        },
    )
}
