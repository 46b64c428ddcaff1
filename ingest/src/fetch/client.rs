//! One request: guarded, with the credentials of its source, redirects followed by hand.
//!
//! It promises: only http and https; only addresses that are public or allowed, checked on the address that is
//! connected to, at each redirect; credentials go to the origin of the pipeline's own URL and nowhere else.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Response, StatusCode, redirect};
use secrecy::{ExposeSecret, SecretString};
use tidemill_pipelines::{Auth, HttpLimits, HttpSource, Slot};
use tidemill_sinks::notice::{Allow, GuardedResolver, NotAllowed, retry_after};
use url::{Origin, Url};

use super::error::FetchError;
use super::hosts::Hosts;
use super::links::place;

/// Redirects that one request follows.
const REDIRECTS_MAX: usize = 5;
/// Bytes of an error's answer that are told.
const SAID_BYTES_MAX: usize = 300;

/// Makes requests.
pub struct Client {
    http: reqwest::Client,
    allow: Allow,
}

/// What is sent with the requests of a run.
pub struct Credentials {
    origin: Origin,
    open: HeaderMap,
    secret: HeaderMap,
    key: Option<(String, SecretString)>,
}

impl Client {
    /// A client that reaches public addresses and those allowed.
    pub fn new(allow: Allow) -> Result<Self, FetchError> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("tidemill/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .dns_resolver(Arc::new(GuardedResolver::new(allow.clone())))
            .pool_max_idle_per_host(256)
            .build()
            .map_err(|error| FetchError::Request { message: error.to_string() })?;
        Ok(Self { http, allow })
    }

    /// The good answer to a GET, its body not yet read, and the URL that gave it. The caller has waited for the turn
    /// of the first host; that of a redirect's target is waited for here.
    pub async fn get(
        &self,
        url: &Url,
        credentials: &Credentials,
        limits: &HttpLimits,
        hosts: &Hosts,
    ) -> Result<(Response, Url), FetchError> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.ask(&url, credentials, limits.timeout).await?;
            if !answer.status().is_redirection() {
                let judged = judge(&place(&url), answer).await;
                if let Err(FetchError::Unavailable { retry_after: Some(pause), .. }) = &judged {
                    hosts.of(&url, limits).pause(*pause);
                }
                return judged.map(|answer| (answer, url));
            }
            url = redirected(&url, &answer)?;
            self.check(&url)?;
            hosts.of(&url, limits).turn().await;
        }
        let message = format!("more than {REDIRECTS_MAX} times");
        Err(FetchError::Redirect { place: place(&url), message })
    }

    /// Refuses a URL with a literal address that may not be reached; names are looked at when they are resolved.
    pub fn check(&self, url: &Url) -> Result<(), FetchError> {
        let not_allowed = |source| FetchError::NotAllowed { place: place(url), source };
        self.allow.check_literal(url).map_err(not_allowed)
    }

    async fn ask(
        &self,
        url: &Url,
        credentials: &Credentials,
        timeout: Duration,
    ) -> Result<Response, FetchError> {
        self.check(url)?;
        let own = url.origin() == credentials.origin;
        let mut target = url.clone();
        if let Some((name, key)) = credentials.key.as_ref().filter(|_| own) {
            target.query_pairs_mut().append_pair(name, key.expose_secret());
        }
        let mut request = self.http.get(target).headers(credentials.open.clone()).timeout(timeout);
        if own {
            request = request.headers(credentials.secret.clone());
        }
        request.send().await.map_err(|error| failed(url, &error))
    }
}

impl Credentials {
    /// The headers and the key of a source; an error when a secret is missing.
    pub fn new(
        source: &HttpSource,
        origin: Origin,
        slot: &Slot,
        secrets: &BTreeMap<String, SecretString>,
    ) -> Result<Self, FetchError> {
        let secret =
            |name: &str| secrets.get(name).ok_or_else(|| FetchError::Secret { name: name.to_owned() });
        let mut made = Self { origin, open: HeaderMap::new(), secret: HeaderMap::new(), key: None };
        for (name, template) in &source.headers {
            let mut named = BTreeMap::new();
            for name in template.secrets() {
                named.insert(name.as_str(), secret(name)?.expose_secret());
            }
            let value = template.render(slot, &named).map_err(|message| FetchError::Request { message })?;
            let headers = if template.secrets().is_empty() { &mut made.open } else { &mut made.secret };
            add(headers, name, &value)?;
        }
        match &source.auth {
            Auth::None => {}
            Auth::Basic { user, secret: name } => {
                let pair = format!("{user}:{}", secret(name)?.expose_secret());
                add(&mut made.secret, AUTHORIZATION.as_str(), &format!("Basic {}", base64(&pair)))?;
            }
            Auth::Bearer { secret: name } => {
                let token = format!("Bearer {}", secret(name)?.expose_secret());
                add(&mut made.secret, AUTHORIZATION.as_str(), &token)?;
            }
            Auth::KeyHeader { name, secret: key } => {
                add(&mut made.secret, name, secret(key)?.expose_secret())?
            }
            Auth::KeyParameter { name, secret: key } => made.key = Some((name.clone(), secret(key)?.clone())),
        }
        Ok(made)
    }
}

fn base64(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// The value is never repeated: it may be a secret.
fn add(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), FetchError> {
    let wrong = || FetchError::Request {
        message: format!("the header `{name}` gets a value that no header may have"),
    };
    let header = HeaderName::try_from(name).map_err(|_| wrong())?;
    let mut value = HeaderValue::try_from(value).map_err(|_| wrong())?;
    value.set_sensitive(true);
    headers.insert(header, value);
    Ok(())
}

fn redirected(url: &Url, answer: &Response) -> Result<Url, FetchError> {
    let refused = |message: String| FetchError::Redirect { place: place(url), message };
    let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location =
        location.ok_or_else(|| refused(format!("with status {} to nowhere", answer.status().as_u16())))?;
    let next = url.join(location).map_err(|_| refused("to what is no URL".to_owned()))?;
    match (url.scheme(), next.scheme()) {
        (_, "https") | ("http", "http") => Ok(next),
        ("https", "http") => Err(refused("from https to http, which is not followed".to_owned())),
        (_, other) => Err(refused(format!("to `{other}:`, only http and https are followed"))),
    }
}

/// Why no answer came.
pub fn failed(url: &Url, error: &reqwest::Error) -> FetchError {
    let place = place(url);
    let mut source = error.source();
    let mut deepest = None;
    while let Some(cause) = source {
        if let Some(refused) = cause.downcast_ref::<NotAllowed>() {
            return FetchError::NotAllowed { place, source: refused.clone() };
        }
        deepest = Some(cause.to_string());
        source = cause.source();
    }
    let message = match error.is_timeout() {
        true => "no whole answer in time".to_owned(),
        false => deepest.unwrap_or_else(|| "the connection failed".to_owned()),
    };
    FetchError::Unavailable { place, message, status: None, retry_after: None }
}

/// What the status of an answer means.
async fn judge(place: &str, answer: Response) -> Result<Response, FetchError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let retry_after = retry_after(answer.headers(), Utc::now());
    let busy = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    let (place, said) = (place.to_owned(), said(answer).await);
    if status.is_server_error() || busy.contains(&status) {
        let message = format!("status {}{said}", status.as_u16());
        return Err(FetchError::Unavailable { place, message, status: Some(status.as_u16()), retry_after });
    }
    Err(FetchError::Refused { place, status: status.as_u16(), said })
}

/// The begin of an answer's body, fit for one line.
async fn said(mut answer: Response) -> String {
    let mut bytes = Vec::new();
    while let (Ok(Some(chunk)), true) = (answer.chunk().await, bytes.len() < SAID_BYTES_MAX) {
        bytes.extend_from_slice(&chunk[..chunk.len().min(SAID_BYTES_MAX - bytes.len())]);
    }
    let text = String::from_utf8_lossy(&bytes);
    let line: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
    if line.is_empty() { String::new() } else { format!(": {}", line.join(" ")) }
}
