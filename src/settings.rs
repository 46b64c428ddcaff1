//! Settings: what an installation says about itself, read once at start by every role and command.
//!
//! Sources in order, the later wins: `tidemill.toml` (or `--config FILE`), `TIDEMILL_*` variables, flags.
//! Promise: every wrong setting of every source is told at once, with where it stands and what to write,
//! before anything starts. `tidemill.example.toml` explains each field and is where its default stands; a test keeps
//! it complete.

mod check;
mod files;
mod load;
mod problem;
mod secret;
#[cfg(test)]
mod tests;
mod units;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use check::Purpose;
pub use load::{Sources, load};
pub use problem::SettingsProblem;
pub use secret::Secret;
pub use tidemill_sinks::notice::SmtpTls;
pub use units::{ByteSize, Span};

/// Explains each setting, and shows its default.
const DEFAULTS: &str = include_str!("../tidemill.example.toml");

/// All settings of an installation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Folder of the embedded parts: what the sections below do not name is kept there.
    pub data: Option<PathBuf>,
    /// Folder of the pipeline files.
    pub pipelines: PathBuf,
    /// Whether a role brings schemas and topics up to date when it starts.
    pub migrate: bool,
    /// How long a role waits at start for a server that does not answer yet.
    pub connect_wait: Span,
    /// The database of jobs and users.
    pub database: Database,
    /// The database of the sinks' tables.
    pub tables: Tables,
    /// The object store.
    pub objects: Objects,
    /// The broker.
    pub broker: Broker,
    /// The HTTP surface.
    pub gateway: Gateway,
    /// The Postgres wire.
    pub postgres: Postgres,
    /// The role that runs pipelines.
    pub processor: Processor,
    /// The role that does what schedules make due.
    pub fetcher: Fetcher,
    /// SQL over the results.
    pub query: Query,
    /// The role that sends notices.
    pub notifier: Notifier,
    /// Logs and metrics.
    pub telemetry: Telemetry,
}

/// The database of jobs and users.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `mysql://user:password@host/database` or `sqlite:///path`.
    pub url: Option<Secret>,
    /// A file that holds the URL.
    pub url_file: Option<PathBuf>,
    /// Most connections of one process.
    pub connections: u32,
}

/// The database of the sinks' tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tables {
    /// As `database.url`, which is used when this is missing.
    pub url: Option<Secret>,
    /// A file that holds the URL.
    pub url_file: Option<PathBuf>,
    /// Most connections of one process.
    pub connections: u32,
    /// Whether LOAD DATA LOCAL may be used where the server allows it.
    pub local_infile: bool,
    /// Longest wait for a lock of another transaction.
    pub lock_wait: Span,
}

/// The object store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objects {
    /// `s3://bucket/prefix` or `file:///folder`.
    pub url: Option<String>,
    /// URL of an S3 server that is not Amazon's.
    pub endpoint: Option<String>,
    /// Region of the bucket.
    pub region: Option<String>,
    /// Access key; missing means what the machine's identity gives.
    pub access_key: Option<Secret>,
    /// A file that holds the access key.
    pub access_key_file: Option<PathBuf>,
    /// Secret key.
    pub secret_key: Option<Secret>,
    /// A file that holds the secret key.
    pub secret_key_file: Option<PathBuf>,
    /// Whether the endpoint may be plain http.
    pub allow_http: bool,
    /// Whether senders of delayed jobs get URLs of the store itself.
    pub presign: bool,
    /// The endpoint as senders reach it.
    pub public_endpoint: Option<String>,
}

/// The broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// Kafka's bootstrap servers, `host:port` parted by commas.
    pub servers: Option<String>,
    /// Topics are named `{topic_prefix}.landed` and `{topic_prefix}.finished`.
    pub topic_prefix: String,
    /// Partitions of a topic that is made; the most processors that share the work.
    pub partitions: u32,
    /// Copies of each record on Kafka.
    pub replication: u32,
    /// Further settings of librdkafka, such as `security.protocol`.
    #[serde(default)]
    pub client: BTreeMap<String, Secret>,
    /// Files that hold settings of librdkafka, such as `sasl.password`.
    #[serde(default)]
    pub client_files: BTreeMap<String, PathBuf>,
}

/// The HTTP surface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// How people reach the gateway; used in links of notices.
    pub public_url: Option<String>,
    /// Signs tokens; at least 32 bytes.
    pub jwt_secret: Option<Secret>,
    /// A file that holds the secret.
    pub jwt_secret_file: Option<PathBuf>,
    /// How long a token is good.
    pub token_lifetime: Span,
    /// Most open connections.
    pub connections_max: u32,
    /// Most uploads at the same time.
    pub uploads_max: u32,
    /// Longest time of a request that is not an upload or a download.
    pub request_timeout: Span,
    /// Longest silence in the middle of an upload.
    pub upload_idle: Span,
    /// How long open requests may take after a stop was asked for.
    pub drain: Span,
}

/// The Postgres wire, which the gateway serves beside HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    /// Address and port to listen on; missing means off, but in `dev`.
    pub listen: Option<SocketAddr>,
    /// A PEM file with the certificate and those it hangs on.
    pub certificate: Option<PathBuf>,
    /// A PEM file with the key of the certificate.
    pub key: Option<PathBuf>,
    /// Most open connections.
    pub connections_max: u32,
    /// Most open connections of one user.
    pub user_connections_max: u32,
    /// How long a connection may say nothing.
    pub idle: Span,
}

/// The role that runs pipelines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Processor {
    /// Jobs at the same time in one process.
    pub concurrency: u32,
    /// Memory of the SQL engine for all jobs of the process; beyond it, it spills.
    pub memory: ByteSize,
    /// Folder for what is spilled; missing means the system's folder for temporary files.
    pub spill_dir: Option<PathBuf>,
    /// Rows of a batch.
    pub batch_rows: u32,
    /// Longest record; a longer one is refused.
    pub record_max: ByteSize,
    /// Largest JSON document; each job may hold one.
    pub document_max: ByteSize,
    /// Longest raw text kept of a refused record.
    pub raw_max: ByteSize,
    /// Most rows of a table that a reference or a step looks into; they are held in memory.
    pub lookup_rows_max: u64,
    /// Longest attempt of a job.
    pub job_limit: Span,
    /// How long a claim holds without a sign of life.
    pub lease: Span,
    /// How often a job that was left behind is put back before it fails.
    pub retries_max: u32,
    /// How long a running job may take after a stop was asked for, before it is handed back.
    pub drain: Span,
}

/// The role that does what schedules make due.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetcher {
    /// Runs at the same time in one process.
    pub runs: u32,
    /// Private addresses that may be fetched from, as blocks.
    pub allow: Vec<String>,
    /// Longest run.
    pub run_limit: Span,
    /// How long a slot is held without a sign of life.
    pub lease: Span,
    /// How long the page ledger keeps the pages of a run that ended.
    pub keep_pages: Span,
    /// Secrets by the names that pipeline files use.
    #[serde(default)]
    pub secrets: BTreeMap<String, Secret>,
    /// Files that hold such secrets.
    #[serde(default)]
    pub secrets_files: BTreeMap<String, PathBuf>,
}

/// SQL over the results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// As `tables.url`, which is used when this is missing, with an account that may only read.
    pub tables_url: Option<Secret>,
    /// A file that holds the URL.
    pub tables_url_file: Option<PathBuf>,
    /// Longest time of a statement, its answer included.
    pub timeout: Span,
    /// Memory of one statement.
    pub memory: ByteSize,
    /// Statements at the same time.
    pub statements_max: u32,
    /// Statements of one user at the same time.
    pub statements_per_user_max: u32,
    /// How long a statement waits for a place.
    pub queue_wait: Span,
    /// Workers that are kept ready.
    pub warm: u32,
    /// Threads of one statement.
    pub threads: u32,
}

/// The role that sends notices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notifier {
    /// Folder for mail as `.eml` files, instead of a mail server.
    pub outbox: Option<PathBuf>,
    /// Added to a sender's name that is no address.
    pub default_domain: Option<String>,
    /// Notices at the same time.
    pub concurrency: u32,
    /// How long a notice is tried.
    pub give_up_after: Span,
    /// Private addresses that webhooks may reach, as CIDR blocks.
    pub webhook_allow: Vec<String>,
    /// Longest wait for the answer of a webhook.
    pub webhook_timeout: Span,
    /// Secrets by name, for the signatures of webhooks.
    #[serde(default)]
    pub secrets: BTreeMap<String, Secret>,
    /// Files that hold secrets, by name.
    #[serde(default)]
    pub secrets_files: BTreeMap<String, PathBuf>,
    /// The mail server.
    pub smtp: Smtp,
}

/// The mail server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Smtp {
    /// Name or address of the server.
    pub host: Option<String>,
    /// Its port; missing means the usual one of `tls`: 25, 587 or 465.
    pub port: Option<u16>,
    /// How the connection is secured.
    pub tls: SmtpTls,
    /// User, when the server asks for one.
    pub user: Option<String>,
    /// Password of the user.
    pub password: Option<Secret>,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// Sender of the messages: `Tidemill <tidemill@example.com>`.
    pub from: String,
    /// Longest wait for the server.
    pub timeout: Span,
    /// A PEM file with a further authority to trust.
    pub ca_file: Option<PathBuf>,
}

/// Logs and metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// Which events are logged: `info`, or as `warn,tidemill=debug`.
    pub log: String,
    /// How they are written.
    pub format: LogFormat,
    /// Where processor and notifier serve `/metrics`, `/healthz` and `/readyz`.
    pub listen: SocketAddr,
    /// Pause between two looks at queue and lag.
    pub poll: Span,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Default for Settings {
    fn default() -> Self {
        #[expect(clippy::expect_used, reason = "the file is part of the binary, and tests read it")]
        toml::from_str(DEFAULTS).expect("tidemill.example.toml holds every setting that has a default")
    }
}
