//! A gateway on a port of its own, its users, and what tests ask of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use prometheus::Registry;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidemill_gateway::{
    Gateway, GatewayParts, GatewaySettings, Grant, Permission, ReadinessCheck, Scope, ServeError, Users,
};
use tidemill_ingest::{Landing, LandingLimits};
use tidemill_jobs::{Committed, Counts, JobId, JobStore, MemoryLedger, Outcome, Settler, StoreLimits};
use tidemill_pipelines::PipelineSet;
use tidemill_query::{Places, QueryLimits, Workers};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const SECRET: &str = "a secret for tests of more than 32 bytes";
pub const PASSWORD: &str = "correct horse";

const SALES: &str = "
pipeline: sales
description: What was sold.
source: { upload: { max_size: 64KiB } }
columns:
  - { name: id, type: int64 }
  - { name: item, type: text, max_length: 20, required: false }
sinks:
  - table: { name: sales, mode: upsert, key: [id] }
";

const STOCK: &str = "
pipeline: stock
description: What is there; every delivery counts.
source: { upload: { max_size: 20MiB, duplicates: accept } }
columns:
  - { name: id, type: int64 }
sinks:
  - table: { name: stock, mode: append }
";

const WEATHER: &str = "
pipeline: weather
description: Fetched, so nothing can be sent.
source: { http: { url: https://api.example.org/weather } }
columns:
  - { name: id, type: int64 }
sinks:
  - table: { name: weather }
";

const DAYS: &str = "
pipeline: days
parameters:
  - { name: day, type: date }
  - { name: factor, type: int64, default: 2 }
columns:
  - { name: id, type: int64 }
steps:
  - sql: SELECT id * $factor AS id, $day AS day FROM input
sinks:
  - table: { name: days }
";

/// Workers of a program that is not there: what reaches them shows as a failure inside.
fn workers() -> Workers {
    let places = Places { tables: "sqlite:/nowhere".to_owned(), jobs: None, objects: None };
    Workers::new("/nowhere/tidemill".into(), places, QueryLimits::default()).unwrap()
}

/// A running gateway. Its users: `admin`, `sender` (may send to sales), `reader` (may read sales), `stranger`.
pub struct Server {
    pub address: String,
    pub jobs: JobStore,
    pub settler: Settler,
    pub users: Users,
    /// The mark of each user's password, which the tokens made by hand carry.
    marks: HashMap<String, String>,
    pub client: Client,
    pub stop: CancellationToken,
    pub serving: JoinHandle<Result<(), ServeError>>,
    folder: TempDir,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut GatewayParts)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("jobs.db").display());
        let jobs = JobStore::connect(&url, StoreLimits::default()).await.unwrap();
        jobs.migrate().await.unwrap();
        // No processor runs here, so nothing is committed but what a test says.
        let settler = Settler::new(jobs.clone(), Arc::new(MemoryLedger::default()));
        let users = Users::new(&jobs);
        let marks = add_users(&users).await;
        let store = folder.path().join("objects");
        std::fs::create_dir(&store).unwrap();
        let objects: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(store).unwrap());
        let mut parts = GatewayParts {
            pipelines: Arc::new(pipelines()),
            jobs: jobs.clone(),
            settler: settler.clone(),
            landing: Landing::new(objects.clone(), jobs.clone(), LandingLimits::default()),
            objects,
            signer: None,
            users: users.clone(),
            query: workers(),
            readiness: vec![ReadinessCheck::new("jobs", || async { Ok(()) })],
            registry: Registry::new(),
            settings: GatewaySettings::new(SECRET.to_owned().into()),
        };
        change(&mut parts);
        let gateway = Gateway::new(parts).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let serving = tokio::spawn({
            let stop = stop.clone();
            async move { gateway.serve(listener, stop).await }
        });
        Self { address, jobs, settler, users, marks, client: Client::new(), stop, serving, folder }
    }

    /// The claims of a good token.
    pub fn claims(&self, user: &str) -> Value {
        let (now, mark) = (now(), self.marks.get(user));
        json!({"sub": user, "iat": now, "nbf": now, "exp": now + 60, "iss": "tidemill", "aud": "tidemill", "admin": false,
            "pwd": mark.map_or("", String::as_str)})
    }

    pub fn token(&self, user: &str) -> String {
        signed(&self.claims(user), SECRET)
    }

    /// A request without credentials.
    pub fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    /// A request of this user.
    pub fn request(&self, method: Method, path: &str, user: &str) -> RequestBuilder {
        self.bare(method, path).bearer_auth(self.token(user))
    }

    pub async fn get(&self, path: &str, user: &str) -> Response {
        self.request(Method::GET, path, user).send().await.unwrap()
    }

    pub async fn post(&self, path: &str, user: &str) -> Response {
        self.request(Method::POST, path, user).send().await.unwrap()
    }

    /// An upload of text/csv, not yet sent.
    pub fn upload(&self, pipeline: &str, user: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.request(Method::POST, &format!("/v1/pipelines/{pipeline}/uploads"), user)
            .header("content-type", "text/csv")
            .body(body)
    }

    /// Uploads to `sales` and gives the job's id.
    pub async fn uploaded(&self, user: &str, body: &'static str) -> String {
        let response = self.upload("sales", user, body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        job_id(&response.json().await.unwrap())
    }

    /// Claims the job and ends it well, with a report and, when given, rejects.
    pub async fn finish(&self, id: &str, rejects: Option<&str>) {
        let job: JobId = id.parse().unwrap();
        let claim = self.jobs.claim(job, "v1", "test", chrono::Utc::now()).await.unwrap().unwrap();
        self.write(&format!("jobs/{id}/report.json"), "{\"ok\":true}");
        if let Some(rejects) = rejects {
            self.write(&format!("jobs/{id}/rejects.csv"), rejects);
        }
        let refused = u64::from(rejects.is_some());
        let counts = Counts {
            records_in: 3,
            records_written: 3 - refused,
            records_rejected: refused,
            records_filtered: 0,
        };
        let report = format!("jobs/{id}/report.json");
        let outcome = Outcome::Success(Committed { counts, report, artifacts: Vec::new() });
        assert!(self.settler.finish(&claim, outcome).await.unwrap());
    }

    pub fn write(&self, key: &str, text: &str) {
        let path = self.folder.path().join("objects").join(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// All files of the object folder, parts of broken uploads included.
    pub fn objects(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        walk(&self.folder.path().join("objects"), &mut found);
        found
    }

    pub async fn job_count(&self) -> usize {
        let list: Value = self.get("/v1/jobs", "admin").await.json().await.unwrap();
        list["jobs"].as_array().unwrap().len()
    }

    pub async fn metric(&self, line: &str) -> bool {
        let text = self.bare(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
        text.lines().any(|found| found == line)
    }

    /// Waits until `/metrics` has this line.
    pub async fn until_metric(&self, line: &str) {
        for _ in 0..500 {
            if self.metric(line).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("/metrics never had `{line}`");
    }
}

async fn add_users(users: &Users) -> HashMap<String, String> {
    // Logging in is tested with one of them; the others have tokens made by hand.
    users.add("sender", PASSWORD.to_owned().into(), false).await.unwrap();
    users.add("admin", PASSWORD.to_owned().into(), true).await.unwrap();
    for name in ["reader", "stranger"] {
        users.add(name, PASSWORD.to_owned().into(), false).await.unwrap();
    }
    let grant = |permission| Grant { scope: Scope::parse("sales").unwrap(), permission };
    users.grant("sender", &grant(Permission::Send)).await.unwrap();
    users.grant("reader", &grant(Permission::Read)).await.unwrap();
    users.list().await.unwrap().into_iter().map(|user| (user.name, user.password_mark)).collect()
}

fn pipelines() -> PipelineSet {
    let files =
        [("days.yaml", DAYS), ("sales.yaml", SALES), ("stock.yaml", STOCK), ("weather.yaml", WEATHER)];
    PipelineSet::from_files(files.map(|(name, text)| (name.to_owned(), text.to_owned())).to_vec()).unwrap()
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub fn signed(claims: &Value, secret: &str) -> String {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

pub fn job_id(job: &Value) -> String {
    job["job_id"].as_str().unwrap().to_owned()
}

/// Checks that an answer is the problem it should be, whole and in the right type, and gives its body.
pub async fn problem(response: Response, status: u16, code: &str) -> Value {
    let given = response.status().as_u16();
    let headers = response.headers().clone();
    let text = response.text().await.unwrap();
    assert_eq!(given, status, "{text}");
    assert_eq!(headers["content-type"], "application/problem+json", "{text}");
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(body["code"], code, "{text}");
    assert_eq!(body["status"], status, "{text}");
    assert_eq!(body["type"], format!("urn:tidemill:problem:{code}"), "{text}");
    let id = headers["x-request-id"].to_str().unwrap();
    assert_eq!(body["instance"], format!("urn:tidemill:request:{id}"), "{text}");
    let detail = body["detail"].as_str().unwrap();
    assert!(!detail.is_empty() && !detail.starts_with(char::is_uppercase), "{text}");
    body
}
