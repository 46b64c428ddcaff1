//! `tidemill dev` end to end on embedded parts: what goes up comes out as table, rejects and mail, also when
//! the process is killed at any instant.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

#[path = "dev/collect.rs"]
mod collect;
#[path = "dev/demo.rs"]
mod demo;
#[path = "dev/files.rs"]
mod files;
#[path = "dev/telemetry.rs"]
mod telemetry;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use serde_json::Value;
use tempfile::TempDir;
use tidemill_sinks::Lake;

const PASSWORD: &str = "correct horse battery";
/// Longest wait for a start or a job; a loaded machine is slow, a hang is longer.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// A running `tidemill dev`, killed when dropped.
struct Dev {
    child: Child,
    url: String,
    token: String,
    client: reqwest::Client,
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn tidemill(data: &Path, pipelines: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEMILL_")) {
        command.env_remove(name);
    }
    command.current_dir(data.parent().unwrap()).arg("--data").arg(data).arg("--pipelines").arg(pipelines);
    command
}

impl Dev {
    async fn start(data: &Path, pipelines: &Path) -> Self {
        let log =
            std::fs::File::options().create(true).append(true).open(data.with_extension("log")).unwrap();
        let mut child = tidemill(data, pipelines)
            .args(["dev", "--listen", "127.0.0.1:0"])
            .args(["--set", "processor.retries_max=20"])
            .env("TIDEMILL_ADMIN_PASSWORD", PASSWORD)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut url = None;
        let mut line = String::new();
        while url.is_none() && out.read_line(&mut line).unwrap() > 0 {
            url = line.trim().strip_prefix("Tidemill is up: ").map(str::to_owned);
            line.clear();
        }
        let Some(url) = url else { panic!("no start:\n{}", log_of(data)) };
        std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
        let client = reqwest::Client::new();
        let login = client.post(format!("{url}/v1/login")).basic_auth("admin", Some(PASSWORD)).send().await;
        let login: Value = login.unwrap().error_for_status().unwrap().json().await.unwrap();
        let token = login["token"].as_str().unwrap().to_owned();
        Self { child, url, token, client }
    }

    async fn upload(&self, pipeline: &str, body: impl Into<reqwest::Body>) -> reqwest::Result<String> {
        let url = format!("{}/v1/pipelines/{pipeline}/uploads", self.url);
        let answer = self.client.post(url).bearer_auth(&self.token).body(body).send().await?;
        let job: Value = answer.error_for_status()?.json().await?;
        Ok(job["job_id"].as_str().unwrap().to_owned())
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        let url = format!("{}{path}", self.url);
        self.client.get(url).bearer_auth(&self.token).send().await.unwrap().error_for_status().unwrap()
    }

    /// The job once it has ended.
    async fn ended(&self, id: &str) -> Value {
        let began = Instant::now();
        loop {
            let job: Value = self.get(&format!("/v1/jobs/{id}")).await.json().await.unwrap();
            if !["queued", "processing"].contains(&job["status"].as_str().unwrap()) {
                return job;
            }
            assert!(began.elapsed() < WAIT_MAX, "still {job}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGTERM, as Kubernetes and Ctrl-C do; gives the exit status.
    fn stop(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // SIGKILL: nothing is flushed, nothing is handed back.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn log_of(data: &Path) -> String {
    std::fs::read_to_string(data.with_extension("log")).unwrap_or_default()
}

/// Runs a command over the same folder; gives its JSON.
fn json(data: &Path, pipelines: &Path, arguments: &[&str]) -> Value {
    let output = tidemill(data, pipelines).arg("--json").args(arguments).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}\n{out}\n{err}");
    serde_json::from_str(&out).unwrap()
}

/// Waits for the mail about a job.
async fn mail_about(job: &str, outbox: &Path) -> String {
    let began = Instant::now();
    loop {
        let paths = std::fs::read_dir(outbox).into_iter().flatten().flatten().map(|entry| entry.path());
        let mails = paths.filter(|path| path.extension().is_some_and(|end| end == "eml"));
        let found = mails.map(|path| std::fs::read_to_string(path).unwrap()).find(|mail| mail.contains(job));
        if let Some(mail) = found {
            return mail;
        }
        assert!(began.elapsed() < WAIT_MAX, "no mail about {job} in {}", outbox.display());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_employees_go_up_and_table_rejects_and_mail_come_out() {
    let folder = TempDir::new().unwrap();
    let (data, pipelines) = (folder.path().join("data"), root("pipelines"));
    let dev = Dev::start(&data, &pipelines).await;
    let file = |name: &str| std::fs::read(root("examples/data/employees").join(name)).unwrap();
    for name in ["departments", "jobs"] {
        let id = dev.upload(name, file(&format!("{name}.csv"))).await.unwrap();
        assert_eq!(dev.ended(&id).await["status"], "success", "{}", log_of(&data));
    }
    let id = dev.upload("hired_employees", file("hired_employees.csv")).await.unwrap();
    let job = dev.ended(&id).await;
    let counts = ["records_in", "records_written", "records_rejected", "records_filtered"]
        .map(|name| job[name].as_u64().unwrap());
    assert_eq!((job["status"].as_str(), counts), (Some("success"), [2000, 1926, 74, 0]), "{job}");

    let rejects = dev.get(&format!("/v1/jobs/{id}/rejects")).await.text().await.unwrap();
    assert_eq!(short(&rejects), expected_rejects());
    let printed = tidemill(&data, &pipelines).args(["jobs", "rejects", &id]).output().unwrap();
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), rejects);
    let refused = tidemill(&data, &pipelines).args(["jobs", "cancel", &id]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "a job that has ended was cancelled");

    // The API of a shipped pipeline is on this machine, which nobody allowed: said once, and not a failure each quarter.
    assert_eq!(log_of(&data).matches("the schedule is off").count(), 1, "{}", log_of(&data));

    let mail = mail_about(&id, &data.join("outbox")).await;
    assert!(mail.contains("To: admin@localhost") && mail.contains("hired_employees"), "{mail}");

    let found = json(&data, &pipelines, &["jobs", "verify", &id]);
    assert_eq!(found["holds"], true, "{found}");
    let rows = json(&data, &pipelines, &["query", "SELECT count(*) AS n FROM hired_employees"]);
    assert_eq!(rows[0]["n"], 1926);
    let metrics = dev.get("/metrics").await.text().await.unwrap();
    for name in ["tidemill_jobs{status=\"success\"} 3", "tidemill_rows_total", "tidemill_log_lag_records"] {
        let began = Instant::now();
        let mut seen = metrics.clone();
        while !seen.contains(name) {
            assert!(began.elapsed() < WAIT_MAX, "no {name} in\n{seen}");
            tokio::time::sleep(Duration::from_millis(200)).await;
            seen = dev.get("/metrics").await.text().await.unwrap();
        }
    }
    assert!(dev.get("/readyz").await.status().is_success());
    assert!(log_of(&data).lines().any(|line| line.contains("\"job_id\":") && line.contains(&id)));
    assert_eq!(dev.stop(), Some(0), "{}", log_of(&data));
}

/// Line, column and code of each reject, from the CSV of the gateway.
fn short(rejects: &str) -> Vec<String> {
    let mut reader = csv::Reader::from_reader(rejects.as_bytes());
    let column =
        |name: &str| rejects.lines().next().unwrap().split(',').position(|have| have == name).unwrap();
    let wanted = ["line", "column", "code"].map(column);
    let line = |record: csv::StringRecord| wanted.map(|column| record[column].to_owned()).join(",");
    reader.records().map(|record| line(record.unwrap())).collect()
}

fn expected_rejects() -> Vec<String> {
    let text = std::fs::read_to_string(root("examples/data/employees/expected/rejects.csv")).unwrap();
    text.lines().skip(1).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_folder_in_use_is_refused_with_who_holds_it() {
    let folder = TempDir::new().unwrap();
    let (data, pipelines) = (folder.path().join("data"), root("pipelines"));
    let dev = Dev::start(&data, &pipelines).await;
    let second = tidemill(&data, &pipelines).args(["dev", "--listen", "127.0.0.1:0"]).output().unwrap();
    let told = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("in use by process {}", dev.child.id())), "{told}");
}

const NUMBERS: &str = "\
pipeline: numbers
columns: [{ name: id, type: int64 }, { name: text, type: text, max_length: 40 }]
sinks: ";
/// Rows of one file: enough that a kill falls into the middle of a job.
const ROWS: u64 = 20_000;

/// A folder in which every file was accepted by a process that was killed then, at another instant each time; and
/// the rows of all files.
async fn killed_again_and_again(sinks: &str) -> (TempDir, u64) {
    let folder = TempDir::new().unwrap();
    let (data, pipelines) = (folder.path().join("data"), folder.path().join("pipelines"));
    std::fs::create_dir(&pipelines).unwrap();
    std::fs::write(pipelines.join("numbers.yaml"), format!("{NUMBERS}{sinks}\n")).unwrap();
    let mut accepted = Vec::new();
    // From "just answered" to "nearly done": each instant of a job is hit by some round.
    for (round, pause_ms) in [0, 10, 40, 120, 300, 700].into_iter().enumerate() {
        let dev = Dev::start(&data, &pipelines).await;
        let first = round as u64 * ROWS;
        let lines = (first..first + ROWS).map(|id| format!("{id},row number {id}\n"));
        let body = std::iter::once("id,text\n".to_owned()).chain(lines).collect::<String>();
        accepted.push(dev.upload("numbers", body).await.unwrap());
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        drop(dev);
    }
    let dev = Dev::start(&data, &pipelines).await;
    for id in &accepted {
        let job = dev.ended(id).await;
        assert_eq!(job["status"], "success", "{job}\n{}", log_of(&data));
        assert_eq!(json(&data, &pipelines, &["jobs", "verify", id])["holds"], true);
    }
    assert_eq!(dev.stop(), Some(0));
    (folder, accepted.len() as u64 * ROWS)
}

#[tokio::test]
async fn killed_again_and_again_it_loses_nothing_and_doubles_nothing() {
    let (folder, all) =
        killed_again_and_again("[{ table: { name: numbers, mode: append, key: [id] } }]").await;
    let (data, pipelines) = (folder.path().join("data"), folder.path().join("pipelines"));
    let sql =
        "SELECT count(*) AS n, count(DISTINCT id) AS ids, min(id) AS least, max(id) AS most FROM numbers";
    let rows = json(&data, &pipelines, &["query", sql]);
    let found = ["n", "ids", "least", "most"].map(|name| rows[0][name].as_u64().unwrap());
    assert_eq!(found, [all, all, 0, all - 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_the_lake_has_each_row_once() {
    let (folder, all) = killed_again_and_again("[{ lake: { name: numbers } }]").await;
    let objects = LocalFileSystem::new_with_prefix(folder.path().join("data/objects")).unwrap();
    let lake = Lake::new(Arc::new(objects));
    let rows = lake.scan(&"numbers".parse().unwrap(), &["id".parse().unwrap()]).await.unwrap();
    let batches: Vec<RecordBatch> = rows.try_collect().await.unwrap();
    let ids = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec());
    let mut ids: Vec<i64> = ids.collect();
    ids.sort_unstable();
    assert!(ids.into_iter().eq(0..i64::try_from(all).unwrap()));
}

/// Files that are pushed are read with the parameters of their job.
const DAYS: &str = "\
pipeline: days
parameters: [{ name: day, type: date }, { name: factor, type: float64, default: 1.5 }]
columns: [{ name: id, type: int64 }]
steps:
  - check: { name: small, where: \"id < $factor * 10\", else: reject }
  - sql: SELECT id, id * $factor AS much, $day AS day FROM input
rejects: { tolerate: 50%, then: abort }
sinks: [{ table: { name: days, mode: upsert, key: [id] } }]
";

#[tokio::test]
async fn files_are_pushed_through_the_gateway_and_their_report_is_collected() {
    let folder = TempDir::new().unwrap();
    let (data, pipelines) = (folder.path().join("data"), folder.path().join("pipelines"));
    std::fs::create_dir(&pipelines).unwrap();
    std::fs::write(pipelines.join("days.yaml"), DAYS).unwrap();
    std::fs::write(folder.path().join("a.csv"), "id\n1\n14\n15\n").unwrap();
    let dev = Dev::start(&data, &pipelines).await;
    let submit = |arguments: &[&str]| {
        tidemill(&data, &pipelines)
            .args(["--json", "jobs", "submit", "days", "a.csv", "--url", &dev.url, "--wait"])
            .args(arguments)
            .env("TIDEMILL_PASSWORD", PASSWORD)
            .output()
            .unwrap()
    };
    let refused = submit(&[]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && told.contains("`day` is missing"), "{told}");
    let done = submit(&["--parameter", "day=2024-05-01", "--idempotency-key", "may"]);
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    let job: Value = serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error} {told}"));
    assert_eq!(
        (job["status"].as_str(), &job["records_rejected"]),
        (Some("success"), &1.into()),
        "{job} {told}"
    );
    let rows = json(&data, &pipelines, &["query", "SELECT * FROM days ORDER BY id"]);
    assert_eq!((&rows[1]["id"], &rows[1]["much"]), (&14.into(), &21.0.into()), "{rows}");
    assert!(rows[1]["day"].as_str().unwrap().starts_with("2024-05-01"), "{rows}");
    let id = job["job_id"].as_str().unwrap();
    assert_eq!(json(&data, &pipelines, &["jobs", "verify", id])["holds"], true);

    let collected = json(&data, &pipelines, &["collect", "days"]);
    assert_eq!(collected["collected"][0]["jobs"], 1, "{collected}");
    let to = data.join("objects").join(collected["collected"][0]["folder"].as_str().unwrap());
    let report = std::fs::read_to_string(to.join(id).join("report.json")).unwrap();
    assert!(report.contains(id), "{report}");
    assert!(to.join("manifest.json").exists());
    assert_eq!(dev.ended(id).await["status"], "downloaded");
    let again = json(&data, &pipelines, &["collect", "days"]);
    assert_eq!(again["collected"], serde_json::json!([]));
}
