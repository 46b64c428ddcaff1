//! Statements that would take the machine, and what they get instead: an end at their limit, with a small statement
//! beside them answered as if they were not there. Figures are printed: `-- --nocapture`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::place::Place;

/// The limit of a statement in these tests.
const LIMIT: Duration = Duration::from_secs(4);
/// How long after its limit a statement has ended, at the median of all.
const LATE: Duration = Duration::from_secs(1);
/// How late any one may be on a loaded machine.
const LATE_MAX: Duration = Duration::from_secs(15);
/// How soon a small statement is answered beside them, at the median of all.
const SMALL: Duration = Duration::from_millis(200);

fn settings() -> Vec<&'static str> {
    vec!["query.timeout=4s", "query.memory=256MiB"]
}

fn hostile() -> Vec<(&'static str, String)> {
    let everything = ["a", "b", "c", "d"].map(|name| format!("hired_employees {name}")).join(", ");
    let series = "SELECT sum(v) FROM generate_series(1, 100000000000) AS t(v)";
    let joined = "SELECT count(*) FROM generate_series(1, 1000000) a(x) JOIN generate_series(1, 1000000) b(y) \
                  ON a.x * 2 > b.y - 7 AND a.x + b.y < 0";
    let endless = "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT sum(n) FROM r";
    vec![
        ("cross join of everything", format!("SELECT count(*), max(a.name || d.name) FROM {everything}")),
        ("generate_series", series.to_owned()),
        (
            "rows of a series",
            "SELECT v FROM generate_series(1, 100000000000) AS t(v) ORDER BY v DESC".to_owned(),
        ),
        ("join of two series", joined.to_owned()),
        ("lpad", "SELECT length(lpad('x', 2000000000))".to_owned()),
        ("lpad of rows", "SELECT sum(length(lpad(name, 20000000))) FROM hired_employees".to_owned()),
        ("repeat", "SELECT repeat(repeat('x', 1000000), 100000)".to_owned()),
        ("array", "SELECT array_agg(v) FROM generate_series(1, 1000000000) AS t(v)".to_owned()),
        ("window", "SELECT sum(v) OVER (ORDER BY v) FROM generate_series(1, 1000000000) AS t(v)".to_owned()),
        ("endless recursion", endless.to_owned()),
        ("100,000 ORs", format!("SELECT 1 WHERE {}", vec!["1=2"; 100_000].join(" OR "))),
        ("as many ORs as there is room for", format!("SELECT 1 WHERE {}", vec!["1=2"; 9_000].join("OR "))),
        ("299 operators", format!("SELECT {}", vec!["v"; 299].join("+") + " FROM generate_series(1,3) t(v)")),
        ("deep brackets", format!("SELECT {}1{}", "(".repeat(30_000), ")".repeat(30_000))),
        ("deep calls", format!("SELECT {}1{}", "abs(".repeat(8_000), ")".repeat(8_000))),
        ("long path", format!("SELECT a{} FROM departments a", ".b".repeat(30_000))),
        ("10 MB of text", format!("SELECT '{}'", "x".repeat(10 << 20))),
        ("5 MB of text", format!("SELECT '{}'", "x".repeat(5 << 20))),
    ]
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_hostile_statement_ends_at_its_limit_and_a_small_one_beside_it_is_answered() {
    let place = Place::start(&settings()).await;
    let (admin, other) = (place.login("admin").await, place.user("other", &[("departments", "read")]).await);
    let (mut all_small, mut all_took) = (Vec::new(), Vec::new());
    for (name, sql) in hostile() {
        let (began, sql_bytes) = (Instant::now(), sql.len());
        let asked = tokio::spawn(place.request(&admin, &json!({ "sql": sql })).send());
        let mut small = Vec::new();
        while !asked.is_finished() {
            let began = Instant::now();
            let rows = place.rows(&other, "SELECT department FROM departments WHERE id = 2").await;
            assert_eq!(rows, json!([["Sales"]]));
            small.push(began.elapsed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let answer = match asked.await.unwrap() {
            Ok(answer) => answer,
            // The gateway does not read a body that is too long to its end.
            Err(error) if sql_bytes > (8 << 20) => {
                println!("{name}: {error}");
                continue;
            }
            Err(error) => panic!("{name}: {error}"),
        };
        let status = answer.status().as_u16();
        let body: Result<Value, _> = answer.json().await;
        let took = began.elapsed();
        let code = body.map(|body| body["code"].clone()).ok();
        println!(
            "{name}: {status} {code:?} after {took:.1?}; beside it {} small ones, median {:.0?}",
            small.len(),
            median(small.clone())
        );
        assert!([200, 400, 413, 422].contains(&status), "{name}: {status} {code:?}");
        assert!(took < LIMIT + LATE_MAX, "{name} took {took:?}");
        all_took.push(took);
        all_small.append(&mut small);
    }
    let (small, took) = (median(all_small), median(all_took));
    assert!(small < SMALL, "at the median, small ones took {small:?}");
    assert!(took < LIMIT + LATE, "at the median, hostile ones took {took:?}");
    // All workers that were killed are gone, and one is ready.
    assert_eq!(place.rows(&admin, "SELECT 1").await, json!([[1]]));
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_worker_with_it() {
    let place = Place::start(&["query.warm=0"]).await;
    let admin = place.login("admin").await;
    assert!(place.workers().is_empty(), "{:?}", place.workers());
    for sql in [
        // Before the first byte, and in the middle of the rows.
        "SELECT sum(v) FROM generate_series(1, 100000000000) AS t(v)",
        "SELECT v FROM generate_series(1, 100000000000) AS t(v)",
    ] {
        let asked = tokio::spawn(place.request(&admin, &json!({ "sql": sql })).send());
        let began = Instant::now();
        while place.workers().is_empty() {
            assert!(began.elapsed() < LATE_MAX, "no worker");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let busy = place.workers();
        tokio::time::sleep(Duration::from_millis(500)).await;
        asked.abort();
        drop(asked.await);
        let left = Instant::now();
        while place.workers().iter().any(|worker| busy.contains(worker)) {
            assert!(left.elapsed() < LATE_MAX, "{busy:?} live on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("the worker was gone {:.0?} after its client", left.elapsed());
    }
}

#[tokio::test]
async fn a_user_with_too_many_statements_waits_and_is_told_when_to_come_back() {
    let place =
        Place::start(&["query.timeout=20s", "query.queue_wait=0s", "query.statements_per_user_max=1"]).await;
    let (admin, other) = (place.login("admin").await, place.user("other", &[]).await);
    let long = json!({ "sql": "SELECT sum(v) FROM generate_series(1, 100000000000) AS t(v)" });
    let running = tokio::spawn(place.request(&admin, &long).send());
    let began = Instant::now();
    let refused = loop {
        let answer = place.ask(&admin, json!({ "sql": "SELECT 1" })).await;
        if answer.status() == 429 {
            break answer;
        }
        assert!(began.elapsed() < LATE_MAX, "{answer:?}");
    };
    assert!(refused.headers().contains_key("retry-after"));
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["code"], "too_many_statements", "{problem}");
    assert_eq!(place.rows(&other, "SELECT 1").await, json!([[1]]));
    running.abort();
}

#[tokio::test]
async fn an_answer_that_fails_in_the_middle_is_broken_off() {
    let place = Place::start(&["query.timeout=3s"]).await;
    let admin = place.login("admin").await;
    let sql = "SELECT v FROM generate_series(1, 100000000000) AS t(v)";
    for format in ["json", "csv", "arrow"] {
        let answer = place.ask(&admin, json!({ "sql": sql, "format": format })).await;
        assert!(answer.status().is_success());
        let whole = answer.bytes().await;
        assert!(whole.is_err(), "{format}: a cut answer looked whole");
    }
}
