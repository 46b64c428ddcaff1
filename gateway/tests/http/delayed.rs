//! Delayed jobs: places to push to, pushing through the gateway, and what a job over pushed objects is refused for.

use chrono::{TimeDelta, Utc};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tidemill_jobs::JobStatus;
use uuid::{NoContext, Timestamp, Uuid};

use crate::support::{Server, job_id, problem};

const FILE: &str = "id,item\n1,tea\n";

impl Server {
    async fn ask(&self, pipeline: &str, user: &str, body: Value) -> Response {
        let path = format!("/v1/pipelines/{pipeline}/objects");
        self.request(Method::POST, &path, user).json(&body).send().await.unwrap()
    }

    async fn places(&self, pipeline: &str, names: &[&str], user: &str) -> Vec<Value> {
        let answer = self.ask(pipeline, user, json!({ "names": names })).await;
        assert_eq!(answer.status(), 200);
        let answer: Value = answer.json().await.unwrap();
        answer["objects"].as_array().unwrap().clone()
    }

    async fn put(&self, url: &str, user: &str, body: impl Into<reqwest::Body>) -> Response {
        self.request(Method::PUT, url, user).body(body).send().await.unwrap()
    }

    /// Asks for a place and pushes to it; gives the key.
    async fn pushed(&self, pipeline: &str, user: &str, body: &'static str) -> String {
        let place = self.places(pipeline, &["may.csv"], user).await.remove(0);
        assert_eq!(self.put(place["url"].as_str().unwrap(), user, body).await.status(), 200);
        place["key"].as_str().unwrap().to_owned()
    }

    async fn submit(&self, user: &str, body: Value) -> Response {
        self.request(Method::POST, "/v1/jobs", user).json(&body).send().await.unwrap()
    }
}

#[tokio::test]
async fn objects_are_pushed_to_their_places_and_become_one_job() {
    let server = Server::start().await;
    let places = server.places("sales", &["a.csv", "../b c.csv"], "sender").await;
    let mut keys = Vec::new();
    for (place, name) in places.iter().zip(["a.csv", "b_c.csv"]) {
        let key = place["key"].as_str().unwrap();
        assert!(key.starts_with("pushed/sales/sender/") && key.ends_with(&format!("/{name}")), "{key}");
        assert_eq!((place["method"].as_str(), &place["headers"]), (Some("PUT"), &json!({})));
        let expires: chrono::DateTime<Utc> = place["expires_at"].as_str().unwrap().parse().unwrap();
        assert!(
            expires > Utc::now() + TimeDelta::minutes(14) && expires < Utc::now() + TimeDelta::minutes(16)
        );
        let stored = server.put(place["url"].as_str().unwrap(), "sender", FILE).await;
        assert_eq!(stored.status(), 200);
        let stored: Value = stored.json().await.unwrap();
        assert_eq!((stored["key"].as_str(), stored["size_bytes"].as_u64()), (Some(key), Some(14)));
        assert_eq!(stored["content_sha256"].as_str().unwrap().len(), 64);
        keys.push(key.to_owned());
    }
    let answer = server.submit("sender", json!({ "pipeline": "sales", "files_to_process": keys })).await;
    assert_eq!(answer.status(), 202);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let job: Value = answer.json().await.unwrap();
    assert_eq!(location, format!("/v1/jobs/{}", job_id(&job)));
    assert_eq!((job["status"].as_str(), job["size_bytes"].as_u64()), (Some("queued"), Some(28)));
    assert_eq!((&job["files_to_process"], &job["parameters"]), (&json!(keys), &json!({})));
    let shown: Value = server.get(&location, "sender").await.json().await.unwrap();
    assert_eq!(shown, job);
    let stored = server.jobs.get(job_id(&job).parse().unwrap()).await.unwrap().unwrap();
    assert!(stored.takes_turns && stored.status == JobStatus::Queued);
}

#[tokio::test]
async fn without_a_name_one_place_is_made() {
    let server = Server::start().await;
    let answer: Value = server.ask("stock", "admin", json!({})).await.json().await.unwrap();
    assert_eq!(answer["objects"].as_array().unwrap().len(), 1);
    assert!(answer["objects"][0]["key"].as_str().unwrap().ends_with("/upload"));
}

#[tokio::test]
async fn places_are_given_only_to_those_who_may_send_and_in_bounds() {
    let server = Server::start().await;
    problem(server.ask("sales", "reader", json!({})).await, 403, "forbidden").await;
    problem(server.ask("stock", "sender", json!({})).await, 403, "forbidden").await;
    problem(server.ask("nope", "sender", json!({})).await, 404, "unknown_pipeline").await;
    problem(server.ask("weather", "admin", json!({})).await, 409, "no_uploads").await;
    problem(server.ask("sales", "sender", json!({ "name": "a" })).await, 400, "bad_body").await;
    problem(server.ask("sales", "sender", json!([])).await, 400, "bad_body").await;
    let many = vec!["a.csv"; 1_001];
    problem(server.ask("sales", "sender", json!({ "names": many })).await, 400, "bad_body").await;
    let bare = server.bare(Method::POST, "/v1/pipelines/sales/objects").body("{}").send().await.unwrap();
    problem(bare, 401, "unauthorized").await;
}

#[tokio::test]
async fn only_its_own_place_may_be_pushed_to_and_only_in_time() {
    let server = Server::start().await;
    let place = server.places("sales", &["a.csv"], "sender").await.remove(0);
    let (url, key) = (place["url"].as_str().unwrap(), place["key"].as_str().unwrap());
    problem(server.put(url, "admin", FILE).await, 404, "unknown_object").await;
    let bare = server.bare(Method::PUT, url).body(FILE).send().await.unwrap();
    problem(bare, 401, "unauthorized").await;
    for strange in [
        "/v1/objects/landing/sales/x/a.csv".to_owned(),
        format!("/v1/objects/{}", key.replace("a.csv", "..%2Fa.csv")),
        format!("{url}/more"),
        "/v1/objects/pushed%2F..%2F..%2Fetc%2Fpasswd".to_owned(),
    ] {
        problem(server.put(&strange, "sender", FILE).await, 404, "unknown_object").await;
    }
    let ungranted = format!("/v1/objects/{}", key.replace("sales", "stock"));
    problem(server.put(&ungranted, "sender", FILE).await, 403, "forbidden").await;
    let hour_ago = (Utc::now() - TimeDelta::hours(1)).timestamp().unsigned_abs();
    let old = Uuid::new_v7(Timestamp::from_unix(NoContext, hour_ago, 0));
    let expired = format!("/v1/objects/pushed/sales/sender/{old}/a.csv");
    problem(server.put(&expired, "sender", FILE).await, 410, "expired").await;
    problem(server.put(url, "sender", vec![b'x'; 65 << 10]).await, 413, "too_large").await;
    let unknown_length = reqwest::Body::wrap_stream(futures::stream::iter(
        (0..70).map(|_| Ok::<_, std::io::Error>(vec![b'x'; 1 << 10])),
    ));
    problem(server.put(url, "sender", unknown_length).await, 413, "too_large").await;
    assert_eq!(server.objects().len(), 0);
}

#[tokio::test]
async fn a_job_is_refused_with_each_key_that_is_at_fault() {
    let server = Server::start().await;
    let own = server.pushed("sales", "sender", FILE).await;
    let of_admin = server.pushed("sales", "admin", FILE).await;
    let of_stock = server.pushed("stock", "admin", FILE).await;
    let missing = server.places("sales", &["b.csv"], "sender").await[0]["key"].as_str().unwrap().to_owned();
    let body = |keys: &[&str]| json!({ "pipeline": "sales", "files_to_process": keys });

    let refused =
        server.submit("sender", body(&[&own, &of_admin, &of_stock, "landing/x", "../../etc"])).await;
    let refused = problem(refused, 422, "foreign_keys").await;
    assert_eq!(refused["keys"], json!([of_admin, of_stock, "landing/x", "../../etc"]));
    let refused =
        problem(server.submit("sender", body(&[&own, &missing])).await, 422, "missing_objects").await;
    assert_eq!(refused["keys"], json!([missing]));
    let refused = problem(server.submit("sender", body(&[&own, &own])).await, 422, "doubled_keys").await;
    assert_eq!(refused["keys"], json!([own]));
    // A store that takes pushes by itself does not know the limit of the pipeline.
    server.write(&missing, &"x".repeat(65 << 10));
    let refused = problem(server.submit("sender", body(&[&own, &missing])).await, 413, "too_large").await;
    assert_eq!(refused["keys"], json!([missing]));

    problem(server.submit("sender", body(&[])).await, 400, "bad_body").await;
    problem(server.submit("sender", body(&vec![own.as_str(); 1_001])).await, 400, "bad_body").await;
    problem(server.submit("sender", json!({ "pipeline": "sales" })).await, 400, "bad_body").await;
    let unknown = json!({ "pipeline": "sales", "files_to_process": [own], "priority": 1 });
    problem(server.submit("sender", unknown).await, 400, "bad_body").await;
    problem(server.submit("reader", body(&[&own])).await, 403, "forbidden").await;
    let elsewhere = json!({ "pipeline": "nope", "files_to_process": [own] });
    problem(server.submit("sender", elsewhere).await, 404, "unknown_pipeline").await;
    let half =
        server.request(Method::POST, "/v1/jobs", "sender").body("{\"pipeline\":").send().await.unwrap();
    problem(half, 400, "bad_body").await;
    let large =
        server.request(Method::POST, "/v1/jobs", "sender").body(vec![b' '; 3 << 20]).send().await.unwrap();
    problem(large, 413, "too_large").await;
    assert_eq!(server.job_count().await, 0);
}

#[tokio::test]
async fn an_object_is_taken_by_one_job_and_a_repetition_finds_it() {
    let server = Server::start().await;
    let place = server.places("sales", &["a.csv"], "sender").await.remove(0);
    let (url, key) = (place["url"].as_str().unwrap(), place["key"].as_str().unwrap());
    assert_eq!(server.put(url, "sender", "id\n").await.status(), 200);
    assert_eq!(server.put(url, "sender", FILE).await.status(), 200, "as often as wanted before");
    let body = json!({ "pipeline": "sales", "files_to_process": [key] });
    let send = |idempotency_key: &'static str| {
        server
            .request(Method::POST, "/v1/jobs", "sender")
            .header("idempotency-key", idempotency_key)
            .json(&body)
    };
    let first = send("k1").send().await.unwrap();
    assert!(first.headers().get("tidemill-duplicate").is_none());
    let first = job_id(&first.json().await.unwrap());
    let again = send("k1").send().await.unwrap();
    assert_eq!(
        (again.status().as_u16(), &again.headers()["tidemill-duplicate"]),
        (202, &"true".parse().unwrap())
    );
    assert_eq!(job_id(&again.json().await.unwrap()), first);
    let taken = problem(send("k2").send().await.unwrap(), 409, "object_taken").await;
    assert!(taken["detail"].as_str().unwrap().contains(&first), "{taken}");
    problem(server.put(url, "sender", "id\n2\n").await, 409, "object_taken").await;
    let other = server.pushed("sales", "sender", FILE).await;
    let other = server
        .request(Method::POST, "/v1/jobs", "sender")
        .header("idempotency-key", "k1")
        .json(&json!({ "pipeline": "sales", "files_to_process": [other] }));
    problem(other.send().await.unwrap(), 422, "idempotency_conflict").await;
    problem(send("").send().await.unwrap(), 400, "bad_idempotency_key").await;
    assert_eq!(server.job_count().await, 1);
}

#[tokio::test]
async fn parameters_are_checked_filled_and_shown() {
    let server = Server::start().await;
    let key = server.pushed("days", "admin", "id\n1\n").await;
    let submit = |parameters: Value| {
        server.submit(
            "admin",
            json!({ "pipeline": "days", "files_to_process": [key], "parameters": parameters }),
        )
    };
    for (parameters, word) in [
        (json!({}), "`day` is missing"),
        (json!({ "day": "yesterday" }), "a date such as"),
        (json!({ "day": "2024-05-01", "factor": "2" }), "a whole number"),
        (json!({ "day": "2024-05-01", "shop": 7 }), "no parameter"),
        (json!({ "day": { "nested": 1 } }), "a date such as"),
    ] {
        let refused = problem(submit(parameters).await, 422, "bad_parameters").await;
        assert!(refused["detail"].as_str().unwrap().contains(word), "{refused}");
    }
    let list = json!({ "pipeline": "days", "files_to_process": [key], "parameters": [1] });
    problem(server.submit("admin", list).await, 400, "bad_body").await;
    let job: Value = submit(json!({ "day": "2024-05-01" })).await.json().await.unwrap();
    assert_eq!(job["parameters"], json!({ "day": "2024-05-01", "factor": 2 }));
    let upload = server.upload("days", "admin", "id\n1\n").send().await.unwrap();
    problem(upload, 422, "bad_parameters").await;
    let shown: Value = server.get("/v1/pipelines/days", "admin").await.json().await.unwrap();
    let expected = json!([
        { "name": "day", "type": "date", "default": null },
        { "name": "factor", "type": "int64", "default": 2 },
    ]);
    assert_eq!(shown["parameters"], expected);
}
