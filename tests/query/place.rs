//! A running `tidemill dev` with a table or two, and statements sent to it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The pipelines that are there, with a file of examples each.
const PIPELINES: [&str; 3] = ["departments", "jobs", "hired_employees"];
/// A pipeline whose table is there once a test sends a file.
const LATER: &str = "flights_lake";
const PASSWORD: &str = "correct horse battery";
/// Longest wait for a start or a job; a loaded machine is slow, a hang is longer.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Killed when dropped.
pub struct Place {
    child: Child,
    pub url: String,
    pub client: Client,
    folder: TempDir,
}

pub fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn tidemill(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEMILL_")) {
        command.env_remove(name);
    }
    command.current_dir(folder).args(["--data", "data", "--pipelines", "pipelines"]);
    command
}

impl Place {
    /// Starts it with the departments, jobs and employees of the examples in its tables.
    pub async fn start(settings: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        std::fs::create_dir(folder.path().join("pipelines")).unwrap();
        for name in PIPELINES.iter().chain([&LATER]).map(|name| format!("pipelines/{name}.yaml")) {
            std::fs::copy(root(&name), folder.path().join(&name)).unwrap();
        }
        let mut command = tidemill(folder.path());
        command.args(["dev", "--listen", "127.0.0.1:0"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let command = command.env("TIDEMILL_ADMIN_PASSWORD", PASSWORD).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let (mut url, mut line) = (None, String::new());
        while url.is_none() && out.read_line(&mut line).unwrap() > 0 {
            url = line.trim().strip_prefix("Tidemill is up: ").map(str::to_owned);
            line.clear();
        }
        let log = || std::fs::read_to_string(folder.path().join("log")).unwrap();
        let Some(url) = url else { panic!("no start:\n{}", log()) };
        std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
        let place = Self { child, url, client: Client::new(), folder };
        let admin = place.login("admin").await;
        for pipeline in PIPELINES {
            place.send(&admin, pipeline, &format!("employees/{pipeline}.csv")).await;
        }
        place
    }

    /// A command over the same folder; gives stdout.
    pub fn command(&self, arguments: &[&str]) -> Result<String, String> {
        let output = tidemill(self.folder.path()).args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// A user with these grants; gives the token.
    pub async fn user(&self, name: &str, grants: &[(&str, &str)]) -> String {
        let mut child = tidemill(self.folder.path())
            .args(["user", "add", name, "--password-stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), PASSWORD.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        for (pipeline, permission) in grants {
            self.command(&["user", "grant", name, pipeline, permission]).unwrap();
        }
        self.login(name).await
    }

    pub async fn login(&self, user: &str) -> String {
        let url = format!("{}/v1/login", self.url);
        let login = self.client.post(url).basic_auth(user, Some(PASSWORD)).send().await.unwrap();
        let login: Value = login.error_for_status().unwrap().json().await.unwrap();
        login["token"].as_str().unwrap().to_owned()
    }

    /// Sends a file of the examples and waits until it is written.
    pub async fn send(&self, token: &str, pipeline: &str, file: &str) {
        let url = format!("{}/v1/pipelines/{pipeline}/uploads", self.url);
        let body = std::fs::read(root("examples/data").join(file)).unwrap();
        let job = self.client.post(url).bearer_auth(token).body(body).send().await.unwrap();
        let job: Value = job.error_for_status().unwrap().json().await.unwrap();
        let url = format!("{}/v1/jobs/{}", self.url, job["job_id"].as_str().unwrap());
        let began = Instant::now();
        loop {
            let job = self.client.get(&url).bearer_auth(token).send().await.unwrap();
            let job: Value = job.error_for_status().unwrap().json().await.unwrap();
            match job["status"].as_str().unwrap() {
                "queued" | "processing" => assert!(began.elapsed() < WAIT_MAX, "still {job}"),
                status => return assert_eq!(status, "success", "{job}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn request(&self, token: &str, body: &Value) -> RequestBuilder {
        self.client.post(format!("{}/v1/query", self.url)).bearer_auth(token).json(body)
    }

    pub async fn ask(&self, token: &str, body: Value) -> Response {
        self.request(token, &body).send().await.unwrap()
    }

    /// The rows of a statement, each a list.
    pub async fn rows(&self, token: &str, sql: &str) -> Value {
        let answer = self.ask(token, json!({ "sql": sql })).await;
        let status = answer.status();
        let answer: Value = answer.json().await.unwrap();
        assert!(status.is_success(), "{sql}: {answer}");
        answer["rows"].clone()
    }

    /// Status and problem of a statement that is refused.
    pub async fn problem(&self, token: &str, body: Value) -> (u16, Value) {
        let answer = self.ask(token, body).await;
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        assert!(status >= 400, "{text}");
        (status, serde_json::from_str(&text).unwrap())
    }

    /// The worker processes that live now.
    pub fn workers(&self) -> Vec<u32> {
        let parent = self.child.id();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let status = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // After the name in brackets: state, parent.
            let fields: Vec<&str> =
                status.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            if fields.first() != Some(&"Z") && fields.get(1) == Some(&parent.to_string().as_str()) {
                found.push(id);
            }
        }
        found
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
