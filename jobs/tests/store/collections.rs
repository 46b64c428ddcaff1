//! Each report is collected once, also when who collects dies half-way or two collect at once.

use chrono::{TimeDelta, Utc};
use tidemill_jobs::{Job, JobStatus};

use crate::support::{Database, claimed, failure, on_both, success};

on_both!(
    what_succeeded_is_collected_once_and_then_downloaded,
    a_collection_left_half_way_is_taken_up_with_the_same_jobs,
    two_that_collect_at_once_share_the_jobs,
    what_succeeded_after_the_slot_waits_for_the_next,
);

async fn ended(db: &Database, well: bool) -> Job {
    let claim = claimed(&db.store, "sales").await;
    let outcome = if well { success() } else { failure("no_records") };
    assert!(db.settler.finish(&claim, outcome).await.unwrap());
    db.store.get(claim.job.job_id).await.unwrap().unwrap()
}

async fn status(db: &Database, job: &Job) -> JobStatus {
    db.store.get(job.job_id).await.unwrap().unwrap().status
}

async fn what_succeeded_is_collected_once_and_then_downloaded(db: Database) {
    let sales = "sales".parse().unwrap();
    assert_eq!(db.store.begin_collection(&sales, Utc::now(), "c/0").await.unwrap(), None, "nothing is there");
    let (first, second) = (ended(&db, true).await, ended(&db, true).await);
    let (failed, running) = (ended(&db, false).await, claimed(&db.store, "sales").await.job);
    let slot = Utc::now();
    let collection = db.store.begin_collection(&sales, slot, "c/1").await.unwrap().unwrap();
    let jobs = db.store.jobs_of_collection(&collection).await.unwrap();
    assert_eq!(jobs, [first.clone(), second.clone()]);
    assert_eq!(status(&db, &first).await, JobStatus::Success, "not before its report is copied");
    assert_eq!(db.store.begin_collection(&sales, slot + TimeDelta::hours(1), "c/2").await.unwrap(), None);
    assert!(db.store.end_collection(&collection).await.unwrap());
    assert!(!db.store.end_collection(&collection).await.unwrap());
    for (job, expected) in [
        (&first, JobStatus::Downloaded),
        (&second, JobStatus::Downloaded),
        (&failed, JobStatus::Failed),
        (&running, JobStatus::Processing),
    ] {
        assert_eq!(status(&db, job).await, expected);
    }
    assert_eq!(db.store.take_up_collections(Utc::now() + TimeDelta::days(1), 9).await.unwrap(), []);
}

async fn a_collection_left_half_way_is_taken_up_with_the_same_jobs(db: Database) {
    let sales = "sales".parse().unwrap();
    let first = ended(&db, true).await;
    let slot = Utc::now();
    let begun = db.store.begin_collection(&sales, slot, "c/1").await.unwrap().unwrap();
    let second = ended(&db, true).await;
    // The same slot again finds its collection begun, and leaves the second to the next.
    assert_eq!(db.store.begin_collection(&sales, slot, "c/1").await.unwrap(), None);
    assert_eq!(db.store.take_up_collections(Utc::now(), 9).await.unwrap(), [], "its collector lives");
    let other = db.another_process().await;
    db.store.release_collection(&begun).await.unwrap();
    let taken = db.store.take_up_collections(Utc::now(), 9).await.unwrap();
    assert!(taken.is_empty(), "others come first: {taken:?}");
    let now = Utc::now() + TimeDelta::seconds(31);
    let (one, two) = tokio::join!(db.store.take_up_collections(now, 9), other.take_up_collections(now, 9));
    let taken = [one.unwrap(), two.unwrap()].concat();
    assert_eq!(taken, std::slice::from_ref(&begun), "by one of them");
    assert_eq!(db.store.jobs_of_collection(&begun).await.unwrap(), [first]);
    // Who does not wait for leases takes it again and again, however often he dies.
    for _ in 0..3 {
        let ahead = Utc::now() + TimeDelta::minutes(2);
        assert_eq!(db.store.take_up_collections(ahead, 9).await.unwrap(), std::slice::from_ref(&begun));
    }
    assert!(db.store.end_collection(&begun).await.unwrap());
    assert_eq!(status(&db, &second).await, JobStatus::Success);
}

async fn two_that_collect_at_once_share_the_jobs(db: Database) {
    let sales = "sales".parse().unwrap();
    let mut made = Vec::new();
    for _ in 0..10 {
        made.push(ended(&db, true).await);
    }
    let other = db.another_process().await;
    let (slot, next) = (Utc::now(), Utc::now() + TimeDelta::seconds(1));
    let (one, two, three) = tokio::join!(
        db.store.begin_collection(&sales, slot, "c/1"),
        other.begin_collection(&sales, slot, "c/1"),
        other.begin_collection(&sales, next, "c/2"),
    );
    let mut found = Vec::new();
    for collection in [one, two, three].into_iter().filter_map(Result::unwrap) {
        found.extend(db.store.jobs_of_collection(&collection).await.unwrap());
    }
    found.sort_by_key(|job| job.created_at);
    assert_eq!(found, made);
}

async fn what_succeeded_after_the_slot_waits_for_the_next(db: Database) {
    let sales = "sales".parse().unwrap();
    let before = Utc::now() - TimeDelta::seconds(1);
    let job = ended(&db, true).await;
    assert_eq!(db.store.begin_collection(&sales, before, "c/1").await.unwrap(), None);
    let next = db.store.begin_collection(&sales, Utc::now(), "c/2").await.unwrap().unwrap();
    assert_eq!(db.store.jobs_of_collection(&next).await.unwrap(), [job]);
}
