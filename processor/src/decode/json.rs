//! Finds values in JSON by their places, without building a tree: so a number keeps its digits and each record its
//! byte range. The bytes were checked to be JSON before; others give nonsense, but never a panic. Called by `reading`.

use std::ops::Range;

use tidemill_pipelines::{JsonPath, PathStep};

/// The paths that are looked for, as one tree; a path is told by its number.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    here: Vec<usize>,
    names: Vec<(String, Wanted)>,
    indexes: Vec<(usize, Wanted)>,
    all: Option<Box<Wanted>>,
}

impl Wanted {
    /// Looks for one path more.
    pub fn add(&mut self, path: &[PathStep], number: usize) {
        let Some((step, rest)) = path.split_first() else {
            return self.here.push(number);
        };
        let below = match step {
            PathStep::Name(name) => entry(&mut self.names, name.clone()),
            PathStep::Index(index) => entry(&mut self.indexes, *index),
            PathStep::All => &mut **self.all.get_or_insert_default(),
        };
        below.add(rest, number);
    }

    /// One path alone, number 0.
    pub fn one(path: &JsonPath) -> Self {
        let mut wanted = Wanted::default();
        wanted.add(path.steps(), 0);
        wanted
    }

    /// Walks over the value that begins at `at`, calls `found` for each wanted one in it, and says where it ends.
    pub fn walk<E>(
        &self,
        bytes: &[u8],
        at: usize,
        found: &mut impl FnMut(usize, Range<usize>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let is_end = self.names.is_empty() && self.indexes.is_empty() && self.all.is_none();
        let end = match bytes.get(at) {
            Some(b'{') if !is_end => self.members(bytes, at + 1, found)?,
            Some(b'[') if !is_end => self.elements(bytes, at + 1, found)?,
            _ => value_end(bytes, at),
        };
        for &number in &self.here {
            found(number, at..end)?;
        }
        Ok(end)
    }

    fn members<E>(
        &self,
        bytes: &[u8],
        mut at: usize,
        found: &mut impl FnMut(usize, Range<usize>) -> Result<(), E>,
    ) -> Result<usize, E> {
        loop {
            at = skip(bytes, at, b" \t\r\n,");
            if bytes.get(at) != Some(&b'"') {
                return Ok((at + 1).min(bytes.len())); // the closing brace
            }
            let key = at..string_end(bytes, at);
            at = skip(bytes, key.end, b" \t\r\n:");
            let named = self.names.iter().filter(|(name, _)| is_text(&bytes[key.clone()], name));
            let start = at;
            at = value_end(bytes, start);
            for (_, below) in named {
                below.walk(bytes, start, found)?;
            }
            if let Some(below) = &self.all {
                below.walk(bytes, start, found)?;
            }
        }
    }

    fn elements<E>(
        &self,
        bytes: &[u8],
        mut at: usize,
        found: &mut impl FnMut(usize, Range<usize>) -> Result<(), E>,
    ) -> Result<usize, E> {
        for index in 0.. {
            at = skip(bytes, at, b" \t\r\n,");
            if matches!(bytes.get(at), None | Some(b']')) {
                break;
            }
            let start = at;
            at = value_end(bytes, start);
            for (_, below) in self.indexes.iter().filter(|(wanted, _)| *wanted == index) {
                below.walk(bytes, start, found)?;
            }
            if let Some(below) = &self.all {
                below.walk(bytes, start, found)?;
            }
        }
        Ok((at + 1).min(bytes.len()))
    }
}

fn entry<K: PartialEq>(entries: &mut Vec<(K, Wanted)>, key: K) -> &mut Wanted {
    let place = entries.iter().position(|(known, _)| *known == key).unwrap_or(entries.len());
    if place == entries.len() {
        entries.push((key, Wanted::default()));
    }
    &mut entries[place].1
}

/// What stands at a place, as far as columns care.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    /// As it is written.
    Number(&'a [u8]),
    /// Without quotes and escapes.
    Text(&'a [u8]),
    /// An escape that stands for no character: half of a surrogate pair.
    BadText,
    Object,
    Array,
}

/// The value of these bytes; texts with escapes are put into `scratch`.
pub(super) fn scalar<'a>(value: &'a [u8], scratch: &'a mut String) -> Scalar<'a> {
    match value.first() {
        Some(b'n') => Scalar::Null,
        Some(b't') => Scalar::Bool(true),
        Some(b'f') => Scalar::Bool(false),
        Some(b'{') => Scalar::Object,
        Some(b'[') => Scalar::Array,
        Some(b'"') if !value.contains(&b'\\') => {
            Scalar::Text(value.get(1..value.len().saturating_sub(1)).unwrap_or_default())
        }
        Some(b'"') => match serde_json::from_slice(value) {
            Ok(text) => {
                *scratch = text;
                Scalar::Text(scratch.as_bytes())
            }
            Err(_) => Scalar::BadText,
        },
        _ => Scalar::Number(value),
    }
}

impl Scalar<'_> {
    /// In words.
    pub fn kind(&self) -> &'static str {
        match self {
            Scalar::Null => "null",
            Scalar::Bool(_) => "true or false",
            Scalar::Number(_) => "a number",
            Scalar::Text(_) | Scalar::BadText => "a text",
            Scalar::Object => "an object",
            Scalar::Array => "an array",
        }
    }
}

/// What begins at a place, in words.
pub(super) fn kind_at(bytes: &[u8], at: usize) -> &'static str {
    // Its first byte tells; looking further would take as long as all that follows.
    scalar(bytes.get(at..=at).unwrap_or_default(), &mut String::new()).kind()
}

/// Whether a text in quotes is this one.
fn is_text(quoted: &[u8], text: &str) -> bool {
    match scalar(quoted, &mut String::new()) {
        Scalar::Text(found) => found == text.as_bytes(),
        _ => false,
    }
}

/// The first position from `at` on that holds none of these bytes.
pub(super) fn skip(bytes: &[u8], at: usize, skipped: &[u8]) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| skipped.contains(byte)).count()
}

/// Behind the text that begins with the quote at `at`.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(position) = memchr::memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
        match bytes[at + position] {
            b'"' => return at + position + 1,
            _ => at += position + 2,
        }
    }
    bytes.len()
}

/// Behind the value that begins at `at`. Counts brackets instead of following them: no nesting is too deep.
fn value_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0_usize;
    loop {
        match bytes.get(at) {
            None => return bytes.len(),
            Some(b'"') => at = string_end(bytes, at),
            Some(b'{' | b'[') => {
                depth += 1;
                at += 1;
            }
            Some(b'}' | b']') => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            Some(b' ' | b'\t' | b'\r' | b'\n' | b',' | b':') => {
                at += 1;
                continue;
            }
            Some(_) => at += atom_length(&bytes[at..]),
        }
        if depth == 0 {
            return at;
        }
    }
}

/// The length of a number, `true`, `false` or `null`; never 0.
fn atom_length(bytes: &[u8]) -> usize {
    let ends = |byte: &u8| {
        matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':' | b'}' | b']' | b'{' | b'[' | b'"')
    };
    bytes.iter().position(ends).unwrap_or(bytes.len()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn find(paths: &[&str], text: &str) -> Vec<(usize, String)> {
        let mut wanted = Wanted::default();
        for (number, path) in paths.iter().enumerate() {
            wanted.add(path.parse::<JsonPath>().unwrap().steps(), number);
        }
        let mut found = Vec::new();
        let mut note = |number, range: Range<usize>| {
            found.push((number, text[range].to_owned()));
            Ok::<_, ()>(())
        };
        let end = wanted.walk(text.as_bytes(), 0, &mut note).unwrap();
        assert_eq!(end, text.trim_end().len(), "{text}");
        found
    }

    #[test]
    fn values_are_found_at_their_places_as_they_are_written() {
        let text = r#"{ "a\u0062" : {"c": [1.50, "x\"]"]} , "n":12345678901234567.890, "e":{}, "l":[] }"#;
        let paths = ["$.ab.c[0]", "$.n", "$.ab.c[1]", "$.e", "$.l", "$.none", "$.l[0]", "$.ab"];
        let told: Vec<_> = find(&paths, text);
        assert_eq!(
            told,
            [
                (0, "1.50".to_owned()),
                (2, r#""x\"]""#.to_owned()),
                (7, r#"{"c": [1.50, "x\"]"]}"#.to_owned()),
                (1, "12345678901234567.890".to_owned()),
                (3, "{}".to_owned()),
                (4, "[]".to_owned()),
            ]
        );
        let all: Vec<_> = find(&["$.*[*]"], r#"{"a":[1, {"b":[2]}],"c":3,"d":["]"]}"#);
        assert_eq!(all.into_iter().map(|(_, text)| text).collect::<Vec<_>>(), ["1", r#"{"b":[2]}"#, "\"]\""]);
    }

    #[test]
    fn no_nesting_is_too_deep() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(find(&["$"], &deep)[0].1.len(), deep.len());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(prop::sample::select(b"{}[]\",:\\ a1n".to_vec()), 0..60)) {
            let mut wanted = Wanted::default();
            for (number, path) in ["$.a[*]", "$[0].a", "$.*.*"].iter().enumerate() {
                wanted.add(path.parse::<JsonPath>().unwrap().steps(), number);
            }
            let mut in_bounds = |_, range: Range<usize>| if range.end <= bytes.len() { Ok(()) } else { Err(()) };
            let end = wanted.walk(&bytes, 0, &mut in_bounds);
            prop_assert!(end.is_ok_and(|end| end <= bytes.len()));
        }
    }
}
