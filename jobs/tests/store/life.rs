//! A job's changes: one claim wins, an older attempt changes nothing, and each change tells its event.

use chrono::{TimeDelta, Utc};
use tidemill_jobs::{Error, EventKind, JobId, JobStatus, NewJob, StoreLimits};

use crate::support::{Database, claim, claimed, committed, failure, landed, new_job, on_both, success};

on_both!(
    of_many_claims_one_wins,
    a_job_keeps_the_version_of_its_first_claim,
    a_job_handed_back_waits_for_its_time,
    an_older_attempt_changes_nothing,
    a_finished_job_carries_its_counts_and_its_end_is_told,
    events_of_the_largest_job_are_small,
    the_same_end_may_be_repeated,
    a_cancelled_job_is_taken_from_its_worker,
    only_a_failed_job_is_retried,
);

async fn of_many_claims_one_wins(db: Database) {
    let other = db.another_process().await;
    for _ in 0..5 {
        let job = landed(&db.store, new_job("sales")).await.job_id;
        let tries = (0..10).map(|number| {
            let store = if number % 2 == 0 { db.store.clone() } else { other.clone() };
            tokio::spawn(async move { claim(&store, job).await })
        });
        let mut won = Vec::new();
        for claim in tries.collect::<Vec<_>>() {
            won.extend(claim.await.unwrap());
        }
        assert_eq!(won.len(), 1);
        assert_eq!((won[0].attempt, won[0].job.status), (1, JobStatus::Processing));
        assert_eq!(db.store.get(job).await.unwrap(), Some(won.remove(0).job));
    }
    assert!(claim(&db.store, JobId::new()).await.is_none(), "there is no such job");
}

async fn a_job_keeps_the_version_of_its_first_claim(db: Database) {
    let claim = claimed(&db.store, "sales").await;
    assert_eq!(claim.job.pipeline_version.as_deref(), Some("v1"));
    let limit = TimeDelta::from_std(StoreLimits::default().job_limit).unwrap();
    assert_eq!(claim.deadline, claim.job.started_at.unwrap() + limit);
    assert!(db.settler.release(&claim, Utc::now(), false).await.unwrap());
    let later = Utc::now() + TimeDelta::seconds(1);
    let second = db.store.claim(claim.job.job_id, "v2", "w", later).await.unwrap().unwrap();
    assert_eq!(second.job.pipeline_version.as_deref(), Some("v1"));
    assert_eq!(db.store.get(claim.job.job_id).await.unwrap(), Some(second.job));
}

async fn a_job_handed_back_waits_for_its_time(db: Database) {
    let claim = claimed(&db.store, "sales").await;
    let job = claim.job.job_id;
    let due = Utc::now() + TimeDelta::minutes(5);
    assert!(db.settler.release(&claim, due, true).await.unwrap());
    let found = db.store.get(job).await.unwrap().unwrap();
    assert_eq!((found.status, found.retries), (JobStatus::Queued, 1));
    let early = db.store.claim(job, "v1", "w", due - TimeDelta::seconds(1)).await.unwrap();
    assert!(early.is_none());
    let second = db.store.claim(job, "v1", "w", due + TimeDelta::seconds(1)).await.unwrap().unwrap();
    assert_eq!(second.attempt, 2);
    assert!(db.settler.release(&second, Utc::now(), false).await.unwrap());
    assert_eq!(db.store.get(job).await.unwrap().unwrap().retries, 1, "not counted");
    assert_eq!(db.told().await, [("landed", job); 3]);
}

async fn an_older_attempt_changes_nothing(db: Database) {
    let old = claimed(&db.store, "sales").await;
    let job = old.job.job_id;
    assert!(db.store.heartbeat(&old).await.unwrap());
    assert!(db.store.heartbeat(&old).await.unwrap(), "also when nothing in the row changes");
    assert!(db.settler.release(&old, Utc::now(), false).await.unwrap());
    assert!(!db.store.heartbeat(&old).await.unwrap());
    let new = claim(&db.store, job).await.unwrap();
    let told = db.told().await;
    assert!(!db.store.heartbeat(&old).await.unwrap());
    assert!(!db.settler.finish(&old, success()).await.unwrap());
    assert!(!db.settler.release(&old, Utc::now(), true).await.unwrap());
    assert_eq!(db.store.get(job).await.unwrap(), Some(new.job.clone()));
    assert_eq!(db.told().await, told);
    assert!(db.settler.finish(&new, success()).await.unwrap());
}

async fn a_finished_job_carries_its_counts_and_its_end_is_told(db: Database) {
    let claim = claimed(&db.store, "sales").await;
    assert!(db.settler.finish(&claim, success()).await.unwrap());
    let job = db.store.get(claim.job.job_id).await.unwrap().unwrap();
    assert_eq!((job.status, job.counts.records_rejected), (JobStatus::Success, 2));
    assert_eq!(job.report_file_path.as_deref(), Some("jobs/x/report.json"));
    assert!(job.finished_at.unwrap() >= job.started_at.unwrap());
    let mut events = db.outbox().await;
    assert_eq!(events.len(), 2);
    let EventKind::Finished(told) = events.remove(1).kind else { panic!("not a finished event") };
    assert_eq!((told.job_id, &told.pipeline, told.status), (job.job_id, &job.pipeline, job.status));
    assert_eq!((Some(told.finished_at), told.attempt), (job.finished_at, claim.attempt));
}

async fn events_of_the_largest_job_are_small(db: Database) {
    let keys = (0..12_000).map(|number| format!("{number:0>200}")).collect();
    let job = landed(&db.store, NewJob { files: keys, ..new_job("sales") }).await;
    let claim = claim(&db.store, job.job_id).await.unwrap();
    assert!(db.settler.finish(&claim, success()).await.unwrap());
    assert_eq!(db.store.get(job.job_id).await.unwrap().unwrap().files_to_process.len(), 12_000);
    let sizes: Vec<_> = db.outbox().await.iter().map(|event| event.to_json().unwrap().len()).collect();
    assert!(sizes.len() == 2 && sizes.iter().all(|size| *size < 1_000), "{sizes:?} bytes");
}

async fn the_same_end_may_be_repeated(db: Database) {
    let claim = claimed(&db.store, "sales").await;
    for _ in 0..2 {
        assert!(db.settler.finish(&claim, failure("no_records")).await.unwrap());
    }
    assert_eq!(db.told().await.len(), 2, "told once");
    assert!(!db.settler.finish(&claim, success()).await.unwrap(), "another end");
    let job = db.store.get(claim.job.job_id).await.unwrap().unwrap();
    assert_eq!((job.status, job.error.unwrap().code.as_str()), (JobStatus::Failed, "no_records"));
}

async fn a_cancelled_job_is_taken_from_its_worker(db: Database) {
    let claim = claimed(&db.store, "sales").await;
    let job = db.settler.cancel(claim.job.job_id).await.unwrap().unwrap();
    assert_eq!((job.status, job.error.unwrap().code.as_str()), (JobStatus::Failed, "cancelled"));
    assert!(!db.store.heartbeat(&claim).await.unwrap());
    assert!(!db.settler.finish(&claim, success()).await.unwrap());
    let again = db.settler.cancel(claim.job.job_id).await;
    assert!(matches!(again, Err(Error::NotAllowed { status: "failed", change: "cancelled" })));
    let queued = landed(&db.store, new_job("sales")).await;
    assert_eq!(db.settler.cancel(queued.job_id).await.unwrap().unwrap().status, JobStatus::Failed);
    assert_eq!(db.settler.cancel(JobId::new()).await.unwrap(), None);
    let told: Vec<_> = db.told().await.into_iter().filter(|(kind, _)| *kind == "finished").collect();
    assert_eq!(told, [("finished", claim.job.job_id), ("finished", queued.job_id)]);
}

async fn only_a_failed_job_is_retried(db: Database) {
    let first = claimed(&db.store, "sales").await;
    let job = first.job.job_id;
    let running = db.settler.retry(job).await;
    assert!(matches!(running, Err(Error::NotAllowed { status: "processing", change: "retried" })));
    assert!(db.settler.finish(&first, failure("x")).await.unwrap());
    let queued = db.settler.retry(job).await.unwrap().unwrap();
    assert_eq!((queued.status, queued.retries, queued.attempt), (JobStatus::Queued, 1, 1));
    assert_eq!((queued.error, queued.finished_at, queued.pipeline_version), (None, None, None));
    let later = Utc::now() + TimeDelta::seconds(1);
    let second = db.store.claim(job, "v2", "w", later).await.unwrap().unwrap();
    assert_eq!((second.attempt, second.job.pipeline_version.as_deref()), (2, Some("v2")));
    let counts = committed().counts;
    assert!(db.settler.finish(&second, success()).await.unwrap());
    assert_eq!(db.store.get(job).await.unwrap().unwrap().counts, counts);
    assert!(matches!(db.settler.retry(job).await, Err(Error::NotAllowed { .. })));
    assert_eq!(db.settler.retry(JobId::new()).await.unwrap(), None);
}
