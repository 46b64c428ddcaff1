//! Numbered pages: asked for until one has no records or is not found, and looked at whether they fit behind each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::ObjectStoreExt;
use tidemill_jobs::{LandedPage, Page};
use tidemill_pipelines::{Pages, Retry};

use super::error::FetchError;
use super::links::page;
use super::page::{Use, blocking};
use super::records::Records;
use super::run::Run;

impl Run {
    /// Several at once, more with each turn, until one is empty. What lies behind the first empty one is left.
    pub(super) async fn numbers(self: &Arc<Self>, mut known: Vec<Page>) -> Result<(), FetchError> {
        let Pages::Number { parameter, first, step, .. } = &self.source.pages else { return Ok(()) };
        let mut records = self.landed_before(&known, *step).await?;
        let mut width = 1;
        loop {
            if known.iter().all(|page| page.landed.is_some()) {
                check_difference(&known, parameter)?;
                check_fit(&records, parameter, *step)?;
                if records.values().any(Records::is_empty) {
                    return Ok(());
                }
                // The last one is compared with the first of the next turn.
                let from = known.len() as u64;
                records = records.split_off(&from.saturating_sub(1));
                self.check_count(known.len() + 1)?;
                let room = self.source.limits.pages_max - known.len();
                let url = |number| self.reading.numbered(&self.first, parameter, first + number * step);
                let numbers = from..from + width.min(room) as u64;
                let found: Vec<Page> = numbers.map(|number| page(number, &url(number))).collect();
                self.note(&[], &found).await?;
                known.extend(found);
                width = (width * 2).min(self.source.limits.concurrency);
            }
            for (landed, found) in self.land(known.clone(), Use::StoreAndRead).await? {
                records.insert(landed.number, found.unwrap_or_default());
                let place = known.iter_mut().find(|known| known.number == landed.number);
                place.into_iter().for_each(|known| known.landed = Some(landed.clone()));
            }
        }
    }

    /// The records of the pages that an earlier attempt at the run landed, from their objects.
    async fn landed_before(&self, known: &[Page], step: u64) -> Result<BTreeMap<u64, Records>, FetchError> {
        let mut records = BTreeMap::new();
        for LandedPage { number, object, .. } in known.iter().filter_map(|page| page.landed.as_ref()) {
            let found = match object {
                Some(key) => self.records_of(key, step).await?,
                None => Records::default(),
            };
            records.insert(*number, found);
        }
        Ok(records)
    }

    async fn records_of(&self, key: &str, step: u64) -> Result<Records, FetchError> {
        let failed = |source| crate::Error::Objects { action: "read", key: key.to_owned(), source };
        let object = self.fetcher.landing.objects.get(&key.into()).await.map_err(failed)?;
        let body = object.bytes().await.map_err(failed)?;
        let (expected, path) = (self.expected, self.records.clone());
        let found = blocking(move || Records::of(expected, path.as_ref(), step, &body)).await?;
        found.map_err(|message| FetchError::Body { place: key.to_owned(), message, retry: Retry::Never })
    }
}

/// An API that does not know the parameter gives the same page for ever.
fn check_difference(known: &[Page], parameter: &str) -> Result<(), FetchError> {
    let hash = |page: &Page| {
        let landed = page.landed.as_ref().filter(|landed| landed.object.is_some())?;
        Some(landed.content_sha256.clone())
    };
    match known.windows(2).find(|pair| hash(&pair[0]).is_some() && hash(&pair[0]) == hash(&pair[1])) {
        None => Ok(()),
        Some(pair) => {
            let (one, other) = (pair[0].number + 1, pair[1].number + 1);
            let message = format!(
                "pages {one} and {other} are the same, byte by byte: does the API know the parameter `{parameter}`?"
            );
            Err(FetchError::Pages(message))
        }
    }
}

/// Neighbours that share records, or leave some out, are counted with another step than the API's.
fn check_fit(records: &BTreeMap<u64, Records>, parameter: &str, step: u64) -> Result<(), FetchError> {
    let mut neighbours = records.iter().zip(records.values().skip(1));
    let misfit = neighbours.find_map(|((number, page), next)| page.misfit(next, number + 1, parameter, step));
    misfit.map_or(Ok(()), |message| Err(FetchError::Step(message)))
}
