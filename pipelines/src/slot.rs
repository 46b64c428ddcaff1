//! A slot as texts of a pipeline file see it: `{{ slot.time }}` in a URL, a parameter, the name of a folder.
//!
//! A template is checked when the file is read: it parses, and takes only what there is. Rendering is strict
//! and bounded; called by who works at slots.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use minijinja::{Environment, UndefinedBehavior, context};

/// Steps of the template engine; a text takes a few dozen.
const FUEL: u64 = 10_000;
/// What a template may take from its slot.
pub const SLOT_VARIABLES: [&str; 6] =
    ["slot.time", "slot.date", "slot.unix", "slot.previous", "slot.previous_date", "slot.previous_unix"];

/// An instant at which something is due, and the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// When it is due.
    pub time: DateTime<Utc>,
    /// The slot before it; the same instant when there is no schedule.
    pub previous: DateTime<Utc>,
    /// The zone of the dates.
    pub zone: Tz,
}

impl Slot {
    /// Some slot, to try a template with.
    pub fn sample() -> Self {
        Self { time: DateTime::UNIX_EPOCH, previous: DateTime::UNIX_EPOCH, zone: Tz::UTC }
    }
}

/// A text with places for the slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotTemplate {
    text: String,
    secrets: Vec<String>,
}

impl SlotTemplate {
    /// Checks a text; `secrets` says whether it may name secrets as `{{ secrets.NAME }}`. The error is of the
    /// template's own words, or the variable that there is not.
    pub fn parse(text: &str, secrets: bool) -> Result<Self, TemplateError> {
        let environment = environment();
        let template = environment.template_from_str(text).map_err(|error| {
            TemplateError::Syntax(error.detail().unwrap_or("it does not parse").to_owned())
        })?;
        let mut named = Vec::new();
        for variable in template.undeclared_variables(true) {
            match variable.strip_prefix("secrets.") {
                Some(name) if secrets => named.push(name.to_owned()),
                _ if SLOT_VARIABLES.contains(&variable.as_str()) => {}
                _ => return Err(TemplateError::Unknown(variable)),
            }
        }
        named.sort();
        let parsed = Self { text: text.to_owned(), secrets: named };
        // A filter that does not exist is found only when it runs.
        let secrets = parsed.secrets.iter().map(|name| (name.as_str(), "x")).collect();
        parsed.render(&Slot::sample(), &secrets).map_err(TemplateError::Syntax)?;
        Ok(parsed)
    }

    /// The names of the secrets that it takes.
    pub fn secrets(&self) -> &[String] {
        &self.secrets
    }

    /// Whether it takes the slot before.
    pub fn takes_previous(&self) -> bool {
        self.text.contains("slot.previous")
    }

    /// The text for a slot. The error never holds a secret.
    pub fn render(&self, slot: &Slot, secrets: &BTreeMap<&str, &str>) -> Result<String, String> {
        let date = |time: DateTime<Utc>| time.with_timezone(&slot.zone).format("%Y-%m-%d").to_string();
        let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        let slot = context! {
            time => time(slot.time), date => date(slot.time), unix => slot.time.timestamp(),
            previous => time(slot.previous), previous_date => date(slot.previous),
            previous_unix => slot.previous.timestamp(),
        };
        let owned = |(name, value): (&&str, &&str)| ((*name).to_owned(), (*value).to_owned());
        let secrets: BTreeMap<String, String> = secrets.iter().map(owned).collect();
        let rendered = environment().render_str(&self.text, context! { slot, secrets });
        rendered.map_err(|error| error.detail().unwrap_or("the template failed").to_owned())
    }
}

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateError {
    /// It does not parse, or does not run.
    Syntax(String),
    /// It takes a variable that there is not.
    Unknown(String),
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_tells_the_slot_and_the_one_before() {
        let slot = Slot {
            time: "2026-11-21T23:15:00Z".parse().unwrap(),
            previous: "2026-11-21T23:00:00Z".parse().unwrap(),
            zone: Tz::Europe__Madrid,
        };
        let none = BTreeMap::new();
        for (text, rendered) in [
            ("{{ slot.time }}", "2026-11-21T23:15:00Z"),
            ("{{ slot.date }}", "2026-11-22"),
            ("{{ slot.previous }}..{{ slot.unix }}", "2026-11-21T23:00:00Z..1795302900"),
            ("plain", "plain"),
        ] {
            assert_eq!(SlotTemplate::parse(text, false).unwrap().render(&slot, &none).unwrap(), rendered);
        }
        let secret = SlotTemplate::parse("Token {{ secrets.crm }}", true).unwrap();
        assert_eq!(secret.secrets(), ["crm"]);
        assert_eq!(secret.render(&slot, &[("crm", "s3")].into()).unwrap(), "Token s3");
    }

    #[test]
    fn a_template_that_takes_what_there_is_not_is_refused() {
        let unknown = |name: &str| TemplateError::Unknown(name.to_owned());
        assert_eq!(SlotTemplate::parse("{{ slot.tme }}", false), Err(unknown("slot.tme")));
        assert_eq!(SlotTemplate::parse("{{ secrets.x }}", false), Err(unknown("secrets.x")));
        assert!(matches!(SlotTemplate::parse("{{ slot.time", false), Err(TemplateError::Syntax(_))));
        assert!(matches!(
            SlotTemplate::parse("{{ slot.time|nofilter }}", false),
            Err(TemplateError::Syntax(_))
        ));
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        assert_eq!(SlotTemplate::parse(endless, false), Err(unknown("range")));
    }
}
