//! What holds for every route, and the routes of operation.

use std::path::Path;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tidemill_gateway::ReadinessCheck;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Server, problem};

#[tokio::test]
async fn what_is_not_there_and_what_is_not_taken_are_problems_too() {
    let server = Server::start().await;
    problem(server.get("/nothing", "admin").await, 404, "unknown_route").await;
    problem(server.get("/v1/pipelines/sales/uploads/x", "admin").await, 404, "unknown_route").await;
    let response = server.request(Method::DELETE, "/v1/jobs", "admin").send().await.unwrap();
    assert_eq!(response.headers()["allow"], "GET,HEAD,POST");
    problem(response, 405, "wrong_method").await;
    problem(server.get("/v1/pipelines/sales/uploads", "admin").await, 405, "wrong_method").await;
    problem(server.get("/v1/jobs/%ff", "admin").await, 400, "bad_path").await;
}

#[tokio::test]
async fn a_request_keeps_its_id_when_it_is_safe_to_write_down() {
    let server = Server::start().await;
    let ask = |id: &'static str| server.bare(Method::GET, "/healthz").header("x-request-id", id).send();
    assert_eq!(ask("abc-1").await.unwrap().headers()["x-request-id"], "abc-1");
    let replaced = ask("a b").await.unwrap().headers()["x-request-id"].clone();
    assert_eq!(replaced.len(), 36, "{replaced:?}");
    let refused = server.bare(Method::GET, "/v1/me").header("x-request-id", "abc-2").send().await.unwrap();
    assert_eq!(problem(refused, 401, "unauthorized").await["instance"], "urn:tidemill:request:abc-2");
}

#[tokio::test]
async fn no_answer_may_be_sniffed_framed_or_cached() {
    let server = Server::start().await;
    for path in ["/healthz", "/v1/me", "/nothing"] {
        let response = server.get(path, "admin").await;
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("x-frame-options"), "DENY");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cache-control"), "no-store");
        assert!(header("content-security-policy").starts_with("default-src 'none'"));
    }
}

#[tokio::test]
async fn readiness_names_the_part_that_fails_and_tells_no_more() {
    let server = Server::start_with(|parts| {
        parts.readiness = vec![
            ReadinessCheck::new("jobs", || async { Ok(()) }),
            ReadinessCheck::new("objects", || async { Err("secret address".to_owned()) }),
            ReadinessCheck::new("broker", std::future::pending),
        ];
    })
    .await;
    let response = server.bare(Method::GET, "/readyz").send().await.unwrap();
    assert_eq!(response.status(), 503);
    let ready: Value = response.json().await.unwrap();
    assert_eq!(ready["ready"], false);
    let parts = ["jobs", "objects", "broker"].map(|part| ready["parts"][part]["ready"].clone());
    assert_eq!(parts, [json!(true), json!(false), json!(false)]);
    assert!(!ready.to_string().contains("secret"), "{ready}");
    assert_eq!(server.bare(Method::GET, "/healthz").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_gateway_whose_parts_all_answer_is_ready() {
    let server = Server::start().await;
    let response = server.bare(Method::GET, "/readyz").send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.json::<Value>().await.unwrap()["ready"], true);
}

#[tokio::test]
async fn parts_are_not_asked_again_for_every_probe() {
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = asked.clone();
    let server = Server::start_with(|parts| {
        parts.readiness = vec![ReadinessCheck::new("jobs", move || {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(())
            }
        })];
    })
    .await;
    let probes = (0..50).map(|_| server.bare(Method::GET, "/readyz").send());
    for probe in futures::future::join_all(probes).await {
        assert_eq!(probe.unwrap().status(), 200);
    }
    let asked = asked.load(std::sync::atomic::Ordering::SeqCst);
    assert!(asked < 10, "{asked}");
}

#[tokio::test]
async fn requests_and_uploads_are_counted_by_route_not_by_path() {
    let server = Server::start().await;
    server.uploaded("sender", "id\n1\n").await;
    server.get("/v1/jobs/one", "admin").await;
    server.get("/v1/jobs/two", "admin").await;
    server.get("/nothing/at/all", "admin").await;
    for line in [
        "tidemill_http_requests_total{method=\"GET\",route=\"/v1/jobs/{id}\",status=\"404\"} 2",
        "tidemill_http_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"} 1",
        "tidemill_http_request_duration_seconds_count{method=\"POST\",route=\"/v1/pipelines/{name}/uploads\"} 1",
        "tidemill_upload_bytes_total{pipeline=\"sales\"} 5",
        "tidemill_uploads_total{outcome=\"landed\",pipeline=\"sales\"} 1",
    ] {
        assert!(server.metric(line).await, "{line}");
    }
}

/// Sends bytes and gives all that comes back until the connection is closed.
async fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    // The server may close before it has read all.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn heads_that_are_too_big_or_no_http_are_refused_and_the_server_lives() {
    let server = Server::start().await;
    let many: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    let answer = raw(&server, format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{many}\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let big = "y".repeat(300_000);
    let answer = raw(&server, format!("GET /healthz HTTP/1.1\r\nx: {big}\r\n\r\n").as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let answer = raw(&server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(server.bare(Method::GET, "/healthz").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let server =
        Server::start_with(|parts| parts.settings.header_read_timeout = Duration::from_millis(200)).await;
    for half in [&b""[..], b"GET /healthz HTTP/1.1\r\nhost:"] {
        let closed = tokio::time::timeout(Duration::from_secs(20), raw(&server, half)).await;
        assert!(closed.is_ok(), "{half:?}");
    }
}

#[tokio::test]
async fn connections_over_the_bound_wait_for_their_turn() {
    let server = Server::start_with(|parts| parts.settings.connections_max = 1).await;
    let first = TcpStream::connect(&server.address).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let second = server.bare(Method::GET, "/healthz").send();
    let mut second = std::pin::pin!(second);
    assert!(tokio::time::timeout(Duration::from_millis(300), second.as_mut()).await.is_err());
    drop(first);
    assert_eq!(second.await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered() {
    let server =
        Server::start_with(|parts| parts.settings.request_timeout = Duration::from_millis(200)).await;
    let id = server.uploaded("sender", "id\n1\n").await;
    let response = server.get(&format!("/v1/jobs/{id}?wait=20"), "sender").await;
    problem(response, 503, "timed_out").await;
}

#[tokio::test]
async fn a_part_that_fails_inside_is_not_shown() {
    let server = Server::start().await;
    server.jobs.close().await;
    let response = server.get("/v1/jobs", "admin").await;
    assert_eq!(response.headers()["retry-after"], "5");
    let body = problem(response, 503, "unavailable").await.to_string();
    assert!(!body.contains("sqlite") && !body.contains("pool") && !body.contains("SELECT"), "{body}");
}

#[tokio::test]
async fn a_statement_whose_body_does_not_come_is_ended() {
    let server =
        Server::start_with(|parts| parts.settings.request_timeout = Duration::from_millis(200)).await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let head = format!(
        "POST /v1/query HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: 1000\r\n\r\n{{\"sql\":",
        server.token("admin")
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_string(&mut answer)).await;
    assert!(read.is_ok(), "nothing was answered");
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"too_slow\""), "{answer}");
}

/// `UPDATE_EXPECTED=1` writes the golden file; a change of it is a change of what clients rely on.
#[tokio::test]
async fn the_openapi_document_is_the_golden_file() {
    let server = Server::start().await;
    let found: Value = server.bare(Method::GET, "/openapi.json").send().await.unwrap().json().await.unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi.json");
    let text = serde_json::to_string_pretty(&found).unwrap() + "\n";
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(text == expected, "the surface differs from {}; UPDATE_EXPECTED=1 rewrites it", path.display());
}

#[tokio::test]
async fn every_operation_of_the_document_is_a_route() {
    let server = Server::start().await;
    let document = tidemill_gateway::openapi_json();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let path = path.replace("{id}", "x").replace("{name}", "x");
            let response = server.bare(method.clone(), &path).send().await.unwrap();
            let code = response.json::<Value>().await.unwrap_or_default()["code"].clone();
            assert!(code != "unknown_route" && code != "wrong_method", "{method} {path}");
        }
    }
}
