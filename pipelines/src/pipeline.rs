//! The domain of a pipeline: what the rest of Tidemill works with. It cannot be wrong in shape.

use crate::{
    Column, ColumnName, FileName, HttpSource, JsonPath, Parameter, PipelineName, Program, Schedule, TableName,
};

/// One pipeline file, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// Its name; unique in a folder of pipelines.
    pub name: PipelineName,
    /// For people.
    pub description: String,
    /// First 16 hex digits of the SHA-256 of the file's text: a job keeps the version of its first claim.
    pub version: String,
    /// The file's text, kept so that a retry runs what the first attempt ran.
    pub text: String,
    /// Where the data comes from.
    pub source: Source,
    /// How the bytes are read.
    pub format: Format,
    /// Columns of the table `input`, at least one; none when the format is [`Format::File`].
    pub columns: Vec<Column>,
    /// What a delayed job may be told beside its files.
    pub parameters: Vec<Parameter>,
    /// Whether jobs run in the order of their arrival, when the file says so.
    pub order: Option<Order>,
    /// When and where reports are collected.
    pub collect: Option<Collect>,
    /// How many rejects are borne.
    pub rejects: ErrorBudget,
    /// In order; each sees what came before as the table `input`.
    pub steps: Vec<Step>,
    /// In order; what one makes is the input of the next. At least one when the format is [`Format::File`], else none.
    pub programs: Vec<Program>,
    /// At least one; none when the format is [`Format::File`].
    pub sinks: Vec<SinkSpec>,
    /// Who hears of the end of a job.
    pub notify: Vec<Notice>,
}

impl Pipeline {
    /// The folder of the object store that its reports are collected to, by schedule or by hand.
    pub fn collect_folder(&self) -> String {
        self.collect.as_ref().map_or_else(|| Collect::folder_of(&self.name), |collect| collect.folder.clone())
    }

    /// Whether a job takes turns, that is, runs after all earlier ones of the pipeline that do. Unless the file says
    /// otherwise it does where the last one wins (upsert, replace) and when its sender makes it from pushed objects.
    pub fn takes_turns(&self, is_delayed: bool) -> bool {
        match self.order {
            Some(order) => order == Order::Arrival,
            None => is_delayed || self.last_wins(),
        }
    }

    /// Whether a file undoes what an earlier one wrote (upsert, replace).
    pub fn last_wins(&self) -> bool {
        self.sinks.iter().any(|sink| matches!(sink, SinkSpec::Table(table) if table.mode != Mode::Append))
    }
}

/// When and where the reports of jobs that succeeded are collected.
#[derive(Debug, Clone, PartialEq)]
pub struct Collect {
    /// When; slots that were missed are made up for by the last of them.
    pub schedule: Schedule,
    /// The folder of the object store; safe as part of a key.
    pub folder: String,
}

impl Collect {
    /// The folder of a pipeline that names none.
    pub fn folder_of(pipeline: &PipelineName) -> String {
        format!("collected/{pipeline}")
    }
}

/// Whether jobs run in the order of their arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// One after the other: a job waits for all that arrived before it.
    Arrival,
    /// As many at once as there are places.
    Any,
}

/// Where data comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Files uploaded over HTTP.
    Upload(UploadSource),
    /// Pages of an API, fetched by Tidemill.
    Http(Box<HttpSource>),
}

/// Limits of uploads.
#[derive(Debug, Clone, PartialEq)]
pub struct UploadSource {
    /// Largest body in bytes; default 1 GiB.
    pub max_size_bytes: u64,
    /// What an upload with the same content as an earlier one of this pipeline gets.
    pub duplicates: Duplicates,
    /// Whether a file without records is a success; default false: it fails with code `no_records`.
    pub allow_empty: bool,
}

/// What is done about a file whose content was uploaded before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicates {
    /// Answer with the first job that has not failed (the default).
    First,
    /// Make a new job.
    Accept,
}

/// How bytes become records.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// Delimited text.
    Csv(CsvFormat),
    /// JSON documents.
    Json(JsonFormat),
    /// One JSON value a line.
    JsonLines,
    /// Bytes as they are, for programs: no records.
    File,
}

impl Format {
    /// Whether records are JSON, in which columns have paths.
    pub fn is_json(&self) -> bool {
        matches!(self, Format::Json(_) | Format::JsonLines)
    }
}

/// Where records stand in a JSON document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonFormat {
    /// The path that finds the records; without it, the elements of an array or else the document itself.
    pub records: Option<JsonPath>,
}

/// The dialect of a delimited text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvFormat {
    /// Whether the first record names the columns; default [`Header::Names`].
    pub header: Header,
    /// One ASCII byte; default `,`.
    pub delimiter: u8,
    /// One ASCII byte, doubled inside a quoted field; `None` when nothing is quoted; default `"`.
    pub quote: Option<u8>,
    /// Unquoted texts that mean a missing value; default `[""]`.
    pub null: Vec<String>,
    /// Take white space (space, tab) off both ends of unquoted fields; default false.
    pub trim: bool,
}

/// What the first record of a CSV file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// Names: columns are found by name, in any order; a missing or unknown name fails the file.
    Names,
    /// Data: columns are taken in the order of the pipeline file.
    None,
}

/// How many rejects a job bears before [`Then`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErrorBudget {
    /// The budget; default 10%.
    pub tolerate: Tolerance,
    /// What happens over the budget; default abort.
    pub then: Then,
}

/// A share or a number of records.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tolerance {
    /// Percent of the records in, 0 to 100.
    Percent(f64),
    /// A number of records.
    Records(u64),
}

/// What happens to a job that is over its error budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The job fails and nothing is written.
    Abort,
    /// The good records are written; the report says that the budget was exceeded.
    Continue,
}

/// One step over what came before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A condition that every row must meet.
    Check(Check),
    /// One SELECT; its result is the next `input`.
    Sql(String),
}

/// A named condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name, the code of the rejects it makes.
    pub name: ColumnName,
    /// An SQL expression of type boolean over the columns of `input`; null counts as not met.
    pub condition: String,
    /// What a row that does not meet it gets.
    pub otherwise: CheckElse,
}

/// What happens to a row that does not meet a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckElse {
    /// The record becomes a reject; only before the first SQL step, where a row still is a record.
    Reject,
    /// The job fails.
    Fail,
}

/// Where results go.
#[derive(Debug, Clone, PartialEq)]
pub enum SinkSpec {
    /// A table of the database of the settings.
    Table(TableSink),
    /// A Delta table in the object store.
    Lake(LakeSink),
    /// A CSV file among the job's artifacts.
    File(FileSink),
}

/// A Delta table in the object store; rows are only ever added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeSink {
    /// The table's name, and its folder below `lake/`.
    pub name: TableName,
    /// The date or timestamp column that gives a row's day; `None`: the day on which the file landed.
    pub day: Option<ColumnName>,
}

/// A file with the rows of a job, as CSV.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSink {
    /// Its name below `/v1/jobs/{id}/files/`; it ends with `.csv`.
    pub name: FileName,
}

/// A table and how rows go into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSink {
    /// The table's name.
    pub name: TableName,
    /// How rows go in.
    pub mode: Mode,
    /// The primary key, for upsert never empty; made when the table is created.
    pub key: Vec<ColumnName>,
}

/// How rows go into a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Insert; a row with a key that is already there fails the job.
    Append,
    /// Insert, or replace the columns of the row with the same key.
    Upsert,
    /// The table holds exactly the rows of the last job.
    Replace,
}

/// A message to people or programs about the end of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// On which ends.
    pub on: NoticeOn,
    /// To whom.
    pub target: NoticeTarget,
}

/// The ends of a job on which a notice is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoticeOn {
    /// When the job succeeded.
    pub success: bool,
    /// When the job failed.
    pub failed: bool,
}

/// Who is told.
#[derive(Debug, Clone, PartialEq)]
pub enum NoticeTarget {
    /// Addresses; each may be a minijinja template over the job, such as `{{ sender }}`.
    Email {
        /// At least one.
        to: Vec<String>,
    },
    /// A POST of the finished event as JSON.
    Webhook {
        /// An http or https URL.
        url: String,
        /// Name of the secret in the settings that signs the body (HMAC-SHA-256).
        secret: Option<String>,
    },
}
