//! The ways in which pages hang together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use object_store::ObjectStoreExt;
use tidemill_ingest::{FetchError, Progress, RunEnd};
use tidemill_jobs::{JobStatus, LandedPage, Page, SlotClaim};
use tidemill_pipelines::Source;
use tokio::sync::{Notify, watch};

use crate::api::{Api, csv, index, json};
use crate::place::{Place, pipeline};

const LINKS: &str =
    "{ url: BASE/readings, pages: { links: { path: '$.pages[*]' } }, limits: { concurrency: 16 } }";

/// `id\n7\n` for 7.
fn records(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|number| format!("id\n{number}\n")).collect()
}

#[tokio::test]
async fn two_hundred_linked_pages_are_one_job_in_their_order() {
    let api = Api::start(|asked| match asked.target.as_str() {
        "/readings" => index(asked, 200),
        _ => csv(asked.number()),
    })
    .await;
    let place = Place::new().await;
    let job = place.job(&pipeline(&api.base, LINKS)).await;
    assert_eq!((job.status, job.sender.as_str()), (JobStatus::Queued, "fetcher"));
    assert_eq!(job.file_name.as_deref(), Some("2026-11-21T10:15:00Z"));
    assert_eq!(place.contents(&job).await, records(0..200));
    assert_eq!(job.size_bytes, records(0..200).iter().map(|page| page.len() as u64).sum::<u64>());
    assert!(api.all_hits().values().all(|hits| *hits == 1), "{:?}", api.all_hits());
    assert_eq!(api.all_hits().len(), 201);
}

#[tokio::test]
async fn two_hundred_pages_by_the_next_link_of_the_body_are_one_job() {
    let api = Api::start(|asked| {
        let number = asked.number();
        let next = if number < 199 { format!("\"?cursor={}\"", number + 1) } else { "null".to_owned() };
        json(format!("{{\"id\": {number}, \"next\": {next}}}"))
    })
    .await;
    let place = Place::new().await;
    let source = "{ url: BASE/readings, pages: { next: { path: $.next } } }";
    let contents = place.contents(&place.job(&pipeline(&api.base, source)).await).await;
    assert_eq!(contents.len(), 200);
    assert!(contents[17].starts_with("{\"id\": 17,"), "{}", contents[17]);
    assert_eq!(contents[199], "{\"id\": 199, \"next\": null}");
}

#[tokio::test]
async fn two_hundred_pages_by_the_next_link_of_the_header_are_one_job() {
    let api = Api::start(|asked| {
        let number = asked.number();
        let link = format!("</first>; rel=\"first\", </readings?at={}>; rel=\"next\"", number + 1);
        let link = (number < 199).then_some([("link", link)]);
        Some(
            (link.map_or([("x-last", "yes".to_owned())], |link| link), format!("id\n{number}\n"))
                .into_response(),
        )
    })
    .await;
    let place = Place::new().await;
    let source = "{ url: BASE/readings, pages: { next: { link_header: next } } }";
    assert_eq!(place.contents(&place.job(&pipeline(&api.base, source)).await).await, records(0..200));
}

#[tokio::test]
async fn numbered_pages_are_fetched_until_one_is_empty_or_not_found() {
    for end in ["empty", "not found"] {
        let api = Api::start(move |asked| match asked.number() {
            number @ 1..=200 => csv(number),
            _ if end == "empty" => Some("id\n".into_response()),
            _ => None,
        })
        .await;
        let place = Place::new().await;
        let source = "{ url: 'BASE/readings?size=1', pages: { number: { parameter: page } } }";
        let job = place.job(&pipeline(&api.base, source)).await;
        assert_eq!(place.contents(&job).await, records(1..201), "{end}");
        assert_eq!(api.hits("/readings?size=1&page=200"), 1);
        assert!(api.all_hits().len() <= 208, "no more than one turn behind the end");
    }
}

#[tokio::test]
async fn numbered_pages_of_json_end_where_the_records_of_the_format_end() {
    let api = Api::start(|asked| match asked.number() {
        number @ 1..=5 => json(format!("{{\"items\": [{{\"id\": {number}}}], \"page\": {number}}}")),
        number => json(format!("{{\"items\": [], \"page\": {number}}}")),
    })
    .await;
    let place = Place::new().await;
    let source = "{ url: BASE/readings, pages: { number: { parameter: page } } }\nformat: { json: { records: '$.items[*]' } }";
    assert_eq!(place.job(&pipeline(&api.base, source)).await.files_to_process.len(), 5);
}

#[tokio::test]
async fn a_first_page_without_records_is_a_job_of_one_empty_page() {
    let api = Api::start(|_| Some("id\n".into_response())).await;
    let place = Place::new().await;
    let source = "{ url: BASE/readings, pages: { number: { parameter: page, first: 0 } } }";
    let job = place.job(&pipeline(&api.base, source)).await;
    assert_eq!(place.contents(&job).await, ["id\n"]);
    assert_eq!(api.all_hits().len(), 1);
}

#[tokio::test]
async fn an_api_that_lists_nothing_makes_no_job() {
    let api = Api::start(|asked| index(asked, 0)).await;
    let place = Place::new().await;
    let end = place.fetch(&pipeline(&api.base, LINKS)).await;
    assert!(matches!(end, RunEnd::Empty), "{end:?}");
    let place = Place::new().await;
    let strict = LINKS.replace("limits:", "allow_empty: false, limits:");
    assert!(place.failure(&pipeline(&api.base, &strict)).await.contains("lists no pages"));
}

#[tokio::test]
async fn a_first_answer_with_records_is_the_first_page() {
    let api = Api::start(|asked| match asked.target.as_str() {
        "/readings" => index(asked, 3),
        _ => csv(asked.number()),
    })
    .await;
    let place = Place::new().await;
    let source = "{ url: BASE/readings, pages: { links: { path: '$.pages[*]', first_has_records: true } } }";
    let contents = place.contents(&place.job(&pipeline(&api.base, source)).await).await;
    assert!(contents[0].starts_with("{\"pages\""), "{contents:?}");
    assert_eq!(contents[1..], records(0..3));
}

#[tokio::test]
async fn a_page_that_is_listed_twice_is_fetched_once() {
    let api = Api::start(|asked| match asked.target.as_str() {
        "/readings" => {
            json(r#"{"pages": ["/pages/1", "/pages/2", "/pages/1#again", "/pages/2"]}"#.to_owned())
        }
        _ => csv(asked.number()),
    })
    .await;
    let place = Place::new().await;
    assert_eq!(place.contents(&place.job(&pipeline(&api.base, LINKS)).await).await, records(1..3));
    assert_eq!((api.hits("/pages/1"), api.hits("/pages/2")), (1, 1));
}

#[tokio::test]
async fn the_first_request_carries_the_slot() {
    let api = Api::start(|_| csv(1)).await;
    let place = Place::new().await;
    let source = "{ url: 'BASE/days/{{ slot.date }}', parameters: { until: '{{ slot.time }}', since: '{{ slot.previous }}' }, \
        schedule: { cron: '*/15 * * * *' } }";
    place.job(&pipeline(&api.base, source)).await;
    let expected = "/days/2026-11-21?since=2026-11-21T10%3A00%3A00Z&until=2026-11-21T10%3A15%3A00Z";
    assert_eq!(api.hits(expected), 1, "{:?}", api.all_hits());
}

#[tokio::test]
async fn at_most_as_many_requests_are_under_way_as_the_pipeline_allows() {
    static NOW: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let api = Api::start(|asked| match asked.target.as_str() {
        "/readings" => index(asked, 40),
        _ => {
            let now = NOW.fetch_add(1, Ordering::SeqCst) + 1;
            MOST.fetch_max(now, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(5));
            NOW.fetch_sub(1, Ordering::SeqCst);
            csv(asked.number())
        }
    })
    .await;
    let place = Place::new().await;
    let source = LINKS.replace("concurrency: 16", "concurrency: 1");
    place.job(&pipeline(&api.base, &source)).await;
    assert_eq!(MOST.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_was_cut_off_fetches_no_landed_page_again() {
    let api = Api::slow(Duration::from_millis(20), |asked| match asked.target.as_str() {
        "/readings" => index(asked, 60),
        _ => csv(asked.number()),
    })
    .await;
    let place = Place::new().await;
    let pipeline = pipeline(&api.base, &LINKS.replace("16", "4"));
    let claim = place.claim().await;
    let progress = watch::Sender::new(Progress::default());
    let mut seen = progress.subscribe();
    tokio::select! {
        end = place.run(&pipeline, &claim, progress) => panic!("{end:?}"),
        _ = seen.wait_for(|progress| progress.landed >= 20) => {}
    }
    let landed: Vec<u64> = place
        .jobs
        .pages(claim.run_id)
        .await
        .unwrap()
        .iter()
        .filter(|page| page.landed.is_some())
        .map(|page| page.number)
        .collect();
    assert!(landed.len() >= 20 && landed.len() < 60, "{}", landed.len());
    assert!(place.jobs.release_slot(&claim).await.unwrap());
    let again = place.claim().await;
    assert_eq!((again.run_id, again.attempt), (claim.run_id, 2));
    let end = place.run(&pipeline, &again, watch::Sender::new(Progress::default())).await.unwrap();
    let RunEnd::Job(job) = end else { panic!("{end:?}") };
    assert_eq!(place.contents(&job).await, records(0..60));
    for number in landed {
        assert_eq!(api.hits(&format!("/pages/{number}")), 1, "page {number}");
    }
    assert_eq!(api.hits("/readings"), 1);
}

async fn landed(place: &Place, claim: &SlotClaim) -> usize {
    place.jobs.pages(claim.run_id).await.unwrap().iter().filter(|page| page.landed.is_some()).count()
}

#[tokio::test]
async fn a_fetcher_that_was_overtaken_overwrites_no_page_of_its_successor() {
    let go_on = Arc::new(Notify::new());
    let api = Api::start({
        let go_on = Arc::clone(&go_on);
        move |asked| match (asked.target.as_str(), asked.times) {
            ("/readings", _) => index(asked, 3),
            ("/pages/1", 1) => {
                let go_on = Arc::clone(&go_on);
                let late = async move {
                    go_on.notified().await;
                    Ok::<_, std::io::Error>("id\n666\n")
                };
                Some(Body::from_stream(futures::stream::once(late)).into_response())
            }
            _ => csv(asked.number()),
        }
    })
    .await;
    let place = Place::new().await;
    let pipeline = pipeline(&api.base, LINKS);
    let claim = place.claim().await;
    let Source::Http(source) = pipeline.source.clone() else { panic!() };
    let late = tokio::spawn({
        let (fetcher, pipeline, claim) = (place.fetcher(&[&pipeline]), Arc::clone(&pipeline), claim.clone());
        async move { fetcher.run(&pipeline, &source, &claim, Default::default()).await }
    });
    // The others have landed, so nothing more is said of the run until page 1 comes.
    while landed(&place, &claim).await < 2 || api.hits("/pages/1") == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(place.jobs.release_slot(&claim).await.unwrap());
    let again = place.claim().await;
    assert_eq!((again.run_id, again.attempt), (claim.run_id, 2));
    let end = place.run(&pipeline, &again, Default::default()).await.unwrap();
    let RunEnd::Job(job) = end else { panic!("{end:?}") };
    go_on.notify_one();
    let late = late.await.unwrap();
    assert!(matches!(late, Err(FetchError::Overtaken)), "{late:?}");
    assert_eq!(place.contents(&job).await, records(0..3));
}

/// Records 1 to `all`, so many of them from the offset on as the API gives at once.
fn from_offset(offset: u64, all: u64, size: u64) -> Option<axum::response::Response> {
    let ids: Vec<String> =
        (offset + 1..=all.min(offset + size)).map(|id| format!("{{\"id\": {id}}}")).collect();
    json(format!("{{\"items\": [{}], \"offset\": {offset}}}", ids.join(", ")))
}

const OFFSET: &str = "{ url: BASE/readings, pages: { number: { parameter: offset, first: 0, step: STEP, records: '$.items[*]' } } }\n\
    format: { json: { records: '$.items[*]' } }";

#[tokio::test]
async fn an_offset_goes_on_by_its_step() {
    for (all, pages) in [(5, 3), (4, 2), (41, 21)] {
        let api = Api::start(move |asked| from_offset(asked.number(), all, 2)).await;
        let place = Place::new().await;
        let job = place.job(&pipeline(&api.base, &OFFSET.replace("STEP", "2"))).await;
        let text = place.contents(&job).await.concat();
        assert_eq!(
            (job.files_to_process.len(), text.matches("\"id\"").count() as u64),
            (pages, all),
            "{text}"
        );
        assert_eq!((api.hits("/readings?offset=2"), api.hits("/readings?offset=1")), (1, 0));
    }
}

#[tokio::test]
async fn an_offset_with_a_step_that_is_not_the_size_of_a_page_fails_the_run() {
    for (size, step, words) in [
        (2, "1", "page 2 begins with the last 1 of the 2 records of page 1: `offset` counts records"),
        (100, "60", "page 2 begins with the last 40 of the 100 records of page 1"),
        (2, "3", "page 1 has 2 records, fewer than the step of 3, and page 2 has some too"),
    ] {
        let all = if size == 100 { 230 } else { 5 };
        let api = Api::start(move |asked| from_offset(asked.number(), all, size)).await;
        let place = Place::new().await;
        let error = place.failure(&pipeline(&api.base, &OFFSET.replace("STEP", step))).await;
        assert!(error.starts_with(words) && error.contains(&format!("write `step: {size}`")), "{error}");
    }
}

#[tokio::test]
async fn pages_that_landed_before_a_kill_are_looked_at_too() {
    let api = Api::start(|asked| from_offset(asked.number(), 2, 2)).await;
    let place = Place::new().await;
    let pipeline = pipeline(&api.base, &OFFSET.replace("STEP", "1"));
    // Killed when all pages had landed, and before they were compared.
    let killed = place.claim().await;
    let found = (0..3).map(|number| Page {
        number,
        url: format!("{}/readings?offset={number}", api.base),
        url_sha256: format!("{number:064}"),
        landed: None,
    });
    let bodies = [Some(r#"{"items": [{"id": 1}, {"id": 2}]}"#), Some(r#"{"items": [{"id": 2}]}"#), None];
    let mut landed = Vec::new();
    for (number, body) in (0..).zip(bodies) {
        let key = format!("landing/readings/x/1/page-{number}.json");
        if let Some(body) = body {
            place.objects.put(&key.as_str().into(), body.into()).await.unwrap();
        }
        landed.push(LandedPage {
            number,
            object: body.map(|_| key),
            content_sha256: format!("{number:064}"),
            size_bytes: 1,
            http_status: 200,
            attempts: 1,
        });
    }
    assert!(place.jobs.note_pages(&killed, &[], &found.collect::<Vec<_>>()).await.unwrap());
    assert!(place.jobs.note_pages(&killed, &landed, &[]).await.unwrap());
    assert!(place.jobs.release_slot(&killed).await.unwrap());
    let error = place.failure(&pipeline).await;
    assert!(error.starts_with("page 2 begins with the last 1 of the 2 records of page 1"), "{error}");
    assert!(api.all_hits().is_empty(), "{:?}", api.all_hits());
}
