//! The fields of a pipeline file as they are written. Their doc comments are the descriptions of
//! the JSON Schema, and the schema is what a file is checked against: one source for all three.
//! [`crate::read`] turns these into the domain.

mod http;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

pub use http::{AuthSpec, HttpLimitsSpec, HttpSpec, MissedSpec, NextSpec, PagesSpec, ScheduleSpec};

/// One pipeline of Tidemill: where data comes from, its format and columns, the steps, the sinks, the notices.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Tidemill pipeline")]
// A pipeline whose format is `file` has neither records nor tables.
#[schemars(extend(
    "if" = {"properties": {"format": {"required": ["file"]}}, "required": ["format"]},
    "else" = {"required": ["columns", "sinks"]}
))]
#[expect(
    dead_code,
    reason = "only its schema is used: the parts are read one by one, so that one bad part hides no other"
)]
pub struct PipelineSpec {
    /// Name of the pipeline: a-z, 0-9 and _; the file is named `<name>.yaml`.
    pub pipeline: String,
    /// What the pipeline is for, in words for people.
    pub description: Option<String>,
    /// Where the data comes from; without it, files are uploaded.
    pub source: Option<SourceSpec>,
    /// How bytes become records; without it, CSV with a header.
    pub format: Option<FormatSpec>,
    /// Columns of the records that come in: the table `input` of the first step.
    #[schemars(length(min = 1))]
    pub columns: Option<Vec<ColumnSpec>>,
    /// What a delayed job may be told beside its files; SQL sees it as `$name`.
    #[schemars(length(max = 50))]
    pub parameters: Option<Vec<ParameterSpec>>,
    /// Whether jobs run in the order of their arrival; by default they do for upsert, replace and delayed jobs.
    pub order: Option<OrderSpec>,
    /// When and where the reports of jobs that succeeded are collected.
    pub collect: Option<CollectSpec>,
    /// How many refused records are borne; without it, 10%, then abort.
    pub rejects: Option<RejectsSpec>,
    /// Checks and SQL statements, in order; each sees what came before as the table `input`.
    pub steps: Option<Vec<StepSpec>>,
    /// Where the results go.
    #[schemars(length(min = 1))]
    pub sinks: Option<Vec<SinkSpec>>,
    /// Who hears of the end of a job.
    pub notify: Option<Vec<NoticeSpec>>,
}

/// Where data comes from.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SourceSpec {
    /// Files that senders upload over HTTP.
    Upload(UploadSpec),
    /// Pages of an API that Tidemill fetches.
    Http(Box<HttpSpec>),
}

/// Files that senders upload over HTTP.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadSpec {
    /// Largest file, such as `500MiB` or `2GiB`, or a number of bytes; default 1GiB.
    pub max_size: Option<Written>,
    /// What a file with the same content as an earlier one gets; default first.
    pub duplicates: Option<DuplicatesSpec>,
    /// Whether a file without records is a success; default false.
    pub allow_empty: Option<bool>,
}

/// What a file with the same content as an earlier one gets.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DuplicatesSpec {
    /// The first job that has not failed.
    First,
    /// A new job.
    Accept,
}

/// How bytes become records.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FormatSpec {
    /// Delimited text.
    Csv(CsvSpec),
    /// JSON documents.
    Json(JsonSpec),
    /// One JSON object a line.
    JsonLines(JsonLinesSpec),
    /// Bytes as they are, such as a video, for steps that are programs.
    File(FileSpec),
}

/// JSON documents.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JsonSpec {
    /// Where the records stand, such as `$.items[*]`: names, indexes and `[*]`; without it, the elements of an array, or the one object that the document is.
    pub records: Option<String>,
}

/// One JSON object a line.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("properties" = {}))]
pub struct JsonLinesSpec {}

/// Bytes as they are; it has no fields.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("properties" = {}))]
pub struct FileSpec {}

/// Delimited text.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CsvSpec {
    /// Whether the first record names the columns (then their order is free); default true.
    pub header: Option<bool>,
    /// One ASCII character between fields, or the word `tab`; default `,`.
    pub delimiter: Option<String>,
    /// One ASCII character around fields that hold a delimiter, doubled inside, or the word `none`; default `"`.
    pub quote: Option<String>,
    /// Unquoted texts that mean a missing value, such as `["", NA]`; default `[""]`.
    pub null: Option<Vec<Word>>,
    /// Whether white space is taken off both ends of unquoted fields; default false.
    pub trim: Option<bool>,
}

/// One column of the records that come in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColumnSpec {
    /// Name of the column: a-z, A-Z, 0-9 and _; also the name looked for in a header or in a JSON object.
    pub name: String,
    /// For JSON: where the value stands in a record, such as `$.user.name`; without it, the member of the column's name.
    pub path: Option<String>,
    /// What a field must be.
    pub r#type: TypeSpec,
    /// Whether a missing value is refused; default true.
    pub required: Option<bool>,
    /// Column of another pipeline's table in which the value must be found, as `table.column`.
    pub references: Option<String>,
    /// For text: longest value in characters.
    #[schemars(range(min = 1))]
    pub max_length: Option<u32>,
    /// For decimal: digits in all, 1 to 38.
    #[schemars(range(min = 1, max = 38))]
    pub precision: Option<u8>,
    /// For decimal: digits after the point, 0 to the precision.
    #[schemars(range(max = 38))]
    pub scale: Option<u8>,
    /// For date and timestamp: a strftime format such as `%d/%m/%Y`, or a list of formats tried in order; default ISO 8601.
    pub format: Option<OneOrMany>,
    /// For timestamp: zone of texts that carry no offset, such as `Europe/Madrid`; default UTC.
    pub zone: Option<String>,
    /// For bool: texts read as true; default true, t, yes, y, 1.
    pub r#true: Option<Vec<Word>>,
    /// For bool: texts read as false; default false, f, no, n, 0.
    pub r#false: Option<Vec<Word>>,
}

/// What a field must be.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TypeSpec {
    /// A whole number of 64 bits.
    Int64,
    /// A number with a fraction, 64 bits, not exact.
    Float64,
    /// An exact decimal number; needs `precision` and `scale`.
    Decimal,
    /// True or false.
    Bool,
    /// Any text.
    Text,
    /// A calendar date.
    Date,
    /// An instant, kept in UTC.
    Timestamp,
}

/// What a delayed job may be told beside its files.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParameterSpec {
    /// Name of the parameter: a-z, A-Z, 0-9 and _; in SQL it stands after a `$`.
    pub name: String,
    /// What it must be.
    pub r#type: ParameterTypeSpec,
    /// What it is when a job does not give it; without one it must be given.
    pub default: Option<Word>,
}

/// What a parameter must be.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ParameterTypeSpec {
    /// A whole number of 64 bits.
    Int64,
    /// A number with a fraction, 64 bits.
    Float64,
    /// True or false.
    Bool,
    /// Any text, up to 1,000 characters.
    Text,
    /// A calendar date, such as `2024-05-01`.
    Date,
}

/// Whether jobs run in the order of their arrival.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OrderSpec {
    /// One after the other: a job waits for all that arrived before it.
    Arrival,
    /// As many at once as there are places.
    Any,
}

/// When and where the reports of jobs that succeeded are collected; the jobs become `downloaded`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CollectSpec {
    /// A cron line or a list of them: minute, hour, day of the month, month, day of the week.
    pub cron: OneOrMany,
    /// The zone of the hours, such as `Europe/Madrid`; default UTC.
    pub zone: Option<String>,
    /// The folder of the object store, such as `collected/sales`, which is the default for a pipeline `sales`.
    pub to: Option<String>,
}

/// How many refused records a job bears.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RejectsSpec {
    /// A share such as `10%`, or a number of records; default 10%.
    pub tolerate: Option<Written>,
    /// What happens over it; default abort.
    pub then: Option<ThenSpec>,
}

/// What happens to a job with more refused records than it bears.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ThenSpec {
    /// The job fails and nothing is written.
    Abort,
    /// The good records are written and the report says so.
    Continue,
}

/// One step over what came before.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StepSpec {
    /// A condition that every row must meet.
    Check(CheckSpec),
    /// One SELECT over the table `input`; its result is the next `input`.
    Sql(String),
    /// A program that makes one file of another, for the format `file`.
    Program(ProgramSpec),
}

/// A program that makes one file of another; no shell is between.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProgramSpec {
    /// The program and its arguments, with the placeholders `{input}` and `{output}`; a brace is written `{{` or `}}`.
    #[schemars(length(min = 1))]
    pub run: Vec<String>,
    /// Name of the file that it makes, such as `{stem}.mp3`; `{stem}` is the sender's file name without its ending.
    pub output: String,
    /// What the program may use.
    pub limits: Option<ProgramLimitsSpec>,
}

/// What a program may use.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProgramLimitsSpec {
    /// Longest run, such as `90s` or `10m`, at most 1h; default 10m.
    pub time: Option<Written>,
    /// Most memory, such as `512MiB`, at least 16MiB; default 1GiB.
    pub memory: Option<Written>,
    /// Largest file that it writes, such as `500MiB`; default 2GiB.
    pub output_size: Option<Written>,
}

/// A condition that every row must meet.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckSpec {
    /// Name of the check, the code of the rejects it makes: a-z, A-Z, 0-9 and _.
    pub name: String,
    /// An SQL expression over the columns, true for a good row, such as `hired_at <= now()`.
    pub r#where: String,
    /// What a row that does not meet it gets.
    pub r#else: ElseSpec,
}

/// What a row that does not meet a check gets.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ElseSpec {
    /// Its record is refused; only before the first sql step.
    Reject,
    /// The job fails.
    Fail,
}

/// Where results go.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SinkSpec {
    /// A table of the database that the settings name.
    Table(TableSpec),
    /// A Delta table in the object store, a folder for each day: for SQL beyond one machine.
    Lake(LakeSpec),
    /// A CSV file of the rows, kept with the job.
    File(FileSinkSpec),
}

/// A Delta table in the object store, a folder for each day.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LakeSpec {
    /// Name of the table, and of its folder below `lake/`: a-z, A-Z, 0-9 and _.
    pub name: String,
    /// The date or timestamp column that gives a row's day (UTC); without it, the day on which the file landed.
    pub day: Option<String>,
    /// How rows go in: append, the default, is the only way.
    pub mode: Option<ModeSpec>,
}

/// A CSV file of the rows, kept with the job.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSinkSpec {
    /// Name of the file, such as `report.csv`.
    pub name: String,
}

/// A table of the database that the settings name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    /// Name of the table: a-z, A-Z, 0-9 and _.
    pub name: String,
    /// How rows go in; default append.
    pub mode: Option<ModeSpec>,
    /// Columns of the primary key; needed by upsert.
    pub key: Option<Vec<String>>,
}

/// How rows go into a table.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModeSpec {
    /// Rows are added; a key that is already there fails the job.
    Append,
    /// Rows are added, or replace the row with the same key.
    Upsert,
    /// The table holds exactly the rows of the last job.
    Replace,
}

/// A message about the end of a job.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NoticeSpec {
    /// A mail to people.
    Email(EmailSpec),
    /// A POST of the finished event as JSON to a program.
    Webhook(WebhookSpec),
}

/// A mail to people.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmailSpec {
    /// An address or a list of them; `{{ sender }}` is who sent the file.
    pub to: OneOrMany,
    /// On which ends of a job; default both.
    pub on: Option<Vec<EndSpec>>,
}

/// A POST of the finished event as JSON to a program.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookSpec {
    /// An http or https URL, without user and password.
    pub url: String,
    /// Name of the secret in the settings that signs the body.
    pub secret: Option<String>,
    /// On which ends of a job; default both.
    pub on: Option<Vec<EndSpec>>,
}

/// An end of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EndSpec {
    /// The job succeeded.
    Success,
    /// The job failed.
    Failed,
}

/// One text, or a list of texts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One text.
    One(String),
    /// A list of texts.
    Many(Vec<String>),
}

impl OneOrMany {
    /// The texts.
    pub fn texts(self) -> Vec<String> {
        match self {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        }
    }
}

/// A text or number, kept as it was written: `10%`, `100`, `2GiB`.
#[derive(Debug, Deserialize)]
pub struct Written(pub String);

impl JsonSchema for Written {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Written".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "integer"]})
    }
}

/// A text of the data, kept as it was written, also where YAML sees a number, a bool or null.
#[derive(Debug, Deserialize)]
pub struct Word(pub String);

impl JsonSchema for Word {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Word".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "number", "boolean", "null"]})
    }
}
