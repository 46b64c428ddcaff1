//! The made-up API as its users meet it: the binary, over HTTP.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;

/// A running mock, killed when dropped.
struct Mock {
    child: Child,
    url: String,
    client: Client,
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn mock(arguments: &[&str]) -> Mock {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .args(["mock-api", "--listen", "127.0.0.1:0"])
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim().strip_prefix("mock API: ").unwrap().strip_suffix("/readings").unwrap().to_owned();
    Mock { child, url, client: Client::builder().redirect(Policy::none()).build().unwrap() }
}

impl Mock {
    async fn get(&self, path: &str) -> Response {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.url) };
        self.client.get(url).send().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    /// The links of the list.
    async fn links(&self, path: &str) -> Vec<String> {
        serde_json::from_value(self.json(path).await["pages"].take()).unwrap()
    }
}

fn ids(page: &Value) -> Vec<u64> {
    page["items"].as_array().unwrap().iter().map(|item| item["id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn the_same_readings_come_by_links_by_next_and_by_number() {
    let mock = mock(&["--pages", "3", "--records", "4"]);
    let mut linked = Vec::new();
    for link in mock.links("/readings").await {
        linked.extend(ids(&mock.json(&link).await));
    }
    assert_eq!(linked, (1..=12).collect::<Vec<_>>());
    let (mut next, mut headers, mut followed) = (Some("/readings/next".to_owned()), 0, Vec::new());
    while let Some(link) = next {
        let response = mock.get(&link).await;
        headers += usize::from(response.headers().contains_key("link"));
        let page: Value = response.json().await.unwrap();
        followed.extend(ids(&page));
        next = page["next"].as_str().map(str::to_owned);
    }
    assert_eq!((&followed, headers), (&linked, 2));
    let mut numbered = Vec::new();
    for number in 1..=4 {
        numbered.extend(ids(&mock.json(&format!("/readings/numbered?page={number}")).await));
    }
    assert_eq!(numbered, linked);
    let stats = mock.json("/stats").await;
    assert_eq!(
        (&stats["list"], &stats["pages"]["2"], &stats["pages"]["4"]),
        (&1.into(), &3.into(), &1.into())
    );
}

#[tokio::test]
async fn the_same_seed_serves_the_same_bytes() {
    let (one, two, other) = (mock(&["--seed", "1"]), mock(&["--seed", "1"]), mock(&["--seed", "2"]));
    for path in ["/readings/pages/7", "/readings/pages/7?format=csv", "/readings/pages/7?format=jsonl"] {
        let bytes = one.get(path).await.bytes().await.unwrap();
        assert_eq!(two.get(path).await.bytes().await.unwrap(), bytes, "{path}");
        assert_ne!(other.get(path).await.bytes().await.unwrap(), bytes, "{path}");
    }
    assert!(one.links("/readings?format=csv").await[0].ends_with("/readings/pages/1?format=csv"));
}

#[tokio::test]
async fn it_fails_at_first_and_limits_its_rate_when_told_to() {
    let failing = mock(&["--pages", "40", "--fail", "50%", "--fail-times", "2"]);
    let mut answers = BTreeSet::new();
    for page in 1..=40 {
        let mut failures = 0;
        while failing.get(&format!("/readings/pages/{page}")).await.status() != StatusCode::OK {
            failures += 1;
        }
        answers.insert(failures);
    }
    assert_eq!(answers, BTreeSet::from([0, 2]));
    let limited = mock(&["--limit-rate", "1/s"]);
    let refused = loop {
        let response = limited.get("/readings/pages/1").await;
        if response.status() != StatusCode::OK {
            break response;
        }
    };
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
}

#[tokio::test]
async fn it_asks_for_credentials_when_told_to() {
    let basic = mock(&["--basic", "ana:secret"]);
    let request =
        |password| basic.client.get(format!("{}/readings", basic.url)).basic_auth("ana", Some(password));
    assert_eq!(request("secret").send().await.unwrap().status(), StatusCode::OK);
    let refused = request("wrong").send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert!(refused.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic"));
    let bearer = mock(&["--bearer", "token"]);
    let request = bearer.client.get(format!("{}/readings", bearer.url)).bearer_auth("token");
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(bearer.get("/readings").await.status(), StatusCode::UNAUTHORIZED);
    let key = mock(&["--api-key", "k"]);
    let request = key.client.get(format!("{}/readings", key.url)).header("X-Api-Key", "k");
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(key.get("/readings?api_key=wrong").await.status(), StatusCode::UNAUTHORIZED);
    let links = key.links("/readings?api_key=k").await;
    assert!(!links[0].contains("api_key"), "a secret does not go into links: {}", links[0]);
}

#[tokio::test]
async fn its_tricks_are_those_of_real_servers() {
    let mock = mock(&["--pages", "3"]);
    let html = mock.get("/readings?trick=html").await;
    assert_eq!(
        (html.status(), &html.headers()["content-type"]),
        (StatusCode::OK, &"text/html; charset=utf-8".parse().unwrap())
    );
    assert!(html.text().await.unwrap().starts_with("<!doctype html>"));
    let links = mock.links("/readings?trick=half&on=2").await;
    assert!(mock.json(&links[0]).await.is_object());
    assert!(serde_json::from_str::<Value>(&mock.get(&links[1]).await.text().await.unwrap()).is_err());
    let redirect = mock.get("/readings?trick=redirect&to=http://169.254.169.254/latest").await;
    assert_eq!(
        (redirect.status(), &redirect.headers()["location"]),
        (StatusCode::FOUND, &"http://169.254.169.254/latest".parse().unwrap())
    );
    assert_eq!(mock.get("/readings/numbered?page=2&trick=gone&on=2").await.status(), StatusCode::NOT_FOUND);
    let twice = mock.links("/readings?trick=twice").await;
    assert_eq!((twice.len(), &twice[0]), (4, &twice[1]));
    let (mut link, mut seen) = ("/readings/next?trick=loop".to_owned(), BTreeSet::new());
    while seen.insert(link.clone()) {
        link = mock.json(&link).await["next"].as_str().unwrap().to_owned();
    }
    for wrong in ["/readings?trick=nonsense", "/readings/next?cursor=x", "/readings/numbered?page=0"] {
        assert_eq!(mock.get(wrong).await.status(), StatusCode::BAD_REQUEST, "{wrong}");
    }
    assert_eq!(mock.get("/readings/pages/4").await.status(), StatusCode::NOT_FOUND);
}
