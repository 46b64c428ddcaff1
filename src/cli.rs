//! The command line: what may be asked of `tidemill`, and the help that teaches it.

mod mock_api;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
pub use mock_api::MockApiArgs;

const EXAMPLES: &str = "\
Examples:
  tidemill dev                                   all roles in one process, state in ./tidemill-data
  tidemill check                                 every problem of pipelines and settings
  tidemill run sales sales.csv --dry-run         what this file would do, without any server
  tidemill doctor                                reach every server of the settings

Settings come from tidemill.toml (or --config FILE), then TIDEMILL_* variables, then flags:
TIDEMILL_DATABASE__URL is database.url. tidemill.example.toml explains each of them.

Exit status: 0 done, 1 refused or failed, 2 wrong usage.";

/// Files and API pages into tables that people can trust.
#[derive(Debug, Parser)]
#[command(name = "tidemill", version, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Settings file, also TIDEMILL_CONFIG [default: tidemill.toml, when it is there]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "TIDEMILL_CONFIG",
        hide_env = true,
        help_heading = "Settings"
    )]
    pub config: Option<PathBuf>,
    /// One setting, as in --set processor.concurrency=4; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = key_value, help_heading = "Settings")]
    pub set: Vec<(String, String)>,
    /// Folder of the embedded parts, as `tidemill dev` keeps it
    #[arg(long, global = true, value_name = "DIR", help_heading = "Settings")]
    pub data: Option<PathBuf>,
    /// Folder of the pipeline files [default: pipelines]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Settings")]
    pub pipelines: Option<PathBuf>,
    /// Answer in JSON, for programs
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run all roles in one process on embedded parts; nothing to install
    #[command(after_help = "\
Examples:
  tidemill dev --data ./tidemill-data --listen 127.0.0.1:8080 --pipelines ./pipelines
  TIDEMILL_ADMIN_PASSWORD=… tidemill dev         choose the first password of `admin` yourself

Jobs, events, tables, objects and mail are kept in the folder of --data. What the settings name
(a MariaDB for tables, a mail server) is used instead of the embedded part.")]
    Dev {
        /// Address and port of the gateway [default: 127.0.0.1:8080]
        #[arg(long, value_name = "ADDR")]
        listen: Option<String>,
    },
    /// Run the role that takes uploads and answers HTTP
    Gateway {
        /// Address and port [default: 127.0.0.1:8080]
        #[arg(long, value_name = "ADDR")]
        listen: Option<String>,
    },
    /// Run the role that turns landed files into rows
    Processor {
        /// Address and port of /metrics, /healthz and /readyz [default: 127.0.0.1:9464]
        #[arg(long, value_name = "ADDR")]
        listen: Option<String>,
    },
    /// Run the role that does what schedules make due: it fetches the pages of APIs
    Fetcher {
        /// Address and port of /metrics, /healthz and /readyz [default: 127.0.0.1:9464]
        #[arg(long, value_name = "ADDR")]
        listen: Option<String>,
    },
    /// Run the role that sends e-mail and calls webhooks
    Notifier {
        /// Address and port of /metrics, /healthz and /readyz [default: 127.0.0.1:9464]
        #[arg(long, value_name = "ADDR")]
        listen: Option<String>,
    },
    /// Tell every problem of the pipelines and the settings
    Check {
        /// Check the settings as this role needs them
        #[arg(long, value_name = "ROLE")]
        role: Option<Role>,
    },
    /// Run the test cases of the pipelines
    #[command(after_help = "\
A case is a folder pipelines/cases/PIPELINE/CASE with input.csv (or input.csv.zip, input.json,
input.jsonl), the expected rows.csv and rejects.csv (line,column,code), and tables/TABLE.csv for
each table that is referred to.
A case of a pipeline of files has input.* and the expected output.* or error.txt.

Examples:
  tidemill test                  all cases of all pipelines
  tidemill test hired_employees  the cases of one")]
    Test {
        /// Only the cases of this pipeline
        pipeline: Option<String>,
    },
    /// Run one file through a pipeline, without servers
    #[command(after_help = "\
Examples:
  tidemill run departments departments.csv                 rows to stdout, a summary to stderr
  tidemill run hired_employees hired.csv --out rows.csv --rejects rejects.csv \\
      --table departments=departments.csv --table jobs=jobs.csv
  tidemill run sales sales.csv --dry-run                   counts, and the table it would need
  tidemill run video_to_mp3 talk.mp4 --out talk.mp3        a file made of a file")]
    Run(RunArgs),
    /// Ask SQL of the tables of the sinks
    #[command(after_help = "\
Examples:
  tidemill --data ./tidemill-data query \"SELECT count(*) FROM flights\"
  tidemill query --csv \"SELECT * FROM departments ORDER BY id\" > departments.csv
  tidemill query --param 2021-06-01 \"SELECT * FROM hired_employees WHERE hired_at >= $1\"
  tidemill query \"SHOW TABLES\"

Tables of the sinks stand in the schema `public`, Tidemill's own (`tidemill.jobs`) in `tidemill`.")]
    Query(QueryArgs),
    /// Look at jobs, prove them, try them again
    #[command(subcommand)]
    Jobs(JobsCommand),
    /// Copy the reports of jobs that succeeded since the last time to one folder
    #[command(after_help = "\
The folder is `to` of the pipeline's `collect`, or collected/PIPELINE, of the object store; the jobs become
`downloaded`. The role `fetcher` does the same on the cron lines of `collect`.")]
    Collect {
        /// Name of the pipeline
        pipeline: String,
    },
    /// Manage users and what they may do
    #[command(subcommand)]
    User(UserCommand),
    /// Bring databases and topics up to date
    Migrate,
    /// Send files to a gateway, wait, and tell what was taken and what was refused
    Send(SendArgs),
    /// Fetch the pages of a pipeline's API now, as its schedule does
    #[command(after_help = "\
The pages land in the object store and become one job, which a processor (or `tidemill dev`) takes.
A fetch that was cut off is taken up again by the same command with the same --slot: pages that
landed are not fetched again.

Examples:
  tidemill --data ./tidemill-data fetch sensor_readings
  tidemill fetch sensor_readings --wait     until its rows are in the table
  tidemill fetch sensor_readings --slot 2026-11-21T10:15:00Z")]
    Fetch(FetchArgs),
    /// Print the JSON Schema of pipeline files
    Schema,
    /// Serve a made-up API of seeded random readings, to fetch from
    MockApi(MockApiArgs),
    /// Reach every server of the settings, or say which does not answer and what to do
    Doctor,
    /// Run a program under limits, for the processor
    #[command(name = tidemill_processor::confine::COMMAND, hide = true)]
    Confine {
        /// How, the limits, the program with its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<std::ffi::OsString>,
    },
    /// Answer statements on stdin and stdout; started by whoever answers queries
    #[command(name = "__query-worker", hide = true)]
    QueryWorker,
}

/// What is fetched, and how long its job is waited for.
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// Name of the pipeline
    pub pipeline: String,
    /// The time that the pipeline's texts are filled with, such as 2026-11-21T10:15:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    pub slot: Option<chrono::DateTime<chrono::Utc>>,
    /// Wait until the job over the pages has ended; fail when it fails, or has not ended after TIME [default: 1h]
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "1h",
        value_parser = mock_api::time)]
    pub wait: Option<std::time::Duration>,
}

/// What is asked, and how it is answered.
#[derive(Debug, Args)]
pub struct QueryArgs {
    /// One SELECT statement; it may begin with a comment
    #[arg(allow_hyphen_values = true)]
    pub sql: String,
    /// The value of $1; once more for $2, and so on
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    pub param: Vec<String>,
    /// How the rows are written [default: table]
    #[arg(long, value_name = "FORMAT", conflicts_with_all = ["json", "csv"])]
    pub format: Option<RowFormat>,
    /// The same as --format csv
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
}

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RowFormat {
    /// For people.
    Table,
    /// With a header.
    Csv,
    /// A list of objects.
    Json,
    /// An Arrow IPC stream.
    Arrow,
}

/// What is sent, and as whom.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  TIDEMILL_PASSWORD=… tidemill send departments departments.csv
  tidemill send sales *.csv --url https://tidemill.example.com --user ann --password-file ann.secret")]
pub struct SendArgs {
    /// Name of the pipeline
    pub pipeline: String,
    /// Files, sent one after the other
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where to, and as whom.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How many refused records are shown
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub rejects: usize,
}

/// A gateway and who asks it.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// The gateway, also TIDEMILL_URL
    #[arg(long, default_value = "http://127.0.0.1:8080", env = "TIDEMILL_URL", hide_env = true)]
    pub url: String,
    /// The user, also TIDEMILL_USER
    #[arg(long, default_value = "admin", env = "TIDEMILL_USER", hide_env = true)]
    pub user: String,
    /// File with the password on its first line; without it TIDEMILL_PASSWORD is taken
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// A job over files that are pushed to the object store.
#[derive(Debug, Args)]
#[command(after_help = "\
Asks the gateway for a place for each file, pushes the files there (to the object store itself where it signs URLs),
and posts one job over them, which runs after all that were posted before. Prints the job.

Examples:
  TIDEMILL_PASSWORD=… tidemill jobs submit sales may-*.csv
  tidemill jobs submit sales may.csv --parameter day=2024-05-01 --wait --user ann --password-file ann.secret")]
pub struct SubmitArgs {
    /// Name of the pipeline
    pub pipeline: String,
    /// Files of the job, in the order in which they are read
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A parameter of the pipeline; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = key_value)]
    pub parameter: Vec<(String, String)>,
    /// Makes a repetition safe: the same key gets the same job
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Wait for the end of the job and tell what was taken and what was refused
    #[arg(long)]
    pub wait: bool,
    /// Where to, and as whom.
    #[command(flatten)]
    pub login: LoginArgs,
}

/// A role, for `check --role`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Role {
    /// The gateway.
    Gateway,
    /// The processor.
    Processor,
    /// The fetcher.
    Fetcher,
    /// The notifier.
    Notifier,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Name of a pipeline of the folder, or path of a pipeline file
    pub pipeline: String,
    /// The file to run; - is stdin
    pub file: PathBuf,
    /// Write nothing; tell the counts and the plan of the table
    #[arg(long, conflicts_with = "out")]
    pub dry_run: bool,
    /// Where the rows go as CSV, or the file that is made [default: stdout]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Where the refused records go as CSV
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<PathBuf>,
    /// A parameter of the pipeline; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = key_value)]
    pub parameter: Vec<(String, String)>,
    /// A table that the pipeline refers to, as a file of the pipeline that writes it; may be repeated
    #[arg(long, value_name = "NAME=FILE", value_parser = key_value)]
    pub table: Vec<(String, String)>,
}

/// Commands over jobs.
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// The newest jobs first
    List {
        /// Only this status; may be repeated
        #[arg(long, value_name = "STATUS")]
        status: Vec<Status>,
        /// Only this pipeline
        #[arg(long, value_name = "NAME")]
        pipeline: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Go on after the page that printed this cursor
        #[arg(long)]
        cursor: Option<String>,
    },
    /// One job
    Show {
        /// Its id
        id: String,
    },
    /// Recount a job from its object, its rejects and the ledger
    #[command(after_help = "\
Reads the object again, counts records, rejects and rows in the ledger, and says where they part:
records in = written + rejected + filtered. Exit status 1 when they do not add up.")]
    Verify {
        /// Its id
        id: String,
    },
    /// Push files and post a job over them, to run in the order of arrival
    Submit(SubmitArgs),
    /// Print the refused records of a job as CSV: line, reason and raw text of each
    Rejects {
        /// Its id
        id: String,
    },
    /// Queue a failed job again
    Retry {
        /// Its id
        id: String,
    },
    /// Events that the broker refused for good; publish or drop them
    #[command(after_help = "\
Nobody hears of such an event. Dropping one of `landed` loses nothing: the job is announced again. One of `finished` tells
the notifier of the end of its job.")]
    DeadLetters {
        /// Publish the event with this id again
        #[arg(long, value_name = "ID", conflicts_with = "drop")]
        publish: Option<String>,
        /// Forget the event with this id
        #[arg(long, value_name = "ID")]
        drop: Option<String>,
    },
    /// Fail a job that waits or runs; what it has not committed is dropped
    Cancel {
        /// Its id
        id: String,
    },
}

/// The status of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Status {
    /// Waits for a processor.
    Queued,
    /// A processor works on it.
    Processing,
    /// All is written.
    Success,
    /// Nothing is written.
    Failed,
    /// Its report was collected.
    Downloaded,
}

/// Commands over users.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Make a user; prints a random password when none is given on stdin
    #[command(after_help = "\
Examples:
  tidemill user add ana                                   prints a password
  tidemill user add ana --password-stdin < password.txt   takes the first line
  tidemill user grant ana sales send                      ana may send files to `sales`")]
    Add {
        /// Name of the user
        name: String,
        /// May do everything
        #[arg(long)]
        admin: bool,
        /// Take the password from the first line of stdin
        #[arg(long)]
        password_stdin: bool,
    },
    /// Give a user a new password
    Passwd {
        /// Name of the user
        name: String,
        /// Take the password from the first line of stdin
        #[arg(long)]
        password_stdin: bool,
    },
    /// Remove a user; what the user sent stays
    Remove {
        /// Name of the user
        name: String,
    },
    /// Allow a user to send to a pipeline, or to read all its jobs
    Grant(GrantArgs),
    /// Take a permission away
    Revoke(GrantArgs),
    /// All users with what they may do
    List,
}

/// A permission of a user on a pipeline.
#[derive(Debug, Args)]
pub struct GrantArgs {
    /// Name of the user
    pub name: String,
    /// Name of the pipeline, or * for all
    pub pipeline: String,
    /// What is allowed
    pub permission: Permission,
}

/// What may be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Permission {
    /// Upload, and see the own jobs.
    Send,
    /// See all jobs of the pipeline.
    Read,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
