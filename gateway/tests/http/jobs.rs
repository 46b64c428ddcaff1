//! Jobs: who sees which, how they are waited for and changed, and what can be fetched of them.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tidemill_gateway::{Grant, Permission, Scope};

use crate::support::{Server, job_id, problem};

const REJECTS: &str =
    "line,byte_start,byte_end,column,stage,code,message,problems,raw\n2,8,14,id,decode,type,x,[],x\n";

async fn list(server: &Server, query: &str, user: &str) -> (Vec<String>, Value) {
    let list: Value = server.get(&format!("/v1/jobs{query}"), user).await.json().await.unwrap();
    let ids = list["jobs"].as_array().unwrap().iter().map(job_id).collect();
    (ids, list["next_cursor"].clone())
}

#[tokio::test]
async fn each_user_sees_the_jobs_of_their_grants() {
    let server = Server::start().await;
    let own = server.uploaded("sender", "id\n1\n").await;
    let other = server.uploaded("admin", "id\n2\n").await;
    let stock = server.upload("stock", "admin", "id\n3\n").send().await.unwrap().json().await.unwrap();
    let stock = job_id(&stock);
    for (user, seen) in [
        ("admin", vec![&stock, &other, &own]),
        ("reader", vec![&other, &own]),
        ("sender", vec![&own]),
        ("stranger", vec![]),
    ] {
        assert_eq!(list(&server, "", user).await.0.iter().collect::<Vec<_>>(), seen, "{user}");
        for id in [&own, &other, &stock] {
            let response = server.get(&format!("/v1/jobs/{id}"), user).await;
            if seen.contains(&id) {
                assert_eq!(response.status(), 200, "{user} {id}");
            } else {
                problem(response, 404, "unknown_job").await;
            }
        }
    }
    // Who may read one pipeline and send to another sees all of the one and their own of the other.
    let grant = |scope: &str, permission| Grant { scope: Scope::parse(scope).unwrap(), permission };
    server.users.grant("sender", &grant("stock", Permission::Read)).await.unwrap();
    assert_eq!(list(&server, "", "sender").await.0, [stock.clone(), own.clone()]);
    assert_eq!(list(&server, "?pipeline=sales", "sender").await.0, std::slice::from_ref(&own));
    server.users.grant("stranger", &grant("*", Permission::Send)).await.unwrap();
    assert!(list(&server, "", "stranger").await.0.is_empty());
    server.users.grant("stranger", &grant("*", Permission::Read)).await.unwrap();
    assert_eq!(list(&server, "", "stranger").await.0.len(), 3);
}

#[tokio::test]
async fn pages_of_jobs_follow_each_other_and_hold_each_job_once() {
    let server = Server::start().await;
    let mut sent = Vec::new();
    for body in ["id\n1\n", "id\n2\n", "id\n3\n"] {
        sent.insert(0, server.uploaded("sender", body).await);
    }
    let (first, cursor) = list(&server, "?limit=2", "sender").await;
    let (second, end) =
        list(&server, &format!("?limit=2&cursor={}", cursor.as_str().unwrap()), "sender").await;
    assert_eq!([first, second].concat(), sent);
    assert_eq!(end, Value::Null);
    server.finish(&sent[2], None).await;
    assert_eq!(list(&server, "?status=success&pipeline=sales", "sender").await.0, [sent[2].clone()]);
    assert_eq!(list(&server, "?status=queued", "sender").await.0, sent[..2]);
}

#[tokio::test]
async fn a_list_that_cannot_be_made_is_refused() {
    let server = Server::start().await;
    for query in ["limit=0", "limit=1001", "limit=x", "status=done", "cursor=abc", "nothing=1"] {
        problem(server.get(&format!("/v1/jobs?{query}"), "sender").await, 400, "bad_query").await;
    }
    problem(server.get("/v1/jobs?pipeline=stock", "sender").await, 403, "forbidden").await;
    problem(server.get("/v1/jobs?pipeline=nothing", "sender").await, 404, "unknown_pipeline").await;
    for id in ["x", "019a8f6e-5c1d-7a30-9d55-2f0c5a1b7e11"] {
        problem(server.get(&format!("/v1/jobs/{id}"), "admin").await, 404, "unknown_job").await;
    }
}

#[tokio::test]
async fn a_job_shows_what_became_of_its_records() {
    let server = Server::start().await;
    let id = server.uploaded("sender", "id\n1\n").await;
    server.finish(&id, Some(REJECTS)).await;
    let job: Value = server.get(&format!("/v1/jobs/{id}"), "sender").await.json().await.unwrap();
    assert_eq!(job["status"], "success");
    assert_eq!(job["pipeline_version"], "v1");
    assert_eq!(job["report_file_path"], format!("jobs/{id}/report.json"));
    let counts = ["records_in", "records_written", "records_rejected", "records_filtered"]
        .map(|name| job[name].clone());
    assert_eq!(counts, [json!(3), json!(2), json!(1), json!(0)]);
    assert_eq!(job["error"], Value::Null);
    assert!(job.get("attempt").is_none());
}

#[tokio::test]
async fn waiting_for_a_job_ends_with_the_job() {
    let server = Server::start().await;
    let id = server.uploaded("sender", "id\n1\n").await;
    let path = format!("/v1/jobs/{id}?wait=20");
    let began = Instant::now();
    let (waited, ()) = tokio::join!(server.get(&path, "sender"), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.finish(&id, None).await;
    });
    assert!(began.elapsed() < Duration::from_secs(15));
    let job: Value = waited.json().await.unwrap();
    assert_eq!(job["status"], "success");
}

#[tokio::test]
async fn waiting_for_a_change_ends_with_the_change_or_says_that_there_was_none() {
    let server = Server::start().await;
    let id = server.uploaded("sender", "id\n1\n").await;
    let path = format!("/v1/jobs/{id}");
    let etag = server.get(&path, "sender").await.headers()["etag"].clone();
    let ask = |query: &str| {
        server
            .request(Method::GET, &format!("{path}{query}"), "sender")
            .header("if-none-match", etag.clone())
            .send()
    };
    for query in ["", "?wait=1"] {
        let unchanged = ask(query).await.unwrap();
        assert_eq!((unchanged.status().as_u16(), unchanged.headers()["etag"].clone()), (304, etag.clone()));
    }
    let claim = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        server.jobs.claim(id.parse().unwrap(), "v1", "test", chrono::Utc::now()).await.unwrap().unwrap();
    };
    let (changed, ()) = tokio::join!(ask("?wait=20"), claim);
    let changed = changed.unwrap();
    assert_ne!(changed.headers()["etag"], etag);
    assert_eq!(changed.json::<Value>().await.unwrap()["status"], "processing");
}

#[tokio::test]
async fn a_waiter_for_whom_there_is_no_place_is_answered_at_once() {
    let server = Server::start_with(|parts| parts.settings.waiters_max = 0).await;
    let id = server.uploaded("sender", "id\n1\n").await;
    let began = Instant::now();
    assert_eq!(server.get(&format!("/v1/jobs/{id}?wait=30"), "sender").await.status(), 200);
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[tokio::test]
async fn a_job_is_cancelled_and_retried_by_its_sender_or_an_admin_only() {
    let server = Server::start().await;
    let id = server.uploaded("sender", "id\n1\n").await;
    let path = |change: &str| format!("/v1/jobs/{id}/{change}");
    problem(server.post(&path("retry"), "sender").await, 409, "not_allowed").await;
    for change in ["retry", "cancel"] {
        problem(server.post(&path(change), "reader").await, 403, "forbidden").await;
        problem(server.post(&path(change), "stranger").await, 404, "unknown_job").await;
        let unknown = server.post(&format!("/v1/jobs/x/{change}"), "admin").await;
        problem(unknown, 404, "unknown_job").await;
    }
    let job: Value = server.post(&path("cancel"), "sender").await.json().await.unwrap();
    assert_eq!((&job["status"], &job["error"]["code"]), (&json!("failed"), &json!("cancelled")));
    problem(server.post(&path("cancel"), "sender").await, 409, "not_allowed").await;
    let job: Value = server.post(&path("retry"), "admin").await.json().await.unwrap();
    assert_eq!((&job["status"], &job["retries"]), (&json!("queued"), &json!(1)));
}

#[tokio::test]
async fn rejects_are_fetched_as_csv_once_the_job_has_ended() {
    let server = Server::start().await;
    let id = server.uploaded("sender", "id\n1\n").await;
    let path = format!("/v1/jobs/{id}/rejects");
    problem(server.get(&path, "sender").await, 409, "not_ended").await;
    server.finish(&id, Some(REJECTS)).await;
    let response = server.get(&path, "sender").await;
    assert_eq!(response.headers()["content-type"], "text/csv; charset=utf-8");
    assert_eq!(response.text().await.unwrap(), REJECTS);
    problem(server.get(&path, "stranger").await, 404, "unknown_job").await;

    let clean = server.uploaded("sender", "id\n2\n").await;
    server.finish(&clean, None).await;
    let response = server.get(&format!("/v1/jobs/{clean}/rejects"), "sender").await;
    assert_eq!(response.headers()["content-type"], "text/csv; charset=utf-8");
    assert_eq!(response.text().await.unwrap(), REJECTS.lines().next().unwrap().to_owned() + "\n");
}

#[tokio::test]
async fn an_artifact_is_fetched_whole_or_in_part() {
    let server = Server::start().await;
    let id = server.uploaded("sender", "id\n1\n").await;
    server.finish(&id, None).await;
    server.write(&format!("jobs/{id}/files/sound.mp3"), "0123456789");
    let path = format!("/v1/jobs/{id}/files/sound.mp3");
    let whole = server.get(&path, "sender").await;
    assert_eq!(whole.status(), 200);
    assert_eq!(whole.headers()["content-type"], "audio/mpeg");
    assert_eq!(whole.headers()["content-length"], "10");
    assert_eq!(whole.headers()["accept-ranges"], "bytes");
    assert_eq!(whole.headers()["x-content-type-options"], "nosniff");
    assert_eq!(whole.headers()["content-disposition"], "attachment; filename=\"sound.mp3\"");
    let etag = whole.headers()["etag"].clone();
    assert_eq!(whole.text().await.unwrap(), "0123456789");

    for (range, content_range, text) in [
        ("bytes=2-4", "bytes 2-4/10", "234"),
        ("bytes=7-", "bytes 7-9/10", "789"),
        ("bytes=-2", "bytes 8-9/10", "89"),
    ] {
        let part = server.request(Method::GET, &path, "sender").header("range", range).send().await.unwrap();
        assert_eq!(part.status(), 206);
        assert_eq!(part.headers()["content-range"], content_range);
        assert_eq!(part.text().await.unwrap(), text);
    }
    let outside =
        server.request(Method::GET, &path, "sender").header("range", "bytes=10-").send().await.unwrap();
    assert_eq!(outside.headers()["content-range"], "bytes */10");
    problem(outside, 416, "bad_range").await;
    let older =
        server.request(Method::GET, &path, "sender").header("range", "bytes=2-4").header("if-range", "\"x\"");
    assert_eq!(older.send().await.unwrap().status(), 200);
    let known =
        server.request(Method::GET, &path, "sender").header("if-none-match", etag).send().await.unwrap();
    assert_eq!(known.status(), 304);
    let head = server.request(Method::HEAD, &path, "sender").send().await.unwrap();
    assert_eq!((head.status().as_u16(), &head.headers()["content-length"]), (200, &"10".parse().unwrap()));
}

#[tokio::test]
async fn no_name_of_a_file_leads_out_of_the_job() {
    let server = Server::start().await;
    let id = server.uploaded("sender", "id\n1\n").await;
    server.finish(&id, None).await;
    server.write("jobs/secret.json", "secret");
    let report = server.get(&format!("/v1/jobs/{id}/files/report.json"), "sender").await;
    assert_eq!(report.headers()["content-type"], "application/json");
    for name in ["nothing.json", "..%2fsecret.json", "%2e%2e%2fsecret.json", "..%5csecret.json", ".", "a%00b"]
    {
        let url = format!("/v1/jobs/{id}/files/{name}");
        let response = server.get(&url, "sender").await;
        assert_eq!(response.status(), 404, "{name}");
        assert!(!response.text().await.unwrap().contains("secret\""), "{name}");
    }
    problem(server.get(&format!("/v1/jobs/{id}/files/report.json"), "stranger").await, 404, "unknown_job")
        .await;
}
