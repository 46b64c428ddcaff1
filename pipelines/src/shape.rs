//! The shape of a file: walks its tree along the JSON Schema and tells every field that is unknown,
//! missing or of the wrong kind, each where it stands. Called by [`crate::read`], which goes on
//! with the parts whose shape is right, so that problems of meaning are told in the same run.

use std::borrow::Cow;
use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use crate::problem::{Place, Problems, did_you_mean, listed, nearest, quoted};
use crate::tree::{Key, Node, Value};

static ROOT: LazyLock<Json> = LazyLock::new(crate::schema::json_schema);

/// Tells every problem of the shape of a whole file.
pub fn check(root: &Node, problems: &mut Problems) {
    let of_files = root.field("format").is_some_and(|format| format.field("file").is_some());
    Walk { problems, of_files }.value(&ROOT, root);
}

/// One part of a file, when its shape is right; silent, because [`check`] has told what is wrong.
pub fn part<T: JsonSchema + DeserializeOwned>(node: &Node) -> Option<T> {
    let schema = definition(&T::schema_name())?;
    let mut unheard = Problems::of("");
    let json = Walk { problems: &mut unheard, of_files: false }.value(schema, node)?;
    serde_json::from_value(json).ok()
}

fn definition(name: &str) -> Option<&'static Json> {
    ROOT.get("$defs")?.get(name)
}

/// Follows `$ref`; every reference of the schema is to one of its definitions.
fn resolve(schema: &'static Json) -> &'static Json {
    let name = schema.get("$ref").and_then(Json::as_str).and_then(|path| path.strip_prefix("#/$defs/"));
    name.and_then(definition).unwrap_or(schema)
}

struct Walk<'a> {
    problems: &'a mut Problems,
    /// Whether the format of the whole file is `file`, the one condition (`if`) of the schema.
    of_files: bool,
}

impl Walk<'_> {
    /// The value as JSON, or `None` when it can't be understood; what is wrong was told.
    fn value(&mut self, schema: &'static Json, node: &Node) -> Option<Json> {
        let described = schema;
        let schema = resolve(schema);
        if node.value == Value::Empty && !allows(schema, "null") {
            self.problems.add_help(node.place, "nothing is written here", instead_of_nothing(described));
            return None;
        }
        let branches = schema.get("oneOf").or_else(|| schema.get("anyOf")).and_then(Json::as_array);
        if let Some(branches) = branches {
            return self.one_of(branches, node);
        }
        match (&node.value, schema.get("properties").and_then(Json::as_object)) {
            (Value::Map(entries), Some(fields)) => self.object(schema, fields, entries, node.place),
            (Value::List(items), _) if allows(schema, "array") => self.list(schema, items, node.place),
            (Value::Scalar { text, quoted }, _) if is_scalar(schema) => {
                self.scalar(schema, text, *quoted, node.place)
            }
            (Value::Map(entries), None) if schema.get("additionalProperties").is_some() => {
                self.texts(schema.get("additionalProperties")?, entries)
            }
            (Value::Empty, _) => Some(Json::String(String::new())),
            (_, Some(fields)) => self.not_a_map(fields, node),
            _ => self.wrong_kind(expected(schema), node),
        }
    }

    fn one_of(&mut self, branches: &'static [Json], node: &Node) -> Option<Json> {
        let words = words(branches);
        if !words.is_empty() {
            return match &node.value {
                Value::Scalar { text, .. } => self.word(&words, text, node.place),
                _ => self.wrong_kind(Cow::Owned(format!("one of {}", listed(&words))), node),
            };
        }
        if branches.iter().all(|branch| branch.get("properties").is_some()) {
            return self.one_key(branches, node);
        }
        let fits = |branch: &&Json| match node.value {
            Value::List(_) => allows(branch, "array"),
            Value::Map(_) => allows(branch, "object"),
            _ => is_scalar(branch),
        };
        match branches.iter().map(resolve).find(fits) {
            Some(branch) => self.value(branch, node),
            None => self.wrong_kind(Cow::Borrowed("a text or a list of texts"), node),
        }
    }

    /// A map with exactly one key, which says what the value is: `csv: {…}`.
    fn one_key(&mut self, branches: &'static [Json], node: &Node) -> Option<Json> {
        let known: Vec<&str> = branches.iter().filter_map(only_property).map(|(name, _)| name).collect();
        let Value::Map(entries) = &node.value else {
            return self.wrong_kind(Cow::Owned(format!("a map with the key {}", listed(&known))), node);
        };
        let mut found = None;
        let mut strange = false;
        for (key, value) in entries {
            match branches.iter().filter_map(only_property).find(|(name, _)| *name == key.text) {
                None => {
                    strange = true;
                    self.unknown("key", key, &known);
                }
                Some(_) if found.is_some() => {
                    strange = true;
                    let message = format!("`{}` stands beside another key", key.text);
                    self.problems.add_help(
                        key.place,
                        message,
                        format!("give only one of {}", listed(&known)),
                    );
                }
                Some((name, schema)) => found = Some((name, self.value(schema, value))),
            }
        }
        match found {
            None if entries.is_empty() => {
                let help = format!("give it the key {}", listed(&known));
                self.problems.add_help(node.place, "the map is empty", help);
                None
            }
            None => None,
            Some(_) if strange => None,
            Some((name, value)) => Some(Json::Object(Map::from_iter([(name.to_owned(), value?)]))),
        }
    }

    fn object(
        &mut self,
        schema: &'static Json,
        fields: &'static Map<String, Json>,
        entries: &[(Key, Node)],
        place: Place,
    ) -> Option<Json> {
        let known = field_names(fields);
        let mut result = Map::new();
        let mut sound = true;
        let mut meant = Vec::new();
        for (key, node) in entries {
            match fields.get(&key.text) {
                Some(field) => match self.value(field, node) {
                    Some(value) => drop(result.insert(key.text.clone(), value)),
                    None => sound = false,
                },
                // A slip of the pen leaves open what the part means; a field from elsewhere does not.
                None => meant.extend(self.unknown("field", key, &known)),
            }
        }
        let otherwise = schema.get("else").filter(|_| !self.of_files);
        for name in required(schema).chain(otherwise.into_iter().flat_map(required)) {
            let written = entries.iter().any(|(key, _)| key.text == name);
            if !written && !meant.contains(&name) {
                sound = false;
                let message = format!("field `{name}` is missing");
                self.problems.add_help(
                    place,
                    message,
                    format!("add `{name}`: {}", describe(fields.get(name))),
                );
            }
        }
        (sound && meant.is_empty()).then_some(Json::Object(result))
    }

    /// A map whose keys are the author's own.
    fn texts(&mut self, schema: &'static Json, entries: &[(Key, Node)]) -> Option<Json> {
        let values: Vec<_> =
            entries.iter().map(|(key, node)| Some((key.text.clone(), self.value(schema, node)?))).collect();
        values.into_iter().collect::<Option<Map<_, _>>>().map(Json::Object)
    }

    /// Tells an unknown key, and gives back the known one that is probably meant.
    fn unknown<'k>(&mut self, what: &str, key: &Key, known: &[&'k str]) -> Option<&'k str> {
        let message = format!("unknown {what} {}", quoted(&key.text));
        match did_you_mean(&key.text, known) {
            Some(help) => self.problems.add_help(key.place, message, help),
            None => self.problems.add(key.place, message),
        }
        nearest(&key.text, known.iter().copied())
    }

    fn list(&mut self, schema: &'static Json, items: &[Node], place: Place) -> Option<Json> {
        if items.is_empty() && schema.get("minItems").is_some() {
            self.problems.add_help(place, "the list is empty", "write at least one item");
            return None;
        }
        let item_schema = schema.get("items")?;
        let values: Vec<Option<Json>> = items.iter().map(|item| self.value(item_schema, item)).collect();
        values.into_iter().collect::<Option<Vec<Json>>>().map(Json::Array)
    }

    fn scalar(&mut self, schema: &'static Json, text: &str, quoted: bool, place: Place) -> Option<Json> {
        if allows(schema, "string") {
            return Some(Json::String(text.to_owned()));
        }
        if allows(schema, "boolean") {
            return self.boolean(text, quoted, place);
        }
        self.integer(schema, text, quoted, place)
    }

    fn boolean(&mut self, text: &str, in_quotes: bool, place: Place) -> Option<Json> {
        match text {
            "true" if !in_quotes => Some(Json::Bool(true)),
            "false" if !in_quotes => Some(Json::Bool(false)),
            _ => {
                let message = format!("expected true or false, found {}", quoted(text));
                self.problems.add_help(place, message, "write `true` or `false`, without quotes");
                None
            }
        }
    }

    fn integer(&mut self, schema: &'static Json, text: &str, in_quotes: bool, place: Place) -> Option<Json> {
        let number = if in_quotes { None } else { text.parse::<i64>().ok() };
        let Some(number) = number else {
            self.problems.add(place, format!("expected a whole number, found {}", quoted(text)));
            return None;
        };
        let least = schema.get("minimum").and_then(Json::as_i64).unwrap_or(0);
        let most = schema.get("maximum").and_then(Json::as_i64).unwrap_or(i64::from(u32::MAX));
        if (least..=most).contains(&number) {
            return Some(Json::from(number));
        }
        self.problems.add(place, format!("{number} is out of range: write {least} to {most}"));
        None
    }

    fn word(&mut self, words: &[&str], text: &str, place: Place) -> Option<Json> {
        if words.contains(&text) {
            return Some(Json::String(text.to_owned()));
        }
        let message = format!("{} is not one of {}", quoted(text), listed(words));
        match meant(text, words) {
            Some(near) => self.problems.add_help(place, message, format!("did you mean `{near}`?")),
            None => self.problems.add(place, message),
        }
        None
    }

    fn not_a_map(&mut self, fields: &Map<String, Json>, node: &Node) -> Option<Json> {
        let known = field_names(fields);
        let help = match known.is_empty() {
            true => "write `{}`: it has no fields".to_owned(),
            false => format!("its fields are {}", listed(&known).replace(" or ", " and ")),
        };
        self.problems.add_help(node.place, format!("expected a map, found {}", node.kind()), help);
        None
    }

    fn wrong_kind(&mut self, expected: Cow<'_, str>, node: &Node) -> Option<Json> {
        self.problems.add(node.place, format!("expected {expected}, found {}", node.kind()));
        None
    }
}

/// In the order of the alphabet, whatever order the map keeps.
fn field_names(fields: &Map<String, Json>) -> Vec<&str> {
    let mut names: Vec<&str> = fields.keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// Words of other systems, and the word that means the same here.
const SYNONYMS: [(&str, &[&str]); 10] = [
    ("int64", &["int", "integer", "bigint", "long", "smallint", "int32", "number"]),
    ("float64", &["float", "double", "real", "float32"]),
    ("decimal", &["numeric", "money"]),
    ("bool", &["boolean", "bit"]),
    ("text", &["string", "str", "varchar", "char", "utf8"]),
    ("timestamp", &["datetime", "time", "instant", "timestamptz"]),
    ("append", &["insert", "add"]),
    ("upsert", &["merge", "update"]),
    ("replace", &["overwrite", "truncate", "full"]),
    ("failed", &["failure", "fail", "error"]),
];

/// The word that is probably meant: of the same meaning, or of nearly the same letters.
fn meant<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    let text = text.to_lowercase();
    let same = SYNONYMS.iter().find(|(_, others)| others.contains(&text.as_str()));
    let same = words.iter().find(|word| same.is_some_and(|(known, _)| known == *word)).copied();
    same.or_else(|| nearest(&text, words.iter().copied()))
}

/// The words of an enumeration, or none when the branches are something else.
fn words(branches: &'static [Json]) -> Vec<&'static str> {
    branches.iter().filter_map(|branch| branch.get("const").and_then(Json::as_str)).collect()
}

/// The only property of a branch of a one-of map.
fn only_property(branch: &'static Json) -> Option<(&'static str, &'static Json)> {
    branch.get("properties")?.as_object()?.iter().next().map(|(name, schema)| (name.as_str(), schema))
}

fn required(schema: &'static Json) -> impl Iterator<Item = &'static str> {
    schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str)
}

fn allows(schema: &Json, kind: &str) -> bool {
    match schema.get("type") {
        Some(Json::String(only)) => only == kind,
        Some(Json::Array(kinds)) => kinds.iter().any(|known| known == kind),
        _ => false,
    }
}

fn is_scalar(schema: &Json) -> bool {
    ["string", "integer", "boolean"].iter().any(|kind| allows(schema, kind))
}

fn expected(schema: &Json) -> Cow<'static, str> {
    let kinds =
        [("object", "a map"), ("array", "a list"), ("string", "a text"), ("boolean", "true or false")];
    let found = kinds.iter().find(|(kind, _)| allows(schema, kind));
    Cow::Borrowed(found.map_or("a whole number", |(_, words)| *words))
}

/// The description of a field, as the end of a sentence.
fn describe(field: Option<&'static Json>) -> String {
    let own = field.and_then(|field| field.get("description"));
    let text =
        own.or_else(|| field.map(resolve)?.get("description")).and_then(Json::as_str).unwrap_or_default();
    let mut chars = text.trim_end_matches('.').chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

fn instead_of_nothing(schema: &'static Json) -> String {
    match describe(Some(schema)).as_str() {
        "" => "write a value or take it away".to_owned(),
        text => format!("write a value or take it away; it is: {text}"),
    }
}
