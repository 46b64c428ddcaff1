//! The notifier's promises, held against a real event log, a job store and a store of objects: each notice arrives, once
//! where nothing dies in the wrong moment, and no receiver, panic or restart keeps another from its own.

mod place;
mod receivers;

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tidemill_jobs::{Committed, Counts, JobStatus, NewNotice, Outcome};
use tidemill_pipelines::Blame;

use super::*;
use place::{Place, failed, success, until};
use receivers::{Answer, Receiver, away, refused};

/// The body of a webhook, as it always was.
const BODY: &str = include_str!("../../../jobs/src/event/finished-with-job.json");

const MAILED: &str = "\
pipeline: mailed
columns: [{ name: id, type: int64 }]
sinks: [{ table: { name: mailed } }]
notify: [{ email: { to: ana@example.org } }]
";

/// A pipeline whose mail stands behind a webhook.
fn both(url: &str) -> String {
    MAILED
        .replace("pipeline: mailed", "pipeline: both")
        .replace("notify: [", &format!("notify: [{{ webhook: {{ url: '{url}' }} }}, "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_webhook_and_a_restart_double_no_mail_and_hold_no_offset() {
    let dead = Receiver::dead().await;
    let place = Place::new(&[MAILED, &both(&dead.url)]).await;
    let first = place.start();
    let mut jobs = Vec::new();
    for _ in 0..10 {
        jobs.push(place.job("both", success()).await);
        jobs.push(place.job("mailed", success()).await);
    }
    until("every mail is there", async || place.mail.taken() == 20).await;
    until("the log is done", async || place.lag().await == 0).await;
    until("the webhook was asked", async || dead.asked() > 0).await;
    first.stop().await;
    let second = place.start();
    jobs.push(place.job("both", success()).await);
    until("the mail of the new job is there", async || place.mail.taken() == 21).await;
    let asked = dead.asked();
    until("the webhook is asked again", async || dead.asked() > asked).await;
    assert_eq!(place.lag().await, 0);
    assert!(jobs.iter().all(|job| place.mail.of(job) == 1), "each once");
    assert_eq!(place.waiting().await, 11, "the webhooks wait");
    second.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_stuck_notices_do_not_stop_a_mail() {
    let dead = Receiver::dead().await;
    let place = Place::new(&[MAILED, &both(&dead.url)]).await;
    for _ in 0..1_000 {
        let notice = NewNotice { number: 0, kind: "webhook", receiver: dead.url.clone() };
        place.jobs.add_notices(&place::ended("both"), BODY, &[notice]).await.unwrap();
    }
    let running = place.start();
    until("the webhook was asked", async || dead.asked() > 0 || place.tries().await > 0).await;
    for _ in 0..20 {
        place.job("mailed", success()).await;
    }
    until("the mails are there", async || place.mail.taken() == 20).await;
    assert!(place.waiting().await > 0);
    running.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_that_panics_is_tried_again_and_harms_no_other() {
    let place = Place::new(&[MAILED, &MAILED.replace("mailed", "cursed").replace("ana@", "cursed@")]).await;
    place.mail.panics_for("cursed@example.org", 2);
    let running = place.start();
    let cursed = place.job("cursed", success()).await;
    for _ in 0..10 {
        place.job("mailed", success()).await;
    }
    until("the others are there", async || place.mail.taken() >= 10).await;
    until("the cursed one is there", async || place.mail.of(&cursed) == 1).await;
    until("it is written down", async || place.waiting().await == 0).await;
    assert_eq!(place.lag().await, 0);
    until("all are counted", async || place.counted(&running, "sent") == 11).await;
    assert_eq!(place.counted(&running, "retried"), 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_notifier_had_in_hand_is_taken_over() {
    let place = Place::new(&[MAILED]).await;
    place.mail.answers(vec![Answer::Silence]);
    let killed = place.start();
    let job = place.job("mailed", success()).await;
    until("it is in hand", async || place.mail.tries() == 1).await;
    killed.kill().await;
    let living = place.start();
    until("the other has sent it", async || place.mail.of(&job) == 1).await;
    living.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_acked_only_once_its_notices_are_rows() {
    let place = Place::new(&[MAILED]).await;
    let job = place.job("mailed", success()).await;
    until("the event is on the log", async || place.lag().await == 1).await;
    let mut lock = place.jobs.pool().acquire().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *lock).await.unwrap();
    let killed = place.start();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(place.lag().await, 1, "its rows could not be written yet");
    killed.kill().await;
    sqlx::query("ROLLBACK").execute(&mut *lock).await.unwrap();
    let living = place.start();
    until("it is told", async || place.mail.of(&job) == 1).await;
    living.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_whose_notices_could_not_be_written_is_not_acked() {
    let place = Place::new(&[MAILED]).await;
    let rename = async |statement: &'static str| {
        sqlx::query(statement).execute(place.jobs.pool()).await.unwrap();
    };
    rename("ALTER TABLE tidemill_notices RENAME TO elsewhere").await;
    let running = place.start();
    let job = place.job("mailed", success()).await;
    until("the event is on the log", async || place.lag().await == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(place.lag().await, 1, "its rows could not be written");
    rename("ALTER TABLE elsewhere RENAME TO tidemill_notices").await;
    until("it is told", async || place.mail.of(&job) == 1).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_is_done_only_once_it_is_taken() {
    let place = Place::new(&[MAILED]).await;
    place.mail.answers(vec![Answer::Error(away())]);
    let running = place.start();
    let job = place.job("mailed", success()).await;
    until("it is there", async || place.mail.of(&job) == 1).await;
    until("it is written down", async || place.waiting().await == 0).await;
    assert_eq!((place.mail.tries(), place.status().await.as_str()), (2, "sent"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recipient_who_has_the_notice_is_spared_when_another_is_tried_again() {
    let place =
        Place::new(&[&MAILED.replace("to: ana@example.org", "to: [ana@example.org, bob@example.org]")]).await;
    place.mail.answers(vec![Answer::Error(away()), Answer::Taken]);
    let first = place.start();
    let job = place.job("mailed", success()).await;
    until("the first recipient has it", async || place.mail.of(&job) == 1).await;
    first.stop().await;
    let second = place.start();
    until("the second has it", async || place.mail.of(&job) == 2).await;
    until("it is written down", async || place.waiting().await == 0).await;
    assert_eq!(place.mail.tries(), 3);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_try_of_a_webhook_carries_the_same_id() {
    let dead = Receiver::dead().await;
    let place = Place::new(&[&both(&dead.url)]).await;
    let first = place.start();
    place.job("both", success()).await;
    until("it was asked", async || dead.asked() == 1).await;
    first.kill().await;
    let second = place.start();
    until("it was asked again", async || dead.asked() == 2).await;
    let ids: std::collections::HashSet<_> = dead.deliveries().into_iter().collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    second.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_for_good_is_not_tried_again() {
    let place = Place::new(&[MAILED]).await;
    place.mail.answers(vec![Answer::Error(refused())]);
    let running = place.start();
    place.job("mailed", success()).await;
    until("it has ended", async || place.status().await == "refused").await;
    until("it is counted", async || place.counted(&running, "refused") == 1).await;
    assert_eq!(place.mail.tries(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stays_away_is_given_up_in_the_end() {
    let mut place = Place::new(&[MAILED]).await;
    place.give_up_after = Duration::from_millis(1);
    place.mail.answers(vec![Answer::Error(away()), Answer::Error(away())]);
    let running = place.start();
    place.job("mailed", success()).await;
    until("it has ended", async || place.status().await == "given_up").await;
    until("it is counted", async || place.counted(&running, "given_up") == 1).await;
    assert_eq!(place.mail.tries(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_nobody_can_be_told_of_are_done() {
    let place =
        Place::new(&[MAILED, &MAILED.replace("mailed", "failures").replace("org }", "org, on: [failed] }")])
            .await;
    let running = place.start();
    place.job("unknown_here", success()).await;
    place.job("failures", success()).await;
    place.publish("{").await;
    let told = place.job("failures", failed()).await;
    until("the failure is told", async || place.mail.of(&told) == 1).await;
    until("the log is done", async || place.lag().await == 0).await;
    assert_eq!(place.mail.tries(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_comes_again_tells_nobody_again_and_a_second_end_does() {
    let place = Place::new(&[MAILED]).await;
    let running = place.start();
    let job = place.job("mailed", failed()).await;
    until("the first end is told", async || place.mail.of(&job) == 1).await;
    place.publish_again(&job).await;
    place.again(&job, success()).await;
    until("the second end is told", async || place.mail.of(&job) == 2).await;
    until("the log is done", async || place.lag().await == 0).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(place.mail.of(&job), 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_gets_the_event_that_it_always_got() {
    let taker = Receiver::taking().await;
    let place = Place::new(&[&both(&taker.url)]).await;
    let running = place.start();
    let committed = Committed {
        counts: Counts { records_in: 3, records_written: 2, records_rejected: 1, records_filtered: 0 },
        report: place.report("not_int64").await,
        artifacts: vec!["talk.mp3".to_owned()],
    };
    let job = place.job("both", Outcome::Success(committed)).await;
    until("it came", async || taker.asked() == 1).await;
    let body: serde_json::Value = serde_json::from_str(&taker.body()).unwrap();
    let mut fields: Vec<_> = body.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort();
    let expected = ["data", "datacontenttype", "id", "source", "specversion", "subject", "time", "type"];
    assert_eq!(fields, expected);
    assert_eq!((&body["type"], &body["subject"]), (&"tidemill.finished".into(), &job.clone().into()));
    let stored = place.jobs.get(job.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(body["data"]["job"], serde_json::to_value(stored).unwrap(), "the job as the API shows it");
    assert_eq!(body["data"]["rejects"][0]["code"], "not_int64");
    let link = format!("http://localhost/v1/jobs/{job}/files/talk.mp3");
    assert_eq!(body["data"]["links"], serde_json::json!([link]));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_by_hand_does_not_change_what_is_told_of_the_end_before() {
    let place = Place::new(&[MAILED]).await;
    let job = place.job("mailed", failed()).await;
    place.settler.retry(job.parse().unwrap()).await.unwrap();
    let running = place.start();
    until("it is told", async || place.mail.of(&job) == 1).await;
    assert!(place.mail.last().contains("failed"), "{}", place.mail.last());
    running.stop().await;
}

#[tokio::test]
async fn an_event_older_than_what_is_kept_is_not_told_again() {
    let place = Place::new(&[MAILED]).await;
    let office = place.office();
    let mut old = place::ended("mailed");
    old.finished_at = Utc::now() - TimeDelta::days(9);
    let record = place::record(&old);
    assert!(intake::take(&office, &record, &CancellationToken::new()).await);
    assert_eq!(place.waiting().await, 0);
    assert_eq!(office.counter.with_label_values(&["email", "given_up"]).get(), 1);
}

#[test]
fn a_body_of_the_version_before_is_one_that_can_be_told() {
    let told: told::Told = serde_json::from_str(BODY).unwrap();
    let again: serde_json::Value = serde_json::to_value(&told).unwrap();
    assert_eq!(again, serde_json::from_str::<serde_json::Value>(BODY).unwrap());
    let facts = told.facts(Utc::now(), "http://localhost");
    assert_eq!((facts.records_rejected, facts.rejects.len()), (1, 1));
}
