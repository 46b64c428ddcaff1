//! `tidemill fetch` and the role `fetcher` as processes: killed half-way, run twice, started by the clock. The API is a
//! real HTTP server of this test that counts its requests. The job database is SQLite, MariaDB and MySQL.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use sqlx::Row;
use tempfile::TempDir;
use tokio::net::TcpListener;

/// Longest wait for anything; a loaded machine is slow, a hang is longer.
const WAIT_MAX: Duration = Duration::from_secs(120);
const PAGES: usize = 200;
const SLOT: &str = "2026-11-20T10:15:00Z";

/// An API of one list of links for each slot.
struct Api {
    base: String,
    hits: Arc<Mutex<HashMap<String, usize>>>,
}

impl Api {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let hits = Arc::<Mutex<HashMap<String, usize>>>::default();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&hits));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { base, hits }
    }

    fn hits(&self, target: &str) -> usize {
        self.hits.lock().unwrap().get(target).copied().unwrap_or(0)
    }

    fn pages_asked(&self) -> usize {
        self.hits.lock().unwrap().keys().filter(|target| target.starts_with("/pages/")).count()
    }

    async fn wait_for(&self, pages: usize) {
        let began = Instant::now();
        while self.pages_asked() < pages {
            assert!(began.elapsed() < WAIT_MAX, "{} pages asked for", self.pages_asked());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// `/readings/SLOT` lists `/pages/SLOT/N`, `/broken` is out of order.
async fn answer(State(hits): State<Arc<Mutex<HashMap<String, usize>>>>, uri: Uri) -> Response {
    *hits.lock().unwrap().entry(uri.path().to_owned()).or_default() += 1;
    let mut parts = uri.path().trim_start_matches('/').split('/');
    let (kind, slot, page) = (parts.next(), parts.next().unwrap_or(""), parts.next().unwrap_or("0"));
    if kind == Some("broken") {
        return (StatusCode::INTERNAL_SERVER_ERROR, "out of order").into_response();
    }
    if kind == Some("readings") {
        let links: Vec<String> = (0..PAGES).map(|page| format!("\"/pages/{slot}/{page}\"")).collect();
        return ([("content-type", "application/json")], format!("[{}]", links.join(","))).into_response();
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    format!("{slot},{page}\n").into_response()
}

/// A folder with settings and the pipeline.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new(api: &Api, database: Option<&str>) -> Self {
        let folder = TempDir::new().unwrap();
        let database = database.map(|url| format!("[database]\nurl = \"{url}\"\n")).unwrap_or_default();
        let settings = format!(
            "[fetcher]\nallow = [\"127.0.0.0/8\"]\nlease = \"3s\"\n[processor]\nlease = \"3s\"\n{database}"
        );
        std::fs::write(folder.path().join("tidemill.toml"), settings).unwrap();
        std::fs::create_dir_all(folder.path().join("pipelines")).unwrap();
        std::fs::create_dir_all(folder.path().join("data")).unwrap();
        let pipeline = format!(
            "pipeline: readings\nsource:\n  http:\n    url: '{}/readings/{{{{ slot.unix }}}}'\n    \
             pages: {{ links: {{ path: '$[*]' }} }}\n    schedule: {{ cron: '* * * * *' }}\n    \
             limits: {{ concurrency: 4 }}\nformat: {{ csv: {{ header: false }} }}\n\
             columns: [{{ name: slot, type: int64 }}, {{ name: page, type: int64 }}]\n\
             sinks: [{{ table: {{ name: readings, mode: upsert, key: [slot, page] }} }}]\n",
            api.base
        );
        std::fs::write(folder.path().join("pipelines/readings.yaml"), pipeline).unwrap();
        Self { folder }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEMILL_"))
        {
            command.env_remove(name);
        }
        command.current_dir(self.folder.path()).args(["--data", "data", "--json"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self, arguments: &[&str]) -> Running {
        Running(self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// The pages that the ledger has as landed.
    async fn landed(&self, database: &str) -> Vec<String> {
        sqlx::any::install_default_drivers();
        let pool = sqlx::AnyPool::connect(database).await.unwrap();
        let rows =
            sqlx::query("SELECT url FROM tidemill_pages WHERE status = 'landed'").fetch_all(&pool).await;
        rows.unwrap().iter().map(|row| row.get::<String, _>(0)).collect()
    }

    fn sqlite(&self) -> String {
        format!("sqlite://{}", self.folder.path().join("data/tidemill.db").display())
    }

    async fn rows(&self) -> usize {
        let sql = "SELECT count(*) AS n FROM readings";
        let output = self.run(&["query", sql]).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).max().unwrap_or(0)
    }
}

/// A process, killed by SIGKILL when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Kills a fetch half-way, and fetches the same slot again once its lease has passed.
async fn killed_and_taken_up(place: &Place, api: &Api, database: &str) {
    let running = place.start(&["fetch", "readings", "--slot", SLOT]);
    api.wait_for(60).await;
    drop(running);
    let landed = place.landed(database).await;
    assert!(!landed.is_empty() && landed.len() < PAGES, "{} pages landed", landed.len());
    let began = Instant::now();
    let told: Value = loop {
        let output = place.run(&["fetch", "readings", "--slot", SLOT]).await;
        if output.status.success() {
            break serde_json::from_slice(&output.stdout).unwrap();
        }
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("is being fetched by another"), "{error}");
        assert!(began.elapsed() < WAIT_MAX, "{error}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    assert_eq!((&told["outcome"], &told["attempt"]), (&Value::from("job"), &Value::from(2)));
    assert_eq!(told["job"]["files_to_process"].as_array().unwrap().len(), PAGES);
    assert_eq!(told["job"]["job_id"], told["run_id"]);
    for url in landed {
        let target = url.strip_prefix(&api.base).unwrap();
        assert_eq!(api.hits(target), 1, "{target}");
    }
    let again = place.run(&["fetch", "readings", "--slot", SLOT]).await;
    assert!(String::from_utf8_lossy(&again.stderr).contains("was fetched before"), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_fetch_is_taken_up_without_fetching_a_landed_page_again_on_sqlite() {
    let api = Api::start().await;
    let place = Place::new(&api, None);
    killed_and_taken_up(&place, &api, &place.sqlite()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_fetch_is_taken_up_without_fetching_a_landed_page_again_on_each_server() {
    sqlx::any::install_default_drivers();
    for (server, url) in crate::databases::databases() {
        eprintln!("on {server}");
        let name = format!("tidemill_fetch_{}", std::process::id());
        let admin = sqlx::AnyPool::connect(&url).await.unwrap();
        let run = |statement: String| sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&admin);
        run(format!("CREATE DATABASE {name}")).await.unwrap();
        let url = format!("{url}/{name}");
        let done = tokio::spawn(async move {
            let api = Api::start().await;
            let place = Place::new(&api, Some(&url));
            killed_and_taken_up(&place, &api, &url).await;
        })
        .await;
        run(format!("DROP DATABASE {name}")).await.unwrap();
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_fetches_of_one_slot_one_does_it() {
    let api = Api::start().await;
    let place = Place::new(&api, None);
    assert!(place.run(&["migrate"]).await.status.success());
    let arguments = ["fetch", "readings", "--slot", SLOT];
    let (one, other) = tokio::join!(place.run(&arguments), place.run(&arguments));
    let won = [&one, &other].iter().filter(|output| output.status.success()).count();
    assert_eq!(won, 1, "{one:?}\n{other:?}");
    let lost = if one.status.success() { &other } else { &one };
    let error = String::from_utf8_lossy(&lost.stderr);
    assert!(error.contains("is being fetched by another") || error.contains("was fetched before"), "{error}");
    assert!(api.hits.lock().unwrap().values().all(|hits| *hits == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missed_slot_is_made_up_for_and_goes_on_after_a_kill_until_its_rows_are_in_the_table() {
    let api = Api::start().await;
    let place = Place::new(&api, None);
    assert!(place.run(&["fetch", "readings", "--slot", SLOT]).await.status.success());
    let dev = ["dev", "--listen", "127.0.0.1:0"];
    let running = place.start(&dev);
    api.wait_for(PAGES + 60).await;
    drop(running);
    let landed = place.landed(&place.sqlite()).await;
    assert!(landed.len() > PAGES, "{}", landed.len());
    let _running = place.start(&dev);
    let began = Instant::now();
    while place.rows().await < 2 * PAGES {
        assert!(began.elapsed() < WAIT_MAX, "{} rows", place.rows().await);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    for url in landed {
        assert_eq!(api.hits(url.strip_prefix(&api.base).unwrap()), 1, "{url}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_that_waits_ends_with_its_job_and_as_it_does() {
    let api = Api::start().await;
    let place = Place::new(&api, None);
    let folder = place.folder.path().join("pipelines");
    let good = std::fs::read_to_string(folder.join("readings.yaml")).unwrap();
    let good = good.replace("    schedule: { cron: '* * * * *' }\n", "");
    let bad = good
        .replace("name: readings, mode", "name: bad, mode")
        .replace("pipeline: readings", "pipeline: bad")
        .replace("name: page, type: int64", "name: page, type: date");
    std::fs::write(folder.join("readings.yaml"), good).unwrap();
    std::fs::write(folder.join("bad.yaml"), bad).unwrap();
    let nobody = place.run(&["fetch", "readings", "--slot", "2026-11-20T10:00:00Z", "--wait=1s"]).await;
    let error = String::from_utf8_lossy(&nobody.stderr);
    assert!(error.contains("has not ended after 1s, is a processor running?"), "{error}");
    assert!(error.contains("look at it: tidemill jobs show"), "{error}");
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
    let _running = place.start(&["dev", "--listen", "127.0.0.1:0"]);
    for (pipeline, status, code) in [("readings", "success", 0), ("bad", "failed", 1)] {
        let output = place.run(&["fetch", pipeline, "--slot", SLOT, "--wait=5m"]).await;
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        assert_eq!((&told["job"]["status"], output.status.code()), (&status.into(), Some(code)), "{told}");
    }
    assert_eq!(place.rows().await, 2 * PAGES, "the job of the first fetch came before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_it_hears_of_fetches_that_fail_by_hand_and_by_the_clock() {
    let api = Api::start().await;
    let place = Place::new(&api, None);
    let path = place.folder.path().join("pipelines/readings.yaml");
    let pipeline = std::fs::read_to_string(&path)
        .unwrap()
        .replace("/readings/{{ slot.unix }}", "/broken")
        .replace("concurrency: 4", "concurrency: 4, attempts: 1");
    let notify = "notify: [{ email: { to: ops@example.org, on: [failed] } }]\n";
    std::fs::write(path, pipeline + notify).unwrap();
    let output = place.run(&["fetch", "readings", "--slot", SLOT]).await;
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let words = format!("{}/broken gave no good answer: status 500: out of order", api.base);
    assert_eq!((&told["outcome"], &told["error"]), (&"failed".into(), &words.as_str().into()));
    let _running = place.start(&["dev", "--listen", "127.0.0.1:0"]);
    let outbox = place.folder.path().join("data/outbox");
    let began = Instant::now();
    let mails = loop {
        let files = std::fs::read_dir(&outbox).into_iter().flatten().flatten();
        let mails: Vec<_> =
            files.map(|file| file.path()).filter(|path| path.extension() == Some("eml".as_ref())).collect();
        if mails.len() >= 2 {
            break mails.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect::<String>();
        }
        assert!(began.elapsed() < WAIT_MAX, "{} mails", mails.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let output = place.run(&["jobs", "list", "--status", "failed"]).await;
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let jobs = listed["jobs"].as_array().unwrap();
    assert!(jobs.len() >= 2 && jobs.last().unwrap()["job_id"] == told["run_id"], "{listed}");
    for job in &jobs[jobs.len() - 2..] {
        let error = serde_json::json!({ "code": "fetch_failed", "message": words, "blame": "world" });
        assert_eq!((&job["error"], &job["sender"]), (&error, &"fetcher".into()));
        assert!(mails.contains(job["job_id"].as_str().unwrap()), "{mails}");
    }
    let retried = place.run(&["jobs", "retry", told["run_id"].as_str().unwrap()]).await;
    let error = String::from_utf8_lossy(&retried.stderr);
    assert!(error.contains(&format!("fetch again with: tidemill fetch readings --slot {SLOT}")), "{error}");
    let sql = "SELECT status, error FROM tidemill.jobs WHERE sender = 'fetcher'";
    let output = place.run(&["query", sql]).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("fetch_failed"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_by_hand_tells_what_is_wrong() {
    let api = Api::start().await;
    let place = Place::new(&api, None);
    let path = |name: &str| place.folder.path().join("pipelines").join(name);
    let uploads =
        "pipeline: uploads\ncolumns: [{ name: a, type: text }]\nsinks: [{ table: { name: uploads } }]\n";
    std::fs::write(path("uploads.yaml"), uploads).unwrap();
    let forbid = |text: &str| std::fs::write(place.folder.path().join("tidemill.toml"), text).unwrap();
    let asked = [
        (vec!["fetch", "uploads"], "takes uploads, nothing is fetched for it"),
        (vec!["fetch", "reading"], "did you mean `readings`?"),
        (vec!["fetch", "readings", "--slot", "2999-01-01T00:00:00Z"], "has not come yet"),
    ];
    for (arguments, words) in asked {
        let output = place.run(&arguments).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(words), "{arguments:?}: {error}");
    }
    forbid("");
    let output = place.run(&["fetch", "readings", "--slot", SLOT]).await;
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told["error"].as_str().unwrap().contains("127.0.0.1, which is not public"), "{told}");
    assert!(Path::new(&place.folder.path().join("data")).is_dir());
}
