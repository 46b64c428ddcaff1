//! What an error of the server or of the client means: try again now, later, or never; or a bad row. Pure.

use mysql_async::{DriverError, Error as ClientError, LocalInfileError, ServerError};
use tidemill_pipelines::Retry;

use crate::Error;

/// Deadlock, lock wait timeout, MariaDB's "record has changed since last read", and 3101 of Group Replication (another
/// member's transaction was certified first): the transaction lost against another one.
const LOST_TO_ANOTHER: [u16; 4] = [1213, 1205, 1020, 3101];

/// The server is away, stopping, full of connections, read-only (a failover), or ended this session:
/// 1040 and 1203 too many connections, 1053 shutdown, 1080 forced close, 1158–1161 network, 1290 and 1836
/// read-only, 1317 interrupted, 1927 killed (MariaDB), 1969 and 3024 time limits, 3168 and 4031 session ended by
/// the server, 1047 node not ready (Galera).
const AWAY: [u16; 17] =
    [1040, 1203, 1053, 1080, 1158, 1159, 1160, 1161, 1290, 1836, 1317, 1927, 1969, 3024, 3168, 4031, 1047];

/// What ends a transaction that is too large for the servers, and the setting that says how large it may be.
///
/// Group Replication tells no more than that its hook failed; a member that left its group while the transaction
/// was at its COMMIT gives the same error, and read-only (1290) from then on. Galera's is 1105 since MariaDB 10.4,
/// and before it an "Input/output error" (5) or "Message too long" (90) of COMMIT.
const TOO_LARGE: [(u16, &str, &str); 6] = [
    (3100, "before_commit", "group_replication_transaction_size_limit"),
    (1105, "writeset size exceeded", "wsrep_max_ws_size"),
    (1105, "wsrep_max_ws_rows exceeded", "wsrep_max_ws_rows"),
    (1180, "Got error 5 ", "wsrep_max_ws_size"),
    (1180, "Got error 90 ", "wsrep_max_ws_size"),
    (1197, "", "max_binlog_cache_size"),
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
    match too_large(error) {
        Some(setting) => Error::Refused {
            action,
            message: format!(
                "{message}: the transaction may be larger than the server's {setting} allows; raise {setting}, or \
                 send the file in smaller parts"
            ),
        },
        None => Error::Refused { action, message },
    }
}

fn too_large(error: &ServerError) -> Option<&'static str> {
    let limits = TOO_LARGE.iter();
    let mut hit = limits.filter(|(code, words, _)| *code == error.code && error.message.contains(words));
    hit.next().map(|(_, _, setting)| *setting)
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
    use tidemill_pipelines::Blame;

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
            (3101, Retry::Now),
            (1142, Retry::Never),
            (1114, Retry::Never),
        ] {
            assert_eq!(from_server("write", &server(code, "HY000")).retry(), retry, "{code}");
        }
    }

    #[test]
    fn a_transaction_too_large_for_the_servers_names_what_to_do() {
        // In the words of MySQL 8 to 9, of Galera with MariaDB 10.4 and later, and of Galera before.
        for (code, message, setting) in [
            (
                3100,
                "Error on observer while running replication hook 'before_commit'.",
                "group_replication_transaction_size_limit",
            ),
            (1105, "Maximum writeset size exceeded", "wsrep_max_ws_size"),
            (1105, "wsrep_max_ws_rows exceeded", "wsrep_max_ws_rows"),
            (1180, "Got error 5 \"Input/output error\" during COMMIT", "wsrep_max_ws_size"),
            (1180, "Got error 90 \"Message too long\" during COMMIT", "wsrep_max_ws_size"),
            (
                1197,
                "Multi-statement transaction required more than 'max_binlog_cache_size' bytes of storage; \
                 increase this mysqld variable and try again",
                "max_binlog_cache_size",
            ),
        ] {
            let error = ServerError { message: message.to_owned(), ..server(code, "HY000") };
            let told = from_server("commit", &error);
            assert_eq!((told.retry(), told.blame()), (Retry::Never, Blame::Operator), "{told}");
            let told = told.to_string();
            assert!(told.contains(message) && told.contains(setting), "{told}");
            assert!(told.contains("smaller parts"), "{told}");
        }
        for (code, message) in
            [(1105, "Unknown error"), (1180, "Got error 28 \"No space left\" during COMMIT")]
        {
            let error = ServerError { message: message.to_owned(), ..server(code, "HY000") };
            let told = from_server("commit", &error).to_string();
            assert!(!told.contains("chunks"), "{told}");
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
