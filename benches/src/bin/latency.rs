//! Measures how soon a small file is in its table: uploads of hired employees (2,000 records, 88 KB) over HTTP to
//! `tidemill gateway`, through Kafka and S3 to `tidemill processor` and MariaDB, each role a process of its own.
//! The time runs from the last byte of the upload to the moment another connection sees a row of it.
//!
//! `make bench`, or `tests/servers/servers with target/release/latency [UPLOADS]`

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use chrono::{DateTime, Utc};
use serde_json::Value;
use tidemill_benches::database::Database;
use tidemill_benches::figures::Figures;
use tidemill_benches::{ROOT, variable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const UPLOADS: usize = 50;
/// Uploads before those that count.
const WARM_UP: usize = 5;
/// The most that the median may be, in milliseconds.
const MEDIAN_MAX_MS: f64 = 200.0;
/// How often the row is looked for: it adds at most this to a figure.
const LOOK: Duration = Duration::from_millis(2);
/// Pause between two uploads.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest wait for a start or a row.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long a role may take to stop.
const STOP_MAX: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<()> {
    let uploads = std::env::args().nth(1).map_or(Ok(UPLOADS), |text| text.parse());
    let uploads = uploads.context("UPLOADS is no number")?;
    let folder = tempfile::Builder::new().prefix("bench-latency-").tempdir()?;
    let mut database = Database::make("latency").await?;
    let measured = measure(&mut database, folder.path(), uploads).await;
    database.drop_it().await?;
    measured
}

async fn measure(database: &mut Database, folder: &Path, uploads: usize) -> Result<()> {
    let roles = Roles::start(&database.url, folder)?;
    roles.ready().await?;
    let token = roles.log_in().await?;
    let mut sender = Sender { roles: &roles, token, database };
    sender.send_whole("departments").await?;
    sender.send_whole("jobs").await?;
    let text = std::fs::read_to_string(data("hired_employees"))?;
    let mut told = Told::default();
    for round in 0..WARM_UP + uploads {
        let file = Hires::with_new_ids(&text, round)?;
        let timed = sender.send(&file).await?;
        if round >= WARM_UP {
            told.add(&timed);
        }
        tokio::time::sleep(PAUSE).await;
    }
    roles.stop()?;
    told.print(uploads);
    Ok(())
}

/// What the uploads took, in milliseconds.
#[derive(Default)]
struct Told {
    visible: Figures,
    answered: Figures,
    claimed: Figures,
    ended: Figures,
}

/// What one upload took, in milliseconds.
struct Timed {
    visible: f64,
    answered: f64,
    claimed: f64,
    ended: f64,
}

impl Told {
    fn add(&mut self, timed: &Timed) {
        self.visible.add(timed.visible);
        self.answered.add(timed.answered);
        self.claimed.add(timed.claimed);
        self.ended.add(timed.ended);
    }

    fn print(&self, uploads: usize) {
        println!("{uploads} uploads of 2,000 hired employees, one after the other:");
        println!(
            "  last byte to visible row: median {:.0} ms, p95 {:.0} ms ({:.0} to {:.0}); median under {MEDIAN_MAX_MS} wanted",
            self.visible.median(),
            self.visible.at(0.95),
            self.visible.least(),
            self.visible.most()
        );
        println!(
            "  of it, medians: last byte to answer {:.0} ms, landed to claimed {:.0} ms, claimed to finished {:.0} ms",
            self.answered.median(),
            self.claimed.median(),
            self.ended.median()
        );
    }
}

/// A file of hires nobody has seen, and the id of one that is good.
struct Hires {
    text: String,
    good_id: u64,
}

impl Hires {
    /// The employees' file with other ids for each round.
    fn with_new_ids(text: &str, round: usize) -> Result<Self> {
        let mut shifted = String::with_capacity(text.len() + 8 * 2_000);
        let mut good_id = None;
        for line in text.lines() {
            let (id, rest) = line.split_once(',').context("a line without a comma")?;
            match id.parse::<u64>() {
                Ok(id) => {
                    let id = id + 10_000 * (round as u64 + 1);
                    shifted.push_str(&format!("{id},{rest}\n"));
                    if rest.split(',').count() == 4 && rest.split(',').all(|field| !field.is_empty()) {
                        good_id = Some(id);
                    }
                }
                Err(_) => shifted.push_str(&format!("{line}\n")),
            }
        }
        let good_id = good_id.context("no good line")?;
        Ok(Self { text: shifted, good_id })
    }
}

/// Sends files and watches the table.
struct Sender<'a> {
    roles: &'a Roles,
    token: String,
    database: &'a mut Database,
}

impl Sender<'_> {
    async fn send(&mut self, file: &Hires) -> Result<Timed> {
        let answer = self.upload("hired_employees", file.text.as_bytes()).await?;
        let sql = format!("SELECT id FROM hired_employees WHERE id = {}", file.good_id);
        let visible = loop {
            // Until the first file is in there is no table.
            if let Ok(Some(_)) = self.database.value::<u64>(&sql).await {
                break answer.sent.elapsed();
            }
            ensure!(answer.sent.elapsed() < WAIT_MAX, "no row after {WAIT_MAX:?}: see {}", self.roles.logs());
            tokio::time::sleep(LOOK).await;
        };
        let job = self.ended(&answer.job_id()?).await?;
        let (created, started, finished) =
            (time(&job, "created_at")?, time(&job, "started_at")?, time(&job, "finished_at")?);
        Ok(Timed {
            visible: visible.as_secs_f64() * 1e3,
            answered: (answer.answered - answer.sent).as_secs_f64() * 1e3,
            claimed: (started - created).as_seconds_f64() * 1e3,
            ended: (finished - started).as_seconds_f64() * 1e3,
        })
    }

    /// Sends an employees' file as it is and waits for its end.
    async fn send_whole(&self, pipeline: &str) -> Result<()> {
        let answer = self.upload(pipeline, &std::fs::read(data(pipeline))?).await?;
        self.ended(&answer.job_id()?).await?;
        Ok(())
    }

    async fn upload(&self, pipeline: &str, body: &[u8]) -> Result<Answer> {
        let path = format!("/v1/pipelines/{pipeline}/uploads");
        let answer = self.roles.ask("POST", &path, &self.bearer(), body).await?;
        ensure!(answer.status == 202, "the upload got {}: {}", answer.status, answer.body);
        Ok(answer)
    }

    async fn ended(&self, id: &str) -> Result<Value> {
        let began = Instant::now();
        loop {
            let answer = self.roles.ask("GET", &format!("/v1/jobs/{id}"), &self.bearer(), b"").await?;
            let job: Value = serde_json::from_str(&answer.body).context("the job is no JSON")?;
            match job["status"].as_str() {
                Some("success") => return Ok(job),
                Some("queued" | "processing") => tokio::time::sleep(PAUSE / 5).await,
                _ => bail!("job {id}: {}", answer.body),
            }
            ensure!(began.elapsed() < WAIT_MAX, "job {id} did not end: see {}", self.roles.logs());
        }
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }
}

fn time(job: &Value, name: &str) -> Result<DateTime<Utc>> {
    let text = job[name].as_str().with_context(|| format!("the job has no {name}"))?;
    Ok(text.parse()?)
}

fn data(name: &str) -> PathBuf {
    Path::new(ROOT).join("examples/data/employees").join(name).with_extension("csv")
}

/// An answer of the gateway.
struct Answer {
    status: u16,
    body: String,
    /// When the last byte of the request was sent.
    sent: Instant,
    answered: Instant,
}

impl Answer {
    fn job_id(&self) -> Result<String> {
        let job: Value = serde_json::from_str(&self.body).context("the answer is no JSON")?;
        Ok(job["job_id"].as_str().context("the answer names no job")?.to_owned())
    }
}

/// The roles, each a process.
struct Roles {
    children: Vec<Child>,
    gateway: String,
    processor: String,
    folder: PathBuf,
}

/// The user that sends.
const USER: &str = "bench";
const PASSWORD: &str = "only for the time of a measurement";

impl Roles {
    fn start(database_url: &str, folder: &Path) -> Result<Self> {
        let (gateway, processor) = (free_address()?, free_address()?);
        let variables = settings(database_url, folder, &gateway, &processor)?;
        let tidemill = || -> Result<Command> {
            let mut command = Command::new(std::env::current_exe()?.with_file_name("tidemill"));
            command.current_dir(folder).envs(variables.iter().cloned());
            Ok(command)
        };
        let done = |arguments: &[&str], stdin: &str| run(tidemill()?.args(arguments), stdin);
        done(&["migrate"], "")?;
        done(&["user", "add", USER, "--admin", "--password-stdin"], &format!("{PASSWORD}\n"))?;
        let mut roles = Self { children: Vec::new(), gateway, processor, folder: folder.to_owned() };
        for role in ["gateway", "processor"] {
            let log = std::fs::File::create(folder.join(format!("{role}.log")))?;
            let child =
                tidemill()?.arg(role).stdout(log.try_clone()?).stderr(log).stdin(Stdio::null()).spawn();
            roles.children.push(child.with_context(|| format!("failed to start {role}"))?);
        }
        Ok(roles)
    }

    async fn ready(&self) -> Result<()> {
        for address in [&self.gateway, &self.processor] {
            let began = Instant::now();
            loop {
                match ask(address, "GET", "/readyz", "", b"").await {
                    Ok(answer) if answer.status == 200 => break,
                    _ => tokio::time::sleep(PAUSE).await,
                }
                ensure!(began.elapsed() < WAIT_MAX, "{address} is not ready: see {}", self.logs());
            }
        }
        Ok(())
    }

    async fn log_in(&self) -> Result<String> {
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("{USER}:{PASSWORD}"));
        let answer = self.ask("POST", "/v1/login", &format!("Basic {basic}"), b"").await?;
        let token: Value = serde_json::from_str(&answer.body).context("the login is no JSON")?;
        Ok(token["token"].as_str().with_context(|| format!("no token: {}", answer.body))?.to_owned())
    }

    async fn ask(&self, method: &str, path: &str, authorization: &str, body: &[u8]) -> Result<Answer> {
        ask(&self.gateway, method, path, authorization, body).await
    }

    /// The last lines of the roles' logs.
    fn logs(&self) -> String {
        let mut told = String::new();
        for role in ["gateway", "processor"] {
            let log = std::fs::read_to_string(self.folder.join(format!("{role}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(5).collect();
            told.push_str(&format!("\n{role}:\n{}", lines.join("\n")));
        }
        told
    }

    /// Stops the roles as a cluster does.
    fn stop(mut self) -> Result<()> {
        for mut child in self.children.drain(..) {
            let id = child.id().to_string();
            ensure!(Command::new("kill").arg(&id).status()?.success(), "failed to stop process {id}");
            let began = Instant::now();
            while child.try_wait()?.is_none() && began.elapsed() < STOP_MAX {
                std::thread::sleep(PAUSE);
            }
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Roles {
    fn drop(&mut self) {
        for child in &mut self.children {
            if child.kill().is_ok() {
                drop(child.wait());
            }
        }
    }
}

/// The settings of the roles, as variables.
fn settings(
    database_url: &str,
    folder: &Path,
    gateway: &str,
    processor: &str,
) -> Result<Vec<(String, String)>> {
    let unique = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let unique = unique.replace('.', "");
    let pairs = [
        ("PIPELINES", std::fs::canonicalize(Path::new(ROOT).join("pipelines"))?.display().to_string()),
        ("DATABASE__URL", database_url.to_owned()),
        ("OBJECTS__URL", format!("s3://{}/{unique}", variable("TIDEMILL_TEST_S3_BUCKET")?)),
        ("OBJECTS__ENDPOINT", variable("TIDEMILL_TEST_S3_URL")?),
        ("OBJECTS__REGION", "us-east-1".to_owned()),
        ("OBJECTS__ACCESS_KEY", variable("TIDEMILL_TEST_S3_KEY")?),
        ("OBJECTS__SECRET_KEY", variable("TIDEMILL_TEST_S3_SECRET")?),
        ("OBJECTS__ALLOW_HTTP", "true".to_owned()),
        ("BROKER__SERVERS", variable("TIDEMILL_TEST_KAFKA")?),
        ("BROKER__TOPIC_PREFIX", unique),
        ("GATEWAY__LISTEN", gateway.to_owned()),
        ("GATEWAY__JWT_SECRET", "signs the tokens of one measurement".to_owned()),
        ("TELEMETRY__LISTEN", processor.to_owned()),
    ];
    Ok(pairs.into_iter().map(|(name, value)| (format!("TIDEMILL_{name}"), value)).collect())
}

fn run(command: &mut Command, stdin: &str) -> Result<()> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("failed to run tidemill")?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(stdin.as_bytes())?;
    }
    let status = child.wait()?;
    ensure!(status.success(), "tidemill ended with {status}");
    Ok(())
}

fn free_address() -> Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// One request on a connection of its own: plain, so that the moment of the last byte is known.
async fn ask(address: &str, method: &str, path: &str, authorization: &str, body: &[u8]) -> Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {authorization}\r\nContent-Type: text/csv\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let sent = Instant::now();
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).context("no status")?;
    Ok(Answer { status, body: body.to_owned(), sent, answered: Instant::now() })
}
