//! What was left behind is put back once, then failed; what nobody came for is announced again.

use chrono::{TimeDelta, Utc};
use tidemill_jobs::{JobStatus, Settler, Sweeper, Swept};

use crate::support::{Database, claim, claimed, landed, new_job, on_both};

on_both!(
    an_orphaned_job_is_put_back_once_and_then_fails,
    an_overdue_job_is_put_back_once_and_then_fails,
    a_retry_by_hand_gives_a_new_chance,
    a_job_whose_worker_lives_is_left_alone,
    of_many_sweepers_one_acts,
    a_job_that_nobody_came_for_is_announced_again_ever_more_rarely,
);

async fn left_behind_twice(db: Database, after: TimeDelta, code: &str) {
    let sweeper = Sweeper::new(db.settler.clone(), Sweeper::INTERVAL);
    let first = claimed(&db.store, "sales").await;
    let job = first.job.job_id;
    let swept = sweeper.sweep(Utc::now() + after).await.unwrap();
    assert_eq!(swept, Swept { put_back: 1, ..Swept::default() });
    let found = db.store.get(job).await.unwrap().unwrap();
    assert_eq!((found.status, found.retries), (JobStatus::Queued, 1));
    assert!(!db.store.heartbeat(&first).await.unwrap());

    let second = db.store.claim(job, "v1", "w", Utc::now() + after).await.unwrap().unwrap();
    assert_eq!(second.attempt, 2);
    let swept = sweeper.sweep(Utc::now() + after + after).await.unwrap();
    assert_eq!(swept, Swept { failed: 1, ..Swept::default() });
    let found = db.store.get(job).await.unwrap().unwrap();
    assert_eq!(found.status, JobStatus::Failed);
    assert_eq!(found.error.unwrap().code, code);
    assert_eq!(db.told().await, [("landed", job), ("landed", job), ("finished", job)]);
}

async fn an_orphaned_job_is_put_back_once_and_then_fails(db: Database) {
    left_behind_twice(db, TimeDelta::seconds(90), "orphaned").await;
}

async fn an_overdue_job_is_put_back_once_and_then_fails(db: Database) {
    left_behind_twice(db, TimeDelta::minutes(16), "timed_out").await;
}

async fn a_retry_by_hand_gives_a_new_chance(db: Database) {
    let sweeper = Sweeper::new(db.settler.clone(), Sweeper::INTERVAL);
    let job = landed(&db.store, new_job("sales")).await.job_id;
    for (round, status) in
        (1..).zip([JobStatus::Queued, JobStatus::Failed, JobStatus::Queued, JobStatus::Failed])
    {
        if db.store.get(job).await.unwrap().unwrap().status == JobStatus::Failed {
            db.settler.retry(job).await.unwrap();
        }
        // Each round is in a later future, for a job is put back at the time of the sweep.
        let now = Utc::now() + TimeDelta::minutes(10 * round);
        db.store.claim(job, "v1", "w", now).await.unwrap().unwrap();
        sweeper.sweep(now + TimeDelta::seconds(90)).await.unwrap();
        assert_eq!(db.store.get(job).await.unwrap().unwrap().status, status);
    }
}

async fn a_job_whose_worker_lives_is_left_alone(db: Database) {
    let sweeper = Sweeper::new(db.settler.clone(), Sweeper::INTERVAL);
    let claim = claimed(&db.store, "sales").await;
    let swept = sweeper.sweep(Utc::now() + TimeDelta::seconds(55)).await.unwrap();
    assert_eq!(swept, Swept::default());
    assert!(db.store.heartbeat(&claim).await.unwrap());
}

async fn of_many_sweepers_one_acts(db: Database) {
    let other = db.another_process().await;
    for _ in 0..4 {
        claimed(&db.store, "sales").await;
    }
    let now = Utc::now() + TimeDelta::seconds(90);
    let sweeps = (0..6).map(|number| {
        let store = if number % 2 == 0 { db.store.clone() } else { other.clone() };
        let settler = Settler::new(store, db.ledger.clone());
        tokio::spawn(async move { Sweeper::new(settler, Sweeper::INTERVAL).sweep(now).await.unwrap() })
    });
    let mut put_back = 0;
    for swept in sweeps.collect::<Vec<_>>() {
        put_back += swept.await.unwrap().put_back;
    }
    assert_eq!(put_back, 4);
    assert_eq!(db.told().await.len(), 8);
}

async fn a_job_that_nobody_came_for_is_announced_again_ever_more_rarely(db: Database) {
    let sweeper = Sweeper::new(db.settler.clone(), Sweeper::INTERVAL);
    let job = landed(&db.store, new_job("sales")).await.job_id;
    let start = Utc::now();
    let mut woken_at = Vec::new();
    for second in (0..400).step_by(10) {
        let swept = sweeper.sweep(start + TimeDelta::seconds(second)).await.unwrap();
        if swept.woken > 0 {
            woken_at.push(second);
        }
    }
    assert_eq!(woken_at, [60, 180]);
    assert_eq!(db.told().await, [("landed", job); 3]);
    assert!(claim(&db.store, job).await.is_some());
    let swept = sweeper.sweep(start + TimeDelta::seconds(30)).await.unwrap();
    assert_eq!(swept, Swept::default(), "it was claimed");
}
