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
use tidemill_jobs::{Job, JobStatus};
use tokio_util::io::ReaderStream;

use super::tables::table;
use super::{print_json, print_text};
use crate::cli::SendArgs;

/// One turn of waiting for a job; the gateway allows 30 s.
const WAIT_SECONDS: u32 = 20;
/// How long a request other than the upload may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends all files; fails when a job fails.
pub async fn run(args: &SendArgs, json: bool) -> Result<ExitCode> {
    let gateway = Gateway::login(args).await?;
    let mut jobs = Vec::new();
    for file in &args.files {
        let sent = gateway.upload(&args.pipeline, file).await?;
        let job = gateway.wait(sent).await?;
        if !json {
            print_text(&gateway.describe(&job, args.rejects).await?);
        }
        jobs.push(job);
    }
    let failed = jobs.iter().any(|job| job.status == JobStatus::Failed);
    if json {
        print_json(&serde_json::json!({ "jobs": jobs }))?;
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

struct Gateway {
    client: Client,
    url: String,
    token: String,
}

#[derive(Deserialize)]
struct Login {
    token: String,
}

impl Gateway {
    async fn login(args: &SendArgs) -> Result<Self> {
        let password = password(args)?;
        let url = args.url.trim_end_matches('/').to_owned();
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .build()?;
        let request = client
            .post(format!("{url}/v1/login"))
            .basic_auth(&args.user, Some(password));
        let login: Login = answer(request.timeout(REQUEST_TIMEOUT)).await?.json().await?;
        Ok(Self {
            client,
            url,
            token: login.token,
        })
    }

    async fn upload(&self, pipeline: &str, file: &Path) -> Result<Job> {
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("upload")
            .to_owned();
        let opened = tokio::fs::File::open(file).await;
        let opened = opened.with_context(|| format!("failed to open `{}`", file.display()))?;
        let size = opened.metadata().await?.len();
        let bar = progress(&name, size);
        let counted = bar.clone();
        let stream = ReaderStream::with_capacity(opened, 64 << 10)
            .inspect_ok(move |chunk| counted.inc(chunk.len() as u64));
        let request = self
            .client
            .post(format!("{}/v1/pipelines/{pipeline}/uploads", self.url))
            .query(&[("name", &name)])
            .header("content-type", "application/octet-stream")
            .header("content-length", size)
            .bearer_auth(&self.token)
            .body(Body::wrap_stream(stream));
        let response = answer(request).await?;
        bar.finish_and_clear();
        Ok(response.json().await?)
    }

    async fn wait(&self, mut job: Job) -> Result<Job> {
        let bar = progress("", 0);
        bar.enable_steady_tick(Duration::from_millis(120));
        while matches!(job.status, JobStatus::Queued | JobStatus::Processing) {
            bar.set_message(format!("{} {}", job.pipeline, job.status.as_str()));
            let request = self.get(&format!("/v1/jobs/{}?wait={WAIT_SECONDS}", job.job_id));
            job = answer(request).await?.json().await?;
        }
        bar.finish_and_clear();
        Ok(job)
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.client
            .get(format!("{}{path}", self.url))
            .bearer_auth(&self.token)
            .timeout(REQUEST_TIMEOUT)
    }

    /// The report in words, with the first rejects.
    async fn describe(&self, job: &Job, rejects: usize) -> Result<String> {
        let counts = job.counts;
        let mut text = format!(
            "{} → {}: {}  (job {})\n  {} records in = {} written + {} refused + {} filtered\n",
            job.file_name.as_deref().unwrap_or("upload"),
            job.pipeline,
            job.status.as_str(),
            job.job_id,
            counts.records_in,
            counts.records_written,
            counts.records_rejected,
            counts.records_filtered,
        );
        if let Some(error) = &job.error {
            text += &format!(
                "  {} ({}, to be mended by the {})\n",
                error.message,
                error.code,
                error.blame.as_str()
            );
        }
        if counts.records_rejected > 0 && rejects > 0 {
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
                vec![
                    String::new(),
                    reject.line,
                    reject.column,
                    reject.code,
                    reject.message,
                    cut(&reject.raw),
                ]
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

fn password(args: &SendArgs) -> Result<String> {
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
async fn answer(request: RequestBuilder) -> Result<Response> {
    let response = request
        .send()
        .await
        .context("the gateway could not be reached; is it running, is --url right?")?;
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

/// A bar on a terminal; nothing where nobody looks.
fn progress(name: &str, size: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::stderr());
    let template = if size > 0 {
        "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}"
    } else {
        "{spinner} {msg}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(name.to_owned());
    bar
}
