//! Loading: the sources laid over each other, each value with where it came from.
//!
//! Each value is read on its own into a [`Settings`] of defaults, so that one wrong value hides no other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Settings;
use super::check::{self, Purpose};
use super::files::{read_bounded, read_secret_files};
use super::problem::{Origin, SettingsProblem, SettingsProblems};

/// The file that is read when no other is named.
const FILE: &str = "tidemill.toml";
/// A settings file has a few kilobytes; more is some other file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Variables that are no settings: the place of the file, the first password, and what the tests read.
const NO_SETTINGS: [&str; 6] = [
    "TIDEMILL_CONFIG",
    "TIDEMILL_ADMIN_PASSWORD",
    "TIDEMILL_TEST_",
    "TIDEMILL_URL",
    "TIDEMILL_USER",
    "TIDEMILL_PASSWORD",
];

/// Where settings come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config FILE`; without it `tidemill.toml` is read when it is there.
    pub file: Option<PathBuf>,
    /// The variables of the process; those of other programs are passed over.
    pub variables: Vec<(String, String)>,
    /// Flags: name as the user wrote it, path of the setting, text of the value.
    pub flags: Vec<(String, String, String)>,
}

impl Sources {
    /// The sources of this process.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String, String)>) -> Self {
        let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
        let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        Self { file, variables, flags }
    }
}

/// What the sources say, right or wrong.
#[derive(Debug)]
pub struct Loaded {
    settings: Settings,
    origins: BTreeMap<String, Origin>,
    problems: Vec<SettingsProblem>,
}

impl Loaded {
    /// The settings, when nothing is wrong for this purpose; else every problem.
    pub fn settings_for(self, purpose: Purpose) -> Result<Settings, SettingsProblems> {
        let mut problems = self.problems;
        let wrong: Vec<Origin> = problems.iter().map(|problem| problem.origin.clone()).collect();
        for found in check::check(&self.settings, purpose) {
            let origin = self.origins.get(found.path).cloned().unwrap_or(Origin::Nowhere);
            if origin == Origin::Nowhere || !wrong.contains(&origin) {
                problems.push(SettingsProblem { origin, message: found.message, help: found.help });
            }
        }
        problems.sort_by_key(|problem| problem.origin.rank());
        if problems.is_empty() { Ok(self.settings) } else { Err(SettingsProblems(problems)) }
    }
}

impl Loaded {
    /// The settings with defaults where something is wrong, for who looks for further problems.
    pub fn settings_as_far_as_right(self) -> Settings {
        self.settings
    }
}

/// A value as a source gave it, in each way it may be meant; the first that fits is taken.
struct Given {
    meanings: Vec<Value>,
    origin: Origin,
}

/// Reads all sources. Never fails: what is wrong is kept and told by [`Loaded::settings_for`].
pub fn load(sources: &Sources) -> Loaded {
    let mut loader = Loader::new();
    loader.file(sources.file.as_deref());
    for (name, value) in &sources.variables {
        loader.variable(name, value);
    }
    for (flag, path, value) in &sources.flags {
        loader.flag(flag, path, value);
    }
    loader.finish()
}

struct Loader {
    /// The defaults as a tree: it says which settings there are.
    known: Value,
    given: BTreeMap<Vec<String>, Given>,
    problems: Vec<SettingsProblem>,
}

impl Loader {
    fn new() -> Self {
        let known = serde_json::to_value(Settings::default()).unwrap_or_default();
        Self { known, given: BTreeMap::new(), problems: Vec::new() }
    }

    fn problem(&mut self, origin: Origin, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(SettingsProblem { origin, message: message.into(), help: help.into() });
    }

    fn file(&mut self, named: Option<&Path>) {
        let path = named.unwrap_or(Path::new(FILE));
        if named.is_none() && !path.exists() {
            return;
        }
        let text = match read_bounded(path, FILE_BYTES_MAX) {
            Ok(text) => text,
            Err(error) => {
                let message = format!("failed to read settings file `{}`: {error}", path.display());
                return self.problem(Origin::Nowhere, message, "name a readable file with --config");
            }
        };
        let (table, errors) = DeTable::parse_recoverable(&text);
        for error in errors {
            let origin = place(path, &text, error.span().map_or(0, |span| span.start));
            let message = format!("this is not TOML: {}", error.message());
            self.problem(origin, message, "see tidemill.example.toml for how it is written");
        }
        self.table(path, &text, &mut Vec::new(), table.get_ref());
    }

    fn table(&mut self, file: &Path, text: &str, path: &mut Vec<String>, table: &DeTable<'_>) {
        for (key, value) in table {
            path.push(key.get_ref().to_string());
            match value.get_ref() {
                DeValue::Table(inner)
                    if !inner.is_empty() || self.known_at(path).is_some_and(Value::is_object) =>
                {
                    self.table(file, text, path, inner);
                }
                _ => {
                    let origin = place(file, text, key.span().start);
                    self.give(path.clone(), Given { meanings: vec![to_json(value)], origin });
                }
            }
            path.pop();
        }
    }

    fn variable(&mut self, name: &str, value: &str) {
        let Some(rest) = name.strip_prefix("TIDEMILL_") else {
            return;
        };
        if NO_SETTINGS.iter().any(|other| name.starts_with(other)) || is_service_link(name, value) {
            return;
        }
        let path = match rest {
            "LOG" => vec!["telemetry".to_owned(), "log".to_owned()],
            _ => variable_path(rest),
        };
        self.give_text(path, value, Origin::Variable(name.to_owned()));
    }

    fn flag(&mut self, flag: &str, path: &str, value: &str) {
        let mut parts: Vec<String> = path.split('.').map(str::to_owned).collect();
        // Below a map the rest is one key, whatever dots are in it.
        let map = (1..parts.len()).find(|depth| {
            self.known_at(&parts[..*depth]).and_then(Value::as_object).is_some_and(Map::is_empty)
        });
        if let Some(depth) = map {
            let key = parts.split_off(depth).join(".");
            parts.push(key);
        }
        self.give_text(parts, value, Origin::Flag(flag.to_owned()));
    }

    /// A text may mean itself, a TOML value, or a list parted by commas.
    fn give_text(&mut self, path: Vec<String>, text: &str, origin: Origin) {
        let mut meanings = vec![Value::String(text.to_owned())];
        if let Ok(value) = DeValue::parse(text) {
            meanings.push(to_json(&value));
        }
        if self.known_at(&path).is_some_and(Value::is_array) && !text.trim_start().starts_with('[') {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            meanings = vec![items.collect()];
        }
        self.give(path, Given { meanings, origin });
    }

    fn give(&mut self, path: Vec<String>, given: Given) {
        if self.is_known(&path) {
            self.given.insert(path, given);
            return;
        }
        let written = match &given.origin {
            Origin::Variable(name) => name.clone(),
            _ => path.join("."),
        };
        let help = match self.nearest(&path) {
            Some(near) => match &given.origin {
                Origin::Variable(_) => format!("did you mean {}?", variable_name(&near)),
                _ => format!("did you mean `{near}`?"),
            },
            None => "tidemill.example.toml lists every setting".to_owned(),
        };
        self.problem(given.origin, format!("there is no setting `{written}`"), help);
    }

    fn known_at(&self, path: &[String]) -> Option<&Value> {
        path.iter().try_fold(&self.known, |node, part| node.get(part))
    }

    /// A setting, a key below a map, or a section (whose value is then found to be of the wrong type).
    fn is_known(&self, path: &[String]) -> bool {
        let below_map = path.split_last().and_then(|(_, map)| self.known_at(map));
        self.known_at(path).is_some() || below_map.and_then(Value::as_object).is_some_and(Map::is_empty)
    }

    fn nearest(&self, path: &[String]) -> Option<String> {
        let mut names = Vec::new();
        leaves(&self.known, String::new(), &mut names);
        let wanted = path.join(".");
        let last = path.last().map_or("", String::as_str);
        let score = |name: &String| {
            let same_end = name.rsplit('.').next() == Some(last);
            let dashed = |text: &str| text.replace('_', ".");
            let near = strsim::normalized_damerau_levenshtein(&dashed(name), &dashed(&wanted));
            if same_end { near.max(0.8) } else { near }
        };
        names
            .into_iter()
            .map(|name| (score(&name), name))
            .filter(|(score, _)| *score >= 0.6)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, name)| name)
    }

    fn finish(mut self) -> Loaded {
        let mut tree = self.known.clone();
        let mut origins = BTreeMap::new();
        for (path, given) in std::mem::take(&mut self.given) {
            let name = path.join(".");
            match first_fitting(&self.known, &path, &given.meanings) {
                Ok(value) => put(&mut tree, &path, value),
                Err(error) => {
                    let help = self.help_for(&path);
                    self.problem(given.origin.clone(), format!("`{name}`: {error}"), help);
                }
            }
            origins.insert(name, given.origin);
        }
        let mut settings = Settings::deserialize(tree).unwrap_or_else(|error| {
            self.problem(Origin::Nowhere, error.to_string(), "see tidemill.example.toml");
            Settings::default()
        });
        for problem in read_secret_files(&mut settings) {
            let origin = origins.get(&problem.0).cloned().unwrap_or(Origin::Nowhere);
            self.problem(origin, problem.1, problem.2);
        }
        Loaded { settings, origins, problems: self.problems }
    }

    fn help_for(&self, path: &[String]) -> String {
        match self.known_at(path) {
            Some(Value::Object(_)) => format!("write a section [{}]", path.join(".")),
            Some(Value::Null) | None => "tidemill.example.toml shows how it is written".to_owned(),
            Some(default) => format!("write it as the default is written: {default}"),
        }
    }
}

/// The first meaning that can be read in this place, or why the last one cannot.
fn first_fitting(known: &Value, path: &[String], meanings: &[Value]) -> Result<Value, String> {
    let mut why = String::new();
    for value in meanings {
        let mut tree = known.clone();
        put(&mut tree, path, value.clone());
        match Settings::deserialize(tree) {
            Ok(_) => return Ok(value.clone()),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

fn put(tree: &mut Value, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *tree = value;
        return;
    };
    if !tree.is_object() {
        *tree = Value::Object(Map::new());
    }
    if let Value::Object(map) = tree {
        put(map.entry(first.clone()).or_insert(Value::Null), rest, value);
    }
}

fn leaves(node: &Value, path: String, out: &mut Vec<String>) {
    match node {
        Value::Object(map) if !map.is_empty() => {
            for (key, inner) in map {
                let dot = if path.is_empty() { "" } else { "." };
                leaves(inner, format!("{path}{dot}{key}"), out);
            }
        }
        _ => out.push(path),
    }
}

/// `DATABASE__URL` is `database.url`. Kafka's own names have dots where a variable has `_`.
fn variable_path(rest: &str) -> Vec<String> {
    let mut path: Vec<String> = rest.to_ascii_lowercase().split("__").map(str::to_owned).collect();
    if let [broker, map, key] = path.as_mut_slice()
        && broker == "broker"
        && map.starts_with("client")
    {
        *key = key.replace('_', ".");
    }
    path
}

fn variable_name(path: &str) -> String {
    format!("TIDEMILL_{}", path.replace('.', "__").to_ascii_uppercase())
}

/// Kubernetes sets such variables for each service of the namespace, also for one named `tidemill`.
fn is_service_link(name: &str, value: &str) -> bool {
    let address = value.starts_with("tcp://") || value.starts_with("udp://");
    let single = !name.contains("__");
    let part_of_link = ["_TCP_", "_UDP_"].iter().any(|part| name.contains(part)) && name.contains("_PORT_");
    single && (name.contains("_SERVICE_HOST") || name.contains("_SERVICE_PORT") || address || part_of_link)
}

fn place(path: &Path, text: &str, offset: usize) -> Origin {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    Origin::File { path: path.to_owned(), line, column }
}

fn to_json(value: &Spanned<DeValue<'_>>) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Null, Value::from)
        }
        DeValue::Float(number) => number.as_str().parse::<f64>().map_or(Value::Null, Value::from),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(items) => items.iter().map(to_json).collect(),
        DeValue::Table(table) => {
            let pairs = table.iter().map(|(key, value)| (key.get_ref().to_string(), to_json(value)));
            Value::Object(pairs.collect())
        }
    }
}
