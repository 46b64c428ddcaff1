//! APIs that fail, lie, or say no: what passes is borne, the rest is a run that failed in words.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::IntoResponse;
use object_store::ObjectStoreExt;
use tidemill_ingest::RunEnd;

use crate::api::{Api, csv, index, json};
use crate::place::{Place, pipeline};

const LINKS: &str = "{ url: BASE/readings, pages: { links: { path: '$.pages[*]' } } }";
const NEXT: &str = "{ url: BASE/readings, pages: { next: { path: $.next } } }";
const ONE: &str = "{ url: BASE/readings, limits: { attempts: 2 } }";

#[tokio::test]
async fn pages_that_fail_at_first_are_asked_for_again() {
    let api = Api::start(|asked| match asked.target.as_str() {
        "/readings" => index(asked, 20),
        _ if asked.times == 1 => Some((StatusCode::INTERNAL_SERVER_ERROR, "oops").into_response()),
        _ => csv(asked.number()),
    })
    .await;
    let place = Place::new().await;
    let job = place.job(&pipeline(&api.base, LINKS)).await;
    assert_eq!(job.files_to_process.len(), 20);
    assert!((0..20).all(|number| api.hits(&format!("/pages/{number}")) == 2), "{:?}", api.all_hits());
}

#[tokio::test]
async fn a_pause_that_the_api_asks_for_is_kept_and_costs_no_attempt() {
    let api = Api::start(|asked| match asked.times {
        1..=3 => Some((StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response()),
        _ => csv(1),
    })
    .await;
    let place = Place::new().await;
    let begin = Instant::now();
    place.job(&pipeline(&api.base, &ONE.replace("attempts: 2", "attempts: 1"))).await;
    assert!(begin.elapsed() >= Duration::from_secs(3));
    assert_eq!(api.hits("/readings"), 4);
}

#[tokio::test]
async fn a_pause_of_nothing_grows_like_one_that_nobody_asked_for_and_costs_no_attempt() {
    for pause in ["0", "Sat, 21 Nov 2020 10:00:30 GMT"] {
        let api = Api::start(move |asked| match asked.times {
            1..=4 => Some((StatusCode::TOO_MANY_REQUESTS, [("retry-after", pause)]).into_response()),
            _ => csv(1),
        })
        .await;
        let place = Place::new().await;
        place.job(&pipeline(&api.base, &ONE.replace("attempts: 2", "attempts: 1"))).await;
        let arrivals = api.arrivals();
        assert_eq!(arrivals.len(), 5);
        let pauses: Vec<Duration> = arrivals.windows(2).map(|two| two[1] - two[0]).collect();
        // 0.25 s, 0.5 s, 1 s, 2 s, each a quarter less or more.
        for (pause, least_ms) in pauses.iter().zip([187, 375, 750, 1_500]) {
            assert!(*pause >= Duration::from_millis(least_ms), "{pauses:?}");
        }
    }
}

#[tokio::test]
async fn what_fails_for_ever_is_given_up_after_its_attempts() {
    let api =
        Api::start(|_| Some((StatusCode::SERVICE_UNAVAILABLE, "maintenance\nuntil noon").into_response()))
            .await;
    let place = Place::new().await;
    let error = place.failure(&pipeline(&api.base, ONE)).await;
    assert_eq!(
        error,
        format!("{}/readings gave no good answer: status 503: maintenance until noon", api.base)
    );
    assert_eq!(api.hits("/readings"), 2);
}

#[tokio::test]
async fn a_page_that_is_refused_fails_the_run_at_once() {
    let api = Api::start(|asked| match asked.target.as_str() {
        "/readings" => index(asked, 3),
        "/pages/1" => Some((StatusCode::FORBIDDEN, "no").into_response()),
        _ => csv(asked.number()),
    })
    .await;
    let place = Place::new().await;
    let error = place.failure(&pipeline(&api.base, LINKS)).await;
    assert_eq!(error, format!("{}/pages/1 answered with status 403: no", api.base));
    assert_eq!(api.hits("/pages/1"), 1);
}

#[tokio::test]
async fn a_failed_run_is_fetched_anew_by_who_asks_for_it() {
    let api = Api::start(|asked| match asked.times {
        1 => Some(StatusCode::FORBIDDEN.into_response()),
        _ => csv(1),
    })
    .await;
    let place = Place::new().await;
    let pipeline = pipeline(&api.base, ONE);
    place.failure(&pipeline).await;
    assert_eq!(place.job(&pipeline).await.files_to_process.len(), 1);
}

#[tokio::test]
async fn a_run_that_never_comes_to_an_end_is_given_up() {
    let api = Api::start(|_| csv(1)).await;
    let place = Place::new().await;
    for attempt in 1..=10 {
        let claim = place.claim().await;
        assert_eq!(claim.attempt, attempt);
        assert!(place.jobs.release_slot(&claim).await.unwrap());
    }
    let error = place.failure(&pipeline(&api.base, ONE)).await;
    assert_eq!(error, "the run was begun 10 times and never came to an end");
    assert_eq!(api.hits("/readings"), 0);
}

#[tokio::test]
async fn html_where_data_is_expected_is_refused_also_with_status_200() {
    for content_type in ["text/html; charset=utf-8", "application/json"] {
        let api = Api::start(move |_| {
            Some(([("content-type", content_type)], "<!DOCTYPE html><html>log in</html>").into_response())
        })
        .await;
        let place = Place::new().await;
        for (source, wanted) in [(NEXT, "JSON"), (LINKS, "JSON"), (ONE, "data")] {
            let error = place.failure(&pipeline(&api.base, source)).await;
            assert!(error.contains(&format!("answered with HTML where {wanted} is expected")), "{error}");
        }
    }
}

#[tokio::test]
async fn half_a_json_is_asked_for_again_and_then_refused() {
    let api = Api::start(|_| json(r#"{"items": [{"id": 1}, {"id""#.to_owned())).await;
    let place = Place::new().await;
    let source = NEXT.replace("} }", "} }, limits: { attempts: 2 }");
    let error = place.failure(&pipeline(&api.base, &source)).await;
    assert!(error.ends_with("answered with half a JSON document: its end is missing"), "{error}");
    assert_eq!(api.hits("/readings"), 2);
}

#[tokio::test]
async fn half_a_json_behind_a_link_leaves_no_object() {
    let api = Api::start(|asked| match asked.target.as_str() {
        "/readings" => index(asked, 2),
        "/pages/0" => json("[{\"id\": 0}]".to_owned()),
        _ => json("[{\"id\": 1}, {\"id".to_owned()),
    })
    .await;
    let place = Place::new().await;
    let source = LINKS.replace("} } }", "} }, limits: { attempts: 2 } }\nformat: { json: {} }");
    let claim = place.claim().await;
    let end = place.run(&pipeline(&api.base, &source), &claim, Default::default()).await.unwrap();
    let RunEnd::Failed(error) = end else { panic!("{end:?}") };
    assert!(
        error.to_string().ends_with("/pages/1 answered with half a JSON document: its end is missing"),
        "{error}"
    );
    let key = format!("landing/readings/{}/1/page-000001.json", claim.run_id);
    assert!(place.objects.head(&key.as_str().into()).await.is_err());
}

#[tokio::test]
async fn next_links_that_run_in_a_circle_are_refused() {
    let api = Api::start(|asked| {
        let next = (asked.number() + 1) % 5;
        json(format!("{{\"next\": \"/readings/{next}\"}}"))
    })
    .await;
    let place = Place::new().await;
    let source = NEXT.replace("BASE/readings", "BASE/readings/0");
    let error = place.failure(&pipeline(&api.base, &source)).await;
    let expected =
        format!("page 5 ({}/readings/4) names page 1 as its next: the links run in a circle", api.base);
    assert_eq!(error, expected);
    assert_eq!(api.all_hits().len(), 5);
}

#[tokio::test]
async fn an_api_that_does_not_know_the_page_number_is_seen() {
    let api = Api::start(|_| csv(7)).await;
    let place = Place::new().await;
    let source = "{ url: BASE/readings, pages: { number: { parameter: pgae } } }";
    let error = place.failure(&pipeline(&api.base, source)).await;
    assert!(error.contains("does the API know the parameter `pgae`?"), "{error}");
}

#[tokio::test]
async fn bounds_of_pages_and_links_hold() {
    let api = Api::start(|asked| match asked.target.as_str() {
        "/readings" => index(asked, 1_001),
        "/large" => Some(vec![b'1'; 3_000].into_response()),
        _ => csv(asked.number()),
    })
    .await;
    let place = Place::new().await;
    for (source, words) in [
        (LINKS.to_owned(), "lists 1001 links, at most 1000 are allowed"),
        (
            "{ url: BASE/large, limits: { page_size_max: 2KB } }".to_owned(),
            "answered with more than 2000 bytes",
        ),
        (
            "{ url: BASE/x, pages: { number: { parameter: p } }, limits: { pages_max: 5 } }".to_owned(),
            "there are more than 5 pages",
        ),
    ] {
        let error = place.failure(&pipeline(&api.base, &source)).await;
        assert!(error.contains(words), "{error}");
    }
}
