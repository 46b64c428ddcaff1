//! The Postgres wire as its clients meet it: psql, psycopg and SQLAlchemy against `tidemill dev`. What they do and expect
//! is in `wire/clients.py`; here the data is made, the server started, and each part of that script run.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const PASSWORD: &str = "correct horse battery";
const READER: &str = "reader@example.org";
/// Longest wait for a start or a job; a loaded machine is slow, a hang is longer.
const WAIT_MAX: Duration = Duration::from_secs(180);

const KINDS: &str = "\
pipeline: kinds
format: { csv: { null: [\"NULL\"] } }
columns:
  - { name: id, type: int64 }
  - { name: ratio, type: float64, required: false }
  - { name: amount, type: decimal, precision: 30, scale: 4, required: false }
  - { name: good, type: bool, required: false }
  - { name: note, type: text, max_length: 100, required: false }
  - { name: day, type: date, required: false }
  - { name: moment, type: timestamp, required: false }
sinks: [{ table: { name: kinds, mode: upsert, key: [id] } }]
";
const KINDS_CSV: &str = "\
id,ratio,amount,good,note,day,moment
1,0.5,12.34,true,\"Łódź, \"\"quoted\"\"\",2021-02-03,2021-02-03T04:05:06.789Z
-9223372036854775808,-1.7976931348623157e308,-99999999999999999999999999.9999,false,\"\",0001-01-01,1970-01-01T00:00:00Z
3,NULL,NULL,NULL,NULL,NULL,NULL
";

/// A running `tidemill dev` with the employees and a table of every type, killed when dropped.
struct Dev {
    child: Child,
    folder: TempDir,
    url: String,
    wire: SocketAddr,
}

impl Dev {
    async fn start(flags: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        copy_pipelines(&folder.path().join("pipelines"));
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut child = tidemill(folder.path())
            .args(["dev", "--listen", "127.0.0.1:0"])
            .args(flags.iter().flat_map(|flag| ["--set", flag]))
            .env("TIDEMILL_ADMIN_PASSWORD", PASSWORD)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let (mut url, mut wire, mut line) = (None, None, String::new());
        while (url.is_none() || wire.is_none()) && out.read_line(&mut line).unwrap() > 0 {
            url = url.or_else(|| line.trim().strip_prefix("Tidemill is up: ").map(str::to_owned));
            let place = line.split_once("postgresql://admin@").and_then(|(_, rest)| rest.split('/').next());
            wire = wire.or_else(|| place.and_then(|place| place.parse().ok()));
            line.clear();
        }
        let (Some(url), Some(wire)) = (url, wire) else { panic!("no start:\n{}", log_of(folder.path())) };
        std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
        let dev = Self { child, folder, url, wire };
        dev.load().await;
        dev
    }

    /// Sends the files and waits for their jobs.
    async fn load(&self) {
        let file = |name: &str| std::fs::read(root("examples/data/employees").join(name)).unwrap();
        let client = reqwest::Client::new();
        let login = client.post(format!("{}/v1/login", self.url)).basic_auth("admin", Some(PASSWORD));
        let login: Value = login.send().await.unwrap().error_for_status().unwrap().json().await.unwrap();
        let token = login["token"].as_str().unwrap();
        for (pipeline, body) in [
            ("departments", file("departments.csv")),
            ("jobs", file("jobs.csv")),
            ("hired_employees", file("hired_employees.csv")),
            ("kinds", KINDS_CSV.as_bytes().to_vec()),
        ] {
            let url = format!("{}/v1/pipelines/{pipeline}/uploads", self.url);
            let sent = client.post(url).bearer_auth(token).body(body).send().await.unwrap();
            let mut job: Value = sent.error_for_status().unwrap().json().await.unwrap();
            let began = Instant::now();
            while job["status"] != "success" {
                assert!(job["status"] != "failed" && began.elapsed() < WAIT_MAX, "{job}\n{}", self.log());
                let url = format!("{}/v1/jobs/{}?wait=5", self.url, job["job_id"].as_str().unwrap());
                let seen = client.get(url).bearer_auth(token).send().await.unwrap();
                job = seen.error_for_status().unwrap().json().await.unwrap();
            }
        }
    }

    /// Runs parts of the script as this user; they must all go well.
    fn clients(&self, user: &str, host: IpAddr, parts: &[&str]) {
        let python = std::env::var_os("TIDEMILL_TEST_PG_PYTHON");
        let Some(python) = python else { panic!("TIDEMILL_TEST_PG_PYTHON is not set; see CONTRIBUTING.md") };
        let done = Command::new(python)
            .arg(root("tests/wire/clients.py"))
            .args(parts)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PGHOST", host.to_string())
            .env("PGPORT", self.wire.port().to_string())
            .env("PGUSER", user)
            .env("PGPASSWORD", PASSWORD)
            .env("PGDATABASE", "tidemill")
            .env("CERTIFICATE", self.folder.path().join("cert.pem"))
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        println!("{out}");
        assert!(done.status.success(), "{parts:?}:\n{out}\n{err}\n{}", self.log());
    }

    /// A metric, by its name and labels.
    async fn metric(&self, name: &str) -> u32 {
        let page = reqwest::get(format!("{}/metrics", self.url)).await.unwrap().text().await.unwrap();
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse().unwrap()
    }

    async fn until_connections(&self, count: u32) {
        let began = Instant::now();
        while self.metric("tidemill_postgres_connections").await != count {
            assert!(began.elapsed() < WAIT_MAX, "never {count} connections");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn log(&self) -> String {
        log_of(self.folder.path())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn log_of(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("log")).unwrap_or_default()
}

/// The shipped pipelines of the employees, and one with a column of each type.
fn copy_pipelines(to: &Path) {
    std::fs::create_dir(to).unwrap();
    for name in ["departments", "jobs", "hired_employees"] {
        let file = format!("{name}.yaml");
        std::fs::copy(root("pipelines").join(&file), to.join(&file)).unwrap();
    }
    std::fs::write(to.join("kinds.yaml"), KINDS).unwrap();
}

/// `tidemill` on the folder, without any setting from outside.
fn tidemill(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEMILL_")) {
        command.env_remove(name);
    }
    command.current_dir(folder).arg("--data").arg(folder.join("data"));
    command.arg("--pipelines").arg(folder.join("pipelines"));
    command
}

/// Runs a command that must go well.
fn done(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

#[tokio::test]
async fn psql_psycopg_and_sqlalchemy_find_their_way() {
    let dev = Dev::start(&[]).await;
    dev.clients("admin", HERE, &["psql", "psycopg", "sqlalchemy"]);
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_with_its_code() {
    let dev = Dev::start(&[]).await;
    dev.clients("admin", HERE, &["refusals"]);
    for (metric, least) in [
        ("logins_total{outcome=\"wrong_password\"}", 2),
        ("logins_total{outcome=\"refused\"}", 2),
        ("logins_total{outcome=\"accepted\"}", 20),
    ] {
        assert!(dev.metric(&format!("tidemill_postgres_{metric}")).await >= least, "{metric}");
    }
    assert!(dev.metric("tidemill_statements_total{outcome=\"refused\",surface=\"postgres\"}").await >= 8);
    dev.until_connections(0).await;
    let add = ["user", "add", READER, "--password-stdin"];
    let mut child = tidemill(dev.folder.path()).args(add).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), PASSWORD.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    done(tidemill(dev.folder.path()).args(["user", "grant", READER, "departments", "read"]));
    dev.clients(READER, HERE, &["reader"]);
}

#[tokio::test]
async fn a_statement_ends_when_it_is_cancelled_late_or_left() {
    let dev = Dev::start(&[]).await;
    dev.clients("admin", HERE, &["cancel"]);
    for (outcome, least) in [("left", 8), ("answered", 5)] {
        let name = format!("tidemill_statements_total{{outcome=\"{outcome}\",surface=\"postgres\"}}");
        let count = dev.metric(&name).await;
        assert!(count >= least, "{name}: {count}");
    }
    let idle = std::net::TcpStream::connect(dev.wire).unwrap();
    dev.until_connections(1).await;
    drop(idle);
    dev.until_connections(0).await;
}

#[tokio::test]
async fn from_other_machines_only_tls_gets_in() {
    // The address that packets to elsewhere would have; nothing is sent.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").unwrap();
    let elsewhere = socket.local_addr().unwrap().ip();
    assert!(!elsewhere.is_loopback(), "this machine has no address but loopback");
    let files = TempDir::new().unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| files.path().join(name));
    done(
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&cert),
    );
    let flags = [
        format!("postgres.listen={elsewhere}:0"),
        format!("postgres.certificate={}", cert.display()),
        format!("postgres.key={}", key.display()),
    ];
    let dev = Dev::start(&flags.each_ref().map(String::as_str)).await;
    std::fs::copy(&cert, dev.folder.path().join("cert.pem")).unwrap();
    dev.clients("admin", elsewhere, &["tls"]);
}

#[test]
fn an_open_address_without_a_certificate_is_refused_at_start() {
    let folder = TempDir::new().unwrap();
    copy_pipelines(&folder.path().join("pipelines"));
    let output = tidemill(folder.path())
        .args(["dev", "--listen", "127.0.0.1:0", "--set", "postgres.listen=0.0.0.0:0"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("`postgres.listen` is 0.0.0.0:0, which other machines reach, without TLS"),
        "{told}"
    );
}
