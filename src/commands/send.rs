//! `tidemill send`: a client of the gateway. Uploads files, shows progress, waits for the jobs, and tells what
//! was taken and what was refused.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::TryStreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::{Body, Client, RequestBuilder, Response};
use serde::Deserialize;
use serde_json::Value;
use tidemill_jobs::{Job, JobError, JobStatus};
use tokio_util::io::ReaderStream;

use super::tables::table;
use super::{print_json, print_text};
use crate::cli::{LoginArgs, SendArgs};

/// One turn of waiting for a job; the gateway allows 30 s.
const WAIT_SECONDS: u32 = 20;
/// How long a request other than the upload may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a gateway that went away is waited for once it has taken a file.
const AWAY_SECONDS_MAX: u32 = 60;

/// Sends all files, also after one that is refused; fails when a file is refused or its job fails.
pub async fn run(args: &SendArgs, json: bool) -> Result<ExitCode> {
    for file in &args.files {
        std::fs::File::open(file).with_context(|| format!("failed to open `{}`", file.display()))?;
    }
    let gateway = Gateway::login(&args.login).await?;
    let mut jobs = Vec::new();
    let mut failed = 0;
    for file in &args.files {
        match gateway.send(args, file, json).await {
            Ok(job) => {
                failed += usize::from(job.status == JobStatus::Failed);
                jobs.push(job);
            }
            Err(error) => {
                failed += 1;
                eprintln!("{} → {}: {error:#}", file.display(), args.pipeline);
            }
        }
    }
    if json {
        print_json(&serde_json::json!({ "jobs": jobs }))?;
    }
    if failed > 0 && args.files.len() > 1 {
        eprintln!("{failed} of {} files were not taken", args.files.len());
    }
    Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A gateway that somebody has logged in to.
pub(super) struct Gateway {
    pub(super) client: Client,
    pub(super) url: String,
    pub(super) token: String,
}

#[derive(Deserialize)]
struct Login {
    token: String,
}

impl Gateway {
    pub(super) async fn login(args: &LoginArgs) -> Result<Self> {
        let password = password(args)?;
        let url = args.url.trim_end_matches('/').to_owned();
        let client = Client::builder().connect_timeout(Duration::from_secs(10)).build()?;
        let request = client.post(format!("{url}/v1/login")).basic_auth(&args.user, Some(password));
        let login: Login = answer(request.timeout(REQUEST_TIMEOUT)).await?.json().await?;
        Ok(Self { client, url, token: login.token })
    }

    async fn send(&self, args: &SendArgs, file: &Path, json: bool) -> Result<Job> {
        let (sent, duplicate) = self.upload(&args.pipeline, file).await?;
        let job = self.wait(sent).await?;
        if !json {
            if duplicate {
                print_text(&format!(
                    "{} came before, as this job; nothing is written again:",
                    file.display()
                ));
            }
            print_text(&self.describe(&job, args.rejects).await?);
        }
        Ok(job)
    }

    /// The job, and whether the same content had come before.
    async fn upload(&self, pipeline: &str, file: &Path) -> Result<(Job, bool)> {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or("upload").to_owned();
        let request = self
            .client
            .post(format!("{}/v1/pipelines/{pipeline}/uploads", self.url))
            .query(&[("name", &name)])
            .header("content-type", "application/octet-stream")
            .bearer_auth(&self.token);
        let response = with_file(request, file, &name).await?;
        let duplicate = response.headers().contains_key("tidemill-duplicate");
        Ok((response.json().await?, duplicate))
    }

    pub(super) async fn wait(&self, mut job: Job) -> Result<Job> {
        let bar = progress("", 0);
        bar.enable_steady_tick(Duration::from_millis(120));
        let mut away_seconds = 0;
        while matches!(job.status, JobStatus::Queued | JobStatus::Processing) {
            bar.set_message(format!("{} {}", job.pipeline, job.status.as_str()));
            match self.look(&job).await {
                Ok(found) => (job, away_seconds) = (found, 0),
                Err(_) if away_seconds < AWAY_SECONDS_MAX => {
                    away_seconds += 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error) => {
                    let id = job.job_id;
                    return Err(error.context(format!(
                        "the file was taken and is safe; look again with: tidemill jobs show {id}"
                    )));
                }
            }
        }
        bar.finish_and_clear();
        Ok(job)
    }

    async fn look(&self, job: &Job) -> Result<Job> {
        let request = self.get(&format!("/v1/jobs/{}?wait={WAIT_SECONDS}", job.job_id));
        Ok(answer(request).await?.json().await?)
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.url)).bearer_auth(&self.token).timeout(REQUEST_TIMEOUT)
    }

    /// The report in words, with the first rejects.
    pub(super) async fn describe(&self, job: &Job, rejects: usize) -> Result<String> {
        let mut text = format!(
            "{} → {}: {}  (job {})\n",
            job.file_name.as_deref().unwrap_or("upload"),
            job.pipeline,
            job.status.as_str(),
            job.job_id,
        );
        text += &counted(job);
        for name in &job.artifacts {
            text += &format!("  made {name}: GET {}/v1/jobs/{}/files/{name}\n", self.url, job.job_id);
        }
        text += &blamed(job);
        if job.counts.records_rejected > 0 && rejects > 0 {
            text += &self.first_rejects(job, rejects).await?;
        }
        Ok(text)
    }

    async fn first_rejects(&self, job: &Job, most: usize) -> Result<String> {
        let path = format!("/v1/jobs/{}/rejects", job.job_id);
        // Only the beginning is wanted: the answer is read until enough lines are there.
        let mut response = answer(self.get(&path)).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > most.saturating_mul(1_000).max(64 << 10) {
                break;
            }
        }
        let mut reader = csv::Reader::from_reader(bytes.as_slice());
        let rows = reader.deserialize::<Reject>().take(most).filter_map(Result::ok);
        let rows: Vec<_> = rows
            .map(|reject| {
                vec![String::new(), reject.line, reject.column, reject.code, reject.message, cut(&reject.raw)]
            })
            .collect();
        let shown = rows.len();
        let lines = table(&["", "line", "column", "code", "message", "raw"], rows);
        Ok(format!(
            "{lines}\n  the first {shown} of {}; all: GET {}{path}\n",
            job.counts.records_rejected, self.url
        ))
    }
}

/// What became of the records of a job, as a line.
pub(super) fn counted(job: &Job) -> String {
    let counts = job.counts;
    // A pipeline of files has no records.
    if counts.records_in == 0 && !job.artifacts.is_empty() {
        return String::new();
    }
    let (written, refused) = (counts.records_written, counts.records_rejected);
    let (all, filtered) = (counts.records_in, counts.records_filtered);
    format!("  {all} records in = {written} written + {refused} refused + {filtered} filtered\n")
}

/// Why a job failed and who can mend it, as a line; nothing for one that succeeded.
pub(super) fn blamed(job: &Job) -> String {
    let line = |error: &JobError| {
        format!("  {} ({}, to be mended by the {})\n", error.message, error.code, error.blame.as_str())
    };
    job.error.as_ref().map(line).unwrap_or_default()
}

#[derive(Deserialize)]
struct Reject {
    line: String,
    column: String,
    code: String,
    message: String,
    raw: String,
}

fn cut(raw: &str) -> String {
    const CHARACTERS: usize = 60;
    let mut text = String::new();
    for character in raw.chars().take(CHARACTERS) {
        match character {
            control if control.is_control() => text.extend(control.escape_default()),
            other => text.push(other),
        }
    }
    if raw.chars().count() > CHARACTERS {
        text.push('…');
    }
    text
}

fn password(args: &LoginArgs) -> Result<String> {
    match &args.password_file {
        Some(file) => {
            let text = std::fs::read_to_string(file);
            let text =
                text.with_context(|| format!("failed to read the password file `{}`", file.display()))?;
            Ok(text.lines().next().unwrap_or("").to_owned())
        }
        None => std::env::var("TIDEMILL_PASSWORD")
            .context("no password: set TIDEMILL_PASSWORD, or name a file with --password-file"),
    }
}

/// Sends a request; an answer that is a problem becomes an error in its words.
pub(super) async fn answer(request: RequestBuilder) -> Result<Response> {
    let response =
        request.send().await.context("the gateway could not be reached; is it running, is --url right?")?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let problem: Value = response.json().await.unwrap_or_default();
    match problem["detail"].as_str() {
        Some(detail) => bail!("{detail} ({status})"),
        None => bail!("the gateway answered {status}"),
    }
}

/// Sends a request with a file as its body, and shows how far it is.
pub(super) async fn with_file(request: RequestBuilder, file: &Path, name: &str) -> Result<Response> {
    let opened = tokio::fs::File::open(file).await;
    let opened = opened.with_context(|| format!("failed to open `{}`", file.display()))?;
    let size = opened.metadata().await?.len();
    let bar = progress(name, size);
    let counted = bar.clone();
    let stream = ReaderStream::with_capacity(opened, 64 << 10)
        .inspect_ok(move |chunk| counted.inc(chunk.len() as u64));
    let response = answer(request.header("content-length", size).body(Body::wrap_stream(stream))).await;
    bar.finish_and_clear();
    response
}

/// A bar on a terminal; nothing where nobody looks.
fn progress(name: &str, size: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr());
    let template =
        if size > 0 { "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}" } else { "{spinner} {msg}" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(name.to_owned());
    bar
}
