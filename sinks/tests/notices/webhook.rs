//! Webhooks against a real HTTP server on this machine.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::DateTime;
use secrecy::SecretString;
use tidemill_pipelines::{Blame, NoticeTarget, Retry};
use tidemill_sinks::notice::{
    Allow, NoticeError, Notifiers, Progress, WebhookNotifier, WebhookSettings, deliver, signature,
};

use crate::receiver::Receiver;
use crate::{EVENT, both_ends, finished, nowhere};

fn settings(allow: &[&str]) -> WebhookSettings {
    WebhookSettings {
        allow: Allow { cidrs: allow.iter().map(|cidr| cidr.parse().unwrap()).collect() },
        secrets: HashMap::from([("hook".to_owned(), SecretString::from("s3cret"))]),
        timeout: Duration::from_secs(10),
        ca_file: None,
    }
}

async fn post(settings: WebhookSettings, url: &str, secret: Option<&str>) -> Result<(), NoticeError> {
    let webhook = std::sync::Arc::new(WebhookNotifier::new(settings).unwrap());
    let notifiers = Notifiers { webhook, ..nowhere() };
    let target = NoticeTarget::Webhook { url: url.to_owned(), secret: secret.map(str::to_owned) };
    let (notice, event) = (both_ends(target), Bytes::from_static(EVENT));
    deliver(&notifiers, &notice, 2, &finished("job-7"), &event, &mut Progress::default()).await
}

/// Posts to a server that is allowed and answers so.
async fn answered(status: &str, headers: &str) -> Result<(), NoticeError> {
    let receiver = Receiver::with_status(status, headers).await;
    post(settings(&["127.0.0.0/8"]), &receiver.url("/secret-path"), None).await
}

#[tokio::test]
async fn a_webhook_carries_the_event_and_a_signature_that_its_receiver_can_make() {
    let mut receiver = Receiver::with_status("202 Accepted", "").await;
    post(settings(&["127.0.0.0/8"]), &receiver.url("/in?x=1"), Some("hook")).await.unwrap();
    let request = receiver.request().unwrap();
    assert!(request.head.starts_with("POST /in?x=1 HTTP/1.1"), "{}", request.head);
    assert_eq!(request.body, EVENT);
    assert_eq!(request.header("content-type"), Some("application/cloudevents+json; charset=utf-8"));
    assert_eq!(request.header("tidemill-delivery"), Some("job-7.1795255201000.2.0"));
    let given = request.header("tidemill-signature").unwrap();
    let seconds = given.strip_prefix("t=").and_then(|rest| rest.split(',').next()).unwrap();
    let at = DateTime::from_timestamp(seconds.parse().unwrap(), 0).unwrap();
    assert_eq!(given, signature(&SecretString::from("s3cret"), at, EVENT).unwrap());
    assert_ne!(given, signature(&SecretString::from("other"), at, EVENT).unwrap());
}

#[tokio::test]
async fn a_webhook_without_a_secret_is_not_signed() {
    let mut receiver = Receiver::with_status("200 OK", "").await;
    post(settings(&["127.0.0.0/8"]), &receiver.url("/"), None).await.unwrap();
    assert_eq!(receiver.request().unwrap().header("tidemill-signature"), None);
}

#[tokio::test]
async fn the_status_decides_whether_and_when_to_try_again() {
    let seconds = |number| Some(Duration::from_secs(number));
    let cases = [
        ("500 Internal Server Error", "", Retry::Later, None),
        ("503 Service Unavailable", "retry-after: 7\r\n", Retry::Later, seconds(7)),
        ("429 Too Many Requests", "retry-after: 3\r\n", Retry::Later, seconds(3)),
        ("429 Too Many Requests", "retry-after: 9999999\r\n", Retry::Later, seconds(3_600)),
        ("429 Too Many Requests", "retry-after: 0\r\n", Retry::Later, None),
        ("503 Service Unavailable", "retry-after: Sat, 21 Nov 2020 10:00:30 GMT\r\n", Retry::Later, None),
        ("408 Request Timeout", "", Retry::Later, None),
        ("400 Bad Request", "", Retry::Never, None),
        ("404 Not Found", "retry-after: 3\r\n", Retry::Never, None),
        ("410 Gone", "", Retry::Never, None),
    ];
    for (status, headers, retry, pause) in cases {
        let error = answered(status, headers).await.unwrap_err();
        assert_eq!((error.retry(), error.retry_after()), (retry, pause), "{status}: {error}");
        assert!(error.to_string().contains(&status[..3]), "{error}");
        assert!(!error.to_string().contains("secret-path"), "the path may be a secret: {error}");
    }
    for status in ["200 OK", "201 Created", "204 No Content"] {
        answered(status, "").await.unwrap();
    }
}

#[tokio::test]
async fn a_redirect_is_refused_and_not_followed() {
    let mut target = Receiver::with_status("200 OK", "").await;
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let error = answered(status, &format!("location: {}\r\n", target.url("/"))).await.unwrap_err();
        assert_eq!((error.retry(), error.blame()), (Retry::Never, Blame::Author), "{error}");
        assert!(error.to_string().contains("redirects are not followed"), "{error}");
    }
    assert!(target.request().is_none());
}

#[tokio::test]
async fn an_address_of_this_machine_is_refused_unless_the_operator_allows_it() {
    let mut receiver = Receiver::with_status("200 OK", "").await;
    let port = receiver.address.port();
    for host in ["127.0.0.1", "localhost", "0x7f.1", "[::ffff:127.0.0.1]"] {
        let url = format!("http://{host}:{port}/");
        for allow in [&[][..], &["10.0.0.0/8"][..]] {
            let error = post(settings(allow), &url, None).await.unwrap_err();
            assert!(error.to_string().contains("not public"), "{host}: {error}");
            assert_eq!((error.retry(), error.blame()), (Retry::Never, Blame::Author), "{host}");
        }
    }
    assert!(receiver.request().is_none());
    post(settings(&["127.0.0.1/32"]), &format!("http://localhost:{port}/"), None).await.unwrap();
    assert!(receiver.request().is_some());
}

#[tokio::test]
async fn a_receiver_that_is_away_or_silent_is_tried_later() {
    let silent = Receiver::answering(None).await;
    let short = WebhookSettings { timeout: Duration::from_millis(300), ..settings(&["127.0.0.0/8"]) };
    let error = post(short, &silent.url("/"), None).await.unwrap_err();
    assert!(error.to_string().contains("no answer in time"), "{error}");
    assert_eq!((error.retry(), error.blame()), (Retry::Later, Blame::World));

    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = post(settings(&["127.0.0.0/8"]), &format!("http://{closed}/"), None).await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!((error.retry(), error.blame()), (Retry::Later, Blame::World));
}

#[tokio::test]
async fn of_a_long_answer_only_the_begin_is_read() {
    let mut answer = b"HTTP/1.1 500 Oops\r\n\r\nwe are \r\nsorry ".to_vec();
    answer.resize(64 * 1024 * 1024, b'x');
    let receiver = Receiver::answering(Some(answer)).await;
    let begun = Instant::now();
    let error = post(settings(&["127.0.0.0/8"]), &receiver.url("/"), None).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(10));
    let text = error.to_string();
    assert!(text.contains("status 500: we are") && !text.contains('\r') && text.len() < 500, "{text}");
}

#[tokio::test]
async fn a_secret_that_the_settings_lack_holds_the_webhook_back() {
    let mut receiver = Receiver::with_status("200 OK", "").await;
    let sent = post(settings(&["127.0.0.0/8"]), &receiver.url("/"), Some("other")).await;
    let error = sent.unwrap_err();
    assert!(error.to_string().contains("no secret `other`"), "{error}");
    assert_eq!((error.retry(), error.blame()), (Retry::Later, Blame::Operator));
    assert!(receiver.request().is_none(), "nothing is sent unsigned");
}
