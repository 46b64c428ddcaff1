//! The rate of requests: a host is not asked faster, by however many pages, redirects, runs and pipelines.
//!
//! A request cannot arrive before it was sent, so each arrival is held against the begin of the test: a slow machine
//! only makes them later.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect};
use tidemill_ingest::RunEnd;
use tidemill_jobs::SlotAnswer;
use tidemill_pipelines::{Pipeline, Source};

use crate::api::{Api, csv, index};
use crate::place::{Place, pipeline, slot};

const LINKS: &str = "{ url: BASE/readings, pages: { links: { path: '$.pages[*]' } }, limits: { concurrency: 8, rate: RATE } }";

fn linked(api: &Api, rate: &str) -> Arc<Pipeline> {
    pipeline(&api.base, &LINKS.replace("RATE", rate))
}

/// The nth request came no earlier than so many pauses after the begin.
fn assert_no_faster(api: &Api, begin: Instant, requests: usize, pause: Duration) {
    let arrivals = api.arrivals();
    assert_eq!(arrivals.len(), requests);
    for (nth, arrival) in (0..).zip(arrivals) {
        let (came, earliest) = (arrival - begin, pause * nth);
        assert!(came >= earliest, "request {nth} came after {came:?}, not after {earliest:?}");
    }
}

#[tokio::test]
async fn requests_of_a_rate_are_spread_evenly() {
    let api = Api::start(|asked| match asked.target.as_str() {
        "/readings" => index(asked, 30),
        _ => csv(asked.number()),
    })
    .await;
    let place = Place::new().await;
    let begin = Instant::now();
    place.job(&linked(&api, "25/s")).await;
    assert_no_faster(&api, begin, 31, Duration::from_millis(40));
}

#[tokio::test]
async fn requests_of_redirects_and_of_further_tries_count() {
    let api = Api::start(|asked| match asked.target.as_str() {
        "/readings" => index(asked, 6),
        target if target.starts_with("/pages") => {
            Some(Redirect::temporary(&format!("/moved/{}", asked.number())).into_response())
        }
        _ if asked.times == 1 => Some(StatusCode::INTERNAL_SERVER_ERROR.into_response()),
        _ => csv(asked.number()),
    })
    .await;
    let place = Place::new().await;
    let begin = Instant::now();
    place.job(&linked(&api, "20/s")).await;
    // Each page redirects, fails, redirects again, and answers.
    assert_no_faster(&api, begin, 1 + 4 * 6, Duration::from_millis(50));
}

#[tokio::test]
async fn two_pipelines_share_the_stricter_rate_of_their_host() {
    let api = Api::start(|asked| match asked.target.as_str() {
        "/readings" => index(asked, 10),
        _ => csv(asked.number()),
    })
    .await;
    let place = Place::new().await;
    let text = linked(&api, "500/s").text.replace("pipeline: readings", "pipeline: others");
    let others = Arc::new(Pipeline::parse("others.yaml", &text).unwrap());
    let readings = linked(&api, "20/s");
    let fetcher = place.fetcher(&[&readings, &others]);
    let begin = Instant::now();
    let fetched = [readings, others].map(|pipeline| {
        let (fetcher, jobs) = (fetcher.clone(), place.jobs.clone());
        tokio::spawn(async move {
            let (name, lease) = (format!("fetch:{}", pipeline.name), Duration::from_secs(60));
            let SlotAnswer::Claimed(claim) =
                jobs.claim_slot(&name, slot(), "test", lease, false).await.unwrap()
            else {
                panic!("{name} is held")
            };
            let Source::Http(source) = &pipeline.source else { panic!() };
            fetcher.run(&pipeline, source, &claim, Default::default()).await.unwrap()
        })
    });
    for end in fetched {
        assert!(matches!(end.await.unwrap(), RunEnd::Job(_)));
    }
    assert_no_faster(&api, begin, 22, Duration::from_millis(50));
}

#[tokio::test]
async fn who_waits_for_the_rate_keeps_a_pause_that_the_api_asks_for_meanwhile() {
    let pages = AtomicUsize::new(0);
    let api = Api::start(move |asked| match asked.target.as_str() {
        "/readings" => index(asked, 4),
        _ if pages.fetch_add(1, Ordering::Relaxed) == 0 => {
            Some((StatusCode::TOO_MANY_REQUESTS, [("retry-after", "2")]).into_response())
        }
        _ => csv(asked.number()),
    })
    .await;
    let place = Place::new().await;
    place.job(&linked(&api, "2/s")).await;
    let arrivals = api.arrivals();
    assert_eq!(arrivals.len(), 6);
    assert!(arrivals[2] - arrivals[1] >= Duration::from_secs(2), "{arrivals:?}");
}
