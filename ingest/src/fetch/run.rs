//! The story of a run: which pages there are, fetch those that have not landed, make one job of all.
//!
//! What is known of a run stands in the page ledger, so a run that was cut off anywhere is taken up by opening it
//! again: what landed is not fetched again.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::SecondsFormat;
use serde_json_path::JsonPath;
use sha2::{Digest, Sha256};
use tidemill_jobs::{JobStore, LandedPage, NewJob, Page, SlotClaim, failpoint};
use tidemill_pipelines::{Duplicates, Format, HttpSource, Pages, Pipeline, Retry, Slot};
use tokio::sync::watch;
use tokio::task::JoinSet;
use url::Url;

use super::body::Expected;
use super::client::Credentials;
use super::error::FetchError;
use super::links::{Reading, page, place};
use super::page::{Got, Use, blocking, wrong};
use super::records::Records;
use super::{Fetcher, Progress, RunEnd};

/// Pages that one transaction notes at most.
const NOTED_MAX: usize = 200;

/// A run and what its requests have in common.
pub(super) struct Run {
    pub(super) fetcher: Fetcher,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) source: HttpSource,
    pub(super) claim: SlotClaim,
    pub(super) credentials: Credentials,
    pub(super) expected: Expected,
    pub(super) ending: &'static str,
    /// Where records stand in a JSON page.
    pub(super) records: Option<JsonPath>,
    pub(super) first: Url,
    pub(super) reading: Reading,
    progress: watch::Sender<Progress>,
}

impl Run {
    pub(super) fn open(
        fetcher: Fetcher,
        pipeline: Arc<Pipeline>,
        source: HttpSource,
        claim: SlotClaim,
        progress: watch::Sender<Progress>,
    ) -> Result<Arc<Self>, FetchError> {
        let schedule = source.schedule.as_ref();
        let slot = Slot {
            time: claim.slot,
            previous: schedule.and_then(|schedule| schedule.last_before(claim.slot)).unwrap_or(claim.slot),
            zone: schedule.map_or(Slot::sample().zone, |schedule| schedule.zone()),
        };
        let first = first_url(&source, &slot)?;
        let credentials = Credentials::new(&source, first.origin(), &slot, &fetcher.secrets)?;
        let key_parameter = match &source.auth {
            tidemill_pipelines::Auth::KeyParameter { name, .. } => Some(name.clone()),
            _ => None,
        };
        Ok(Arc::new(Self {
            expected: match source.pages {
                // The next link is looked for in it.
                Pages::NextPath(_) => Expected::Json,
                _ => Expected::of(&pipeline),
            },
            ending: Expected::ending(&pipeline),
            records: records(&source, &pipeline),
            reading: Reading { key_parameter },
            fetcher,
            pipeline,
            source,
            claim,
            credentials,
            first,
            progress,
        }))
    }

    pub(super) fn name(&self) -> &str {
        self.pipeline.name.as_str()
    }

    /// Lands every page, then makes the job over them.
    pub(super) async fn work(self: Arc<Self>) -> Result<RunEnd, FetchError> {
        let known = self.jobs().pages(self.claim.run_id).await?;
        self.progress.send_modify(|progress| progress.begin(&known));
        match &self.source.pages {
            Pages::One => self.one(known).await?,
            Pages::Links { .. } => self.links(known).await?,
            Pages::NextPath(_) | Pages::NextLink(_) => self.chain(known).await?,
            Pages::Number { .. } => self.numbers(known).await?,
        }
        self.complete().await
    }

    async fn one(self: &Arc<Self>, mut known: Vec<Page>) -> Result<(), FetchError> {
        if known.is_empty() {
            known.push(page(0, &self.first));
            self.note(&[], &known).await?;
        }
        self.land(known, Use::Store).await.map(drop)
    }

    /// The first answer is read once: its links stand in the ledger from then on.
    async fn links(self: &Arc<Self>, mut known: Vec<Page>) -> Result<(), FetchError> {
        let Pages::Links { path, max, first_has_records } = &self.source.pages else { return Ok(()) };
        if known.is_empty() {
            let index = page(0, &self.first);
            let wanted = if *first_has_records { Use::StoreAndRead } else { Use::Read };
            let got = Arc::clone(self).page(index.clone(), wanted).await?;
            let (reading, path, max) = (self.reading.clone(), path.clone(), *max);
            let (body, url) = (got.body.clone(), got.url.clone());
            let links = blocking(move || reading.links(&path, &body, &url, max)).await?;
            let links = links.map_err(|message| wrong(&got.url, (message, Retry::Never)))?;
            let first = first_has_records.then_some(index);
            let landed = first_has_records.then_some(got.landed);
            known = once_each(first.into_iter().chain(links.iter().map(|url| page(0, url))));
            self.note(landed.as_slice(), &known).await?;
            if let (Some(first), landed @ Some(_)) = (known.first_mut(), landed) {
                first.landed = landed;
            }
        }
        self.land(known, Use::Store).await.map(drop)
    }

    /// One page after the other: each names the next.
    async fn chain(self: &Arc<Self>, mut known: Vec<Page>) -> Result<(), FetchError> {
        if known.is_empty() {
            known.push(page(0, &self.first));
            self.note(&[], &known).await?;
        }
        while let Some(at) = known.iter().position(|page| page.landed.is_none()) {
            let got = Arc::clone(self).page(known[at].clone(), Use::StoreAndRead).await?;
            let next = self.next_of(&got).await?;
            let found: Vec<Page> = next.iter().map(|url| page(known.len() as u64, url)).collect();
            if let Some(next) = found.first() {
                self.check_loop(&known, next, &got.url)?;
                self.check_count(known.len() + 1)?;
            }
            self.note(std::slice::from_ref(&got.landed), &found).await?;
            known[at].landed = Some(got.landed);
            known.extend(found);
        }
        Ok(())
    }

    async fn next_of(&self, got: &Got) -> Result<Option<Url>, FetchError> {
        let next = match &self.source.pages {
            Pages::NextPath(path) => {
                let (reading, path) = (self.reading.clone(), path.clone());
                let (body, url) = (got.body.clone(), got.url.clone());
                blocking(move || reading.next_at(&path, &body, &url)).await?
            }
            Pages::NextLink(relation) => {
                self.reading.next_in(got.links.iter().map(String::as_str), relation, &got.url)
            }
            _ => Ok(None),
        };
        next.map_err(|message| wrong(&got.url, (message, Retry::Never)))
    }

    fn check_loop(&self, known: &[Page], next: &Page, from: &Url) -> Result<(), FetchError> {
        match known.iter().find(|page| page.url_sha256 == next.url_sha256) {
            None => Ok(()),
            Some(earlier) => {
                let (page, earlier) = (known.len(), earlier.number + 1);
                let message = format!(
                    "page {page} ({}) names page {earlier} as its next: the links run in a circle",
                    place(from)
                );
                Err(FetchError::Pages(message))
            }
        }
    }

    pub(super) fn check_count(&self, pages: usize) -> Result<(), FetchError> {
        let max = self.source.limits.pages_max;
        if pages <= max {
            return Ok(());
        }
        Err(FetchError::Pages(format!("there are more than {max} pages; `limits.pages_max` allows more")))
    }

    /// Lands all that wait, as many at once as their hosts allow; the ledger is told in the order of arrival.
    pub(super) async fn land(
        self: &Arc<Self>,
        pages: Vec<Page>,
        wanted: Use,
    ) -> Result<Vec<(LandedPage, Option<Records>)>, FetchError> {
        let mut tasks = JoinSet::new();
        for page in pages.into_iter().filter(|page| page.landed.is_none()) {
            tasks.spawn(Arc::clone(self).page(page, wanted));
        }
        let mut all = Vec::new();
        while let Some(joined) = tasks.join_next().await {
            let (mut batch, mut failure) = (Vec::new(), None);
            let mut next = Some(joined);
            while let Some(joined) = next {
                match joined? {
                    Ok(got) => batch.push((got.landed, got.records)),
                    Err(error) => failure = failure.or(Some(error)),
                }
                next = if batch.len() < NOTED_MAX { tasks.try_join_next() } else { None };
            }
            let landed: Vec<LandedPage> = batch.iter().map(|(landed, _)| landed.clone()).collect();
            self.note(&landed, &[]).await?;
            if let Some(error) = failure {
                return Err(error);
            }
            all.extend(batch);
        }
        Ok(all)
    }

    pub(super) async fn note(&self, landed: &[LandedPage], found: &[Page]) -> Result<(), FetchError> {
        if landed.is_empty() && found.is_empty() {
            return Ok(());
        }
        failpoint!("page::object");
        if !self.jobs().note_pages(&self.claim, landed, found).await? {
            return Err(FetchError::Overtaken);
        }
        failpoint!("page::landed");
        landed.iter().for_each(|_| self.fetcher.metrics.page(self.name(), "landed"));
        self.progress.send_modify(|progress| progress.note(landed, found));
        Ok(())
    }

    /// One job over the objects of all pages, in their order.
    async fn complete(&self) -> Result<RunEnd, FetchError> {
        let pages = self.jobs().pages(self.claim.run_id).await?;
        let landed: Vec<LandedPage> = pages.into_iter().filter_map(|page| page.landed).collect();
        // Behind an empty page there are none.
        let end = landed.iter().filter(|page| page.object.is_none()).map(|page| page.number).min();
        let whole: Vec<_> = landed.iter().filter(|page| end.is_none_or(|end| page.number < end)).collect();
        if whole.is_empty() {
            if !self.source.allow_empty {
                return Err(FetchError::Pages(
                    "the API lists no pages, and `allow_empty` is false".to_owned(),
                ));
            }
            let held = self.jobs().end_slot(&self.claim).await?;
            return if held { Ok(RunEnd::Empty) } else { Err(FetchError::Overtaken) };
        }
        let job = self.jobs().complete_run(&self.claim, job_of(&self.pipeline, &self.claim, &whole)).await?;
        failpoint!("run::ended");
        job.map(|job| RunEnd::Job(Box::new(job))).ok_or(FetchError::Overtaken)
    }

    fn jobs(&self) -> &JobStore {
        &self.fetcher.jobs
    }
}

/// The job over these pages of a run, whose id it has.
pub(super) fn job_of(pipeline: &Pipeline, claim: &SlotClaim, pages: &[&LandedPage]) -> NewJob {
    let mut hash = Sha256::new();
    pages.iter().for_each(|page| hash.update(page.content_sha256.as_bytes()));
    NewJob {
        job_id: claim.run_id,
        pipeline: pipeline.name.clone(),
        files: pages.iter().filter_map(|page| page.object.clone()).collect(),
        file_name: Some(claim.slot.to_rfc3339_opts(SecondsFormat::Secs, true)),
        size_bytes: pages.iter().map(|page| page.size_bytes).sum(),
        content_sha256: hex::encode(hash.finalize()),
        parameters: Default::default(),
        pushed: Vec::new(),
        takes_turns: pipeline.takes_turns(false),
        last_wins: pipeline.last_wins(),
        sender: super::SENDER.to_owned(),
        idempotency_key: None,
        duplicates: Duplicates::Accept,
    }
}

/// What the numbered pages say of their records, or else the format.
fn records(source: &HttpSource, pipeline: &Pipeline) -> Option<JsonPath> {
    let format = match &pipeline.format {
        Format::Json(json) => json.records.as_ref().and_then(|path| JsonPath::parse(path.as_str()).ok()),
        _ => None,
    };
    match &source.pages {
        Pages::Number { records: Some(own), .. } => Some(own.clone()),
        _ => format,
    }
}

/// The first request of a source at a slot.
pub(super) fn first_url(source: &HttpSource, slot: &Slot) -> Result<Url, FetchError> {
    let none = Default::default();
    let wrong = |message: String| FetchError::Request { message };
    let text = source.url.render(slot, &none).map_err(wrong)?;
    let mut url = Url::parse(&text).map_err(|error| wrong(error.to_string()))?;
    url.set_fragment(None);
    for (name, value) in &source.parameters {
        url.query_pairs_mut().append_pair(name, &value.render(slot, &none).map_err(wrong)?);
    }
    Ok(url)
}

/// Pages without those whose URL came before, numbered.
fn once_each(found: impl Iterator<Item = Page>) -> Vec<Page> {
    let mut seen = HashSet::new();
    let fresh = found.filter(|page| seen.insert(page.url_sha256.clone()));
    (0..).zip(fresh).map(|(number, page)| Page { number, ..page }).collect()
}
