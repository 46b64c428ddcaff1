//! Measures a fetch: 1,000 pages of 100 ms each with 100 requests at once, from `tidemill mock-api` (a process of its
//! own) to objects and one job, against the ideal: the first answer, then ten times 100 ms. Jobs in SQLite, objects
//! in a folder.
//!
//! `make bench`, or `target/release/fetch [ROUNDS]`

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chrono::Utc;
use object_store::local::LocalFileSystem;
use tidemill_benches::figures::Figures;
use tidemill_ingest::{FetchMetrics, Fetcher, FetcherParts, Landing, LandingLimits, Progress, RunEnd};
use tidemill_jobs::{JobStore, SlotAnswer, StoreLimits};
use tidemill_pipelines::{Pipeline, PipelineSet, Source};
use tidemill_sinks::notice::Allow;
use tokio::sync::watch;

const ROUNDS: usize = 5;
const PAGES: usize = 1_000;
const AT_ONCE: usize = 100;
const LATENCY: Duration = Duration::from_millis(100);
/// The most that the median may be, as a multiple of the ideal.
const RATIO_MAX: f64 = 1.3;

#[tokio::main]
async fn main() -> Result<()> {
    let rounds =
        std::env::args().nth(1).map_or(Ok(ROUNDS), |text| text.parse()).context("ROUNDS is no number")?;
    let api = MockApi::start()?;
    let folder = tempfile::Builder::new().prefix("bench-fetch-").tempdir()?;
    let ideal = LATENCY * (1 + PAGES.div_ceil(AT_ONCE) as u32);
    let mut figures = Figures::default();
    for round in 0..=rounds {
        let took = fetch(&api.url, &folder.path().join(round.to_string())).await?;
        // The first one warms up.
        if round > 0 {
            println!("{took:.2?}, {:.2} times the ideal of {ideal:.1?}", took.div_duration_f64(ideal));
            figures.add(took.as_secs_f64());
        }
    }
    let median = figures.median();
    let ratio = median / ideal.as_secs_f64();
    println!(
        "{PAGES} pages, {AT_ONCE} at once: median {median:.2} s, {ratio:.2} times the ideal (wanted: {RATIO_MAX})"
    );
    Ok(())
}

/// One run with a new store.
async fn fetch(url: &str, folder: &Path) -> Result<Duration> {
    std::fs::create_dir_all(folder.join("objects"))?;
    let jobs =
        JobStore::connect(&format!("sqlite://{}", folder.join("jobs.db").display()), StoreLimits::default())
            .await?;
    jobs.migrate().await?;
    let text = format!(
        "pipeline: readings\nsource:\n  http:\n    url: {url}\n    pages: {{ links: {{ path: '$.pages[*]' }} }}\n    \
         limits: {{ concurrency: {AT_ONCE} }}\ncolumns: [{{ name: id, type: int64 }}]\nsinks: [{{ table: {{ name: readings }} }}]\n"
    );
    let pipeline = Pipeline::parse("readings.yaml", &text);
    let pipeline = Arc::new(pipeline.map_err(|problems| anyhow::anyhow!("{problems:?}"))?);
    let Source::Http(source) = &pipeline.source else { bail!("no http source") };
    let objects = Arc::new(LocalFileSystem::new_with_prefix(folder.join("objects"))?);
    let fetcher = Fetcher::new(FetcherParts {
        landing: Landing::new(objects, jobs.clone(), LandingLimits::default()),
        jobs: jobs.clone(),
        pipelines: &PipelineSet::from_files(vec![("readings.yaml".to_owned(), text)])
            .map_err(|problems| anyhow::anyhow!("{problems:?}"))?,
        allow: Allow { cidrs: vec!["127.0.0.0/8".parse()?] },
        secrets: BTreeMap::new(),
        run_limit: Duration::from_secs(600),
        metrics: FetchMetrics::new(&prometheus::Registry::new())?,
    })?;
    let begin = Instant::now();
    let answer =
        jobs.claim_slot("fetch:readings", Utc::now(), "bench", Duration::from_secs(60), false).await?;
    let SlotAnswer::Claimed(claim) = answer else { bail!("{answer:?}") };
    match fetcher.run(&pipeline, source, &claim, watch::Sender::new(Progress::default())).await? {
        RunEnd::Job(job) if job.files_to_process.len() == PAGES => Ok(begin.elapsed()),
        other => bail!("not a job of {PAGES} pages: {other:?}"),
    }
}

/// The API, killed when dropped.
struct MockApi {
    child: Child,
    url: String,
}

impl MockApi {
    fn start() -> Result<Self> {
        let latency = format!("{}ms", LATENCY.as_millis());
        let mut child = Command::new(binary()?)
            .args([
                "--json",
                "mock-api",
                "--listen",
                "127.0.0.1:0",
                "--pages",
                &PAGES.to_string(),
                "--latency",
                &latency,
            ])
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to start tidemill mock-api")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let told: serde_json::Value = serde_json::from_str(&line)?;
        let url = told["url"].as_str().context("the mock API tells no url")?.to_owned();
        Ok(Self { child, url })
    }
}

impl Drop for MockApi {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The binary that lies beside this one.
fn binary() -> Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("tidemill"))
}
