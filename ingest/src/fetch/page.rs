//! One page: asked for, tried again while that may help, looked at, and stored as an object.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use reqwest::Response;
use reqwest::header::{CONTENT_TYPE, LINK};
use sha2::{Digest, Sha256};
use tidemill_jobs::{FailedPage, LandedPage, Page};
use tidemill_pipelines::{Pages, Retry};
use url::Url;

use super::body::{Expected, Look, Wrong, html_found};
use super::client::failed;
use super::error::FetchError;
use super::links::place;
use super::records::Records;
use super::run::Run;
use crate::{Error, ObjectKey};

/// First pause before a page is asked for again; it doubles up to the second figure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// How often one page is put off because the API asks for a pause.
const PUT_OFFS_MAX: u32 = 100;

/// What is done with the body of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It goes to its object, nothing else.
    Store,
    /// It goes to its object, and is kept to find the next page in it.
    StoreAndRead,
    /// It is kept only.
    Read,
}

/// A page that was fetched.
pub struct Got {
    /// For the ledger.
    pub landed: LandedPage,
    /// Its bytes, when they were to be read.
    pub body: Bytes,
    /// Where it came from in the end, to which its links are relative.
    pub url: Url,
    /// Its headers `Link`.
    pub links: Vec<String>,
    /// The records of a numbered page.
    pub records: Option<Records>,
}

impl Run {
    /// Fetches a page; the ledger is told of a failure.
    pub(super) async fn page(self: Arc<Self>, page: Page, wanted: Use) -> Result<Got, FetchError> {
        let (mut tries, mut put_offs) = (0, 0);
        loop {
            tries += 1;
            let error = match self.attempt(&page, wanted, tries + put_offs).await {
                Ok(got) => return Ok(got),
                Err(error) => error,
            };
            let outcome = if error.retry() == Retry::Never { "refused" } else { "retried" };
            self.fetcher.metrics.page(self.name(), outcome);
            match &error {
                FetchError::Unavailable { retry_after: Some(pause), .. } if put_offs < PUT_OFFS_MAX => {
                    (tries, put_offs) = (tries - 1, put_offs + 1);
                    // The whole host pauses as long as it asked for. One that asks for nothing would be asked at once.
                    if *pause < PAUSES.0 {
                        tokio::time::sleep(back_off(put_offs, page.number)).await;
                    }
                }
                _ if error.retry() != Retry::Never && tries < self.source.limits.attempts => {
                    tracing::debug!(page = page.number, %error, tries, "a page is tried again");
                    tokio::time::sleep(back_off(tries, page.number)).await;
                }
                _ => return Err(self.gave_up(&page, tries + put_offs, error).await),
            }
        }
    }

    async fn gave_up(&self, page: &Page, attempts: u32, error: FetchError) -> FetchError {
        let status = error.status();
        let failed =
            FailedPage { number: page.number, http_status: status, attempts, error: error.to_string() };
        match self.fetcher.jobs.page_failed(&self.claim, &failed).await {
            Err(unsaid) => unsaid.into(),
            Ok(_) => error,
        }
    }

    async fn attempt(&self, page: &Page, wanted: Use, attempts: u32) -> Result<Got, FetchError> {
        let url =
            Url::parse(&page.url).map_err(|error| FetchError::Request { message: error.to_string() })?;
        let (hosts, limits) = (&self.fetcher.hosts, &self.source.limits);
        let host = hosts.of(&url, limits);
        let _place = host.enter().await;
        let asked = self.fetcher.client.get(&url, &self.credentials, limits, hosts).await;
        let (answer, url) = match asked {
            Ok(answered) => answered,
            Err(FetchError::Refused { status: status @ (404 | 410), .. }) if self.may_end(page) => {
                return Ok(Got::end(page, url, status, attempts));
            }
            Err(error) => return Err(error),
        };
        self.take(page, wanted, answer, url, attempts).await
    }

    /// Behind the first of numbered pages the end may be told by "not found".
    fn may_end(&self, page: &Page) -> bool {
        matches!(self.source.pages, Pages::Number { .. }) && page.number > 0
    }

    async fn take(
        &self,
        page: &Page,
        wanted: Use,
        answer: Response,
        url: Url,
        attempts: u32,
    ) -> Result<Got, FetchError> {
        let expected = if wanted == Use::Read { Expected::Json } else { self.expected };
        let limit_bytes = self.source.limits.page_bytes_max;
        let status = answer.status().as_u16();
        let html = |value: &str| value.starts_with("text/html") || value.starts_with("application/xhtml");
        let is_html = header(&answer, CONTENT_TYPE).iter().any(|value| html(value));
        if is_html && expected != Expected::File {
            return Err(wrong(&url, html_found(expected)));
        }
        if answer.content_length().is_some_and(|length| length > limit_bytes) {
            return Err(FetchError::TooLarge { place: place(&url), limit_bytes });
        }
        let links = header(&answer, LINK);
        let mut got = Got { links, records: None, ..Got::end(page, url, status, attempts) };
        let (pipeline, claim) = (&self.pipeline.name, &self.claim);
        let key = ObjectKey::page(pipeline, claim.run_id, claim.attempt, page.number, self.ending);
        if wanted == Use::Store {
            let stored = self.stream(&key, answer, &got.url, limit_bytes).await?;
            (got.landed.content_sha256, got.landed.size_bytes) = (stored.sha256, stored.size_bytes);
            got.landed.object = Some(key.to_string());
            return Ok(got);
        }
        got.body = collect(answer, &got.url, limit_bytes).await?;
        let mut look = Look::new(expected);
        look.see(&got.body);
        look.judge().map_err(|found| wrong(&got.url, found))?;
        got.landed.size_bytes = got.body.len() as u64;
        got.landed.content_sha256 = hex::encode(Sha256::digest(&got.body));
        if let Pages::Number { step, .. } = self.source.pages {
            let (path, body) = (self.records.clone(), got.body.clone());
            let found = blocking(move || Records::of(expected, path.as_ref(), step, &body)).await?;
            got.records = Some(found.map_err(|message| wrong(&got.url, (message, Retry::Later)))?);
        }
        let is_behind_all = got.records.as_ref().is_some_and(Records::is_empty) && page.number > 0;
        if wanted == Use::StoreAndRead && !is_behind_all {
            let body = stream::iter([Ok::<_, String>(got.body.clone())]);
            self.fetcher.landing.store(&key, limit_bytes, body).await?;
            got.landed.object = Some(key.to_string());
        }
        Ok(got)
    }

    /// Straight to the object; a page that turns out wrong at its end leaves none.
    async fn stream(
        &self,
        key: &ObjectKey,
        answer: Response,
        url: &Url,
        limit_bytes: u64,
    ) -> Result<crate::landing::Stored, FetchError> {
        let found = std::sync::Mutex::new(None);
        let keep = |error: FetchError| {
            let text = error.to_string();
            *found.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
            text
        };
        let body = looked_at(answer, Look::new(self.expected), url).map(|chunk| chunk.map_err(keep));
        let stored = self.fetcher.landing.store(key, limit_bytes, body).await;
        let found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        stored.map_err(|error| match (found, error) {
            (Some(found), _) => found,
            (None, Error::TooLarge { limit_bytes }) => {
                FetchError::TooLarge { place: place(url), limit_bytes }
            }
            (None, error) => error.into(),
        })
    }
}

impl Got {
    /// A page without records, behind all others.
    fn end(page: &Page, url: Url, http_status: u16, attempts: u32) -> Self {
        let landed = LandedPage {
            number: page.number,
            object: None,
            content_sha256: String::new(),
            size_bytes: 0,
            http_status,
            attempts,
        };
        Self { landed, body: Bytes::new(), url, links: Vec::new(), records: Some(Records::default()) }
    }
}

/// The chunks of an answer, and at their end the judgement on all of them.
fn looked_at(
    answer: Response,
    look: Look,
    url: &Url,
) -> impl Stream<Item = Result<Bytes, FetchError>> + Send {
    let url = url.clone();
    stream::try_unfold(Some((answer, look)), move |state| {
        let url = url.clone();
        async move {
            let Some((mut answer, mut look)) = state else { return Ok(None) };
            match answer.chunk().await.map_err(|error| failed(&url, &error))? {
                Some(chunk) => {
                    look.see(&chunk);
                    Ok(Some((chunk, Some((answer, look)))))
                }
                None => look.judge().map(|()| None).map_err(|found| wrong(&url, found)),
            }
        }
    })
}

async fn collect(mut answer: Response, url: &Url, limit_bytes: u64) -> Result<Bytes, FetchError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| failed(url, &error))? {
        if (body.len() + chunk.len()) as u64 > limit_bytes {
            return Err(FetchError::TooLarge { place: place(url), limit_bytes });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Work on a body of up to the limit of a page would hold up other tasks.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FetchError> {
    Ok(tokio::task::spawn_blocking(work).await?)
}

pub(super) fn wrong(url: &Url, (message, retry): Wrong) -> FetchError {
    FetchError::Body { place: place(url), message, retry }
}

fn header(answer: &Response, name: reqwest::header::HeaderName) -> Vec<String> {
    let texts = answer.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
    texts.map(str::to_owned).collect()
}

/// Doubles, and differs from page to page, so that pages that failed together do not come back together.
fn back_off(tries: u32, number: u64) -> Duration {
    let pause = PAUSES.0.saturating_mul(1 << (tries - 1).min(10)).min(PAUSES.1);
    pause.mul_f64(0.75 + (number.wrapping_mul(0x9E37_79B9) % 64) as f64 / 128.0)
}
