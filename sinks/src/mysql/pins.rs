//! The settings that every session is pinned to, and the look whether the server took them. Pure.

use crate::{Error, Result, SinkLimits};

/// The mode every session runs in; backslash escapes stay on, zero dates and silent cuts are off.
const SQL_MODE: [&str; 5] = [
    "STRICT_ALL_TABLES",
    "NO_ZERO_IN_DATE",
    "NO_ZERO_DATE",
    "ERROR_FOR_DIVISION_BY_ZERO",
    "NO_ENGINE_SUBSTITUTION",
];

/// How long the server may wait for the next rows, or for us to take the next ones, in seconds: its
/// defaults of 30 and 60 would break a load whose SQL steps think for longer.
const SERVER_NET_TIMEOUT_SECONDS: u64 = 3_600;

/// The statements that pin a session; run at connect and again after the pool has reset a connection.
pub(crate) fn pins(limits: &SinkLimits, read_only: bool) -> Vec<String> {
    let mut pins = vec![
        format!(
            "SET NAMES utf8mb4, SESSION sql_mode = '{}', SESSION time_zone = '+00:00', \
         SESSION innodb_lock_wait_timeout = {lock}, SESSION lock_wait_timeout = {lock}, \
         SESSION net_read_timeout = {net}, SESSION net_write_timeout = {net}, \
         SESSION autocommit = 1, SESSION foreign_key_checks = 1, SESSION unique_checks = 1",
            SQL_MODE.join(","),
            lock = limits.lock_wait_seconds.max(1),
            net = SERVER_NET_TIMEOUT_SECONDS,
        ),
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED".to_owned(),
    ];
    if read_only {
        let seconds = limits.statement_timeout_seconds;
        pins.push("SET SESSION TRANSACTION READ ONLY".to_owned());
        // A reader may be killed in mid-statement, which the server would notice only with the first row. MariaDB
        // reads the first comment, MySQL the second: MariaDB passes over 50700 to 50999.
        pins.push(format!(
            "SET SESSION autocommit = 1 /*M!100100 , SESSION max_statement_time = {seconds} */ \
             /*!50708 , SESSION max_execution_time = {seconds}000 */"
        ));
    }
    pins
}

/// Refuses a session that the server or a proxy gave other settings than it was told.
pub(crate) fn verify(mode: &str, [zone, client, connection]: &[String; 3]) -> Result<()> {
    let mut wrong = Vec::new();
    let modes: Vec<&str> = mode.split(',').collect();
    wrong.extend(SQL_MODE.iter().filter(|m| !modes.contains(m)).map(|m| format!("{m} is off")));
    if modes.contains(&"NO_BACKSLASH_ESCAPES") || modes.contains(&"ANSI_QUOTES") {
        wrong.push(format!("sql_mode is {mode}"));
    }
    if zone != "+00:00" {
        wrong.push(format!("time_zone is {zone}"));
    }
    if client != "utf8mb4" || connection != "utf8mb4" {
        wrong.push(format!("the character sets are {client} and {connection}"));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::Refused { action: "pin the session's settings", message: wrong.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_with_other_settings_than_it_was_told_is_refused() {
        let mode = SQL_MODE.join(",");
        let good = ["+00:00", "utf8mb4", "utf8mb4"].map(str::to_owned);
        assert!(verify(&mode, &good).is_ok());
        let lax = mode.replace("STRICT_ALL_TABLES", "STRICT_TRANS_TABLES");
        let unescaped = format!("{mode},NO_BACKSLASH_ESCAPES");
        let local = ["SYSTEM", "utf8mb4", "utf8mb4"].map(str::to_owned);
        let latin = ["+00:00", "latin1", "utf8mb4"].map(str::to_owned);
        for (mode, others, words) in [
            (&lax, &good, "STRICT_ALL_TABLES is off"),
            (&unescaped, &good, "NO_BACKSLASH_ESCAPES"),
            (&mode, &local, "time_zone is SYSTEM"),
            (&mode, &latin, "the character sets are latin1"),
        ] {
            let error = verify(mode, others).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
