//! What an error of the server or of the client means: try again now, later, or never; or a bad row. Pure.

use mysql_async::{DriverError, Error as ClientError, LocalInfileError, ServerError};
use tidemill_pipelines::Retry;

use crate::Error;

/// Deadlock, lock wait timeout, and MariaDB's "record has changed since last read": the transaction lost
/// against another one.
const LOST_TO_ANOTHER: [u16; 3] = [1213, 1205, 1020];

/// The server is away, stopping, full of connections, read-only (a failover), or ended this session:
/// 1040 and 1203 too many connections, 1053 shutdown, 1080 forced close, 1158–1161 network, 1290 and 1836
/// read-only, 1317 interrupted, 1927 killed (MariaDB), 1969 and 3024 time limits, 3100 and 3101 group
/// replication, 3168 and 4031 session ended by the server, 1047 node not ready (Galera).
const AWAY: [u16; 19] = [
    1040, 1203, 1053, 1080, 1158, 1159, 1160, 1161, 1290, 1836, 1317, 1927, 1969, 3024, 3100, 3101, 3168,
    4031, 1047,
];

/// Errors about a row that have no SQLSTATE of class 22 or 23: 1265 truncated, 1366 wrong value, 1364 no
/// default, 1526 no partition, 1644 SIGNAL of a trigger, 1690 out of range, 3819 and 4025 CHECK.
const ABOUT_A_ROW: [u16; 8] = [1265, 1366, 1364, 1526, 1644, 1690, 3819, 4025];

/// "VALUES() is deprecated": a remark of MySQL 8 about our own statement, not about a row.
pub(crate) const DEPRECATED: u16 = 1287;

/// Turns an error of the client library into one of this crate.
pub(crate) fn from_client(action: &'static str, error: ClientError) -> Error {
    match error {
        ClientError::Server(error) => from_server(action, &error),
        ClientError::Io(error) => later(action, error.to_string()),
        ClientError::Driver(error) if is_away(&error) => later(action, error.to_string()),
        ClientError::Driver(error) => Error::Refused { action, message: error.to_string() },
        ClientError::Other(error) => Error::Refused { action, message: error.to_string() },
        ClientError::Url(error) => Error::Refused { action, message: error.to_string() },
    }
}

fn is_away(error: &DriverError) -> bool {
    matches!(
        error,
        DriverError::ConnectionClosed
            | DriverError::PoolDisconnected
            | DriverError::LocalInfile(LocalInfileError::ReadError(_))
    )
}

fn from_server(action: &'static str, error: &ServerError) -> Error {
    let message = format!("{} ({})", error.message, error.code);
    if LOST_TO_ANOTHER.contains(&error.code) {
        return Error::Unavailable { action, message, retry: Retry::Now };
    }
    if AWAY.contains(&error.code) {
        return later(action, message);
    }
    Error::Refused { action, message }
}

/// The server or the network is away for now.
pub(crate) fn later(action: &'static str, message: String) -> Error {
    Error::Unavailable { action, message, retry: Retry::Later }
}

/// Whether the server refuses a value, not the statement.
pub(crate) fn is_about_a_row(error: &ServerError) -> bool {
    let class = error.state.get(..2).unwrap_or("");
    matches!(class, "22" | "23") || ABOUT_A_ROW.contains(&error.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: u16, state: &str) -> ServerError {
        ServerError { code, state: state.to_owned(), message: "m".to_owned() }
    }

    #[test]
    fn errors_say_when_to_try_again() {
        for (code, retry) in [
            (1213, Retry::Now),
            (1205, Retry::Now),
            (1053, Retry::Later),
            (1290, Retry::Later),
            (1142, Retry::Never),
            (1114, Retry::Never),
        ] {
            assert_eq!(from_server("write", &server(code, "HY000")).retry(), retry, "{code}");
        }
    }

    #[test]
    fn a_refused_value_is_told_from_a_refused_statement() {
        for (code, state) in [(1406, "22001"), (1062, "23000"), (4025, "23000"), (1366, "HY000")] {
            assert!(is_about_a_row(&server(code, state)), "{code}");
        }
        for (code, state) in [(1064, "42000"), (1213, "40001"), (1114, "HY000"), (1142, "")] {
            assert!(!is_about_a_row(&server(code, state)), "{code}");
        }
    }
}
