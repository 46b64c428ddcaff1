//! What the made-up API was asked for, and the window of its rate limit.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::json;

/// Counts; as many as there are pages.
#[derive(Debug, Default)]
pub struct Stats(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    under_way: u64,
    at_once_max: u64,
    by_status: BTreeMap<u16, u64>,
    served: BTreeMap<u32, u64>,
    failed: BTreeMap<u32, u32>,
    window: Option<Instant>,
    in_window: u32,
}

/// A request under way.
pub struct UnderWay<'a>(&'a Stats);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.counts().under_way -= 1;
    }
}

impl Stats {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come.
    pub fn begin(&self) -> UnderWay<'_> {
        let mut counts = self.counts();
        counts.under_way += 1;
        counts.at_once_max = counts.at_once_max.max(counts.under_way);
        UnderWay(self)
    }

    /// An answer goes out.
    pub fn answered(&self, status: StatusCode) {
        *self.counts().by_status.entry(status.as_u16()).or_default() += 1;
    }

    /// A page (0: the list) goes out.
    pub fn served(&self, page: u32) {
        *self.counts().served.entry(page).or_default() += 1;
    }

    /// How often a page that fails was asked for, this time included.
    pub fn failed(&self, page: u32) -> u32 {
        let mut counts = self.counts();
        let times = counts.failed.entry(page).or_default();
        *times = times.saturating_add(1);
        *times
    }

    /// Whether a request goes beyond `most` in its second.
    pub fn is_beyond(&self, most: u32) -> bool {
        let mut counts = self.counts();
        if counts.window.is_none_or(|began| began.elapsed() >= Duration::from_secs(1)) {
            (counts.window, counts.in_window) = (Some(Instant::now()), 0);
        }
        counts.in_window += 1;
        counts.in_window > most
    }

    /// All of it, for `/stats`.
    pub fn told(&self) -> serde_json::Value {
        let counts = self.counts();
        let pages: BTreeMap<_, _> = counts.served.iter().filter(|(page, _)| **page > 0).collect();
        json!({
            "requests": counts.by_status.values().sum::<u64>(),
            "by_status": counts.by_status,
            "at_once_max": counts.at_once_max,
            "list": counts.served.get(&0).copied().unwrap_or_default(),
            "pages": pages,
        })
    }
}
