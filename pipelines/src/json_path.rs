//! Paths into JSON: the part of JSONPath (RFC 9535) that names places, so that a value can be found in the bytes
//! themselves, with its line and byte range: names, indexes, and `[*]` for all.

use std::fmt;
use std::str::FromStr;

/// Longest path in steps; data nest less deeply.
const STEPS_MAX: usize = 32;

/// A path such as `$.items[*]` or `$['user']['name']`, checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct JsonPath {
    text: String,
    steps: Vec<PathStep>,
}

/// One step down from a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathStep {
    /// The member of this name of an object.
    Name(String),
    /// The element of this number, from 0, of an array.
    Index(usize),
    /// All elements of an array, all members of an object.
    All,
}

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text} is no path: {message}")]
pub struct JsonPathError {
    text: String,
    message: String,
}

impl JsonPath {
    /// The path as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its steps, from the whole document down.
    pub fn steps(&self) -> &[PathStep] {
        &self.steps
    }

    /// Whether it names one value at most.
    pub fn is_singular(&self) -> bool {
        !self.steps.contains(&PathStep::All)
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for JsonPath {
    type Err = JsonPathError;
    fn from_str(text: &str) -> Result<Self, JsonPathError> {
        match steps(text) {
            Ok(steps) => Ok(Self { text: text.to_owned(), steps }),
            Err(message) => Err(JsonPathError { text: crate::problem::quoted(text), message }),
        }
    }
}

fn steps(text: &str) -> Result<Vec<PathStep>, String> {
    let mut rest = text.strip_prefix('$').ok_or("it begins with `$`, the whole document")?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let (step, behind) = if let Some(bracketed) = rest.strip_prefix('[') {
            let (step, behind) = bracket(bracketed.trim_start())?;
            (step, behind.trim_start().strip_prefix(']').ok_or("a `]` is missing")?)
        } else {
            dotted(rest)?
        };
        steps.push(step);
        rest = behind;
        if steps.len() > STEPS_MAX {
            return Err(format!("it has more than {STEPS_MAX} steps"));
        }
    }
    Ok(steps)
}

/// `.name` or `.*`.
fn dotted(text: &str) -> Result<(PathStep, &str), String> {
    let name = text.strip_prefix('.').ok_or("write `.name` or `[0]` behind a step")?;
    if let Some(rest) = name.strip_prefix('*') {
        return Ok((PathStep::All, rest));
    }
    let in_name = |char: char| char.is_ascii_alphanumeric() || char == '_' || !char.is_ascii();
    let (name, rest) = name.split_at(name.find(|char| !in_name(char)).unwrap_or(name.len()));
    match name.chars().next() {
        None => {
            Err("a name is missing; `..` is not known here, and odd names are written `['a-b']`".to_owned())
        }
        Some(first) if first.is_ascii_digit() => Err(format!("an element is written `[{name}]`")),
        Some(_) => Ok((PathStep::Name(name.to_owned()), rest)),
    }
}

/// What stands in brackets: `'name'`, `"name"`, a number or `*`.
fn bracket(text: &str) -> Result<(PathStep, &str), String> {
    match text.chars().next() {
        Some('*') => Ok((PathStep::All, &text[1..])),
        Some(quote @ ('\'' | '"')) => quoted_name(&text[1..], quote),
        Some('0'..='9') => {
            let digits = text.bytes().take_while(u8::is_ascii_digit).count();
            let (number, rest) = text.split_at(digits);
            let leading_zero = number.len() > 1 && number.starts_with('0');
            let index = number.parse().ok().filter(|_| !leading_zero);
            Ok((PathStep::Index(index.ok_or(format!("`{number}` is no index"))?), rest))
        }
        _ => Err("in brackets stands a name in quotes, a number from 0, or `*`; filters and slices are not known here"
            .to_owned()),
    }
}

fn quoted_name(text: &str, quote: char) -> Result<(PathStep, &str), String> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            _ if char == quote => return Ok((PathStep::Name(name), &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, escaped @ ('\\' | '\'' | '"'))) => name.push(escaped),
                _ => return Err("behind a `\\` stands `\\` or a quote".to_owned()),
            },
            _ => name.push(char),
        }
    }
    Err("a quote is not closed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PathStep {
        PathStep::Name(text.to_owned())
    }

    #[test]
    fn a_path_is_read_into_its_steps() {
        for (text, expected) in [
            ("$", vec![]),
            ("$.items[*]", vec![name("items"), PathStep::All]),
            ("$.*.größe", vec![PathStep::All, name("größe")]),
            ("$[0]['a b'][ \"c'd\" ]", vec![PathStep::Index(0), name("a b"), name("c'd")]),
            (r"$['it\'s'].x_1", vec![name("it's"), name("x_1")]),
        ] {
            let path: JsonPath = text.parse().unwrap();
            assert_eq!(path.steps(), expected, "{text}");
            assert_eq!(path.is_singular(), !expected.contains(&PathStep::All));
        }
    }

    #[test]
    fn what_names_no_place_is_refused_with_what_to_write() {
        for (text, told) in [
            ("", "begins with `$`"),
            ("items", "begins with `$`"),
            ("$items", "write `.name`"),
            ("$.", "a name is missing"),
            ("$..id", "`..` is not known"),
            ("$.1st", "`[1st]`"),
            ("$.a-b", "write `.name`"),
            ("$[?@.x > 1]", "filters and slices"),
            ("$[-1]", "a number from 0"),
            ("$[0:2]", "a `]` is missing"),
            ("$[01]", "no index"),
            ("$['a]", "not closed"),
            ("$['a\\n']", "behind a `\\`"),
            (&"$".to_owned().chars().chain(".a".repeat(33).chars()).collect::<String>(), "more than 32"),
        ] {
            let error = text.parse::<JsonPath>().unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    /// What is understood here means what the standard says.
    #[test]
    fn the_library_of_the_standard_understands_each_path_the_same_way() {
        let document = serde_json::json!({ "items": [{ "a b": { "it's": 1 } }, [2, 3]], "x_1": "y" });
        for text in
            ["$", "$.items[*]", "$.items[0]['a b']['it\\'s']", "$.*", "$.items[1][1]", "$['x_1']", "$.none"]
        {
            let ours: JsonPath = text.parse().unwrap();
            let library = serde_json_path::JsonPath::parse(text).unwrap();
            assert_eq!(found(&document, ours.steps()), library.query(&document).all(), "{text}");
        }
    }

    fn found<'a>(value: &'a serde_json::Value, steps: &[PathStep]) -> Vec<&'a serde_json::Value> {
        use serde_json::Value::{Array, Object};
        let Some((step, below)) = steps.split_first() else { return vec![value] };
        let next: Vec<_> = match (step, value) {
            (PathStep::Name(name), Object(members)) => members.get(name).into_iter().collect(),
            (PathStep::Index(index), Array(items)) => items.get(*index).into_iter().collect(),
            (PathStep::All, Array(items)) => items.iter().collect(),
            (PathStep::All, Object(members)) => members.values().collect(),
            _ => Vec::new(),
        };
        next.into_iter().flat_map(|value| found(value, below)).collect()
    }
}
