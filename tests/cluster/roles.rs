//! A cluster as an operator runs it: gateway, processors and notifier as processes of their own, which are started,
//! stopped and killed one by one, and a client that sends files and watches jobs.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::place::{Place, root, variable};

/// Longest wait for a start or a job; a loaded machine is slow, a hang is longer.
const WAIT_MAX: Duration = Duration::from_secs(180);
/// Longest wait until nothing is under way: offsets and notices follow the last job soon.
const QUIET_MAX: Duration = Duration::from_secs(60);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest request: the gateway itself gives up on a part after less.
const REQUEST_MAX: Duration = Duration::from_secs(60);
const PASSWORD: &str = "correct horse battery";

/// Settings under which a dead processor is noticed soon, and no number of deaths fails a job.
///
/// A dead processor's partitions go to the other one soon; 6 s is the least that brokers allow by default.
pub const IMPATIENT: &str = r#"lease = "3s"
retries_max = 20
drain = "60s"

[broker.client]
"session.timeout.ms" = "6000"
"heartbeat.interval.ms" = "1000"
"#;

/// The same for a broker that goes away for longer than that.
pub const PATIENT: &str = r#"lease = "3s"
retries_max = 20
drain = "60s"

[broker.client]
"session.timeout.ms" = "30000"
"#;

/// A process of Tidemill, killed when dropped.
pub struct Role {
    child: Child,
    log: PathBuf,
}

impl Role {
    /// Its process id, as the job table knows workers.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: nothing is flushed, nothing is handed back.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, as Kubernetes and Ctrl-C do; gives the exit status.
    pub async fn stop(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < WAIT_MAX, "no end after SIGTERM:\n{}", self.told());
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn told(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line of the log.
    async fn said(&mut self, message: &str) -> Value {
        let began = Instant::now();
        loop {
            let told = self.told();
            let mut lines = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(line) = lines.find(|line| line["message"] == message) {
                return line;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none() && began.elapsed() < WAIT_MAX, "no `{message}`, {ended:?}:\n{told}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A cluster on its own databases, topics and objects.
pub struct Cluster {
    /// Where it keeps its state.
    pub place: Place,
    gateway: Role,
    processors: Vec<Role>,
    notifier: Role,
    folder: TempDir,
    starts: u32,
    client: Client,
}

/// Sends files and watches jobs. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Another after each start of the gateway, which takes a port that is free.
    url: Arc<RwLock<String>>,
    token: String,
    /// What was answered with 202, as the checker reads it.
    accepted: Arc<Mutex<Vec<Value>>>,
}

impl Cluster {
    /// Two processors and one of each other role, on the pipelines of a folder and MariaDB.
    pub async fn start(pipelines: &Path, processor: &str) -> Self {
        Self::start_on("mariadb", pipelines, processor).await
    }

    /// The same on `mariadb` or `mysql`.
    pub async fn start_on(database: &str, pipelines: &Path, processor: &str) -> Self {
        let place = Place::make(database).await;
        let folder = TempDir::new().unwrap();
        let settings = place.settings(pipelines, processor);
        std::fs::write(folder.path().join("tidemill.toml"), settings).unwrap();
        tidemill(&folder, &["migrate"]);
        tidemill(&folder, &["user", "add", "ana", "--admin", "--password-stdin"]);
        let mut starts = 0;
        let mut start = |role| spawn(&folder, role, &mut starts);
        let mut gateway = start("gateway");
        let (processors, notifier) = (vec![start("processor"), start("processor")], start("notifier"));
        let url = url_of(&mut gateway).await;
        let client = Client::login(url).await;
        Self { place, gateway, processors, notifier, folder, starts, client }
    }

    /// One more processor.
    pub fn add_processor(&mut self) {
        let role = spawn(&self.folder, "processor", &mut self.starts);
        self.processors.push(role);
    }

    /// Waits for a line in the log of the processor that was started last.
    pub async fn newest_processor_said(&mut self, message: &str) -> Value {
        self.processors.last_mut().unwrap().said(message).await
    }

    /// Waits for a line in the log of the gateway.
    pub async fn gateway_said(&mut self, message: &str) -> Value {
        self.gateway.said(message).await
    }

    /// Kills the gateway and starts it again.
    pub async fn restart_gateway(&mut self) {
        let gateway = spawn(&self.folder, "gateway", &mut self.starts);
        std::mem::replace(&mut self.gateway, gateway).kill();
        *self.client.url.write().unwrap() = url_of(&mut self.gateway).await;
    }

    /// Kills the processor that was started first and starts another.
    pub fn restart_processor(&mut self) {
        self.processors.remove(0).kill();
        self.add_processor();
    }

    /// Kills the notifier and starts it again.
    pub fn restart_notifier(&mut self) {
        let notifier = spawn(&self.folder, "notifier", &mut self.starts);
        std::mem::replace(&mut self.notifier, notifier).kill();
    }

    /// Takes the processor with this process id out of the list.
    pub fn take_processor(&mut self, process: u32) -> Role {
        let at = self.processors.iter().position(|role| role.process() == process);
        self.processors.swap_remove(at.unwrap_or_else(|| panic!("no processor {process}")))
    }

    /// A client of its gateway.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Waits until a processor works on the job in a later attempt than `after`; gives attempt and process id.
    pub async fn taken(&self, job: &str, after: i64) -> (i64, u32) {
        let began = Instant::now();
        loop {
            match self.place.worker(job).await {
                Some((attempt, process)) if attempt > after => return (attempt, process),
                _ => {}
            }
            assert!(began.elapsed() < WAIT_MAX, "nobody takes job {job}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for the end of a job, which has to be a success, and has its counts proved.
    pub async fn succeeded(&self, id: &str) -> Value {
        let began = Instant::now();
        let job = loop {
            let job = self.client.get(&format!("/v1/jobs/{id}")).await;
            let job: Value = serde_json::from_str(&job).unwrap();
            if !["queued", "processing"].contains(&job["status"].as_str().unwrap()) {
                break job;
            }
            assert!(began.elapsed() < WAIT_MAX, "still {job}\n{}", self.logs());
            tokio::time::sleep(PAUSE).await;
        };
        assert_eq!(job["status"], "success", "{job}\n{}", self.logs());
        job
    }

    /// Has `tidemill jobs verify` prove a job.
    pub fn verify(&self, id: &str) {
        let found = tidemill(&self.folder, &["--json", "jobs", "verify", id]);
        let found: Value = serde_json::from_str(&found).unwrap();
        assert_eq!(found["holds"], true, "{found}");
    }

    /// Has the checker look at databases, objects and offsets, and at what was accepted; all that is under way may end first.
    pub async fn check(&self) {
        let (place, sent) = (self.folder.path().join("place.json"), self.folder.path().join("sent.jsonl"));
        std::fs::write(&place, self.place.for_checker().to_string()).unwrap();
        let lines: Vec<_> = self.client.accepted.lock().unwrap().iter().map(Value::to_string).collect();
        std::fs::write(&sent, lines.join("\n")).unwrap();
        let began = Instant::now();
        loop {
            let mut command = Command::new(variable("TIDEMILL_TEST_PYTHON"));
            command.env("PYTHONDONTWRITEBYTECODE", "1").arg(root("tests/checker/check.py"));
            let output = command.args([&place, &sent]).output().unwrap();
            if output.status.success() {
                return;
            }
            let (out, err) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(began.elapsed() < QUIET_MAX, "{out}\n{err}\n{}", self.logs());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Waits for a mail about a job.
    pub async fn mail(&self, id: &str) -> String {
        let began = Instant::now();
        loop {
            if let Some(mail) = mails().into_iter().find(|mail| mail.contains(id)) {
                return mail;
            }
            assert!(began.elapsed() < WAIT_MAX, "no mail about {id}\n{}", self.logs());
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The last warnings of all roles, for the message of a failure.
    pub fn logs(&self) -> String {
        let mut told = String::new();
        for start in 0..self.starts {
            let text = std::fs::read_to_string(log_of(&self.folder, start)).unwrap_or_default();
            let lines: Vec<_> = text.lines().rev().take(12).collect();
            told.push_str(&format!("--- start {start}\n"));
            lines.iter().rev().for_each(|line| told.push_str(&format!("{line}\n")));
        }
        told
    }
}

impl Client {
    async fn login(url: String) -> Self {
        let http = reqwest::Client::builder().timeout(REQUEST_MAX).build().unwrap();
        let login = http.post(format!("{url}/v1/login")).basic_auth("ana", Some(PASSWORD)).send().await;
        let login: Value = login.unwrap().error_for_status().unwrap().json().await.unwrap();
        let token = login["token"].as_str().unwrap().to_owned();
        Self { http, url: Arc::new(RwLock::new(url)), token, accepted: Arc::default() }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url.read().unwrap())
    }

    /// What the gateway answers; a refusal fails the test.
    pub async fn get(&self, path: &str) -> String {
        let request = self.http.get(self.url(path)).bearer_auth(&self.token);
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        text
    }

    /// Waits until the gateway says that it is ready, or not; gives what it says of its parts.
    pub async fn becomes(&self, ready: bool) -> Value {
        let began = Instant::now();
        loop {
            let answer = self.http.get(self.url("/readyz")).send().await.unwrap();
            let (status, told): (_, Value) = (answer.status(), answer.json().await.unwrap());
            if status.is_success() == ready {
                return told["parts"].clone();
            }
            assert!(began.elapsed() < WAIT_MAX, "still {status}: {told}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sends a file as a program should: while the answer is 503 or missing it sends again, with the same key.
    /// Gives the id of the job.
    pub async fn send(&self, pipeline: &str, key: &str, body: Vec<u8>) -> String {
        let path = format!("/v1/pipelines/{pipeline}/uploads");
        let body = bytes::Bytes::from(body);
        let began = Instant::now();
        loop {
            let request =
                self.http.post(self.url(&path)).bearer_auth(&self.token).header("idempotency-key", key);
            let told = match request.body(body.clone()).send().await {
                Ok(answer) if answer.status() == 202 => {
                    let job: Value = answer.json().await.unwrap();
                    let id = job["job_id"].as_str().unwrap().to_owned();
                    self.accept(pipeline, key, &id);
                    return id;
                }
                Ok(answer) => {
                    let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
                    assert_eq!(status, 503, "{text}");
                    text
                }
                Err(error) => format!("{error:?}"),
            };
            assert!(began.elapsed() < WAIT_MAX, "{pipeline} {key}: {told}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn accept(&self, pipeline: &str, key: &str, id: &str) {
        let upload = serde_json::json!({
            "what": "upload", "pipeline": pipeline, "key": key, "status": 202, "job_id": id,
        });
        self.accepted.lock().unwrap().push(upload);
    }

    async fn post(&self, path: &str, key: &str, body: &Value) -> Value {
        let request = self.http.post(self.url(path)).bearer_auth(&self.token).header("idempotency-key", key);
        let answer = request.json(body).send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Pushes files to the object store itself, with no more than the URL that was given, and posts a job over them.
    pub async fn submit(&self, pipeline: &str, key: &str, files: &[String], parameters: Value) -> Value {
        let names: Vec<String> = (0..files.len()).map(|nth| format!("{nth}.csv")).collect();
        let places = format!("/v1/pipelines/{pipeline}/objects");
        let places = self.post(&places, key, &serde_json::json!({ "names": names })).await;
        let places = places["objects"].as_array().unwrap();
        for (place, file) in places.iter().zip(files) {
            let url = place["url"].as_str().unwrap();
            assert!(url.starts_with(&variable("TIDEMILL_TEST_S3_URL")), "{url}");
            let pushed = reqwest::Client::new().put(url).body(file.clone()).send().await.unwrap();
            assert!(pushed.status().is_success(), "{} {:?}", pushed.status(), pushed.text().await);
        }
        let keys: Vec<&Value> = places.iter().map(|place| &place["key"]).collect();
        let body =
            serde_json::json!({ "pipeline": pipeline, "files_to_process": keys, "parameters": parameters });
        self.post("/v1/jobs", key, &body).await
    }

    /// Posts the job of that key once more, as one does who got no answer; gives the id of the job.
    pub async fn submit_again(&self, pipeline: &str, key: &str, job: &Value) -> Value {
        let (files, parameters) = (&job["files_to_process"], &job["parameters"]);
        let body =
            serde_json::json!({ "pipeline": pipeline, "files_to_process": files, "parameters": parameters });
        self.post("/v1/jobs", key, &body).await["job_id"].clone()
    }
}

/// Where a gateway listens.
async fn url_of(gateway: &mut Role) -> String {
    let listens = gateway.said("gateway listens").await;
    format!("http://{}", listens["address"].as_str().unwrap())
}

fn command(folder: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEMILL_")) {
        command.env_remove(name);
    }
    command.current_dir(folder.path());
    command
}

fn log_of(folder: &TempDir, start: u32) -> PathBuf {
    folder.path().join(format!("{start}.log"))
}

fn spawn(folder: &TempDir, role: &str, starts: &mut u32) -> Role {
    let log = log_of(folder, *starts);
    *starts += 1;
    let file = std::fs::File::create(&log).unwrap();
    let child = command(folder).arg(role).stdout(Stdio::null()).stderr(file).spawn().unwrap();
    Role { child, log }
}

/// Runs a command of the operator, which has to succeed; the password is there for those that ask. Gives its output.
fn tidemill(folder: &TempDir, arguments: &[&str]) -> String {
    std::fs::write(folder.path().join("password"), PASSWORD).unwrap();
    let password = std::fs::File::open(folder.path().join("password")).unwrap();
    let output = command(folder).args(arguments).stdin(password).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}\n{out}\n{err}");
    out.into_owned()
}

/// All mails that the mail server has taken.
pub fn mails() -> Vec<String> {
    let folder = variable("TIDEMILL_TEST_SMTP_MAILDIR");
    let paths = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mails = paths.filter(|path| path.extension().is_some_and(|end| end == "eml"));
    mails.map(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()).collect()
}

/// A file of the employees.
pub fn employees(name: &str) -> Vec<u8> {
    std::fs::read(root("examples/data/employees").join(name)).unwrap()
}
