//! What bad input gets, over a whole `tidemill dev`: a clear error or rejects with line and reason, the right HTTP
//! status, no panic, no half-written table, no job or object that nobody knows of.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::{Body, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

const PASSWORD: &str = "correct horse battery";
const JWT_SECRET: &str = "a secret of the tests, long enough";
/// Longest wait for a start or a job; a loaded machine is slow, a hang is longer.
const WAIT_MAX: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(20);

/// Bears half of its records; takes files of a 100 MB line.
const SALES: &str = "\
pipeline: sales
source: { upload: { max_size: 200MiB, duplicates: accept } }
columns: [{ name: id, type: int64 }, { name: name, type: text, max_length: 20 }]
rejects: { tolerate: 50%, then: continue }
sinks: [{ table: { name: sales, mode: append } }]
";
/// Bears no reject, and takes only small files.
const STRICT: &str = "\
pipeline: strict
source: { upload: { max_size: 1KiB } }
columns: [{ name: id, type: int64 }]
rejects: { tolerate: 0, then: abort }
sinks: [{ table: { name: strict, mode: append } }]
";

/// Takes pages of JSON, into a table and a file.
const PAGES: &str = "\
pipeline: pages
source: { upload: { duplicates: accept } }
format: { json: { records: \"$.items[*]\" } }
columns: [{ name: id, type: int64 }, { name: city, type: text, max_length: 20, path: $.site.city }]
sinks: [{ table: { name: pages, mode: upsert, key: [id] } }, { file: { name: report.csv } }]
";

/// A running `tidemill dev` with a user `admin`, and `bob` who may do nothing.
struct Dev {
    folder: TempDir,
    child: Child,
    url: String,
    client: reqwest::Client,
    token: String,
}

impl Dev {
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("pipelines")).unwrap();
        for (name, text) in [("sales", SALES), ("strict", STRICT), ("pages", PAGES)] {
            std::fs::write(folder.path().join(format!("pipelines/{name}.yaml")), text).unwrap();
        }
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut child = tidemill(folder.path())
            .args(["dev", "--listen", "127.0.0.1:0", "--set"])
            .arg(format!("gateway.jwt_secret={JWT_SECRET}"))
            .env("TIDEMILL_ADMIN_PASSWORD", PASSWORD)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        let url =
            out.find_map(|line| line.unwrap().trim().strip_prefix("Tidemill is up: ").map(str::to_owned));
        let Some(url) = url else { panic!("no start:\n{}", log_of(folder.path())) };
        std::thread::spawn(move || out.count());
        let mut dev = Self { folder, child, url, client: reqwest::Client::new(), token: String::new() };
        dev.token = dev.login("admin").await;
        dev.command(&["user", "add", "bob", "--password-stdin"]);
        dev
    }

    async fn login(&self, user: &str) -> String {
        let login = self.client.post(format!("{}/v1/login", self.url)).basic_auth(user, Some(PASSWORD));
        let answer: Value = login.send().await.unwrap().error_for_status().unwrap().json().await.unwrap();
        answer["token"].as_str().unwrap().to_owned()
    }

    /// Runs a command on the same folder; gives its JSON.
    fn command(&self, arguments: &[&str]) -> Value {
        let password = self.folder.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        let password = std::fs::File::open(password).unwrap();
        let output =
            tidemill(self.folder.path()).arg("--json").args(arguments).stdin(password).output().unwrap();
        assert!(output.status.success(), "{arguments:?}\n{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    async fn upload(&self, path: &str, token: &str, body: impl Into<Body>) -> Response {
        let request = self.client.post(format!("{}/v1/pipelines/{path}", self.url));
        request.bearer_auth(token).body(body).send().await.unwrap()
    }

    async fn get(&self, path: &str) -> String {
        let request = self.client.get(format!("{}{path}", self.url)).bearer_auth(&self.token);
        request.send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
    }

    /// Sends a file that is accepted, and waits for the end of its job.
    async fn ended(&self, path: &str, body: impl Into<Body>) -> Value {
        let answer = self.upload(path, &self.token, body).await;
        assert_eq!(answer.status(), 202, "{}", answer.text().await.unwrap());
        let job: Value = answer.json().await.unwrap();
        let began = Instant::now();
        loop {
            let text = self.get(&format!("/v1/jobs/{}", job["job_id"].as_str().unwrap())).await;
            let job: Value = serde_json::from_str(&text).unwrap();
            if !["queued", "processing"].contains(&job["status"].as_str().unwrap()) {
                return job;
            }
            assert!(began.elapsed() < WAIT_MAX, "still {job}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Line and code of each reject of a job.
    async fn rejects(&self, job: &Value) -> Vec<(String, String)> {
        let text = self.get(&format!("/v1/jobs/{}/rejects", job["job_id"].as_str().unwrap())).await;
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let header = reader.headers().unwrap().clone();
        let [line, code] = ["line", "code"].map(|name| header.iter().position(|have| have == name).unwrap());
        let records = reader.records().map(Result::unwrap);
        records.map(|record| (record[line].to_owned(), record[code].to_owned())).collect()
    }

    fn rows(&self, table: &str) -> u64 {
        let sql = format!("SELECT count(*) AS n FROM {table}");
        self.command(&["query", &sql])[0]["n"].as_u64().unwrap()
    }

    fn jobs(&self) -> usize {
        self.command(&["jobs", "list", "--limit", "1000"])["jobs"].as_array().unwrap().len()
    }

    /// Landed objects in the folder.
    fn objects(&self) -> usize {
        files(&self.folder.path().join("data/objects/landing"))
    }

    /// SIGTERM: ends tidily, and nothing broke down on the way.
    fn stop(mut self) {
        let id = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().unwrap();
        let log = log_of(self.folder.path());
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{log}");
        assert!(!log.contains("panicked"), "{log}");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn tidemill(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEMILL_")) {
        command.env_remove(name);
    }
    command.current_dir(folder).args(["--data", "data", "--pipelines", "pipelines"]);
    command
}

fn log_of(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("log")).unwrap_or_default()
}

fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.iter().map(|path| if path.is_dir() { files(path) } else { 1 }).sum()
}

/// Asserts that an answer is a problem with this status and code.
async fn refused(answer: Response, status: u16, code: &str) {
    let found = answer.status().as_u16();
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    let text = answer.text().await.unwrap();
    let problem: Value = serde_json::from_str(&text).unwrap_or_default();
    let told = (found, kind.as_str(), problem["code"].as_str());
    assert_eq!(told, (status, "application/problem+json", Some(code)), "{text}");
}

#[tokio::test]
async fn a_page_of_json_becomes_rows_and_a_file_and_a_bad_record_of_it_a_reject() {
    let dev = Dev::start().await;
    let page = r#"{"items": [
        {"id": 1, "site": {"city": "Łódź"}}, {"id": "2", "site": {"city": "a, b"}}, {"id": 3, "site": {"city": "c"}},
        {"id": 4, "site": {"city": "d"}}, {"id": 5, "site": {"city": "e"}}, {"id": 6, "site": {"city": "f"}},
        {"id": 7, "site": {"city": "g"}}, {"id": 8, "site": {"city": "h"}}, {"id": 9, "site": {"city": "i"}},
        {"id": 1.5, "site": []}]}"#;
    let job = dev.ended("pages/uploads", page).await;
    assert_eq!((&job["status"], &job["records_written"]), (&json!("success"), &json!(9)), "{job}");
    assert_eq!(dev.rejects(&job).await, [("5".to_owned(), "type".to_owned())]);
    assert_eq!(dev.rows("pages"), 9);
    let file = dev.get(&format!("/v1/jobs/{}/files/report.csv", job["job_id"].as_str().unwrap())).await;
    assert!(file.starts_with("id,city\n1,Łódź\n2,\"a, b\"\n3,c\n"), "{file}");
    dev.stop();
}

#[tokio::test]
async fn a_file_that_cannot_be_read_fails_its_job_and_writes_nothing() {
    let dev = Dev::start().await;
    let gzip: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcbL\xd1\xc9K\xccM\xe5\x02\x00";
    let binary: Vec<u8> = (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let page = br#"{"items": [{"id": 1, "site": {"city": "Lisboa"}}]}"#;
    let cases: [(&str, &str, Vec<u8>, &str, &str); 12] = [
        ("empty", "sales", b"".to_vec(), "no_records", "empty"),
        ("header only", "sales", b"id,name\n".to_vec(), "no_records", "only a header"),
        ("wrong header", "sales", b"id,nom\n1,a\n".to_vec(), "wrong_header", "nom"),
        ("binary", "sales", binary, "not_text", "binary"),
        ("HTML where JSON should be", "pages", b"<html>down".to_vec(), "not_json", "<html>down"),
        ("half a JSON", "pages", page[..30].to_vec(), "not_json", "ends in the middle, after 30 bytes"),
        ("another JSON", "pages", b"{\"error\":1}".to_vec(), "no_records_there", "$.items[*]"),
        ("CSV where JSON should be", "pages", b"id,city\n1,a\n".to_vec(), "not_json", "line 1, column 1"),
        ("gzip bytes", "sales", gzip.to_vec(), "not_text", "gzip"),
        ("only bad records", "sales", b"id,name\nx,a\ny,b\n".to_vec(), "", ""),
        ("good rows before a bad one", "strict", b"id\n1\n2\nx\n".to_vec(), "over_error_budget", "1 of 3"),
        ("a NUL in every line", "strict", b"id\n1\0\n2\0\n".to_vec(), "over_error_budget", "2 of 2"),
    ];
    for (case, pipeline, body, code, words) in cases {
        let job = dev.ended(&format!("{pipeline}/uploads"), body).await;
        if code.is_empty() {
            assert_eq!(
                (&job["status"], &job["records_written"]),
                (&json!("success"), &json!(0)),
                "{case}: {job}"
            );
            continue;
        }
        let error = &job["error"];
        assert_eq!((&job["status"], &error["code"]), (&json!("failed"), &json!(code)), "{case}: {job}");
        assert!(error["message"].as_str().unwrap().contains(words), "{case}: {job}");
        assert_eq!(
            (&error["blame"], &job["records_written"]),
            (&json!("sender"), &json!(0)),
            "{case}: {job}"
        );
    }
    let good = dev.ended("strict/uploads", "id\n7\n").await;
    assert_eq!(good["status"], "success");
    assert_eq!((dev.rows("sales"), dev.rows("strict"), dev.jobs()), (0, 1, 13));
    dev.stop();
}

#[tokio::test]
async fn a_bad_record_is_refused_with_its_line_and_the_others_are_written() {
    let dev = Dev::start().await;
    let nul = dev.ended("sales/uploads", "id,name\n1,a\n2,b\0c\n3,d\n").await;
    let quote = dev.ended("sales/uploads", "id,name\n1,a\n2,b\n3,\"d\n").await;
    // Plain bytes under a name that promises gzip: the bytes count.
    let named = dev.ended("sales/uploads?name=sales.csv.gz", "id,name\n1,a\n2,b\n").await;
    let line = dev.ended("sales/uploads", Body::wrap_stream(line_of_100_mb())).await;
    let cases = [
        ("nul", &nul, vec![("3", "nul")]),
        ("quote", &quote, vec![("4", "quote")]),
        ("named", &named, vec![]),
        ("line", &line, vec![("3", "record_too_long")]),
    ];
    for (case, job, expected) in cases {
        assert_eq!(
            (&job["status"], &job["records_written"]),
            (&json!("success"), &json!(2)),
            "{case}: {job}"
        );
        let found = dev.rejects(job).await;
        let found: Vec<_> = found.iter().map(|(line, code)| (line.as_str(), code.as_str())).collect();
        assert_eq!(found, expected, "{case}");
        let id = job["job_id"].as_str().unwrap();
        assert_eq!(dev.command(&["jobs", "verify", id])["holds"], true, "{case}");
    }
    assert_eq!((dev.rows("sales"), dev.jobs(), dev.objects()), (8, 4, 4));
    dev.stop();
}

/// Two good records around one of 100 MB, made as it is sent.
fn line_of_100_mb() -> impl futures::Stream<Item = std::io::Result<Bytes>> {
    let block = Bytes::from(vec![b'x'; 1_000_000]);
    let long = std::iter::repeat_n(block, 100);
    let blocks = std::iter::once(Bytes::from("id,name\n1,a\n2,")).chain(long);
    futures::stream::iter(blocks.chain([Bytes::from("\n3,b\n")]).map(Ok))
}

#[tokio::test]
async fn an_upload_that_is_refused_leaves_neither_job_nor_object() {
    let dev = Dev::start().await;
    let file = "id,name\n1,a\n";
    let bob = dev.login("bob").await;
    refused(dev.upload("none/uploads", &dev.token, file).await, 404, "unknown_pipeline").await;
    refused(dev.upload("sales/uploads", &bob, file).await, 403, "forbidden").await;
    refused(dev.upload("sales/uploads", "no-token", file).await, 401, "unauthorized").await;
    refused(dev.upload("sales/uploads", &expired(), file).await, 401, "unauthorized").await;
    let none = dev.client.post(format!("{}/v1/pipelines/sales/uploads", dev.url)).body(file).send().await;
    refused(none.unwrap(), 401, "unauthorized").await;
    let large = "id\n".repeat(1_000);
    refused(dev.upload("strict/uploads", &dev.token, large.clone()).await, 413, "too_large").await;
    let unmeasured = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(large))]);
    let unmeasured = Body::wrap_stream(unmeasured);
    refused(dev.upload("strict/uploads", &dev.token, unmeasured).await, 413, "too_large").await;
    break_off(&dev);

    // One that is accepted, so that the looks below see what there is.
    assert_eq!(dev.ended("sales/uploads", file).await["status"], "success");
    let began = Instant::now();
    while dev.objects() != 1 {
        assert!(began.elapsed() < WAIT_MAX, "{} objects of one job", dev.objects());
        tokio::time::sleep(PAUSE).await;
    }
    assert_eq!((dev.jobs(), dev.rows("sales")), (1, 1));
    dev.stop();
}

/// A token as the gateway makes them, of yesterday.
fn expired() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (made, end) = (now - 86_400, now - 3_600);
    let claims = json!({ "sub": "admin", "iat": made, "nbf": made, "exp": end, "iss": "tidemill", "aud": "tidemill",
        "admin": true });
    let key = jsonwebtoken::EncodingKey::from_secret(JWT_SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

/// Begins an upload of 12 MiB, more than one part of an object, and closes the connection in the middle.
fn break_off(dev: &Dev) {
    let address = dev.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST /v1/pipelines/sales/uploads HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
         content-length: {}\r\n\r\nid,name\n",
        dev.token,
        12 << 20
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&vec![b'\n'; 6 << 20]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok();
    assert!(!answer.contains(" 202 "), "{answer}");
}
