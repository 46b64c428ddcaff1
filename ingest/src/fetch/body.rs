//! A look at the bytes of a page on their way: HTML where data is expected, and half a JSON, are seen before they
//! land. Cheap on purpose, it keeps a few bytes only; whether each record is right is the decoder's to say.

use tidemill_pipelines::{Format, Pipeline, Retry};

/// Bytes of the begin that are kept, enough for `<!doctype html>`.
const HEAD_BYTES: usize = 64;

/// What a page has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// One JSON document.
    Json,
    /// Lines: CSV, with or without a header, or JSON lines.
    Lines {
        /// Whether the first line names the columns.
        header: bool,
    },
    /// Any bytes.
    File,
}

impl Expected {
    /// What the format of a pipeline expects.
    pub fn of(pipeline: &Pipeline) -> Self {
        match &pipeline.format {
            Format::Csv(csv) => Expected::Lines { header: csv.header == tidemill_pipelines::Header::Names },
            Format::Json(_) => Expected::Json,
            Format::JsonLines => Expected::Lines { header: false },
            Format::File => Expected::File,
        }
    }

    /// The ending of an object's name.
    pub fn ending(pipeline: &Pipeline) -> &'static str {
        match &pipeline.format {
            Format::Csv(_) => "csv",
            Format::Json(_) => "json",
            Format::JsonLines => "jsonl",
            Format::File => "bin",
        }
    }
}

/// What was seen of a page so far.
#[derive(Debug)]
pub struct Look {
    expected: Expected,
    head: Vec<u8>,
    last: Option<u8>,
}

/// What is wrong with a page, and whether it may be whole the next time.
pub type Wrong = (String, Retry);

impl Look {
    /// Nothing yet.
    pub fn new(expected: Expected) -> Self {
        Self { expected, head: Vec::new(), last: None }
    }

    /// The next bytes.
    pub fn see(&mut self, chunk: &[u8]) {
        let mark = [0xef, 0xbb, 0xbf];
        let solid = chunk.iter().copied().filter(|byte| !byte.is_ascii_whitespace() && !mark.contains(byte));
        let room = HEAD_BYTES - self.head.len();
        self.head.extend(solid.take(room));
        self.last = chunk.iter().rfind(|byte| !byte.is_ascii_whitespace()).copied().or(self.last);
    }

    /// Whether the page can be what is expected, once all of it was seen.
    pub fn judge(&self) -> Result<(), Wrong> {
        if self.expected == Expected::File {
            return Ok(());
        }
        let head = self.head.to_ascii_lowercase();
        let html = [b"<!doctypehtml".as_slice(), b"<html"].iter().any(|start| head.starts_with(start));
        if html {
            return Err(html_found(self.expected));
        }
        let closing = match (self.expected, self.head.first()) {
            (Expected::Lines { .. } | Expected::File, _) => return Ok(()),
            (Expected::Json, Some(b'{')) => b'}',
            (Expected::Json, Some(b'[')) => b']',
            (Expected::Json, None) => {
                return Err(("nothing where JSON is expected".to_owned(), Retry::Later));
            }
            (Expected::Json, Some(_)) => {
                let begin: String = String::from_utf8_lossy(&self.head).chars().take(30).collect();
                let begin = begin.escape_debug().to_string();
                return Err((format!("`{begin}…` where JSON is expected"), Retry::Never));
            }
        };
        match self.last == Some(closing) {
            true => Ok(()),
            false => Err(("half a JSON document: its end is missing".to_owned(), Retry::Later)),
        }
    }
}

/// What is said of HTML, by its content type or by its begin.
pub fn html_found(expected: Expected) -> Wrong {
    let wanted = match expected {
        Expected::Json => "JSON",
        Expected::Lines { .. } | Expected::File => "data",
    };
    let message = format!("HTML where {wanted} is expected; is the URL right, is a login missing?");
    (message, Retry::Never)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(expected: Expected, chunks: &[&str]) -> Result<(), String> {
        let mut look = Look::new(expected);
        chunks.iter().for_each(|chunk| look.see(chunk.as_bytes()));
        look.judge().map_err(|(message, _)| message)
    }

    #[test]
    fn a_page_is_judged_by_its_begin_and_its_end() {
        let json = Expected::Json;
        for whole in [&["{\"a\": 1}"][..], &["  [", "1, 2", "]\n "], &["\u{feff}{}"]] {
            assert_eq!(judge(json, whole), Ok(()), "{whole:?}");
        }
        for half in [&["{\"items\": [{\"a\": 1}, {\"a\""][..], &["[1, 2", "\n"], &["{\"a\": [1]"]] {
            assert!(judge(json, half).unwrap_err().contains("half a JSON"), "{half:?}");
        }
        let html = ["<!DOC", "TYPE html>\n<html></html>"];
        assert!(judge(json, &html).unwrap_err().starts_with("HTML where JSON"));
        assert!(judge(Expected::Lines { header: true }, &html).unwrap_err().starts_with("HTML where data"));
        assert_eq!(judge(json, &["a,b\n"]).unwrap_err(), "`a,b…` where JSON is expected");
        assert_eq!(judge(json, &[" "]).unwrap_err(), "nothing where JSON is expected");
        assert_eq!(judge(Expected::Lines { header: true }, &["<a>,b\n1,2\n"]), Ok(()));
    }
}
