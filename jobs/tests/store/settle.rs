//! Only the ledger ends a job: a commit makes success of every end that somebody wanted, and the fence keeps an
//! attempt that was ended from committing afterwards.

use chrono::{TimeDelta, Utc};
use tidemill_jobs::{Claim, Error, JobStatus, Landed, NewJob, Sweeper, Swept};

use crate::support::{Database, claim, claimed, committed, failure, landed, new_job, on_both, success};

on_both!(
    an_orphaned_job_that_had_committed_has_succeeded,
    the_last_attempt_that_committed_and_died_keeps_its_content_from_coming_twice,
    a_cancel_after_the_commit_finds_a_success,
    a_cancelled_attempt_cannot_commit_afterwards,
    a_failure_after_the_commit_of_an_earlier_attempt_is_the_success_of_that_one,
    a_released_job_that_had_committed_has_succeeded,
    a_failed_job_with_a_commit_succeeds_instead_of_being_done_again,
    an_abandoned_job_is_taken_up_by_the_next_sweep,
);

fn commit(db: &Database, claim: &Claim) {
    db.ledger.open(claim.job.job_id, claim.attempt).unwrap();
    db.ledger.commit(claim.job.job_id, claim.attempt, committed()).unwrap();
}

async fn is_success(db: &Database, claim: &Claim) {
    let job = db.store.get(claim.job.job_id).await.unwrap().unwrap();
    assert_eq!((job.status, job.counts, job.error), (JobStatus::Success, committed().counts, None));
    assert_eq!(job.report_file_path, Some(committed().report));
    assert_eq!(job.artifacts, committed().artifacts);
    let told = db.told().await;
    assert_eq!(told.iter().filter(|told| **told == ("finished", job.job_id)).count(), 1, "{told:?}");
}

async fn an_orphaned_job_that_had_committed_has_succeeded(db: Database) {
    let sweeper = Sweeper::new(db.settler.clone(), Sweeper::INTERVAL);
    for after in [TimeDelta::seconds(61), TimeDelta::minutes(16)] {
        let claim = claimed(&db.store, "sales").await;
        commit(&db, &claim);
        let swept = sweeper.sweep(Utc::now() + after).await.unwrap();
        assert_eq!(swept, Swept { completed: 1, ..Swept::default() });
        is_success(&db, &claim).await;
        // The worker lived after all, and writes its end late: it is the same.
        assert!(db.settler.finish(&claim, success()).await.unwrap());
        is_success(&db, &claim).await;
    }
}

async fn the_last_attempt_that_committed_and_died_keeps_its_content_from_coming_twice(db: Database) {
    let new = new_job("sales");
    let job = landed(&db.store, new.clone()).await.job_id;
    let sweeper = Sweeper::new(db.settler.clone(), Sweeper::INTERVAL);
    claim(&db.store, job).await.unwrap();
    let later = Utc::now() + TimeDelta::seconds(61);
    assert_eq!(sweeper.sweep(later).await.unwrap().put_back, 1);
    let last = db.store.claim(job, "v1", "w", later).await.unwrap().unwrap();
    commit(&db, &last);
    sweeper.sweep(later + TimeDelta::seconds(61)).await.unwrap();
    is_success(&db, &last).await;
    let again = db.store.land(NewJob { job_id: tidemill_jobs::JobId::new(), ..new }).await.unwrap();
    assert!(
        matches!(again, Landed::Duplicate(first) if first.job_id == job),
        "an append would have it twice"
    );
}

async fn a_cancel_after_the_commit_finds_a_success(db: Database) {
    let claim = claimed(&db.store, "sales").await;
    commit(&db, &claim);
    let refused = db.settler.cancel(claim.job.job_id).await;
    assert!(
        matches!(refused, Err(Error::NotAllowed { status: "success", change: "cancelled" })),
        "{refused:?}"
    );
    is_success(&db, &claim).await;
}

async fn a_cancelled_attempt_cannot_commit_afterwards(db: Database) {
    let claim = claimed(&db.store, "sales").await;
    let job = claim.job.job_id;
    db.ledger.open(job, claim.attempt).unwrap();
    assert_eq!(db.settler.cancel(job).await.unwrap().unwrap().status, JobStatus::Failed);
    assert!(db.ledger.commit(job, claim.attempt, committed()).is_err(), "it would stand over a failed job");
    // Done again by hand, it may.
    db.settler.retry(job).await.unwrap();
    let second = crate::support::claim(&db.store, job).await.unwrap();
    commit(&db, &second);
    assert!(db.settler.finish(&second, success()).await.unwrap());
}

async fn a_failure_after_the_commit_of_an_earlier_attempt_is_the_success_of_that_one(db: Database) {
    let claim = claimed(&db.store, "sales").await;
    commit(&db, &claim);
    for _ in 0..2 {
        db.settler.finish(&claim, failure("plan")).await.unwrap();
        is_success(&db, &claim).await;
    }
}

async fn a_released_job_that_had_committed_has_succeeded(db: Database) {
    let claim = claimed(&db.store, "sales").await;
    commit(&db, &claim);
    assert!(db.settler.release(&claim, Utc::now(), false).await.unwrap());
    is_success(&db, &claim).await;
}

async fn a_failed_job_with_a_commit_succeeds_instead_of_being_done_again(db: Database) {
    let claim = claimed(&db.store, "sales").await;
    let job = claim.job.job_id;
    assert!(db.settler.finish(&claim, failure("x")).await.unwrap());
    // As an older version could leave it behind.
    db.ledger.commit(job, u32::MAX, committed()).unwrap();
    let retried = db.settler.retry(job).await.unwrap().unwrap();
    assert_eq!((retried.status, retried.counts), (JobStatus::Success, committed().counts));
}

async fn an_abandoned_job_is_taken_up_by_the_next_sweep(db: Database) {
    let claim = claimed(&db.store, "sales").await;
    assert!(db.store.abandon(&claim).await.unwrap());
    let swept = Sweeper::new(db.settler.clone(), Sweeper::INTERVAL).sweep(Utc::now()).await.unwrap();
    assert_eq!(swept, Swept { put_back: 1, ..Swept::default() });
    assert!(!db.store.abandon(&claim).await.unwrap());
}
