//! Artifacts: what was made of a job, streamed from the object store, whole or in part.

use std::ops::Range;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
    IF_RANGE, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use object_store::{GetOptions, GetRange, GetResult, ObjectStoreExt};
use tidemill_ingest::ObjectKey;
use tidemill_jobs::Job;
use tidemill_pipelines::artifact_name_fits;

use crate::caller::Caller;
use crate::extract::Path;
use crate::gateway::Shared;
use crate::jobs::{has_ended, seen};
use crate::problem::Problem;

/// Header of the rejects, answered alone when nothing was refused.
const REJECTS_HEADER: &str = "line,byte_start,byte_end,column,stage,code,message,problems,raw";

/// The refused records of a job, one line each, with the reason and the raw text.
#[utoipa::path(get, path = "/v1/jobs/{id}/rejects", tag = "jobs", security(("bearer" = [])),
    params(("id" = String, Path, description = "The job's id")), responses(
    (status = 200, description = "CSV: line, byte_start, byte_end, column, stage, code, message, problems, raw", content_type = "text/csv"),
    (status = 206, description = "The part that `Range` asked for", content_type = "text/csv"),
    (status = 404, description = "No such job, or not yours to see"),
    (status = 409, description = "The job has not ended"),
))]
pub(crate) async fn rejects(
    State(shared): State<Shared>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job = seen(&shared, &caller.user, &id).await?;
    if !has_ended(&job) {
        let detail = format!("job `{id}` has not ended; its rejects stand once it has");
        return Err(Problem::new(StatusCode::CONFLICT, "not_ended", detail));
    }
    match read(&shared, &job, "rejects.csv", &headers).await? {
        Some(response) => Ok(response),
        None if job.counts.records_rejected > 0 => Err(Problem::lost("rejects.csv", &id)),
        None => {
            // Of several objects each reject names its own in one column more.
            let files = if job.files_to_process.len() > 1 { ",file" } else { "" };
            let header = format!("{REJECTS_HEADER}{files}\n");
            Ok(([(CONTENT_TYPE, content_type("rejects.csv"))], header).into_response())
        }
    }
}

/// An artifact of a job, such as `report.json`.
#[utoipa::path(get, path = "/v1/jobs/{id}/files/{name}", tag = "jobs", security(("bearer" = [])),
    params(("id" = String, Path, description = "The job's id"), ("name" = String, Path, description = "The artifact's name")), responses(
    (status = 200, description = "The artifact", content_type = "application/octet-stream"),
    (status = 206, description = "The part that `Range` asked for", content_type = "application/octet-stream"),
    (status = 304, description = "Not changed since `If-None-Match`"),
    (status = 404, description = "No such job or artifact, or not yours to see"),
    (status = 416, description = "The range lies outside"),
))]
pub(crate) async fn file(
    State(shared): State<Shared>,
    caller: Caller,
    Path((id, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job = seen(&shared, &caller.user, &id).await?;
    let found = if artifact_name_fits(&name) { read(&shared, &job, &name, &headers).await? } else { None };
    found.ok_or_else(|| {
        let name: String = name.chars().take(80).collect();
        Problem::not_found("unknown_file", format!("job `{id}` has no file `{name}`"))
    })
}

/// The artifact as an answer, `None` when there is none of this name.
async fn read(
    shared: &Shared,
    job: &Job,
    name: &str,
    headers: &HeaderMap,
) -> Result<Option<Response>, Problem> {
    let key = ObjectKey::artifact(job, name);
    let mut options = GetOptions::default();
    if headers.contains_key(RANGE) || headers.contains_key(IF_NONE_MATCH) {
        let Some(meta) = found(shared.objects.head(&key.path()).await)? else {
            return Ok(None);
        };
        let etag = meta.e_tag.as_deref();
        if etag.is_some_and(|etag| header(headers, IF_NONE_MATCH) == Some(etag)) {
            return Ok(Some((StatusCode::NOT_MODIFIED, [(ETAG, etag.unwrap_or(""))]).into_response()));
        }
        options.range = wanted_range(headers, etag, meta.size)?.map(GetRange::Bounded);
        // Both answers must be of the same object.
        options.if_match = options.range.as_ref().and(meta.e_tag);
    }
    let is_part = options.range.is_some();
    let Some(object) = found(shared.objects.get_opts(&key.path(), options).await)? else {
        return Ok(None);
    };
    Ok(Some(answer(object, name, is_part)))
}

fn found<T>(result: object_store::Result<T>) -> Result<Option<T>, Problem> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(Problem::unavailable("the object store", &error)),
    }
}

fn answer(object: GetResult, name: &str, is_part: bool) -> Response {
    let (range, size) = (object.range.clone(), object.meta.size);
    let etag = object.meta.e_tag.clone();
    let status = if is_part { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let mut response = (status, Body::from_stream(object.into_stream())).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type(name));
    // A browser shall not take a sender's file for a page of ours.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let mut insert = |name, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    let name = name.trim_start_matches("files/");
    insert(CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\""));
    if is_part {
        insert(CONTENT_RANGE, format!("bytes {}-{}/{size}", range.start, range.end - 1));
    }
    if let Some(etag) = etag {
        insert(ETAG, etag);
    }
    response
}

/// The part that is asked for, `None` for the whole: no range, several ranges, or a range of an older object.
fn wanted_range(headers: &HeaderMap, etag: Option<&str>, size: u64) -> Result<Option<Range<u64>>, Problem> {
    let Some(text) = header(headers, RANGE) else {
        return Ok(None);
    };
    if header(headers, IF_RANGE).is_some_and(|known| Some(known) != etag) {
        return Ok(None);
    }
    match parse_range(text, size) {
        Parsed::Whole => Ok(None),
        Parsed::Part(range) => Ok(Some(range)),
        Parsed::Outside => {
            let detail = format!("the range lies outside of the file's {size} bytes");
            let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "bad_range", detail);
            Err(problem.with_header(CONTENT_RANGE, &format!("bytes */{size}")))
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Whole,
    Part(Range<u64>),
    Outside,
}

/// One range of RFC 9110, section 14.1.2; what is not understood is ignored, as it says.
fn parse_range(text: &str, size: u64) -> Parsed {
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Parsed::Whole;
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (start, end) = match (first.trim().is_empty(), number(first), last.trim().is_empty(), number(last)) {
        (true, _, false, Some(suffix)) => (size.saturating_sub(suffix), size),
        (false, Some(start), true, _) => (start, size),
        (false, Some(start), false, Some(last)) if start <= last => (start, size.min(last.saturating_add(1))),
        _ => return Parsed::Whole,
    };
    if start < end { Parsed::Part(start..end) } else { Parsed::Outside }
}

fn header(headers: &HeaderMap, name: axum::http::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// By the ending of the name; texts are UTF-8.
fn content_type(name: &str) -> HeaderValue {
    let known = match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("jsonl") => Some("application/jsonl".to_owned()),
        Some("parquet") => Some("application/vnd.apache.parquet".to_owned()),
        _ => mime_guess::from_path(name).first_raw().map(str::to_owned),
    };
    let known = known.unwrap_or_else(|| "application/octet-stream".to_owned());
    let text = if known.starts_with("text/") { format!("{known}; charset=utf-8") } else { known };
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_as_the_standard_says() {
        for (text, expected) in [
            ("bytes=0-4", Parsed::Part(0..5)),
            ("bytes=5-", Parsed::Part(5..10)),
            ("bytes=-3", Parsed::Part(7..10)),
            ("bytes=-99", Parsed::Part(0..10)),
            ("bytes=8-99", Parsed::Part(8..10)),
            ("bytes=9-18446744073709551615", Parsed::Part(9..10)),
            ("bytes=10-", Parsed::Outside),
            ("bytes=-0", Parsed::Outside),
            ("bytes=4-2", Parsed::Whole),
            ("bytes=0-1,3-4", Parsed::Whole),
            ("bytes=-", Parsed::Whole),
            ("lines=0-1", Parsed::Whole),
            ("bytes=x-1", Parsed::Whole),
        ] {
            assert_eq!(parse_range(text, 10), expected, "{text}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Parsed::Outside);
    }

    #[test]
    fn the_content_type_follows_the_ending() {
        for (name, expected) in [
            ("a.csv", "text/csv; charset=utf-8"),
            ("a.txt", "text/plain; charset=utf-8"),
            ("a.html", "text/html; charset=utf-8"),
            ("report.json", "application/json"),
            ("a.jsonl", "application/jsonl"),
            ("talk.mp3", "audio/mpeg"),
            ("talk.mp4", "video/mp4"),
            ("a.parquet", "application/vnd.apache.parquet"),
            ("a.zip", "application/zip"),
            ("a.unheard-of", "application/octet-stream"),
            ("mp3", "application/octet-stream"),
        ] {
            assert_eq!(content_type(name), expected, "{name}");
        }
    }
}
