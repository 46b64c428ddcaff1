//! `source: http` of a pipeline file: URL, texts with the slot, auth, pages, limits.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use serde_json_path::JsonPath;

use super::notify::secret_is_good;
use super::{schedule, size_bytes};
use crate::problem::{Place, Problems, did_you_mean, quoted};
use crate::spec::{AuthSpec, HttpLimitsSpec, HttpSpec, NextSpec, PagesSpec, Written};
use crate::tree::Node;
use crate::{Auth, HttpLimits, HttpSource, Pages, SLOT_VARIABLES, SlotTemplate, TemplateError};

/// Longest time-out of one request.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// Headers that belong to the connection, not to the author.
const HEADERS_TAKEN: [&str; 7] =
    ["connection", "content-length", "expect", "host", "te", "transfer-encoding", "upgrade"];

/// The source, or `None` with what is wrong told.
pub fn read(spec: HttpSpec, node: &Node, problems: &mut Problems) -> Option<HttpSource> {
    let url = url(&spec.url, node.place_of("url"), problems);
    let parameters = texts(spec.parameters, node.field("parameters"), false, problems);
    let headers = texts(spec.headers, node.field("headers"), true, problems);
    let headers_are_good = headers.iter().flatten().fold(true, |good, (name, value)| {
        let place = node.field("headers").map_or(node.place, |headers| headers.place_of(name));
        header_is_good(name, place, problems) & is_no_secret(name, value, place, problems) & good
    });
    let auth = auth(spec.auth, node.field("auth"), problems);
    let pages = pages(spec.pages, node.field("pages"), problems);
    let (scheduled, place) = (spec.schedule.is_some(), node.place_of("schedule"));
    let schedule = match (spec.schedule, node.field("schedule")) {
        (Some(spec), Some(node)) => schedule::read(spec, node, problems).map(Some),
        _ => Some(None),
    };
    let limits = limits(spec.limits.unwrap_or_default(), node.field("limits").unwrap_or(node), problems);
    let templates = url.iter().chain(parameters.iter().flatten().map(|(_, value)| value));
    if !scheduled && templates.into_iter().any(SlotTemplate::takes_previous) {
        let help = "add `schedule`, or take `slot.previous` away";
        problems.add_help(place, "`slot.previous` is known only with a schedule", help);
        return None;
    }
    headers_are_good.then_some(())?;
    Some(HttpSource {
        url: url?,
        parameters: parameters?,
        headers: headers?,
        auth: auth?,
        pages: pages?,
        schedule: schedule?,
        limits: limits?,
        allow_empty: spec.allow_empty.unwrap_or(true),
    })
}

/// The slot may stand behind the host only: a pipeline speaks to the host that its reader sees.
fn url(text: &str, place: Place, problems: &mut Problems) -> Option<SlotTemplate> {
    let template = template(text, false, place, problems)?;
    let (fixed, slotted) = text.split_once('{').map_or((text, false), |(fixed, _)| (fixed, true));
    let behind_host = fixed.split_once("://").is_some_and(|(_, rest)| rest.contains(['/', '?']));
    if slotted && !behind_host {
        problems.add_help(place, "the host of the URL is a template", "write the host out");
        return None;
    }
    super::notify::url_is_good(fixed, "https://api.example.org/readings", place, problems).then_some(template)
}

fn texts(
    spec: Option<BTreeMap<String, Written>>,
    node: Option<&Node>,
    secrets: bool,
    problems: &mut Problems,
) -> Option<Vec<(String, SlotTemplate)>> {
    let (Some(spec), Some(node)) = (spec, node) else { return Some(Vec::new()) };
    let read = |(name, text): (String, Written)| {
        let value = template(&text.0, secrets, node.place_of(&name), problems);
        value.map(|value| (name, value))
    };
    let texts: Vec<Option<_>> = spec.into_iter().map(read).collect();
    texts.into_iter().collect()
}

fn template(text: &str, secrets: bool, place: Place, problems: &mut Problems) -> Option<SlotTemplate> {
    match SlotTemplate::parse(text, secrets) {
        Ok(template) => return Some(template),
        Err(TemplateError::Syntax(why)) => {
            let message = format!("{} is not a template: {why}", quoted(text));
            problems.add_help(place, message, "write something like `\"{{ slot.time }}\"`");
        }
        Err(TemplateError::Unknown(name)) => {
            let help = match name.starts_with("secrets") && !secrets {
                true => "secrets go into `auth` or `headers`".to_owned(),
                false => did_you_mean(&name, &SLOT_VARIABLES).unwrap_or_default(),
            };
            let message = format!("the template has an unknown variable {}", quoted(&name));
            problems.add_help(place, message, help);
        }
    }
    None
}

fn header_is_good(name: &str, place: Place, problems: &mut Problems) -> bool {
    let good = !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
    let taken = HEADERS_TAKEN.contains(&name.to_ascii_lowercase().as_str());
    if taken {
        problems.add_help(place, format!("{} is set by Tidemill itself", quoted(name)), "take it away");
    } else if !good {
        problems.add(place, format!("{} is not the name of a header", quoted(name)));
    }
    good && !taken
}

/// A credential that is written out is refused, unrepeated.
fn is_no_secret(name: &str, value: &SlotTemplate, place: Place, problems: &mut Problems) -> bool {
    let credential = ["authorization", "cookie", "proxy-authorization"];
    let good = !credential.contains(&name.to_ascii_lowercase().as_str()) || !value.secrets().is_empty();
    if !good {
        let help = "use `auth`, or name a secret of the settings: `\"{{ secrets.NAME }}\"`";
        problems.add_help(place, format!("{} holds a credential", quoted(name)), help);
    }
    good
}

fn auth(spec: Option<AuthSpec>, node: Option<&Node>, problems: &mut Problems) -> Option<Auth> {
    let (Some(spec), Some(node)) = (spec, node) else { return Some(Auth::None) };
    let inner = |name| node.field(name).unwrap_or(node);
    match spec {
        AuthSpec::Basic(basic) => secret_is_good(&basic.secret, inner("basic").place_of("secret"), problems)
            .then_some(Auth::Basic { user: basic.user, secret: basic.secret }),
        AuthSpec::Bearer(bearer) => {
            secret_is_good(&bearer.secret, inner("bearer").place_of("secret"), problems)
                .then_some(Auth::Bearer { secret: bearer.secret })
        }
        AuthSpec::ApiKey(key) => {
            let node = inner("api_key");
            let named = secret_is_good(&key.secret, node.place_of("secret"), problems);
            match (key.header, key.parameter) {
                (Some(name), None) => (header_is_good(&name, node.place_of("header"), problems) && named)
                    .then_some(Auth::KeyHeader { name, secret: key.secret }),
                (None, Some(name)) => named.then_some(Auth::KeyParameter { name, secret: key.secret }),
                _ => {
                    let help = "write `header: X-Api-Key`, or `parameter` where the API takes no header";
                    problems.add_help(node.place, "a key needs one of `header` and `parameter`", help);
                    None
                }
            }
        }
    }
}

fn pages(spec: Option<PagesSpec>, node: Option<&Node>, problems: &mut Problems) -> Option<Pages> {
    let (Some(spec), Some(node)) = (spec, node) else { return Some(Pages::One) };
    let place = |outer, inner| node.field(outer).map_or(node.place, |node| node.place_of(inner));
    match spec {
        PagesSpec::Links(links) => Some(Pages::Links {
            path: json_path(&links.path, place("links", "path"), problems)?,
            max: links.max.unwrap_or(1_000) as usize,
            first_has_records: links.first_has_records.unwrap_or(false),
        }),
        PagesSpec::Next(NextSpec::Path(path)) => {
            json_path(&path, place("next", "path"), problems).map(Pages::NextPath)
        }
        PagesSpec::Next(NextSpec::LinkHeader(relation)) => Some(Pages::NextLink(relation)),
        PagesSpec::Number(number) => {
            let records = match &number.records {
                None => None,
                Some(path) => Some(json_path(path, place("number", "records"), problems)?),
            };
            if number.step.is_none() && counts_records(&number.parameter) {
                let message = format!("{} counts records, it needs a `step`", quoted(&number.parameter));
                let help = "write how many records a page has, such as `step: 100`, and `step: 1` if it does number pages";
                problems.add_help(place("number", "parameter"), message, help);
                return None;
            }
            let (first, step) = (number.first.unwrap_or(1).into(), number.step.unwrap_or(1).into());
            Some(Pages::Number { parameter: number.parameter, first, step, records })
        }
    }
}

/// Whether a parameter is called as those that say how many records to pass over: `offset`, `$skip`, `page[offset]`.
fn counts_records(parameter: &str) -> bool {
    let letters: String = parameter.chars().filter(char::is_ascii_alphabetic).collect();
    let letters = letters.to_ascii_lowercase();
    ["offset", "skip", "startat", "startindex"].iter().any(|name| letters.ends_with(name))
}

fn json_path(text: &str, place: Place, problems: &mut Problems) -> Option<JsonPath> {
    let path = JsonPath::parse(text);
    path.map_err(|error| {
        let message = format!("{} is not a JSONPath: {}", quoted(text), error.message());
        problems.add_help(place, message, "write something like `$.items[*]`");
    })
    .ok()
}

fn limits(spec: HttpLimitsSpec, node: &Node, problems: &mut Problems) -> Option<HttpLimits> {
    let default = HttpLimits::default();
    let rate = match &spec.rate {
        None => None,
        Some(text) => Some(rate(text, node.place_of("rate"), problems)?),
    };
    let timeout = match &spec.timeout {
        None => default.timeout,
        Some(text) => span(text, node.place_of("timeout"), problems)?,
    };
    let page_bytes_max = match &spec.page_size_max {
        None => default.page_bytes_max,
        Some(written) => size_bytes(&written.0, node.place_of("page_size_max"), problems)?,
    };
    Some(HttpLimits {
        concurrency: spec.concurrency.map_or(default.concurrency, |number| number as usize),
        rate,
        timeout,
        page_bytes_max,
        pages_max: spec.pages_max.map_or(default.pages_max, |number| number as usize),
        attempts: spec.attempts.unwrap_or(default.attempts),
    })
}

/// `50/s`, `600/m`, `1000/h`.
fn rate(text: &str, place: Place, problems: &mut Problems) -> Option<(NonZeroU32, Duration)> {
    let parts = text.split_once('/').and_then(|(number, unit)| {
        let seconds = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return None,
        };
        Some((number.trim().parse().ok()?, Duration::from_secs(seconds)))
    });
    if parts.is_none() {
        let help = "write a number and s, m or h, such as `50/s` or `600/m`";
        problems.add_help(place, format!("{} is not a rate", quoted(text)), help);
    }
    parts
}

/// `500ms`, `30s`, `2m`: more than nothing, at most an hour.
pub(super) fn span(text: &str, place: Place, problems: &mut Problems) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis: Option<u64> = match unit.trim() {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let span = number.parse::<u64>().ok().zip(millis).and_then(|(number, millis)| number.checked_mul(millis));
    let span = span.map(Duration::from_millis).filter(|span| !span.is_zero() && *span <= TIMEOUT_MAX);
    if span.is_none() {
        let help = "write a number and ms, s, m or h, at most `1h`, such as `30s`";
        problems.add_help(place, format!("{} is not a time", quoted(text)), help);
    }
    span
}
