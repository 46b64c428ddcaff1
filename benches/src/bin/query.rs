//! Measures a point query over HTTP: one hired employee by its id, asked of a running `tidemill dev` on SQLite, or on
//! MariaDB when the test servers run. Each statement runs in a worker process; the times are those of a client. Then the
//! same beside statements that would take the machine: when these end, and how long the point queries take meanwhile.
//!
//! `make bench`, or `[tests/servers/servers with] target/release/query [QUERIES]`

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Client;
use serde_json::{Value, json};
use tidemill_benches::ROOT;
use tidemill_benches::database::Database;
use tidemill_benches::figures::Figures;

const QUERIES: usize = 300;
/// Queries before those that count.
const WARM_UP: usize = 20;
/// The most that the median may be, in milliseconds.
const MEDIAN_MAX_MS: f64 = 30.0;
const PASSWORD: &str = "a password of the bench";
/// What a point query beside a hostile statement may take at the median, in milliseconds.
const BESIDE_MAX_MS: f64 = 200.0;
/// The time limit of a statement in these measurements.
const LIMIT: Duration = Duration::from_secs(4);
/// How late after its limit a hostile statement may end.
const LATE_MAX: Duration = Duration::from_secs(1);
/// Longest wait for a job.
const WAIT_MAX: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<()> {
    let queries = std::env::args().nth(1).map_or(Ok(QUERIES), |text| text.parse());
    let queries = queries.context("QUERIES is no number")?;
    measure("SQLite", None, queries).await?;
    if std::env::var_os("TIDEMILL_TEST_MARIADB_URL").is_some() {
        let database = Database::make("query").await?;
        let measured = measure("MariaDB", Some(&database.url), queries).await;
        database.drop_it().await?;
        measured?;
    }
    Ok(())
}

async fn measure(name: &str, tables: Option<&str>, queries: usize) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("bench-query-").tempdir()?;
    let dev = Dev::start(folder.path(), tables).await?;
    for pipeline in ["departments", "jobs", "hired_employees"] {
        dev.send(pipeline).await?;
    }
    let all: Value = dev.ask("SELECT id FROM hired_employees ORDER BY id", json!([])).await?;
    let ids = all["rows"].as_array().context("no rows")?.clone();
    let mut took = Figures::default();
    for round in 0..WARM_UP + queries {
        let id = &ids[round * 7 % ids.len()][0];
        let began = Instant::now();
        let found = dev.ask("SELECT name, hired_at FROM hired_employees WHERE id = $1", json!([id])).await?;
        let milliseconds = began.elapsed().as_secs_f64() * 1_000.0;
        ensure!(found["row_count"] == 1, "id {id}: {found}");
        if round >= WARM_UP {
            took.add(milliseconds);
        }
    }
    println!(
        "{queries} point queries over HTTP on {name}, one after the other: median {:.1} ms, p95 {:.1} ms ({:.1} to \
         {:.1}); median under {MEDIAN_MAX_MS} wanted",
        took.median(),
        took.at(0.95),
        took.least(),
        took.most()
    );
    for (what, sql) in hostile() {
        beside(&dev, what, sql, &ids[0][0]).await?;
    }
    Ok(())
}

fn hostile() -> [(&'static str, String); 4] {
    let everything = ["a", "b", "c", "d"].map(|name| format!("hired_employees {name}")).join(", ");
    [
        ("a cross join of everything", format!("SELECT count(*), max(a.name || d.name) FROM {everything}")),
        (
            "generate_series(1, 1e11)",
            "SELECT sum(v) FROM generate_series(1, 100000000000) AS t(v)".to_owned(),
        ),
        ("lpad('x', 2000000000)", "SELECT length(lpad('x', 2000000000))".to_owned()),
        ("100,000 ORs", format!("SELECT 1 WHERE {}", vec!["1=2"; 100_000].join(" OR "))),
    ]
}

/// One hostile statement, with point queries one after the other until it ends.
async fn beside(dev: &Dev, what: &str, sql: String, id: &Value) -> Result<()> {
    let (began, mut took) = (Instant::now(), Figures::default());
    let mut asked = std::pin::pin!(dev.ask(&sql, json!([])));
    let ended = loop {
        let one = async {
            let began = Instant::now();
            dev.ask("SELECT name FROM hired_employees WHERE id = $1", json!([id])).await?;
            anyhow::Ok(began.elapsed().as_secs_f64() * 1_000.0)
        };
        tokio::select! {
            ended = &mut asked => break ended,
            milliseconds = one => took.add(milliseconds?),
        }
    };
    ensure!(ended.is_err(), "{what} was answered");
    let beside = match took.count() {
        0 => "none beside it".to_owned(),
        some => format!("{some} beside it, median {:.1} ms ({BESIDE_MAX_MS} wanted)", took.median()),
    };
    println!("{what}: ended after {:.2?} ({:?} wanted); {beside}", began.elapsed(), LIMIT + LATE_MAX);
    Ok(())
}

/// A running `tidemill dev`, killed when dropped.
struct Dev {
    child: Child,
    url: String,
    token: String,
    client: Client,
}

impl Dev {
    async fn start(folder: &Path, tables: Option<&str>) -> Result<Self> {
        let program = std::env::current_exe()?.with_file_name("tidemill");
        let mut command = Command::new(&program);
        command.current_dir(folder).args(["dev", "--data", "data", "--listen", "127.0.0.1:0", "--pipelines"]);
        command.arg(Path::new(ROOT).join("pipelines")).env("TIDEMILL_ADMIN_PASSWORD", PASSWORD);
        command.env("TIDEMILL_QUERY__TIMEOUT", format!("{}s", LIMIT.as_secs()));
        if let Some(url) = tables {
            command.env("TIDEMILL_TABLES__URL", url);
        }
        let log = std::fs::File::create(folder.join("log"))?;
        let started = command.stdout(Stdio::piped()).stderr(log).spawn();
        let mut child = started.with_context(|| format!("failed to start {}", program.display()))?;
        let out = BufReader::new(child.stdout.take().context("it has no stdout")?);
        let mut lines = out.lines().map_while(Result::ok);
        let url = lines.find_map(|line| line.trim().strip_prefix("Tidemill is up: ").map(str::to_owned));
        let url = url.with_context(|| format!("it did not start; see {}", folder.join("log").display()))?;
        std::thread::spawn(move || lines.count());
        let client = Client::new();
        let login = client.post(format!("{url}/v1/login")).basic_auth("admin", Some(PASSWORD)).send().await?;
        let login: Value = login.error_for_status()?.json().await?;
        let token = login["token"].as_str().context("no token")?.to_owned();
        Ok(Self { child, url, token, client })
    }

    async fn send(&self, pipeline: &str) -> Result<()> {
        let file = Path::new(ROOT).join(format!("examples/data/employees/{pipeline}.csv"));
        let url = format!("{}/v1/pipelines/{pipeline}/uploads", self.url);
        let sent = self.client.post(url).bearer_auth(&self.token).body(std::fs::read(file)?).send().await?;
        let job: Value = sent.error_for_status()?.json().await?;
        let url = format!("{}/v1/jobs/{}?wait=30", self.url, job["job_id"].as_str().context("no job")?);
        let began = Instant::now();
        while began.elapsed() < WAIT_MAX {
            let job = self.client.get(&url).bearer_auth(&self.token).send().await?;
            let job: Value = job.error_for_status()?.json().await?;
            if job["status"] == "success" {
                return Ok(());
            }
            ensure!(job["status"] != "failed", "{job}");
        }
        anyhow::bail!("the job of {pipeline} did not end")
    }

    async fn ask(&self, sql: &str, parameters: Value) -> Result<Value> {
        let body = json!({ "sql": sql, "parameters": parameters });
        let url = format!("{}/v1/query", self.url);
        let answer = self.client.post(url).bearer_auth(&self.token).json(&body).send().await?;
        let (status, answer): (_, Value) = (answer.status(), answer.json().await?);
        ensure!(status.is_success(), "{answer}");
        Ok(answer)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
