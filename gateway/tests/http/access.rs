//! Who gets in, as whom, and what they may do.

use reqwest::Method;
use serde_json::{Value, json};
use tidemill_gateway::{CACHE_AGE_MAX, Grant, Permission, Scope, Users, UsersError};

use crate::support::{PASSWORD, SECRET, Server, now, problem, signed};

#[tokio::test]
async fn a_login_gives_a_token_that_the_other_routes_take() {
    let server = Server::start().await;
    let login = server.bare(Method::POST, "/v1/login").basic_auth("sender", Some(PASSWORD));
    let login: Value = login.send().await.unwrap().json().await.unwrap();
    assert_eq!((&login["token_type"], &login["expires_in"]), (&json!("Bearer"), &json!(28800)));
    let me = server.bare(Method::GET, "/v1/me").bearer_auth(login["token"].as_str().unwrap());
    let me: Value = me.send().await.unwrap().json().await.unwrap();
    assert_eq!(me["user"], "sender");
    assert_eq!(me["admin"], false);
    assert_eq!(me["permissions"], json!([{"pipeline": "sales", "send": true, "read": false}]));
    assert!(me["expires_at"].as_str().unwrap().ends_with('Z'), "{me}");
}

#[tokio::test]
async fn wrong_credentials_are_refused_alike_for_known_and_unknown_users() {
    let server = Server::start().await;
    let mut details = Vec::new();
    for (user, password) in
        [("sender", "wrong password"), ("nobody", PASSWORD), ("Sender", PASSWORD), ("", "")]
    {
        let response =
            server.bare(Method::POST, "/v1/login").basic_auth(user, Some(password)).send().await.unwrap();
        assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic realm="));
        details.push(problem(response, 401, "bad_credentials").await["detail"].clone());
    }
    details.dedup();
    assert_eq!(details.len(), 1, "{details:?}");
}

#[tokio::test]
async fn a_login_without_readable_credentials_is_refused() {
    let server = Server::start().await;
    for header in [None, Some("Basic"), Some("Basic ???"), Some("Basic bm9jb2xvbg=="), Some("Bearer abc")] {
        let mut request = server.bare(Method::POST, "/v1/login");
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        problem(request.send().await.unwrap(), 401, "bad_credentials").await;
    }
}

#[tokio::test]
async fn guessing_passwords_is_slowed_and_says_when_to_come_back() {
    let server = Server::start_with(|parts| parts.settings.logins_per_minute = 2.try_into().unwrap()).await;
    let guess =
        |user: &'static str| server.bare(Method::POST, "/v1/login").basic_auth(user, Some("wrong")).send();
    for _ in 0..2 {
        problem(guess("sender").await.unwrap(), 401, "bad_credentials").await;
    }
    let response = guess("sender").await.unwrap();
    let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    problem(response, 429, "too_many_logins").await;
    problem(guess("reader").await.unwrap(), 401, "bad_credentials").await;
}

#[tokio::test]
async fn a_token_is_refused_that_is_missing_forged_expired_early_or_for_another_place() {
    let server = Server::start().await;
    let with = |key: &str, value: Value| {
        let mut claims = server.claims("sender");
        claims[key] = value;
        signed(&claims, SECRET)
    };
    let without = |key: &str| {
        let mut claims = server.claims("sender");
        claims.as_object_mut().unwrap().remove(key);
        signed(&claims, SECRET)
    };
    let bad = [
        signed(&server.claims("sender"), "another secret of more than 32 bytes"),
        with("exp", json!(now() - 60)),
        with("nbf", json!(now() + 60)),
        with("aud", json!("elsewhere")),
        with("iss", json!("elsewhere")),
        with("sub", json!("nobody")),
        without("exp"),
        without("nbf"),
        without("aud"),
        without("iss"),
        "abc".to_owned(),
    ];
    for token in bad {
        let response = server.bare(Method::GET, "/v1/me").bearer_auth(&token).send().await.unwrap();
        assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer realm="));
        problem(response, 401, "unauthorized").await;
    }
    for path in
        ["/v1/me", "/v1/pipelines", "/v1/pipelines/sales", "/v1/jobs", "/v1/jobs/x", "/v1/jobs/x/rejects"]
    {
        let response = server.bare(Method::GET, path).send().await.unwrap();
        problem(response, 401, "unauthorized").await;
    }
    let expired = with("exp", json!(now() - 60));
    let response = server.bare(Method::GET, "/v1/me").bearer_auth(expired).send().await.unwrap();
    let detail = problem(response, 401, "unauthorized").await["detail"].to_string();
    assert!(detail.contains("expired"), "{detail}");
}

#[tokio::test]
async fn the_admin_claim_of_a_token_is_not_believed() {
    let server = Server::start().await;
    let mut claims = server.claims("stranger");
    claims["admin"] = json!(true);
    let me = server.bare(Method::GET, "/v1/me").bearer_auth(signed(&claims, SECRET)).send().await.unwrap();
    let me: Value = me.json().await.unwrap();
    assert_eq!((&me["admin"], &me["permissions"]), (&json!(false), &json!([])));
}

#[tokio::test]
async fn a_new_password_ends_the_tokens_made_before_it() {
    let server = Server::start().await;
    let me = |token: &str| server.bare(Method::GET, "/v1/me").bearer_auth(token).send();
    let old = server.token("sender");
    assert_eq!(me(&old).await.unwrap().status(), 200);
    // By another process, as `tidemill user passwd` is one; the gateway still remembers the user as it was.
    let elsewhere = Users::new(&server.jobs);
    elsewhere.set_password("sender", "another password".to_owned().into()).await.unwrap();
    let login = server.bare(Method::POST, "/v1/login").basic_auth("sender", Some("another password"));
    let login: Value = login.send().await.unwrap().json().await.unwrap();
    assert_eq!(me(login["token"].as_str().unwrap()).await.unwrap().status(), 200);
    let told = problem(me(&old).await.unwrap(), 401, "unauthorized").await;
    assert!(told["detail"].as_str().unwrap().contains("another password"), "{told}");
    // One who was removed and added again is another user, though the password is the same.
    elsewhere.remove("sender").await.unwrap();
    elsewhere.add("sender", "another password".to_owned().into(), false).await.unwrap();
    tokio::time::sleep(CACHE_AGE_MAX).await;
    problem(me(login["token"].as_str().unwrap()).await.unwrap(), 401, "unauthorized").await;
}

#[tokio::test]
async fn a_removed_user_loses_access_though_the_token_is_good() {
    let server = Server::start().await;
    assert_eq!(server.get("/v1/me", "sender").await.status(), 200);
    server.users.remove("sender").await.unwrap();
    problem(server.get("/v1/me", "sender").await, 401, "unauthorized").await;
    assert!(matches!(server.users.remove("sender").await, Err(UsersError::Unknown(_))));
}

#[tokio::test]
async fn pipelines_are_shown_to_those_who_have_a_grant() {
    let server = Server::start().await;
    for (user, names) in [
        ("admin", vec!["days", "sales", "stock", "weather"]),
        ("sender", vec!["sales"]),
        ("reader", vec!["sales"]),
        ("stranger", vec![]),
    ] {
        let list: Value = server.get("/v1/pipelines", user).await.json().await.unwrap();
        let found: Vec<_> =
            list["pipelines"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
        assert_eq!(found, names, "{user}");
    }
    let sales: Value = server.get("/v1/pipelines/sales", "sender").await.json().await.unwrap();
    assert_eq!(sales["max_size_bytes"], 64 * 1024);
    assert_eq!(sales["duplicates"], "first");
    assert_eq!(sales["source"], "upload");
    let weather: Value = server.get("/v1/pipelines/weather", "admin").await.json().await.unwrap();
    assert_eq!((&weather["source"], &weather["max_size_bytes"]), (&json!("http"), &Value::Null));
    assert_eq!(sales["tables"], json!(["sales"]));
    assert_eq!(sales["format"]["csv"]["delimiter"], ",");
    assert_eq!(sales["format"]["csv"]["header"], true);
    assert_eq!(
        sales["columns"],
        json!([
            {"name": "id", "type": "int64", "required": true},
            {"name": "item", "type": "text", "required": false, "max_length": 20},
        ])
    );
    problem(server.get("/v1/pipelines/sales", "stranger").await, 403, "forbidden").await;
    problem(server.get("/v1/pipelines/nothing", "sender").await, 404, "unknown_pipeline").await;
    problem(server.get("/v1/pipelines/No-Name", "sender").await, 404, "unknown_pipeline").await;
}

#[tokio::test]
async fn a_grant_that_is_taken_away_is_gone_at_the_next_request() {
    let server = Server::start().await;
    assert_eq!(server.upload("sales", "sender", "id\n1\n").send().await.unwrap().status(), 202);
    let grant = Grant { scope: Scope::parse("sales").unwrap(), permission: Permission::Send };
    assert!(server.users.revoke("sender", &grant).await.unwrap());
    problem(server.upload("sales", "sender", "id\n2\n").send().await.unwrap(), 403, "forbidden").await;
}
