//! Uploads: what is taken, what is refused, and that a refusal leaves nothing behind.

use std::time::Duration;

use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::Value;
use tidemill_gateway::ServeError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Server, job_id, problem};

const FILE: &str = "id,item\n1,tea\n";
/// `sha256sum` of [`FILE`].
const FILE_SHA256: &str = "3facf3ad39d48e86a612a07bee152b44625e1d25454ccf7a6d2735d469590c9d";

#[tokio::test]
async fn a_file_becomes_an_object_and_a_job() {
    let server = Server::start().await;
    let path = "/v1/pipelines/sales/uploads?name=may.csv";
    let upload = server.request(Method::POST, path, "sender").header("content-type", "text/csv").body(FILE);
    let response = upload.send().await.unwrap();
    assert_eq!(response.status(), 202);
    assert!(response.headers().get("tidemill-duplicate").is_none());
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let job: Value = response.json().await.unwrap();
    assert_eq!(location, format!("/v1/jobs/{}", job_id(&job)));
    assert_eq!(job["status"], "queued");
    assert_eq!(job["sender"], "sender");
    assert_eq!(job["file_name"], "may.csv");
    assert_eq!(job["size_bytes"], FILE.len());
    assert_eq!(job["content_sha256"], FILE_SHA256);
    let key = job["files_to_process"][0].as_str().unwrap();
    assert_eq!(key, format!("landing/sales/{}/may.csv", job_id(&job)));
    let objects = server.objects();
    assert_eq!(objects.len(), 1);
    assert!(objects[0].ends_with(key));
    assert_eq!(std::fs::read_to_string(&objects[0]).unwrap(), FILE);
    let shown: Value = server.get(&location, "sender").await.json().await.unwrap();
    assert_eq!(shown, job);
}

#[tokio::test]
async fn the_file_of_a_form_is_taken_with_its_name() {
    let server = Server::start().await;
    let path = "/v1/pipelines/sales/uploads";
    let form = Form::new().text("comment", "hello").part("file", Part::text(FILE).file_name("../form.csv"));
    let response =
        server.request(Method::POST, path, "sender").multipart(form.text("after", "x")).send().await;
    let response = response.unwrap();
    assert_eq!(response.status(), 202);
    let job: Value = response.json().await.unwrap();
    assert_eq!(job["file_name"], "form.csv");
    assert_eq!(job["content_sha256"], FILE_SHA256);
}

#[tokio::test]
async fn a_form_without_one_file_is_refused_and_leaves_nothing() {
    let server = Server::start().await;
    let file = || Part::text(FILE).file_name("a.csv");
    let forms = [
        Form::new().text("other", FILE),
        Form::new().part("file", file()).part("file", file()),
        Form::new().text("big", "x".repeat(70_000)).part("file", file()),
    ];
    for form in forms {
        let request = server.request(Method::POST, "/v1/pipelines/sales/uploads", "sender").multipart(form);
        problem(request.send().await.unwrap(), 400, "bad_form").await;
    }
    let cut = "--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nid\n1\n";
    for (content_type, body) in [("multipart/form-data; boundary=b", cut), ("multipart/form-data", cut)] {
        let request = server.upload("sales", "sender", body).header("x", "y");
        let request = request.build().map(|mut request| {
            request.headers_mut().insert("content-type", content_type.parse().unwrap());
            request
        });
        problem(server.client.execute(request.unwrap()).await.unwrap(), 400, "bad_form").await;
    }
    assert_eq!((server.job_count().await, server.objects().len()), (0, 0));
}

#[tokio::test]
async fn the_same_file_again_is_answered_with_the_first_job() {
    let server = Server::start().await;
    let first = server.uploaded("sender", FILE).await;
    let again = server.upload("sales", "admin", FILE).send().await.unwrap();
    assert_eq!(again.status(), 202);
    assert_eq!(again.headers()["tidemill-duplicate"], "true");
    assert_eq!(job_id(&again.json().await.unwrap()), first);
    assert_eq!((server.job_count().await, server.objects().len()), (1, 1));
}

#[tokio::test]
async fn a_pipeline_that_takes_every_delivery_makes_a_job_of_each() {
    let server = Server::start().await;
    for _ in 0..2 {
        let response = server.upload("stock", "admin", FILE).send().await.unwrap();
        assert!(response.headers().get("tidemill-duplicate").is_none());
    }
    assert_eq!((server.job_count().await, server.objects().len()), (2, 2));
}

#[tokio::test]
async fn a_key_makes_a_repetition_safe_and_refuses_other_content() {
    let server = Server::start().await;
    let send =
        |body: &'static str| server.upload("stock", "admin", body).header("idempotency-key", "k1").send();
    let first = job_id(&send(FILE).await.unwrap().json().await.unwrap());
    let again = send(FILE).await.unwrap();
    assert_eq!(again.headers()["tidemill-duplicate"], "true");
    assert_eq!(job_id(&again.json().await.unwrap()), first);
    problem(send("id\n2\n").await.unwrap(), 422, "idempotency_conflict").await;
    assert_eq!((server.job_count().await, server.objects().len()), (1, 1));
}

#[tokio::test]
async fn a_key_that_cannot_be_kept_is_refused() {
    let server = Server::start().await;
    for key in ["", "a b", &"x".repeat(191)] {
        let request = server.upload("sales", "sender", FILE).header("idempotency-key", key);
        problem(request.send().await.unwrap(), 400, "bad_idempotency_key").await;
    }
    assert_eq!(server.objects().len(), 0);
}

#[tokio::test]
async fn who_may_not_send_is_refused_and_leaves_nothing() {
    let server = Server::start().await;
    for (pipeline, user, status, code) in [
        ("sales", "stranger", 403, "forbidden"),
        ("sales", "reader", 403, "forbidden"),
        ("stock", "sender", 403, "forbidden"),
        ("weather", "admin", 409, "no_uploads"),
        ("nothing", "admin", 404, "unknown_pipeline"),
        ("..%2fsales", "admin", 404, "unknown_pipeline"),
    ] {
        problem(server.upload(pipeline, user, FILE).send().await.unwrap(), status, code).await;
    }
    let request = server.bare(Method::POST, "/v1/pipelines/sales/uploads").body(FILE);
    problem(request.send().await.unwrap(), 401, "unauthorized").await;
    assert_eq!((server.job_count().await, server.objects().len()), (0, 0));
}

#[tokio::test]
async fn a_type_that_the_pipeline_does_not_read_is_refused() {
    let server = Server::start().await;
    for (name, value, code) in [
        ("content-type", "image/png", "unsupported_type"),
        ("content-type", "application/x-www-form-urlencoded", "unsupported_type"),
        ("content-encoding", "gzip", "unsupported_encoding"),
    ] {
        let request = server.request(Method::POST, "/v1/pipelines/sales/uploads", "sender");
        problem(request.header(name, value).body(FILE).send().await.unwrap(), 415, code).await;
    }
    let request = server.upload("sales", "sender", FILE).query(&[("nmae", "a.csv")]);
    problem(request.send().await.unwrap(), 400, "bad_query").await;
    assert_eq!(server.objects().len(), 0);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_with_or_without_a_length() {
    let server = Server::start().await;
    let big = "x".repeat(64 * 1024 + 1);
    let response = server.upload("sales", "sender", big.clone()).send().await.unwrap();
    let detail = problem(response, 413, "too_large").await["detail"].to_string();
    assert!(detail.contains("65536 bytes"), "{detail}");
    let chunks = futures::stream::iter([Ok::<_, std::io::Error>(big.clone())]);
    let response = server.upload("sales", "sender", reqwest::Body::wrap_stream(chunks)).send().await;
    problem(response.unwrap(), 413, "too_large").await;
    let form = Form::new().part("file", Part::text(big));
    let request = server.request(Method::POST, "/v1/pipelines/sales/uploads", "sender").multipart(form);
    problem(request.send().await.unwrap(), 413, "too_large").await;
    let fits = server.upload("sales", "sender", "x".repeat(64 * 1024)).send().await.unwrap();
    assert_eq!(fits.status(), 202);
    assert_eq!((server.job_count().await, server.objects().len()), (1, 1));
}

#[tokio::test]
async fn a_file_of_many_parts_comes_out_as_it_went_in() {
    let server = Server::start().await;
    let chunk: String = (0..10_000).map(|number| format!("{number}\n")).collect();
    let whole = chunk.repeat(250);
    assert!(whole.len() > 11 * 1024 * 1024);
    let chunks = futures::stream::iter((0..250).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let response = server.upload("stock", "admin", reqwest::Body::wrap_stream(chunks)).send().await.unwrap();
    let job: Value = response.json().await.unwrap();
    assert_eq!(job["size_bytes"], whole.len());
    assert!(std::fs::read_to_string(&server.objects()[0]).unwrap() == whole);
}

/// Opens a connection, sends the head of an upload and the beginning of its body.
async fn begin(server: &Server, pipeline: &str, framing: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let token = server.token("admin");
    let head = format!(
        "POST /v1/pipelines/{pipeline}/uploads HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\
         content-type: text/csv\r\n{framing}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    stream
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_no_object_and_no_job() {
    let server = Server::start().await;
    let big = vec![b'1'; 6 * 1024 * 1024];
    for (count, (framing, body)) in [
        ("content-length: 1000", &b"id\n1\n"[..]),
        ("transfer-encoding: chunked", b"5\r\nid\n1\n\r\n"),
        ("content-length: 9000000", &big),
    ]
    .into_iter()
    .enumerate()
    {
        drop(begin(&server, "stock", framing, body).await);
        let line = format!("tidemill_uploads_total{{outcome=\"refused\",pipeline=\"stock\"}} {}", count + 1);
        server.until_metric(&line).await;
        assert_eq!((server.job_count().await, server.objects().len()), (0, 0), "{framing}");
    }
}

#[tokio::test]
async fn an_upload_that_stalls_is_ended_and_leaves_nothing() {
    let server =
        Server::start_with(|parts| parts.settings.upload_idle_timeout = Duration::from_millis(100)).await;
    let mut stream = begin(&server, "stock", "content-length: 1000", b"id\n1\n").await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"stalled\""), "{answer}");
    assert_eq!((server.job_count().await, server.objects().len()), (0, 0));
}

#[tokio::test]
async fn more_uploads_at_once_than_allowed_are_told_to_come_back() {
    let server = Server::start_with(|parts| {
        parts.settings.uploads_max = 1;
        parts.settings.upload_wait = Duration::from_millis(100);
    })
    .await;
    let first = begin(&server, "stock", "content-length: 5", b"id").await;
    until_admitted(&server).await;
    let refused = server.upload("sales", "sender", FILE).send().await.unwrap();
    assert_eq!(refused.headers()["retry-after"], "2");
    problem(refused, 503, "too_many_uploads").await;
    drop(first);
    server.until_metric("tidemill_uploads_total{outcome=\"refused\",pipeline=\"stock\"} 1").await;
    assert_eq!(server.upload("sales", "sender", FILE).send().await.unwrap().status(), 202);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_uploads_at_once_all_come_in() {
    let server = std::sync::Arc::new(Server::start().await);
    let mut uploads = tokio::task::JoinSet::new();
    for number in 0..1_000 {
        let server = std::sync::Arc::clone(&server);
        let line = format!("{number:0>99}\n");
        uploads.spawn(async move {
            let body = format!("id\n{}", line.repeat(1_000));
            let began = std::time::Instant::now();
            let answer = server.upload("stock", "admin", body).send().await.unwrap();
            (answer.status(), began.elapsed())
        });
    }
    let mut took = Vec::new();
    while let Some(upload) = uploads.join_next().await {
        let (status, after) = upload.unwrap();
        assert_eq!(status, 202);
        took.push(after);
    }
    took.sort();
    println!("1,000 uploads of 100 kB: p50 {:?}, p99 {:?}", took[500], took[990]);
    let all = tidemill_jobs::JobFilter { limit: 1_000, ..Default::default() };
    assert_eq!(server.jobs.list(&all).await.unwrap().jobs.len(), 1_000);
}

#[tokio::test]
async fn a_shutdown_lets_an_upload_end_and_takes_it() {
    let server = Server::start().await;
    let mut stream = begin(&server, "stock", "content-length: 5", b"id").await;
    until_admitted(&server).await;
    server.stop.cancel();
    stream.write_all(b"\n1\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    server.serving.await.unwrap().unwrap();
    assert!(TcpStream::connect(&server.address).await.is_err());
}

#[tokio::test]
async fn a_shutdown_past_its_grace_breaks_an_upload_off_and_leaves_nothing() {
    let mut server =
        Server::start_with(|parts| parts.settings.shutdown_grace = Duration::from_millis(100)).await;
    // Without a length, the end of a dropped connection looks like the end of the body.
    let _stream = begin(&server, "stock", "transfer-encoding: chunked", b"5\r\nid\n1\n\r\n").await;
    until_admitted(&server).await;
    server.stop.cancel();
    let ended = (&mut server.serving).await.unwrap();
    assert!(matches!(ended, Err(ServeError::BrokenOff { connections: 1, .. })), "{ended:?}");
    let jobs = server.jobs.list(&tidemill_jobs::JobFilter { limit: 10, ..Default::default() }).await.unwrap();
    assert_eq!((jobs.jobs.len(), server.objects().len()), (0, 0));
}

/// Waits until the upload has its place.
async fn until_admitted(server: &Server) {
    server.until_metric("tidemill_uploads_under_way 1").await;
}
