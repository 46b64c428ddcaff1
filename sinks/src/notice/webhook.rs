//! Webhooks: a POST of the finished event, signed.
//!
//! Taken means a status of 2xx. The address connected to must be public or allowed by the operator, a
//! redirect is never followed, no proxy of the environment is asked, and of an answer no more than a
//! kilobyte is read. Each try carries the same `Tidemill-Delivery`, so that a receiver can drop a doubled one.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, redirect};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use tidemill_pipelines::Blame;
use url::Url;

use super::error::said;
use super::outbox::misrouted;
use super::{Allow, GuardedResolver, Message, NotAllowed, NoticeError, Notifier, PostMessage};

/// Of an answer that is no 2xx, this much is read for the error.
const ANSWER_BYTES_MAX: usize = 1_024;
/// Longest pause that a receiver can ask for; the notifier's own limit of tries must still mean something.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);

/// How webhooks are sent.
#[derive(Debug, Clone)]
pub struct WebhookSettings {
    /// Networks that may be reached beside the public ones.
    pub allow: Allow,
    /// Secrets by the name that a pipeline file gives.
    pub secrets: HashMap<String, SecretString>,
    /// Time for one POST in all, from the look-up of the name to the answer.
    pub timeout: Duration,
    /// PEM file of certificates that are trusted beside the public ones.
    pub ca_file: Option<PathBuf>,
}

/// Posts events.
pub struct WebhookNotifier {
    client: Client,
    allow: Allow,
    secrets: HashMap<String, SecretString>,
}

impl WebhookNotifier {
    /// Checks the settings and reads the certificate file; connects to nothing.
    pub fn new(settings: WebhookSettings) -> Result<Self, NoticeError> {
        let mut builder = Client::builder()
            .user_agent(concat!("tidemill/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(GuardedResolver::new(settings.allow.clone())))
            .timeout(settings.timeout);
        if let Some(file) = &settings.ca_file {
            let wrong =
                |message: String| setting(format!("read the certificates of `{}`", file.display()), message);
            let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
            let certificates =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(error.to_string()))?;
            for certificate in certificates {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let client = builder
            .build()
            .map_err(|error| setting("prepare the client of webhooks".into(), error.to_string()))?;
        Ok(Self { client, allow: settings.allow, secrets: settings.secrets })
    }

    async fn post(&self, message: &PostMessage, url: Url) -> Result<(), NoticeError> {
        let host = place(&url);
        let mut request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/cloudevents+json; charset=utf-8")
            .header("Tidemill-Delivery", &message.id)
            .body(message.event.clone());
        if let Some(secret) = self.secret(message)? {
            request = request.header("Tidemill-Signature", signature(secret, Utc::now(), &message.event)?);
        }
        let answer = request.send().await.map_err(|error| failed(&host, &error))?;
        judge(&host, answer).await
    }

    fn secret(&self, message: &PostMessage) -> Result<Option<&SecretString>, NoticeError> {
        let Some(name) = &message.secret else {
            return Ok(None);
        };
        self.secrets.get(name).map(Some).ok_or_else(|| {
            setting(
                "sign a webhook".into(),
                format!("the settings have no secret `{}` for notices", said(name)),
            )
        })
    }
}

#[async_trait]
impl Notifier for WebhookNotifier {
    async fn send(&self, message: &Message) -> Result<(), NoticeError> {
        let Message::Post(message) = message else {
            return Err(misrouted(message, "webhooks"));
        };
        let url = parse(&message.url)?;
        self.allow.check_literal(&url).map_err(not_allowed)?;
        self.post(message, url).await
    }

    /// There is no one place that all webhooks go to: nothing is asked.
    async fn ping(&self) -> Result<(), NoticeError> {
        Ok(())
    }
}

/// The value of `Tidemill-Signature`: `t=<seconds>,v1=<hex>`, where hex is the HMAC-SHA-256 (RFC 2104) with
/// the secret of `<seconds>.<body>`. A receiver makes the same and refuses an old `t`.
pub fn signature(secret: &SecretString, at: DateTime<Utc>, body: &[u8]) -> Result<String, NoticeError> {
    let seconds = at.timestamp();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes())
        .map_err(|error| setting("sign a webhook".into(), error.to_string()))?;
    mac.update(format!("{seconds}.").as_bytes());
    mac.update(body);
    Ok(format!("t={seconds},v1={}", hex::encode(mac.finalize().into_bytes())))
}

fn parse(text: &str) -> Result<Url, NoticeError> {
    let wrong = |message: &str| NoticeError::Url { message: message.into() };
    let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        _ => Err(wrong("it has to begin with http:// or https://")),
    }
}

/// Who has to take a webhook, as [`place`] tells it.
pub(super) fn receiver(text: &str) -> String {
    Url::parse(text).map_or_else(|_| "unknown".to_owned(), |url| place(&url))
}

/// Scheme, host and port: the rest of a webhook's URL often is a secret.
fn place(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// Why no answer came.
fn failed(host: &str, error: &reqwest::Error) -> NoticeError {
    let mut source: Option<&(dyn StdError + 'static)> = error.source();
    let mut deepest = None;
    while let Some(cause) = source {
        if let Some(refused) = cause.downcast_ref::<NotAllowed>() {
            return not_allowed(refused.clone());
        }
        deepest = Some(cause.to_string());
        source = cause.source();
    }
    let message = match error.is_timeout() {
        true => "no answer in time".to_owned(),
        false => said(&deepest.unwrap_or_else(|| "the connection failed".into())),
    };
    unavailable(host, message, None)
}

/// What an answer means.
async fn judge(host: &str, answer: Response) -> Result<(), NoticeError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    // No pause at all is no answer to when: the sender's own pauses hold, which grow.
    let pause = retry_after(answer.headers(), Utc::now()).filter(|pause| !pause.is_zero());
    let message = format!("status {}{}", status.as_u16(), excerpt(answer).await);
    if status.is_redirection() {
        let message = format!("{message}; redirects are not followed, write the final url");
        return Err(refused(host, message));
    }
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Err(unavailable(host, message, pause))
        }
        _ if status.is_client_error() => Err(refused(host, message)),
        _ => Err(unavailable(host, message, pause)),
    }
}

/// The begin of an answer's body, for people.
async fn excerpt(mut answer: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_BYTES_MAX {
        match answer.chunk().await {
            Ok(Some(chunk)) => {
                bytes.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES_MAX - bytes.len())])
            }
            Ok(None) | Err(_) => break,
        }
    }
    match said(&String::from_utf8_lossy(&bytes)) {
        text if text.is_empty() => text,
        text => format!(": {text}"),
    }
}

/// `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3), within [`RETRY_AFTER_MAX`].
pub fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = DateTime::parse_from_rfc2822(text).ok()?;
            (until.with_timezone(&Utc) - now).to_std().unwrap_or_default()
        }
    };
    Some(pause.min(RETRY_AFTER_MAX))
}

fn refused(host: &str, message: String) -> NoticeError {
    NoticeError::Refused { by: host.to_owned(), what: "the webhook".into(), message, blame: Blame::Author }
}

fn unavailable(host: &str, message: String, retry_after: Option<Duration>) -> NoticeError {
    NoticeError::Unavailable { action: format!("post a webhook to {host}"), message, retry_after }
}

fn not_allowed(error: NotAllowed) -> NoticeError {
    NoticeError::Url { message: error.to_string() }
}

fn setting(action: String, message: String) -> NoticeError {
    NoticeError::Setting { action, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_hmac_of_time_and_body() {
        // From the command line: printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac s3cret
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let value = signature(&SecretString::from("s3cret"), at, br#"{"a":1}"#).unwrap();
        assert_eq!(value, "t=1700000000,v1=1698a50bc74d1ff1db85c4e0a5297c2ad9fdba245d5737cdb789e4cc6e098940");
    }

    #[test]
    fn a_pause_asked_for_is_read_and_bounded() {
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let cases = [
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("999999999999", Some(3_600)),
            ("Sat, 21 Nov 2026 10:00:30 GMT", Some(30)),
            ("Fri, 20 Nov 2026 10:00:30 GMT", Some(0)),
            ("soon", None),
            ("-5", None),
        ];
        for (text, expect) in cases {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), expect.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn only_http_urls_are_used_and_no_error_tells_their_path() {
        for text in ["ftp://example.org/x", "file:///etc/passwd", "example.org", "https://"] {
            assert!(matches!(parse(text), Err(NoticeError::Url { .. })), "{text}");
        }
        let url = parse("https://user:pw@hooks.example.org:8443/T000/s3cret?key=s3cret").unwrap();
        assert_eq!(place(&url), "https://hooks.example.org:8443");
        assert_eq!(receiver("https://user:pw@hooks.example.org/T000/s3cret"), "https://hooks.example.org");
    }
}
