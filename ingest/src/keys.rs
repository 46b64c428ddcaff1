//! Keys of objects: `landing/{pipeline}/{job}/{file}` for uploads, `landing/{pipeline}/{run}/{attempt}/{page}` for pages,
//! `pushed/{pipeline}/{sender}/{id}/{file}` for what senders push before a delayed job takes it,
//! `jobs/{job}/{attempt}/` for what was made of it: report.json, rejects.csv, and artifacts below `files/`.

use std::fmt;

use tidemill_jobs::{Job, JobId, PUSHED_PREFIX};
use tidemill_pipelines::PipelineName;
use uuid::Uuid;

/// Longest file name kept in a key, in bytes.
const FILE_NAME_BYTES_MAX: usize = 120;

/// A key that this version made: safe on every store, no `..`, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// The object of an upload.
    pub fn landing(pipeline: &PipelineName, job: JobId, file_name: Option<&str>) -> Self {
        Self(format!("landing/{pipeline}/{job}/{}", file_part(file_name)))
    }

    /// A pushed object of an owner, `{pipeline}/{sender}`.
    pub(crate) fn pushed(owner: &str, id: Uuid, file: &str) -> Self {
        Self(format!("{PUSHED_PREFIX}{owner}/{id}/{file}"))
    }

    /// Its last part.
    pub fn file_name(&self) -> Option<&str> {
        self.0.rsplit('/').next()
    }

    /// The object of a page that this attempt at a run fetched; `ending` says its format, as in `json`. Each attempt has
    /// keys of its own, so a fetcher that was overtaken cannot overwrite a page that its successor has landed.
    pub fn page(pipeline: &PipelineName, run: JobId, attempt: u32, number: u64, ending: &str) -> Self {
        Self(format!("landing/{pipeline}/{run}/{attempt}/page-{number:06}.{ending}"))
    }

    /// Something made of a job by the attempt that ended it: `report.json`, `rejects.csv`, and below `files/`
    /// what the pipeline made. All of an attempt lies beside its report, so that one that was overtaken cannot
    /// overwrite it.
    pub fn artifact(job: &Job, name: &str) -> Self {
        let name = match name {
            "report.json" | "rejects.csv" => name.to_owned(),
            _ => format!("files/{name}"),
        };
        match job.report_file_path.as_deref().and_then(|report| report.rsplit_once('/')) {
            Some((folder, _)) => Self(format!("{folder}/{name}")),
            None => Self(format!("jobs/{}/{name}", job.job_id)),
        }
    }

    /// A file of a job in a folder of collected reports.
    pub(crate) fn collected(folder: &str, job: JobId, file: &str) -> Self {
        Self(format!("{folder}/{job}/{file}"))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key as object_store's own type.
    pub fn path(&self) -> object_store::path::Path {
        object_store::path::Path::from(self.0.as_str())
    }
}

/// Of the sender's file name only letters, digits, `.`, `-` and `_` are kept.
pub(crate) fn file_part(file_name: Option<&str>) -> String {
    let name: String = file_name
        .and_then(|name| name.rsplit(['/', '\\']).next())
        .unwrap_or("")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' })
        .take(FILE_NAME_BYTES_MAX)
        .collect();
    if name.trim_matches('.').is_empty() { "upload".to_owned() } else { name }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_file_name_stays_inside_its_job() {
        let pipeline: PipelineName = "sales".parse().unwrap();
        let job = JobId::new();
        for (name, end) in [
            ("../../etc/passwd", "passwd"),
            ("..", "upload"),
            ("a b\u{0}.csv", "a_b_.csv"),
            ("", "upload"),
            ("C:\\x\\y.csv", "y.csv"),
        ] {
            let key = ObjectKey::landing(&pipeline, job, Some(name));
            assert_eq!(key.as_str(), format!("landing/sales/{job}/{end}"));
            assert_eq!(key.path().as_ref(), key.as_str());
        }
    }
}
