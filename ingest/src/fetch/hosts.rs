//! One limit of concurrency and rate for each host, whichever pipelines and runs ask it; the strictest that a
//! pipeline gives for its host holds. A host that asks for a pause gets it from all.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota};
use tidemill_pipelines::{HttpLimits, PipelineSet, Slot, Source};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use url::Url;

/// Hosts that are remembered; those that nobody asks are forgotten first.
const HOSTS_MAX: usize = 1_000;

/// The hosts of this process.
#[derive(Default)]
pub struct Hosts {
    known: Mutex<HashMap<String, Arc<Host>>>,
    given: HashMap<String, HttpLimits>,
}

impl Hosts {
    /// Knows the limits that pipelines give for their own hosts.
    pub fn new(pipelines: &PipelineSet) -> Self {
        let mut given: HashMap<String, HttpLimits> = HashMap::new();
        for pipeline in pipelines.iter() {
            let Source::Http(source) = &pipeline.source else { continue };
            let url = source
                .url
                .render(&Slot::sample(), &Default::default())
                .ok()
                .and_then(|url| Url::parse(&url).ok());
            if let Some(url) = url {
                given
                    .entry(name(&url))
                    .and_modify(|known| stricter(known, &source.limits))
                    .or_insert(source.limits);
            }
        }
        Self { known: Mutex::default(), given }
    }

    /// The host of a URL; one that no pipeline names as its own gets the limits of who asks first.
    pub fn of(&self, url: &Url, limits: &HttpLimits) -> Arc<Host> {
        let name = name(url);
        let limits = self.given.get(&name).unwrap_or(limits);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= HOSTS_MAX {
            known.retain(|_, host| Arc::strong_count(host) > 1);
        }
        Arc::clone(known.entry(name).or_insert_with(|| Arc::new(Host::new(limits))))
    }
}

fn name(url: &Url) -> String {
    format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

fn stricter(known: &mut HttpLimits, other: &HttpLimits) {
    known.concurrency = known.concurrency.min(other.concurrency);
    let slowness = |rate: &Option<(NonZeroU32, Duration)>| {
        rate.map_or(Duration::ZERO, |(number, span)| span / number.get())
    };
    if slowness(&other.rate) > slowness(&known.rate) {
        known.rate = other.rate;
    }
}

/// A host and its limits.
pub struct Host {
    places: Semaphore,
    rate: Option<DefaultDirectRateLimiter>,
    quiet_until: Mutex<Instant>,
}

impl Host {
    fn new(limits: &HttpLimits) -> Self {
        // One request at a time, evenly spread: no API has a reason to complain.
        let period = limits.rate.and_then(|(number, span)| Quota::with_period(span / number.get()));
        Self {
            places: Semaphore::new(limits.concurrency),
            rate: period.map(DefaultDirectRateLimiter::direct),
            quiet_until: Mutex::new(Instant::now()),
        }
    }

    /// Waits until a request may be made; the place is held until its answer was read. `None` never comes: the
    /// places are not closed.
    pub async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        let place = self.places.acquire().await.ok()?;
        self.turn().await;
        Some(place)
    }

    /// Waits as long as a pause and the rate ask for. Enough for who follows a redirect: he has a place already.
    pub async fn turn(&self) {
        loop {
            tokio::time::sleep_until(self.quiet_until()).await;
            if let Some(rate) = &self.rate {
                rate.until_ready().await;
            }
            if self.quiet_until() <= Instant::now() {
                return;
            }
        }
    }

    /// Nobody asks for so long.
    pub fn pause(&self, pause: Duration) {
        let mut quiet_until = self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        *quiet_until = (*quiet_until).max(Instant::now() + pause);
    }

    fn quiet_until(&self) -> Instant {
        *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(concurrency: usize, rate: Option<u32>) -> HttpLimits {
        let rate = rate.and_then(NonZeroU32::new).map(|number| (number, Duration::from_secs(1)));
        HttpLimits { concurrency, rate, ..HttpLimits::default() }
    }

    #[test]
    fn the_strictest_limits_for_a_host_hold() {
        let mut known = limits(8, Some(50));
        stricter(&mut known, &limits(20, Some(10)));
        stricter(&mut known, &limits(4, None));
        assert_eq!(known, limits(4, Some(10)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_asks_for_a_pause_gets_it_from_all() {
        let hosts = Hosts::default();
        let url = Url::parse("http://api.example.org/a").unwrap();
        let host = hosts.of(&url, &limits(2, None));
        let same = hosts.of(&Url::parse("http://api.example.org:80/b").unwrap(), &limits(9, None));
        assert!(Arc::ptr_eq(&host, &same));
        let (first, second) = (host.enter().await, host.enter().await);
        let third = tokio::time::timeout(Duration::from_secs(5), same.enter()).await;
        assert!(third.is_err(), "both places are taken");
        drop((first, second));
        host.pause(Duration::from_secs(60));
        let begin = Instant::now();
        drop(same.enter().await);
        assert!(begin.elapsed() >= Duration::from_secs(60));
    }
}
