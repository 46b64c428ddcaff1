//! Notices are claimed like jobs: each is sent by one, taken over from the dead, and no pipeline holds up another.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tidemill_jobs::{DueNotice, FinishedData, JobId, JobStatus, JobStore, NewNotice, NoticeClaim, NoticeEnd};

use crate::support::{Database, on_both};

on_both!(
    the_notices_of_an_end_are_written_once,
    a_job_that_ends_twice_is_told_of_twice,
    of_many_claims_of_a_notice_one_wins,
    a_notice_of_a_dead_notifier_is_due_again,
    a_notice_waits_for_its_time_and_keeps_its_progress,
    a_long_queue_of_one_receiver_hides_no_other,
    an_ended_notice_is_forgotten_after_its_time,
);

const LEASE: Duration = Duration::from_secs(60);
const TOLD: &str = "{\"job\":\"Gehälter 🦀\"}";

fn finished(pipeline: &str) -> FinishedData {
    FinishedData {
        job_id: JobId::new(),
        pipeline: pipeline.parse().unwrap(),
        status: JobStatus::Success,
        finished_at: "2026-11-21T10:00:02.123456Z".parse().unwrap(),
        attempt: 1,
    }
}

fn mail(number: u32) -> NewNotice {
    NewNotice { number, kind: "email", receiver: "mail".to_owned() }
}

async fn due(store: &JobStore) -> Vec<DueNotice> {
    store.due_notices(Utc::now(), 1_000).await.unwrap()
}

/// The only notice that is due, claimed.
async fn claimed(store: &JobStore) -> NoticeClaim {
    let [due] = &due(store).await[..] else { panic!("not one notice is due") };
    store.claim_notice(due, LEASE).await.unwrap().unwrap()
}

async fn the_notices_of_an_end_are_written_once(db: Database) {
    let end = finished("sales");
    assert!(db.store.add_notices(&end, TOLD, &[mail(0), mail(2)]).await.unwrap());
    assert!(!db.store.add_notices(&end, TOLD, &[mail(0), mail(2)]).await.unwrap(), "the event came again");
    assert!(!db.store.add_notices(&end, TOLD, &[mail(1), mail(2)]).await.unwrap(), "all or nothing");
    let found = due(&db.store).await;
    assert_eq!(found.len(), 2);
    let claim = db.store.claim_notice(&found[1], LEASE).await.unwrap().unwrap();
    let told = (claim.job_id, claim.ended_at, claim.number, &claim.pipeline, claim.told.as_str());
    assert_eq!(told, (end.job_id, end.finished_at, 2, &end.pipeline, TOLD));
    assert_eq!((claim.tries, claim.kind.as_str(), claim.receiver.as_str()), (1, "email", "mail"));
    let stats = db.store.notice_stats().await.unwrap();
    assert_eq!(stats.waiting, [("email".to_owned(), 2)]);
    assert!(stats.oldest_age_seconds > 3_600.0);
    assert!(!db.store.add_notices(&end, TOLD, &[]).await.unwrap());
}

async fn a_job_that_ends_twice_is_told_of_twice(db: Database) {
    let first = finished("sales");
    let second =
        FinishedData { finished_at: first.finished_at + TimeDelta::microseconds(1), ..first.clone() };
    for end in [&first, &second, &first, &second] {
        db.store.add_notices(end, TOLD, &[mail(0)]).await.unwrap();
    }
    assert_eq!(due(&db.store).await.len(), 2);
}

async fn of_many_claims_of_a_notice_one_wins(db: Database) {
    let other = db.another_process().await;
    for _ in 0..5 {
        db.store.add_notices(&finished("sales"), TOLD, &[mail(0)]).await.unwrap();
        let [found] = &due(&db.store).await[..] else { panic!("not one notice is due") };
        let tries = (0..10).map(|number| {
            let (store, found) = (if number % 2 == 0 { &db.store } else { &other }.clone(), found.clone());
            tokio::spawn(async move { store.claim_notice(&found, LEASE).await.unwrap() })
        });
        let mut won = Vec::new();
        for claim in tries.collect::<Vec<_>>() {
            won.extend(claim.await.unwrap());
        }
        assert_eq!(won.len(), 1);
        assert!(other.end_notice(&won[0], NoticeEnd::Sent, "").await.unwrap());
    }
    assert_eq!(db.store.notice_stats().await.unwrap().waiting, []);
}

async fn a_notice_of_a_dead_notifier_is_due_again(db: Database) {
    db.store.add_notices(&finished("sales"), TOLD, &[mail(0)]).await.unwrap();
    let [found] = &due(&db.store).await[..] else { panic!("not one notice is due") };
    let dead = db.store.claim_notice(found, Duration::from_millis(50)).await.unwrap().unwrap();
    assert_eq!(due(&db.store).await, [], "it is in hand");
    assert!(db.store.hold_notice(&dead, Duration::from_millis(100)).await.unwrap());
    assert!(db.store.claim_notice(found, LEASE).await.unwrap().is_none(), "an old look claims nothing");
    tokio::time::sleep(Duration::from_millis(150)).await;
    let living = claimed(&db.store).await;
    assert_eq!(living.tries, 2);
    // The dead one was only slow, and is fenced.
    assert!(!db.store.hold_notice(&dead, LEASE).await.unwrap());
    assert!(!db.store.delay_notice(&dead, Utc::now(), None, "away").await.unwrap());
    assert!(!db.store.end_notice(&dead, NoticeEnd::Refused, "no such user").await.unwrap());
    assert!(db.store.end_notice(&living, NoticeEnd::Sent, "").await.unwrap());
}

async fn a_notice_waits_for_its_time_and_keeps_its_progress(db: Database) {
    db.store.add_notices(&finished("sales"), TOLD, &[mail(0)]).await.unwrap();
    let claim = claimed(&db.store).await;
    let then = Utc::now() + TimeDelta::milliseconds(150);
    let progress = Some("[\"ana\"]".to_owned());
    assert!(db.store.delay_notice(&claim, then, progress.clone(), &"x".repeat(10_000)).await.unwrap());
    assert_eq!(due(&db.store).await, []);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let again = claimed(&db.store).await;
    assert_eq!((again.tries, again.progress, again.told.as_str()), (2, progress, TOLD));
}

async fn a_long_queue_of_one_receiver_hides_no_other(db: Database) {
    for _ in 0..30 {
        let dead = NewNotice { number: 0, kind: "webhook", receiver: "http://dead".to_owned() };
        db.store.add_notices(&finished("sales"), TOLD, &[dead]).await.unwrap();
        db.store.add_notices(&finished("busy"), TOLD, &[mail(0)]).await.unwrap();
    }
    db.store.add_notices(&finished("rare"), TOLD, &[mail(0)]).await.unwrap();
    let found = db.store.due_notices(Utc::now(), 3).await.unwrap();
    let mut of = HashSet::new();
    for due in &found {
        of.insert(db.store.claim_notice(due, LEASE).await.unwrap().unwrap().pipeline.to_string());
    }
    assert_eq!(of, HashSet::from(["sales", "busy", "rare"].map(str::to_owned)));
}

async fn an_ended_notice_is_forgotten_after_its_time(db: Database) {
    let end = finished("sales");
    db.store.add_notices(&end, TOLD, &[mail(0), mail(1)]).await.unwrap();
    let [found, _] = &due(&db.store).await[..] else { panic!("not two notices are due") };
    let claim = db.store.claim_notice(found, LEASE).await.unwrap().unwrap();
    assert!(db.store.end_notice(&claim, NoticeEnd::Sent, "").await.unwrap());
    assert_eq!(db.store.forget_notices(Utc::now() - TimeDelta::hours(1)).await.unwrap(), 0);
    assert!(!db.store.add_notices(&end, TOLD, &[mail(0)]).await.unwrap(), "it is known still");
    assert_eq!(db.store.forget_notices(Utc::now() + TimeDelta::hours(1)).await.unwrap(), 1);
    assert_eq!(due(&db.store).await.len(), 1, "what waits is not forgotten");
}
