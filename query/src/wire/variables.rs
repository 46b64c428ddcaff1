//! The settings of a session, as `SET` and `SHOW` know them: those that clients send or ask for.
//!
//! Promise: what is accepted is true. A value that would change answers (another encoding, another time zone) is
//! refused, since answers come in one way only. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::refusal::{Refusal, code};

/// The version of PostgreSQL whose words we speak.
pub(super) const SERVER_VERSION: &str = "16.6";
/// Longest text kept of a setting.
const VALUE_BYTES_MAX: usize = 1024;

/// What may be said of a setting.
enum Rule {
    /// It is so.
    Fixed,
    /// These mean the same, whatever their case.
    OneOf(&'static [&'static str]),
    /// Kept, and without effect on answers.
    Kept,
    /// A time in milliseconds, or with its unit.
    Time,
}

struct Known {
    name: &'static str,
    default: &'static str,
    rule: Rule,
    /// Whether the client is told at login and when it changes.
    told: bool,
}

const fn known(name: &'static str, default: &'static str, rule: Rule, told: bool) -> Known {
    Known { name, default, rule, told }
}

const KNOWN: &[Known] = &[
    known("application_name", "", Rule::Kept, true),
    known("bytea_output", "hex", Rule::OneOf(&["hex"]), false),
    known("client_encoding", "UTF8", Rule::OneOf(&["utf8", "utf-8", "unicode"]), true),
    known("client_min_messages", "notice", Rule::Kept, false),
    known("datestyle", "ISO, MDY", Rule::OneOf(&["iso", "iso, mdy", "iso, dmy", "iso, ymd"]), true),
    known(
        "default_transaction_isolation",
        "read committed",
        Rule::OneOf(&["read committed", "read uncommitted"]),
        false,
    ),
    known("default_transaction_read_only", "on", Rule::OneOf(&["on", "true", "yes", "1"]), true),
    known("default_table_access_method", "heap", Rule::Fixed, false),
    known("extra_float_digits", "1", Rule::Kept, false),
    known("idle_in_transaction_session_timeout", "0", Rule::Time, false),
    known("in_hot_standby", "off", Rule::Fixed, true),
    known("integer_datetimes", "on", Rule::Fixed, true),
    known("intervalstyle", "postgres", Rule::OneOf(&["postgres"]), true),
    known("is_superuser", "off", Rule::Fixed, true),
    known("jit", "off", Rule::Kept, false),
    known("lc_collate", "C", Rule::Fixed, false),
    known("lc_ctype", "C.UTF-8", Rule::Fixed, false),
    known("lock_timeout", "0", Rule::Time, false),
    known("max_identifier_length", "63", Rule::Fixed, false),
    known(
        "search_path",
        "\"$user\", public",
        Rule::OneOf(&["public", "\"$user\", public", "$user, public"]),
        false,
    ),
    known("server_encoding", "UTF8", Rule::Fixed, true),
    known("server_version", SERVER_VERSION, Rule::Fixed, true),
    known("server_version_num", "160006", Rule::Fixed, false),
    known("session_authorization", "", Rule::Fixed, true),
    known("standard_conforming_strings", "on", Rule::OneOf(&["on", "true", "yes", "1"]), true),
    known("statement_timeout", "0", Rule::Time, false),
    known(
        "timezone",
        "UTC",
        Rule::OneOf(&["utc", "etc/utc", "gmt", "etc/gmt", "zulu", "default", "0"]),
        true,
    ),
    known(
        "transaction_isolation",
        "read committed",
        Rule::OneOf(&["read committed", "read uncommitted"]),
        false,
    ),
    known("transaction_read_only", "on", Rule::OneOf(&["on", "true", "yes", "1"]), false),
];

/// How clients know these names; the others are told in small letters.
fn written(name: &str) -> &str {
    match name {
        "datestyle" => "DateStyle",
        "intervalstyle" => "IntervalStyle",
        "timezone" => "TimeZone",
        name => name,
    }
}

/// The settings of one session.
#[derive(Debug, Clone)]
pub(super) struct Variables {
    values: BTreeMap<&'static str, String>,
    user: String,
}

impl Variables {
    pub(super) fn new(user: &str) -> Self {
        let mut variables = Self { values: BTreeMap::new(), user: user.to_owned() };
        variables.reset_all();
        variables
    }

    /// Sets one; gives its name and value when the client is to be told.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<Option<(String, String)>, Refusal> {
        let known = find(name)?;
        if value.eq_ignore_ascii_case("default") {
            return Ok(self.reset(known));
        }
        let refused = |what: &str| {
            let message =
                format!("parameter \"{}\" cannot be set to \"{}\"{what}", known.name, shortened(value));
            Refusal::new(code::BAD_VALUE, message)
        };
        let value = match known.rule {
            Rule::Fixed => return Err(refused(": it cannot be changed")),
            Rule::OneOf(same) if same.contains(&value.to_ascii_lowercase().as_str()) => {
                known.default.to_owned()
            }
            Rule::OneOf(_) => return Err(refused(&format!(": here it is always \"{}\"", known.default))),
            Rule::Kept if value.len() <= VALUE_BYTES_MAX => value.to_owned(),
            Rule::Kept => return Err(refused(": it is too long")),
            Rule::Time => match milliseconds(value) {
                Some(0) => "0".to_owned(),
                Some(count) => format!("{count}ms"),
                None => return Err(refused(": write milliseconds, or 500ms, 5s, 1min")),
            },
        };
        self.values.insert(known.name, value.clone());
        Ok(known.told.then(|| (written(known.name).to_owned(), value)))
    }

    /// Puts one back, or all when the name is empty.
    pub(super) fn reset_named(&mut self, name: &str) -> Result<(), Refusal> {
        match name {
            "" => self.reset_all(),
            name => drop(self.reset(find(name)?)),
        }
        Ok(())
    }

    fn reset(&mut self, known: &'static Known) -> Option<(String, String)> {
        let value = match known.name {
            "session_authorization" => self.user.clone(),
            _ => known.default.to_owned(),
        };
        self.values.insert(known.name, value.clone());
        known.told.then(|| (written(known.name).to_owned(), value))
    }

    fn reset_all(&mut self) {
        for known in KNOWN {
            self.reset(known);
        }
    }

    /// The name as it is written, and the value.
    pub(super) fn show(&self, name: &str) -> Result<(String, String), Refusal> {
        let known = find(name)?;
        let value = self.values.get(known.name).cloned().unwrap_or_default();
        Ok((written(known.name).to_owned(), value))
    }

    /// All, for `SHOW ALL` and for what statements ask by `current_setting`.
    pub(super) fn all(&self) -> &BTreeMap<&'static str, String> {
        &self.values
    }

    /// What the client is told at login.
    pub(super) fn told(&self) -> impl Iterator<Item = (String, String)> {
        let told = KNOWN.iter().filter(|known| known.told);
        told.filter_map(|known| Some((written(known.name).to_owned(), self.values.get(known.name)?.clone())))
    }

    /// The limit that the client gave its statements.
    pub(super) fn statement_timeout(&self) -> Option<Duration> {
        let count = milliseconds(self.values.get("statement_timeout")?)?;
        (count > 0).then(|| Duration::from_millis(count))
    }
}

fn find(name: &str) -> Result<&'static Known, Refusal> {
    let lower = name.to_ascii_lowercase();
    KNOWN.iter().find(|known| known.name == lower).ok_or_else(|| {
        let message = format!("unrecognized configuration parameter \"{}\"", shortened(name));
        Refusal::new(code::NO_SETTING, message)
    })
}

fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

/// `500`, `500ms`, `5s`, `5 s`, `1min`, `1h`.
fn milliseconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let factor = match text[digits..].trim_start() {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(factor).filter(|count| *count <= i32::MAX as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_send_is_taken_and_told() {
        let mut variables = Variables::new("ann");
        let told = |name: &str, value: &str| Ok(Some((name.to_owned(), value.to_owned())));
        assert_eq!(variables.set("client_encoding", "utf-8"), told("client_encoding", "UTF8"));
        assert_eq!(variables.set("DateStyle", "ISO"), told("DateStyle", "ISO, MDY"));
        assert_eq!(variables.set("TIMEZONE", "Etc/UTC"), told("TimeZone", "UTC"));
        assert_eq!(variables.set("application_name", "psql"), told("application_name", "psql"));
        assert_eq!(variables.set("extra_float_digits", "3"), Ok(None));
        assert_eq!(variables.show("Extra_Float_Digits").unwrap().1, "3");
        assert_eq!(variables.show("session_authorization").unwrap().1, "ann");
        variables.reset_named("").unwrap();
        assert_eq!(variables.show("extra_float_digits").unwrap().1, "1");
        assert!(variables.told().any(|pair| pair == ("server_version".into(), SERVER_VERSION.into())));
    }

    #[test]
    fn the_time_of_statements_is_read_with_its_unit() {
        let mut variables = Variables::new("ann");
        for (text, shown, milliseconds) in [
            ("250", "250ms", Some(250)),
            ("5s", "5000ms", Some(5_000)),
            ("1 min", "60000ms", Some(60_000)),
            ("0", "0", None),
        ] {
            variables.set("statement_timeout", text).unwrap();
            assert_eq!(variables.show("statement_timeout").unwrap().1, shown);
            assert_eq!(variables.statement_timeout(), milliseconds.map(Duration::from_millis));
        }
        variables.set("statement_timeout", "DEFAULT").unwrap();
        assert_eq!(variables.statement_timeout(), None);
    }

    #[test]
    fn what_would_not_be_true_is_refused() {
        let mut variables = Variables::new("ann");
        for (name, value, code) in [
            ("timezone", "Europe/Berlin", code::BAD_VALUE),
            ("client_encoding", "LATIN1", code::BAD_VALUE),
            ("datestyle", "German", code::BAD_VALUE),
            ("server_version", "17", code::BAD_VALUE),
            ("transaction_read_only", "off", code::BAD_VALUE),
            ("search_path", "tidemill", code::BAD_VALUE),
            ("statement_timeout", "soon", code::BAD_VALUE),
            ("statement_timeout", "99999999999999999999", code::BAD_VALUE),
            ("work_mem", "1GB", code::NO_SETTING),
        ] {
            assert_eq!(variables.set(name, value).unwrap_err().code, code, "{name}");
        }
        assert_eq!(variables.show("work_mem").unwrap_err().code, code::NO_SETTING);
    }
}
