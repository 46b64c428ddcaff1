//! What the head of an upload says: kind of body, length, name of the file, key.

use axum::http::header::{CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use tidemill_pipelines::{Pipeline, Source, UploadSource};

use crate::problem::Problem;

/// Longest `Idempotency-Key`, in bytes; the job table's column holds as many.
const KEY_BYTES_MAX: usize = 190;

/// Longest name of a file that is kept, in characters; file systems allow 255 bytes.
const FILE_NAME_CHARS_MAX: usize = 255;

/// Content types of raw bodies. Programs label CSV in many ways; Windows calls it `application/vnd.ms-excel`.
const RAW_TYPES: [&str; 11] = [
    "text/csv",
    "text/plain",
    "text/tab-separated-values",
    "application/csv",
    "text/x-csv",
    "application/vnd.ms-excel",
    "application/json",
    "application/jsonl",
    "application/x-ndjson",
    "application/x-jsonlines",
    "application/octet-stream",
];

/// The head of an upload, understood.
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) length: Option<u64>,
    pub(super) file_name: Option<String>,
    pub(super) idempotency_key: Option<String>,
}

/// How the file stands in the body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The body is the file.
    Raw,
    /// The file is the field `file` of a form.
    Form { boundary: String },
}

impl Request {
    pub(super) fn read(
        pipeline: &Pipeline,
        headers: &HeaderMap,
        name: Option<String>,
    ) -> Result<Self, Problem> {
        let source = upload_source(pipeline)?;
        let kind = kind(headers)?;
        refuse_encoding(headers)?;
        let length = length(headers)?;
        if kind == Kind::Raw {
            refuse_length(source.max_size_bytes, length)?;
        }
        let disposition = text(headers, &CONTENT_DISPOSITION)?.and_then(file_name_of);
        let file_name = name.or(disposition).and_then(|name| clean(&name));
        Ok(Self { kind, length, file_name, idempotency_key: idempotency_key(headers)? })
    }
}

fn kind(headers: &HeaderMap) -> Result<Kind, Problem> {
    let Some(value) = text(headers, &CONTENT_TYPE)? else {
        return Ok(Kind::Raw);
    };
    let essence = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if essence == "multipart/form-data" {
        let boundary = multer::parse_boundary(value);
        let bad = |_| Problem::bad_request("bad_form", "the content type of the form has no boundary");
        return boundary.map_err(bad).map(|boundary| Kind::Form { boundary });
    }
    if RAW_TYPES.contains(&essence.as_str()) {
        return Ok(Kind::Raw);
    }
    let hint = if essence == "application/x-www-form-urlencoded" {
        // What `curl -d` says, which also takes the line ends out of the file.
        "with curl use `-T FILE` or `-F file=@FILE`"
    } else {
        "send the file as text/csv, application/json or application/octet-stream, or as field `file` of multipart/form-data"
    };
    let essence: String = essence.chars().take(80).collect();
    let detail = format!("this pipeline does not take a body of type `{essence}`: {hint}");
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_type", detail))
}

fn refuse_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    match text(headers, &CONTENT_ENCODING)? {
        None | Some("identity") => Ok(()),
        Some(_) => {
            let detail = "the body must come without `content-encoding`";
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", detail))
        }
    }
}

/// What a pipeline says about files that are sent to it; 409 for one that gets its data in another way.
pub(crate) fn upload_source(pipeline: &Pipeline) -> Result<&UploadSource, Problem> {
    match &pipeline.source {
        Source::Upload(source) => Ok(source),
        Source::Http(_) => {
            let detail = format!("pipeline `{}` fetches its data itself, it takes no uploads", pipeline.name);
            Err(Problem::new(StatusCode::CONFLICT, "no_uploads", detail))
        }
    }
}

pub(crate) fn length(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    Ok(text(headers, &CONTENT_LENGTH)?.and_then(|text| text.parse().ok()))
}

pub(crate) fn refuse_length(limit_bytes: u64, length: Option<u64>) -> Result<(), Problem> {
    match length {
        Some(length) if length > limit_bytes => Err(tidemill_ingest::Error::TooLarge { limit_bytes }.into()),
        _ => Ok(()),
    }
}

pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let good =
        key.len() <= KEY_BYTES_MAX && !key.is_empty() && key.as_bytes().iter().all(u8::is_ascii_graphic);
    match key.to_str() {
        Ok(key) if good => Ok(Some(key.to_owned())),
        _ => {
            let detail = format!(
                "the header `idempotency-key` must have 1 to {KEY_BYTES_MAX} visible ASCII characters"
            );
            Err(Problem::bad_request("bad_idempotency_key", detail))
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let value = headers.get(name).map(|value| std::str::from_utf8(value.as_bytes()));
    value
        .transpose()
        .map_err(|_| Problem::bad_request("bad_header", format!("the header `{name}` is not UTF-8 text")))
}

/// `filename*=UTF-8''…` (RFC 8187) before `filename="…"`.
fn file_name_of(disposition: &str) -> Option<String> {
    let parameter = |name: &str| {
        disposition.split(';').skip(1).find_map(|part| {
            let (key, value) = part.split_once('=')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let extended = parameter("filename*").and_then(|value| {
        let encoded = value.get(..7).filter(|start| start.eq_ignore_ascii_case("utf-8''"))?;
        percent_decoded(&value[encoded.len()..])
    });
    extended.or_else(|| parameter("filename").map(|value| value.trim_matches('"').to_owned()))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The last part of a path, without control characters, cut; `None` when nothing is left.
pub(super) fn clean(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let kept: String = last.chars().filter(|c| !c.is_control()).take(FILE_NAME_CHARS_MAX).collect();
    let kept = kept.trim();
    (!kept.is_empty()).then(|| kept.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_file_is_found_however_it_is_written() {
        for (given, expected) in [
            ("attachment; filename=\"a b.csv\"", Some("a b.csv")),
            ("attachment; filename=a.csv", Some("a.csv")),
            ("attachment; filename=\"x.csv\"; filename*=UTF-8''%c3%a9t%C3%A9.csv", Some("été.csv")),
            ("attachment; filename*=UTF-8''%zz; filename=b.csv", Some("b.csv")),
            ("attachment; filename*=UTF-8''%f", None),
            ("attachment", None),
        ] {
            assert_eq!(file_name_of(given).as_deref(), expected, "{given}");
        }
    }

    #[test]
    fn a_name_keeps_no_folder_and_no_control_character() {
        for (given, expected) in [
            ("../../etc/passwd", Some("passwd")),
            ("C:\\data\\a.csv", Some("a.csv")),
            ("a\r\nb.csv", Some("ab.csv")),
            (" / ", None),
            ("", None),
        ] {
            assert_eq!(clean(given).as_deref(), expected, "{given:?}");
        }
        assert_eq!(clean(&"x".repeat(999)).unwrap().len(), FILE_NAME_CHARS_MAX);
    }

    #[test]
    fn a_type_that_is_not_read_here_is_refused_with_what_to_send() {
        for (given, word) in [
            ("image/png", "text/csv"),
            ("application/x-www-form-urlencoded", "curl"),
            ("video/mp4", "multipart/form-data"),
            ("multipart/form-data", "boundary"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, given.parse().unwrap());
            let problem = format!("{:?}", kind(&headers).unwrap_err());
            assert!(problem.contains(word), "{given}: {problem}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "Application/JSON; charset=utf-8".parse().unwrap());
        assert_eq!(kind(&headers).unwrap(), Kind::Raw);
    }
}
