//! What came before is found, also when it comes at the same instant.

use crate::support::{Database, claim, failure, landed, new_job, on_both, success};
use tidemill_jobs::{Error, JobId, Landed, NewJob};
use tidemill_pipelines::Duplicates;

on_both!(
    the_same_content_gets_the_first_job,
    content_whose_job_failed_gets_a_new_job,
    a_pipeline_may_take_the_same_content_again,
    where_the_last_file_wins_only_the_newest_is_a_duplicate,
    a_file_that_failed_or_was_accepted_again_counts_as_newest_too,
    an_idempotency_key_finds_its_job_or_a_conflict,
    the_same_landing_repeated_is_the_same_job,
    uploads_at_the_same_instant_make_one_job,
    a_job_and_its_event_land_together,
    texts_too_long_for_a_key_are_refused,
);

/// The same bytes, uploaded again.
fn again(new: &NewJob) -> NewJob {
    NewJob { job_id: JobId::new(), ..new.clone() }
}

fn duplicate_of(landed: Landed) -> Option<JobId> {
    match landed {
        Landed::New(_) => None,
        Landed::Duplicate(job) => Some(job.job_id),
    }
}

async fn the_same_content_gets_the_first_job(db: Database) {
    let new = new_job("sales");
    let first = landed(&db.store, new.clone()).await;
    assert_eq!(duplicate_of(db.store.land(again(&new)).await.unwrap()), Some(first.job_id));
    let claim = claim(&db.store, first.job_id).await.unwrap();
    assert!(db.settler.finish(&claim, success()).await.unwrap());
    assert_eq!(duplicate_of(db.store.land(again(&new)).await.unwrap()), Some(first.job_id));
    let elsewhere = NewJob { pipeline: "stock".parse().unwrap(), ..again(&new) };
    assert_eq!(duplicate_of(db.store.land(elsewhere).await.unwrap()), None);
}

async fn content_whose_job_failed_gets_a_new_job(db: Database) {
    let new = new_job("sales");
    let first = landed(&db.store, new.clone()).await;
    let claim = claim(&db.store, first.job_id).await.unwrap();
    assert!(db.settler.finish(&claim, failure("no_records")).await.unwrap());
    let second = landed(&db.store, again(&new)).await;
    // The first one done again does not take the content back.
    db.settler.retry(first.job_id).await.unwrap();
    assert_eq!(duplicate_of(db.store.land(again(&new)).await.unwrap()), Some(second.job_id));
}

async fn a_pipeline_may_take_the_same_content_again(db: Database) {
    let new = NewJob { duplicates: Duplicates::Accept, ..new_job("sales") };
    landed(&db.store, new.clone()).await;
    landed(&db.store, again(&new)).await;
}

async fn where_the_last_file_wins_only_the_newest_is_a_duplicate(db: Database) {
    let monday = NewJob { last_wins: true, ..new_job("prices") };
    let tuesday = NewJob { last_wins: true, ..new_job("prices") };
    let first = landed(&db.store, monday.clone()).await;
    assert_eq!(duplicate_of(db.store.land(again(&monday)).await.unwrap()), Some(first.job_id));
    // Another pipeline whose name begins alike keeps what it knows.
    let alike = NewJob { pipeline: "prices2".parse().unwrap(), ..again(&monday) };
    let elsewhere = landed(&db.store, alike.clone()).await;
    let second = landed(&db.store, tuesday.clone()).await;
    assert_eq!(duplicate_of(db.store.land(again(&tuesday)).await.unwrap()), Some(second.job_id));
    let third = landed(&db.store, again(&monday)).await;
    assert_eq!(duplicate_of(db.store.land(again(&monday)).await.unwrap()), Some(third.job_id));
    assert_eq!(duplicate_of(db.store.land(again(&alike)).await.unwrap()), Some(elsewhere.job_id));
}

async fn a_file_that_failed_or_was_accepted_again_counts_as_newest_too(db: Database) {
    let monday = NewJob { last_wins: true, ..new_job("prices") };
    landed(&db.store, monday.clone()).await;
    // A job over pushed objects has no content hash of its own, and still undoes the one before it.
    let pushed = NewJob { last_wins: true, duplicates: Duplicates::Accept, ..new_job("prices") };
    landed(&db.store, pushed).await;
    let second = landed(&db.store, again(&monday)).await;
    let tuesday = NewJob { last_wins: true, ..new_job("prices") };
    let failing = landed(&db.store, tuesday.clone()).await;
    let failed = claim(&db.store, failing.job_id).await.unwrap();
    assert!(db.settler.finish(&failed, failure("no_records")).await.unwrap());
    let third = landed(&db.store, again(&monday)).await;
    assert_ne!(third.job_id, second.job_id);
    // Tuesday's file done again is the newest now.
    db.settler.retry(failing.job_id).await.unwrap();
    assert_eq!(duplicate_of(db.store.land(again(&tuesday)).await.unwrap()), Some(failing.job_id));
    landed(&db.store, again(&monday)).await;
}

async fn an_idempotency_key_finds_its_job_or_a_conflict(db: Database) {
    let keyed = |key: &str| NewJob {
        idempotency_key: Some(key.to_owned()),
        duplicates: Duplicates::Accept,
        ..new_job("sales")
    };
    let new = keyed("k1");
    let first = landed(&db.store, new.clone()).await;
    assert_eq!(duplicate_of(db.store.land(again(&new)).await.unwrap()), Some(first.job_id));
    let refused = db.store.land(keyed("k1")).await;
    assert!(matches!(refused, Err(Error::IdempotencyConflict { key }) if key == "k1"));
    for other in [
        keyed("K1"),
        NewJob { sender: "bob".to_owned(), ..keyed("k1") },
        NewJob { pipeline: "stock".parse().unwrap(), ..keyed("k1") },
    ] {
        landed(&db.store, other).await;
    }
}

async fn the_same_landing_repeated_is_the_same_job(db: Database) {
    let new = new_job("sales");
    let first = landed(&db.store, new.clone()).await;
    assert_eq!(landed(&db.store, new).await, first);
    assert_eq!(db.told().await.len(), 1);
}

async fn uploads_at_the_same_instant_make_one_job(db: Database) {
    let other = db.another_process().await;
    for key in [None, Some("k".to_owned())] {
        let mut new = new_job("sales");
        if key.is_some() {
            new.duplicates = Duplicates::Accept;
        }
        new.idempotency_key = key;
        let uploads = (0..12).map(|number| {
            let store = if number % 2 == 0 { db.store.clone() } else { other.clone() };
            let new = again(&new);
            tokio::spawn(async move { store.land(new).await.unwrap() })
        });
        let mut made = Vec::new();
        let mut found = Vec::new();
        for upload in uploads.collect::<Vec<_>>() {
            match upload.await.unwrap() {
                Landed::New(job) => made.push(job.job_id),
                Landed::Duplicate(job) => found.push(job.job_id),
            }
        }
        assert_eq!((made.len(), found.len()), (1, 11));
        assert!(found.iter().all(|id| *id == made[0]));
    }
    assert_eq!(db.told().await.len(), 2);
}

async fn a_job_and_its_event_land_together(db: Database) {
    let job = landed(&db.store, new_job("sales")).await;
    assert_eq!(db.told().await, [("landed", job.job_id)]);
    // Without a place for the event there is no job.
    let gone = sqlx::query("DROP TABLE tidemill_outbox").execute(db.store.pool()).await;
    gone.unwrap();
    let new = new_job("sales");
    assert!(matches!(db.store.land(new.clone()).await, Err(Error::Database { .. })));
    assert_eq!(db.store.get(new.job_id).await.unwrap(), None);
}

async fn texts_too_long_for_a_key_are_refused(db: Database) {
    let new = NewJob { idempotency_key: Some("k".repeat(191)), ..new_job("sales") };
    assert!(matches!(db.store.land(new).await, Err(Error::TooLong { limit: 190, .. })));
    let new = NewJob { sender: "é".repeat(191), ..new_job("sales") };
    assert!(matches!(db.store.land(new).await, Err(Error::TooLong { .. })));
    let fits = NewJob { idempotency_key: Some("é".repeat(190)), ..new_job("sales") };
    landed(&db.store, fits).await;
}
