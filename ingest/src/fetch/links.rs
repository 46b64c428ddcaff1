//! How pages hang together: the URLs that an answer names. Pure.

use serde_json::Value;
use serde_json_path::JsonPath;
use sha2::{Digest, Sha256};
use tidemill_jobs::Page;
use url::Url;

/// Longest URL that is followed: servers take 8 KiB.
const URL_BYTES_MAX: usize = 8 << 10;

/// What is found in answers, and how the URLs in them are read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// A parameter that carries the key; APIs like to repeat it in their links.
    pub key_parameter: Option<String>,
}

impl Reading {
    /// The URLs at `path`, at most `max`; each once is for the ledger to see to.
    pub fn links(&self, path: &JsonPath, body: &[u8], base: &Url, max: usize) -> Result<Vec<Url>, String> {
        let document = parse(body)?;
        let found = path.query(&document).all();
        if found.len() > max {
            return Err(format!("the answer lists {} links, at most {max} are allowed", found.len()));
        }
        let url = |(index, value): (usize, &Value)| match value {
            Value::String(text) => self.url(text, base),
            other => Err(format!("link {} is {}, not a text", index + 1, kind(other))),
        };
        found.into_iter().enumerate().map(url).collect()
    }

    /// The URL at `path`; none when nothing, null or an empty text stands there.
    pub fn next_at(&self, path: &JsonPath, body: &[u8], base: &Url) -> Result<Option<Url>, String> {
        let document = parse(body)?;
        match path.query(&document).first() {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => self.url(text, base).map(Some),
            Some(other) => Err(format!("the next link is {}, not a text", kind(other))),
        }
    }

    /// The URL of a header `Link` with this relation.
    pub fn next_in<'a>(
        &self,
        headers: impl Iterator<Item = &'a str>,
        relation: &str,
        base: &Url,
    ) -> Result<Option<Url>, String> {
        let target = headers
            .flat_map(link_values)
            .find(|(_, rel)| rel.split_ascii_whitespace().any(|word| word.eq_ignore_ascii_case(relation)));
        target.map(|(target, _)| self.url(target, base)).transpose()
    }

    /// The page with this number.
    pub fn numbered(&self, first: &Url, parameter: &str, number: u64) -> Url {
        let mut url = without(first, parameter);
        url.query_pairs_mut().append_pair(parameter, &number.to_string());
        url
    }

    /// A URL as an answer writes it: absolute, or relative to the answer's own.
    fn url(&self, text: &str, base: &Url) -> Result<Url, String> {
        if text.len() > URL_BYTES_MAX {
            return Err(format!("a link has {} bytes, more than {URL_BYTES_MAX}", text.len()));
        }
        let mut url = base.join(text).map_err(|error| format!("a link is no URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("a link begins with `{}:`, only http and https are followed", url.scheme()));
        }
        url.set_fragment(None);
        let known = url.set_username("").is_ok() && url.set_password(None).is_ok();
        let url = self.key_parameter.as_ref().map_or(url.clone(), |key| without(&url, key));
        known.then_some(url).ok_or_else(|| "a link has no host".to_owned())
    }
}

/// A page that waits.
pub fn page(number: u64, url: &Url) -> Page {
    let url_sha256 = hex::encode(Sha256::digest(url.as_str()));
    Page { number, url: url.to_string(), url_sha256, landed: None }
}

/// The URL for people and logs: what stands behind `?` may be a secret.
pub fn place(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

pub(super) fn parse(body: &[u8]) -> Result<Value, String> {
    let body = body.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(body);
    serde_json::from_slice(body).map_err(|error| format!("the answer is not JSON: {error}"))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn without(url: &Url, parameter: &str) -> Url {
    let mut url = url.clone();
    let has = url.query_pairs().any(|(name, _)| name == parameter);
    if has {
        let kept: Vec<(String, String)> = url
            .query_pairs()
            .filter(|(name, _)| name != parameter)
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        url.set_query(None);
        if !kept.is_empty() {
            url.query_pairs_mut().extend_pairs(kept);
        }
    }
    url
}

/// Targets and relations of a `Link` header: `<url>; rel="next", <url>; rel=last`.
fn link_values(header: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = header;
    while let Some((target, after)) = rest.split_once('<').and_then(|(_, rest)| rest.split_once('>')) {
        // A comma ends the value, unless it stands in quotes.
        let mut quoted = false;
        let end = after.find(|c| {
            quoted ^= c == '"';
            c == ',' && !quoted
        });
        let (parameters, next) = after.split_at(end.unwrap_or(after.len()));
        let relation = parameters.split(';').find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("rel").then(|| value.trim().trim_matches('"'))
        });
        found.extend(relation.map(|relation| (target, relation)));
        rest = next;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading() -> Reading {
        Reading { key_parameter: Some("key".to_owned()) }
    }

    fn base() -> Url {
        Url::parse("https://api.example.org/v1/readings?page=1").unwrap()
    }

    fn path(text: &str) -> JsonPath {
        JsonPath::parse(text).unwrap()
    }

    #[test]
    fn links_are_read_in_their_order_and_relative_to_the_answer() {
        let body = br#"{"pages": ["https://b.example.org/1", "/2?key=s3cret&a=b", "3#part"]}"#;
        let found = reading().links(&path("$.pages[*]"), body, &base(), 3).unwrap();
        let texts: Vec<&str> = found.iter().map(Url::as_str).collect();
        let expected =
            ["https://b.example.org/1", "https://api.example.org/2?a=b", "https://api.example.org/v1/3"];
        assert_eq!(texts, expected);
        let error = reading().links(&path("$.pages[*]"), body, &base(), 2).unwrap_err();
        assert_eq!(error, "the answer lists 3 links, at most 2 are allowed");
    }

    #[test]
    fn what_is_no_link_is_refused_in_words() {
        for (body, words) in [
            (r#"{"pages": [7]}"#, "link 1 is a number, not a text"),
            (r#"{"pages": ["ftp://x/y"]}"#, "a link begins with `ftp:`"),
            (r#"{"pages": ["http://"]}"#, "a link is no URL"),
            (r#"{"pages": ["#, "the answer is not JSON"),
        ] {
            let error = reading().links(&path("$.pages[*]"), body.as_bytes(), &base(), 9).unwrap_err();
            assert!(error.contains(words), "{body}: {error}");
        }
    }

    #[test]
    fn the_next_link_stands_in_the_body_or_in_a_header() {
        let next = |body: &str| reading().next_at(&path("$.next"), body.as_bytes(), &base());
        assert_eq!(next(r#"{"next": "?page=2"}"#).unwrap().unwrap().query(), Some("page=2"));
        for last in [r#"{"next": null}"#, r#"{"next": ""}"#, "{}"] {
            assert_eq!(next(last), Ok(None), "{last}");
        }
        assert!(next(r#"{"next": {}}"#).unwrap_err().contains("an object"));
        let header = r#"<https://x/?a=1,2>; rel="prev"; title="a, b", <?page=3>; title=x; rel="next last""#;
        let found = reading().next_in([header].into_iter(), "next", &base()).unwrap().unwrap();
        assert_eq!(found.query(), Some("page=3"));
        assert_eq!(reading().next_in([header].into_iter(), "first", &base()), Ok(None));
    }

    #[test]
    fn a_page_number_takes_the_place_of_the_one_before() {
        let url = reading().numbered(&base(), "page", 7);
        assert_eq!(url.as_str(), "https://api.example.org/v1/readings?page=7");
        assert_eq!(page(0, &url).url_sha256.len(), 64);
        assert_eq!(place(&url), "https://api.example.org/v1/readings");
    }
}
