//! A real Prometheus scrapes a real run of `tidemill dev`: every query of every dashboard gives data, every rule loads, and all
//! speak of metrics that docs/metrics.md knows. Rules are tested by promtool. Both are of Debian's package `prometheus`.

use std::collections::BTreeSet;

use axum::Router;
use axum::http::Uri;

use super::*;

/// Slots that a fetcher makes up for: fetches go on while Prometheus looks.
const SLOTS: i64 = 12;
const GOOD: &str = "id\n1\n2\nthree\n4\n5\n6\n";
const BAD: &str = "id\none\ntwo\n";

fn tool(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(name).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{name} is needed here, install prometheus: {error}"));
    let told =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    told
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn files(folder: &str, end: &str) -> Vec<String> {
    let found = std::fs::read_dir(root(folder)).unwrap().map(|entry| entry.unwrap().file_name());
    let names = found.map(|name| format!("{folder}/{}", name.to_str().unwrap()));
    let names: Vec<_> = names.filter(|name| name.ends_with(end)).collect();
    assert!(!names.is_empty(), "no {end} in {folder}");
    names
}

/// A query of a dashboard, as Grafana would send it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Asked {
    panel: String,
    query: String,
}

fn panels() -> Vec<Asked> {
    let mut asked = Vec::new();
    for file in files("k8s/dashboards", ".json") {
        let board: Value = serde_json::from_str(&text(&file)).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let query = target["expr"].as_str().unwrap();
                let query = query.replace("$__rate_interval", "5m").replace("$__range", "3h");
                let query = query.replace("$pipeline", ".*");
                let panel = format!("{}: {}", board["title"], panel["title"]);
                assert!(!query.contains('$'), "{panel}: a variable that nobody knows in {query}");
                asked.push(Asked { panel, query });
            }
        }
    }
    asked
}

/// What a template variable asks for: `label_values(metric, label)`.
fn variables() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for file in files("k8s/dashboards", ".json") {
        let board: Value = serde_json::from_str(&text(&file)).unwrap();
        for variable in board["templating"]["list"].as_array().unwrap() {
            if variable["type"] == "query" {
                let asked = variable["query"]["query"].as_str().unwrap();
                let inner = asked.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
                let (metric, label) = inner.unwrap().split_once(", ").unwrap();
                found.push((metric.to_owned(), label.to_owned()));
            }
        }
    }
    found
}

/// The metrics of Tidemill that a text names.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("tidemill_"));
    let ends = ["_bucket", "_sum", "_count"];
    names.map(|name| ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)).collect()
}

/// A Prometheus of its own, killed when dropped.
struct Prometheus {
    child: Child,
    url: String,
    client: reqwest::Client,
}

impl Prometheus {
    async fn start(folder: &Path, target: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let rules = root("k8s/alerts/*.rules.yaml");
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: ['{}']\n\
             scrape_configs: [{{ job_name: tidemill, static_configs: [{{ targets: ['{target}'] }}] }}]\n",
            rules.display()
        );
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::create(folder.join("prometheus.log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus is needed here, install it: {error}"));
        let prometheus =
            Self { child, url: format!("http://127.0.0.1:{port}"), client: reqwest::Client::new() };
        let began = Instant::now();
        while !prometheus.is_ready().await {
            let log = std::fs::read_to_string(folder.join("prometheus.log")).unwrap();
            assert!(began.elapsed() < WAIT_MAX, "prometheus does not start:\n{log}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        prometheus
    }

    async fn is_ready(&self) -> bool {
        let answer = self.client.get(format!("{}/-/ready", self.url)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let url = reqwest::Url::parse_with_params(&format!("{}/api/v1/{path}", self.url), query).unwrap();
        let answer: Value = self.client.get(url).send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["status"], "success", "{query:?}: {answer}");
        answer["data"].clone()
    }

    /// Whether a query gives a number; NaN, as of a rate of nothing, is none.
    async fn has_data(&self, query: &str) -> bool {
        let data = self.get("query", &[("query", query)]).await;
        data["result"].as_array().unwrap().iter().any(|series| series["value"][1] != "NaN")
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An API whose list of two pages takes its time.
async fn api() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(|uri: Uri| async move {
        if uri.path() == "/list" {
            tokio::time::sleep(Duration::from_secs(2)).await;
            return "[\"/1\", \"/2\"]".to_owned();
        }
        format!("id\n{}\n", uri.path().trim_start_matches('/'))
    });
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    base
}

/// Pipelines and settings of the run; `fetched` has slots to make up for.
fn prepare(folder: &Path, api: &str) -> (PathBuf, PathBuf) {
    let (data, pipelines) = (folder.join("data"), folder.join("pipelines"));
    std::fs::create_dir_all(&data).unwrap();
    std::fs::create_dir_all(&pipelines).unwrap();
    let settings = "[fetcher]\nallow = [\"127.0.0.0/8\"]\n[telemetry]\npoll = \"1s\"\n";
    std::fs::write(folder.join("tidemill.toml"), settings).unwrap();
    let table = |name: &str| format!("sinks: [{{ table: {{ name: {name}, mode: upsert, key: [id] }} }}]\n");
    let columns = "columns: [{ name: id, type: int64 }]\n";
    let uploaded = format!(
        "pipeline: numbers\nsource: {{ upload: {{ duplicates: accept }} }}\n{columns}\
         rejects: {{ tolerate: 50%, then: abort }}\n{}\
         notify: [{{ email: {{ to: '{{{{ sender }}}}', on: [success, failed] }} }}]\n",
        table("numbers")
    );
    std::fs::write(pipelines.join("numbers.yaml"), uploaded).unwrap();
    let fetched = format!(
        "pipeline: fetched\nsource:\n  http:\n    url: {api}/list\n    pages: {{ links: {{ path: '$[*]' }} }}\n    \
         schedule: {{ cron: '* * * * *', missed: all }}\n{columns}{}",
        table("fetched")
    );
    std::fs::write(pipelines.join("fetched.yaml"), fetched).unwrap();
    let first = chrono::Utc::now() - chrono::TimeDelta::minutes(SLOTS);
    let first = first.format("%Y-%m-%dT%H:%M:00Z").to_string();
    json(&data, &pipelines, &["fetch", "fetched", "--slot", &first]);
    (data, pipelines)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_of_the_dashboards_gives_data_of_a_real_run() {
    let folder = TempDir::new().unwrap();
    let api = api().await;
    let at = folder.path().to_owned();
    let (data, pipelines) = tokio::task::spawn_blocking(move || prepare(&at, &api)).await.unwrap();
    let dev = Dev::start(&data, &pipelines).await;
    let prometheus = Prometheus::start(folder.path(), dev.url.strip_prefix("http://").unwrap()).await;
    let mut silent = panels();
    let began = Instant::now();
    while !silent.is_empty() {
        assert!(began.elapsed() < WAIT_MAX, "no data for {silent:#?}\n{}", log_of(&data));
        for (body, status) in [(GOOD, "success"), (BAD, "failed")] {
            let id = dev.upload("numbers", body).await.unwrap();
            assert_eq!(dev.ended(&id).await["status"], status, "{}", log_of(&data));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut still = Vec::new();
        for asked in silent {
            if !prometheus.has_data(&asked.query).await {
                still.push(asked);
            }
        }
        silent = still;
    }
    for (metric, label) in variables() {
        let values = prometheus.get(&format!("label/{label}/values"), &[("match[]", &metric)]).await;
        assert_eq!(values, serde_json::json!(["fetched", "numbers"]), "{metric}, {label}");
    }
    let shown = prometheus.get("label/__name__/values", &[]).await.to_string();
    let told = text("docs/metrics.md");
    let unknown: Vec<_> = metrics_in(&shown).difference(&metrics_in(&told)).copied().collect();
    assert!(unknown.is_empty(), "not in docs/metrics.md: {unknown:?}");
    let rules = prometheus.get("rules", &[]).await;
    for rule in
        rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap())
    {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    let firing = prometheus.has_data("ALERTS{alertname=\"TidemillJobsFailing\", pipeline=\"numbers\"}").await;
    assert!(firing, "jobs have failed, and no alert tells: {rules}");
}

#[test]
fn dashboards_and_rules_name_metrics_that_there_are() {
    let told = text("docs/metrics.md");
    let known = metrics_in(&told);
    for file in [files("k8s/dashboards", ".json"), files("k8s/alerts", ".yaml")].concat() {
        let text = text(&file);
        let unknown: Vec<_> = metrics_in(&text).difference(&known).copied().collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?} are not in docs/metrics.md");
    }
}

#[test]
fn every_alert_fires_in_one_case_is_silent_in_another_and_has_a_runbook() {
    for file in files("k8s/alerts", ".rules.yaml") {
        tool("promtool", &["check", "rules", root(&file).to_str().unwrap()]);
    }
    let tests = files("k8s/alerts/tests", ".yaml");
    for file in &tests {
        tool("promtool", &["test", "rules", root(file).to_str().unwrap()]);
    }
    let cases: String = tests.iter().map(|file| text(file)).collect();
    let runbooks = text("docs/operations.md");
    let rules: String = files("k8s/alerts", ".rules.yaml").iter().map(|file| text(file)).collect();
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        let asked: Vec<_> =
            cases.split("alertname: ").filter(|case| case.lines().next() == Some(alert)).collect();
        let silent = asked.iter().filter(|case| case.contains("exp_alerts: []")).count();
        assert!(silent > 0 && silent < asked.len(), "{alert}: {silent} silent cases of {}", asked.len());
        assert!(runbooks.lines().any(|line| line == format!("### {alert}")), "{alert} has no runbook");
        let anchor = format!("runbook: docs/operations.md#{}\n", alert.to_lowercase());
        assert!(rules.contains(&anchor), "{alert} does not name its runbook");
    }
}
