//! The records of a numbered page: how many there are, and whether the next page fits behind it. Pure.
//!
//! A parameter that counts records (an offset) needs a step of as many records as a page has. With a smaller step each page
//! begins with records of the one before; with a larger one records lie between two pages that nobody asked for. Both would
//! look like success, so both are found here.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;
use serde_json_path::JsonPath;

use super::body::Expected;
use super::links::parse;

/// Records of two neighbours that are compared at most.
const COMPARED_MAX: usize = 100;

/// What is remembered of the records of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    count: usize,
    /// The first of them, hashed.
    first: Vec<u64>,
    /// The first behind a step, hashed.
    behind_step: Vec<u64>,
}

impl Records {
    /// The records of a page: the values at `path` of a JSON document, without a path its items when it is a list, else
    /// the document itself; the lines of text that are not blank, without the header.
    pub fn of(expected: Expected, path: Option<&JsonPath>, step: u64, body: &[u8]) -> Result<Self, String> {
        Ok(match (expected, path) {
            (Expected::Lines { header }, _) => {
                let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
                Self::hashed(lines.filter(|line| !line.is_empty()).skip(header.into()), step)
            }
            (Expected::File, _) => Self::hashed(Some(body).filter(|body| !body.is_empty()).into_iter(), step),
            (Expected::Json, Some(path)) => Self::hashed(path.query(&parse(body)?).iter(), step),
            (Expected::Json, None) => match parse(body)? {
                Value::Array(items) => Self::hashed(items.iter(), step),
                Value::Object(fields) if fields.is_empty() => Self::default(),
                document => Self::hashed(std::iter::once(&document), step),
            },
        })
    }

    fn hashed<T: Hash>(records: impl Iterator<Item = T>, step: u64) -> Self {
        let step = usize::try_from(step).unwrap_or(usize::MAX);
        let mut made = Self::default();
        for record in records {
            let number = made.count;
            made.count += 1;
            if number < COMPARED_MAX || (step..step.saturating_add(COMPARED_MAX)).contains(&number) {
                let hash = hash(&record);
                made.first.extend((number < COMPARED_MAX).then_some(hash));
                made.behind_step.extend((number >= step).then_some(hash));
            }
        }
        made.behind_step.truncate(COMPARED_MAX);
        made
    }

    /// Whether the page is behind the last one with records.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What is wrong when `next` is the page behind this one, in words; `number` is this one's, from 1.
    pub fn misfit(&self, next: &Self, number: u64, parameter: &str, step: u64) -> Option<String> {
        if self.is_empty() || next.is_empty() {
            return None;
        }
        let (count, wanted) = (self.count, usize::try_from(step).unwrap_or(usize::MAX));
        let after = number + 1;
        if wanted > 1 && count < wanted {
            return Some(format!(
                "page {number} has {count} records, fewer than the step of {step}, and page {after} has some too: \
                 records between them would be missing; write `step: {count}` if pages of this size are what the API \
                 gives, or ask it for {step}"
            ));
        }
        let shared = count.saturating_sub(wanted);
        let compared = shared.min(COMPARED_MAX);
        let repeats = shared > 0 && next.first.get(..compared) == self.behind_step.get(..compared);
        repeats.then(|| {
            format!(
                "page {after} begins with the last {shared} of the {count} records of page {number}: `{parameter}` \
                 counts records, not pages; write `step: {count}`, the number of records of a page"
            )
        })
    }
}

fn hash(record: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    record.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str, step: u64) -> Records {
        let path = JsonPath::parse("$.items[*]").unwrap();
        let body = format!("{{\"items\": [{text}]}}");
        Records::of(Expected::Json, Some(&path), step, body.as_bytes()).unwrap()
    }

    #[test]
    fn records_are_counted_as_the_format_has_them() {
        let (document, csv) = (Expected::Json, Expected::Lines { header: true });
        for (expected, path, body, count) in [
            (document, None, "[]", 0),
            (document, None, "{}", 0),
            (document, None, "[1, 2]", 2),
            (document, None, "{\"a\": []}", 1),
            (document, Some("$.items[*]"), r#"{"items": []}"#, 0),
            (document, Some("$.items[*]"), r#"{"items": [1, 1, 1]}"#, 3),
            (csv, None, "a,b\r\n\r\n", 0),
            (csv, None, "a,b\n1,2\n\n3,4", 2),
            (Expected::Lines { header: false }, None, "\n", 0),
            (Expected::Lines { header: false }, None, "{}\n", 1),
            (Expected::File, None, "", 0),
            (Expected::File, None, "a\nb", 1),
        ] {
            let path = path.map(|path| JsonPath::parse(path).unwrap());
            let records = Records::of(expected, path.as_ref(), 1, body.as_bytes()).unwrap();
            assert_eq!((records.count, records.is_empty()), (count, count == 0), "{body}");
        }
        assert!(Records::of(document, None, 1, b"[1").unwrap_err().contains("not JSON"));
    }

    #[test]
    fn a_page_that_begins_with_the_end_of_the_one_before_does_not_fit() {
        for (step, page, next, shared) in [
            (1, "1, 2", "2, 3", Some(1)),
            (1, "1, 2, 3", "2, 3, 4", Some(2)),
            (1, "1, 2, 3", "2, 3", Some(2)),
            (2, "1, 2, 3", "3", Some(1)),
            (1, r#"{"a": 1}, {"b": 2, "c": 3}"#, r#"{"c": 3, "b": 2}"#, Some(1)),
            (3, "1, 2, 3", "4, 5, 6", None),
            (1, "1, 2, 3", "4, 5, 6", None),
            (1, "1", "1", None),
            (1, "1, 2, 3", "3, 4, 5", None),
            (1, "1, 2", "", None),
            (1, "", "1", None),
        ] {
            let found = json(page, step).misfit(&json(next, step), 4, "offset", step);
            let words = shared.map(|shared| format!("page 5 begins with the last {shared} of the"));
            assert_eq!(found.is_some(), words.is_some(), "{page} | {next}: {found:?}");
            assert!(words.is_none_or(|words| found.unwrap().starts_with(&words)), "{page} | {next}");
        }
    }

    #[test]
    fn of_long_pages_the_first_shared_records_are_compared() {
        let numbers = |range: std::ops::Range<u32>| {
            range.map(|number| number.to_string()).collect::<Vec<_>>().join(", ")
        };
        let page = json(&numbers(0..5_000), 50);
        assert_eq!((page.first.len(), page.behind_step.len()), (COMPARED_MAX, COMPARED_MAX));
        let found = page.misfit(&json(&numbers(50..5_050), 50), 1, "skip", 50).unwrap();
        assert!(found.contains("the last 4950 of the 5000 records of page 1"), "{found}");
        assert_eq!(page.misfit(&json(&numbers(51..5_051), 50), 1, "skip", 50), None);
    }

    #[test]
    fn a_short_page_before_others_leaves_a_gap() {
        let found = json("1, 2", 100).misfit(&json("101, 102", 100), 1, "offset", 100).unwrap();
        assert!(found.starts_with("page 1 has 2 records, fewer than the step of 100"), "{found}");
        assert_eq!(json("1, 2", 100).misfit(&json("", 100), 1, "offset", 100), None, "it is the last");
    }
}
