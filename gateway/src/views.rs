//! What the API shows: jobs and pipelines as JSON, with the names that scripts rely on.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tidemill_jobs::{Job, JobStatus};
use tidemill_pipelines::{
    Column, ColumnType, CsvFormat, Duplicates, FileName, Format, Header, Parameter, ParameterValue, Pipeline,
    Source, TableName, TimeFormat,
};
use utoipa::ToSchema;

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StatusView {
    /// Waits for a processor.
    Queued,
    /// A processor works on it.
    Processing,
    /// All is written.
    Success,
    /// Nothing is written; `error` says why.
    Failed,
    /// Its report was collected.
    Downloaded,
}

/// A job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobView {
    /// Its id, the same in logs, events, rows and messages.
    #[schema(format = "uuid", example = "019a8f6e-5c1d-7a30-9d55-2f0c5a1b7e11")]
    job_id: String,
    /// The pipeline that it runs.
    #[schema(example = "hired_employees")]
    pipeline: String,
    /// The version of the pipeline file at its first claim.
    pipeline_version: Option<String>,
    status: StatusView,
    /// How often it was put back after a first attempt.
    retries: u32,
    /// When it landed.
    created_at: DateTime<Utc>,
    /// When its last attempt began.
    started_at: Option<DateTime<Utc>>,
    /// When it ended.
    finished_at: Option<DateTime<Utc>>,
    /// Keys of its objects.
    files_to_process: Vec<String>,
    /// The sender's name for the file.
    file_name: Option<String>,
    /// Bytes of all its objects.
    size_bytes: u64,
    /// SHA-256 of the bytes; of a delayed job, of the keys, sizes and ETags of its objects.
    content_sha256: String,
    /// What the pipeline's SQL sees as `$name`.
    #[schema(value_type = Object)]
    parameters: BTreeMap<String, serde_json::Value>,
    /// Key of the report, once it ended; its last part is the name below `/v1/jobs/{id}/files/`.
    report_file_path: Option<String>,
    /// Names of the files that were made, each at `/v1/jobs/{id}/files/{name}`.
    artifacts: Vec<String>,
    /// The user who sent it.
    sender: String,
    /// Records found, without header records.
    records_in: u64,
    /// Rows written.
    records_written: u64,
    /// Records refused; see `/v1/jobs/{id}/rejects`.
    records_rejected: u64,
    /// Records that the steps dropped or merged.
    records_filtered: u64,
    /// Why it failed.
    error: Option<JobErrorView>,
}

/// Why a job failed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobErrorView {
    /// A stable word.
    #[schema(example = "over_error_budget")]
    code: String,
    /// For people.
    message: String,
    /// Who can mend it: `sender`, `author`, `operator` or `world`.
    #[schema(example = "sender")]
    blame: &'static str,
}

impl From<JobStatus> for StatusView {
    fn from(status: JobStatus) -> Self {
        match status {
            JobStatus::Queued => StatusView::Queued,
            JobStatus::Processing => StatusView::Processing,
            JobStatus::Success => StatusView::Success,
            JobStatus::Failed => StatusView::Failed,
            JobStatus::Downloaded => StatusView::Downloaded,
        }
    }
}

impl From<StatusView> for JobStatus {
    fn from(status: StatusView) -> Self {
        match status {
            StatusView::Queued => JobStatus::Queued,
            StatusView::Processing => JobStatus::Processing,
            StatusView::Success => JobStatus::Success,
            StatusView::Failed => JobStatus::Failed,
            StatusView::Downloaded => JobStatus::Downloaded,
        }
    }
}

impl From<Job> for JobView {
    fn from(job: Job) -> Self {
        Self {
            job_id: job.job_id.to_string(),
            pipeline: job.pipeline.to_string(),
            pipeline_version: job.pipeline_version,
            status: job.status.into(),
            retries: job.retries,
            created_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
            files_to_process: job.files_to_process,
            file_name: job.file_name,
            size_bytes: job.size_bytes,
            content_sha256: job.content_sha256,
            parameters: job.parameters,
            report_file_path: job.report_file_path,
            artifacts: job.artifacts,
            sender: job.sender,
            records_in: job.counts.records_in,
            records_written: job.counts.records_written,
            records_rejected: job.counts.records_rejected,
            records_filtered: job.counts.records_filtered,
            error: job.error.map(|error| JobErrorView {
                code: error.code,
                message: error.message,
                blame: error.blame.as_str(),
            }),
        }
    }
}

/// A pipeline, as far as senders need to know it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PipelineView {
    #[schema(example = "hired_employees")]
    name: String,
    description: String,
    /// Changes with every change of the pipeline file.
    version: String,
    /// Where its data comes from: `upload`, or `http` for pages that are fetched, to which nothing can be sent.
    source: &'static str,
    /// Largest file in bytes that may be sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_size_bytes: Option<u64>,
    /// What a file that was sent before gets: `first` (its first job) or `accept` (a new job).
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicates: Option<&'static str>,
    format: FormatView,
    /// In the order of the file when it has no header; none when the format is `file`.
    columns: Vec<ColumnView>,
    /// The tables that are written.
    tables: Vec<String>,
    /// The files that each job makes, below `/v1/jobs/{id}/files/`.
    files: Vec<String>,
    /// What a delayed job may be told beside its files.
    parameters: Vec<ParameterView>,
}

/// One parameter.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ParameterView {
    name: String,
    /// `int64`, `float64`, `bool`, `text` or `date`.
    #[serde(rename = "type")]
    #[schema(example = "date")]
    type_: &'static str,
    /// Its value when it is not given; `null` when it must be given.
    default: Option<serde_json::Value>,
}

/// How the file has to be written.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FormatView {
    /// Delimited text.
    Csv(CsvView),
    /// Any file that the programs of the pipeline take.
    File(FileView),
    /// JSON documents.
    Json(JsonView),
    /// One JSON object a line.
    #[serde(rename = "json_lines")]
    JsonLines {},
}

/// Where the records stand in a JSON document.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JsonView {
    /// A path; without it, the elements of an array, or the one object that the document is.
    #[schema(example = "$.items[*]")]
    records: Option<String>,
}

/// Bytes as they are; it has no fields.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FileView {}

/// The dialect of a delimited text.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CsvView {
    /// Whether the first record names the columns.
    header: bool,
    #[schema(example = ",")]
    delimiter: String,
    /// `null` when nothing is quoted.
    #[schema(example = "\"")]
    quote: Option<String>,
    /// Texts that mean a missing value.
    null: Vec<String>,
    /// Whether white space at both ends of a field is taken off.
    trim: bool,
}

/// One column.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct ColumnView {
    name: String,
    /// `int64`, `float64`, `decimal`, `bool`, `text`, `date` or `timestamp`.
    #[serde(rename = "type")]
    #[schema(example = "int64")]
    type_: &'static str,
    /// Whether a missing value is refused.
    required: bool,
    /// Where the value stands in a JSON record; without it, the member of the column's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// The value must be found there, `table.column`.
    #[serde(skip_serializing_if = "Option::is_none")]
    references: Option<String>,
    /// Longest text in characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_length: Option<u32>,
    /// Digits of a decimal in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    precision: Option<u8>,
    /// Digits of a decimal after the point.
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<i8>,
    /// strftime formats, tried in order; ISO 8601 when there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    formats: Vec<String>,
    /// IANA name of the zone of times without offset.
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    /// Texts that mean true.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    true_texts: Vec<String>,
    /// Texts that mean false.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    false_texts: Vec<String>,
}

impl From<&Pipeline> for PipelineView {
    fn from(pipeline: &Pipeline) -> Self {
        let (source, upload) = match &pipeline.source {
            Source::Upload(upload) => ("upload", Some(upload)),
            Source::Http(_) => ("http", None),
        };
        Self {
            name: pipeline.name.to_string(),
            description: pipeline.description.clone(),
            version: pipeline.version.clone(),
            source,
            max_size_bytes: upload.map(|upload| upload.max_size_bytes),
            duplicates: upload.map(|upload| match upload.duplicates {
                Duplicates::First => "first",
                Duplicates::Accept => "accept",
            }),
            format: match &pipeline.format {
                Format::Csv(csv) => FormatView::Csv(csv.into()),
                Format::File => FormatView::File(FileView {}),
                Format::Json(json) => {
                    FormatView::Json(JsonView { records: json.records.as_ref().map(ToString::to_string) })
                }
                Format::JsonLines => FormatView::JsonLines {},
            },
            columns: pipeline.columns.iter().map(ColumnView::from).collect(),
            tables: table_names(pipeline),
            files: pipeline.files().map(FileName::to_string).collect(),
            parameters: pipeline.parameters.iter().map(ParameterView::from).collect(),
        }
    }
}

/// As SQL names them: those of the lake stand in the schema `lake`.
fn table_names(pipeline: &Pipeline) -> Vec<String> {
    let lake = pipeline.lake_tables().map(|table| format!("lake.{table}"));
    pipeline.tables().map(TableName::to_string).chain(lake).collect()
}

impl From<&Parameter> for ParameterView {
    fn from(parameter: &Parameter) -> Self {
        Self {
            name: parameter.name.to_string(),
            type_: parameter.kind.as_str(),
            default: parameter.default.as_ref().map(ParameterValue::to_json),
        }
    }
}

impl From<&CsvFormat> for CsvView {
    fn from(csv: &CsvFormat) -> Self {
        Self {
            header: csv.header == Header::Names,
            delimiter: char::from(csv.delimiter).to_string(),
            quote: csv.quote.map(|quote| char::from(quote).to_string()),
            null: csv.null.clone(),
            trim: csv.trim,
        }
    }
}

impl From<&Column> for ColumnView {
    fn from(column: &Column) -> Self {
        let base = Self {
            name: column.name.to_string(),
            required: column.required,
            path: column.path.as_ref().map(ToString::to_string),
            references: column.references.as_ref().map(|to| format!("{}.{}", to.table, to.column)),
            ..Self::default()
        };
        match &column.kind {
            ColumnType::Int64 => Self { type_: "int64", ..base },
            ColumnType::Float64 => Self { type_: "float64", ..base },
            ColumnType::Decimal { precision, scale } => {
                Self { type_: "decimal", precision: Some(*precision), scale: Some(*scale), ..base }
            }
            ColumnType::Bool { true_texts, false_texts } => Self {
                type_: "bool",
                true_texts: true_texts.clone(),
                false_texts: false_texts.clone(),
                ..base
            },
            ColumnType::Text { max_length } => Self { type_: "text", max_length: *max_length, ..base },
            ColumnType::Date { formats } => Self { type_: "date", formats: texts(formats), ..base },
            ColumnType::Timestamp { formats, zone } => {
                Self { type_: "timestamp", formats: texts(formats), zone: Some(zone.clone()), ..base }
            }
        }
    }
}

fn texts(formats: &[TimeFormat]) -> Vec<String> {
    formats.iter().map(|format| format.as_str().to_owned()).collect()
}
