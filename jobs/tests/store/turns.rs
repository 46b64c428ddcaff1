//! Jobs that take turns run in the order of arrival, one after the other, whoever works on them and however often
//! they are put back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use sqlx::Row;
use tidemill_jobs::{Error, Job, JobId, JobStatus, JobStore, Landed, NewJob, Settler, Sweeper};
use tokio::task::JoinSet;

use crate::support::{Database, claim, claimed, failure, landed, new_job, on_both, success};

on_both!(
    a_job_waits_until_those_before_it_have_ended,
    the_end_of_a_job_calls_the_next,
    a_cancelled_job_lets_the_next_one_go,
    a_job_overdue_twice_fails_and_calls_the_next,
    a_job_retried_by_hand_waits_for_the_one_that_runs,
    jobs_that_take_no_turns_and_other_pipelines_do_not_wait,
    the_order_holds_for_three_workers_with_retries,
    jobs_that_land_at_once_arrive_in_the_order_of_their_commits,
    a_pushed_object_is_taken_by_one_job,
);

fn in_turn(pipeline: &str) -> NewJob {
    NewJob { takes_turns: true, ..new_job(pipeline) }
}

/// So many jobs of the pipeline `sales`, in the order of arrival.
async fn line(db: &Database, count: usize) -> Vec<Job> {
    let mut jobs = Vec::new();
    for _ in 0..count {
        jobs.push(landed(&db.store, in_turn("sales")).await);
    }
    jobs
}

/// The jobs of which a `landed` event was written after the first `skipped` events.
async fn called(db: &Database, skipped: usize) -> Vec<JobId> {
    let told = db.told().await.into_iter().skip(skipped);
    told.filter(|(kind, _)| *kind == "landed").map(|(_, job)| job).collect()
}

async fn a_job_waits_until_those_before_it_have_ended(db: Database) {
    let jobs = line(&db, 2).await;
    assert!(claim(&db.store, jobs[1].job_id).await.is_none(), "the first is queued");
    let first = claim(&db.store, jobs[0].job_id).await.unwrap();
    assert!(claim(&db.store, jobs[1].job_id).await.is_none(), "the first runs");
    let later = Utc::now() + TimeDelta::seconds(30);
    assert!(db.settler.release(&first, later, true).await.unwrap());
    assert!(claim(&db.store, jobs[1].job_id).await.is_none(), "the first waits for its time");
    let first = db.store.claim(jobs[0].job_id, "v1", "w", later).await.unwrap().unwrap();
    assert!(db.settler.finish(&first, failure("no_records")).await.unwrap());
    assert!(claim(&db.store, jobs[1].job_id).await.is_some(), "the first failed, which blocks nobody");
}

async fn the_end_of_a_job_calls_the_next(db: Database) {
    let jobs = line(&db, 3).await;
    let first = claim(&db.store, jobs[0].job_id).await.unwrap();
    let before = db.told().await.len();
    assert!(db.settler.finish(&first, success()).await.unwrap());
    assert_eq!(called(&db, before).await, [jobs[1].job_id]);
    let before = db.told().await.len();
    assert!(db.settler.finish(&first, success()).await.unwrap(), "the same end again");
    assert_eq!(called(&db, before).await, [], "calls nobody");
}

async fn a_cancelled_job_lets_the_next_one_go(db: Database) {
    let jobs = line(&db, 2).await;
    let before = db.told().await.len();
    db.settler.cancel(jobs[0].job_id).await.unwrap();
    assert_eq!(called(&db, before).await, [jobs[1].job_id]);
    assert!(claim(&db.store, jobs[1].job_id).await.is_some());
}

async fn a_job_overdue_twice_fails_and_calls_the_next(db: Database) {
    let jobs = line(&db, 2).await;
    let sweeper = Sweeper::new(db.settler.clone(), Sweeper::INTERVAL);
    let limit = TimeDelta::minutes(16);
    let mut now = Utc::now();
    for (put_back, failed) in [(1, 0), (0, 1)] {
        assert!(db.store.claim(jobs[0].job_id, "v1", "w", now).await.unwrap().is_some());
        now += limit;
        let swept = sweeper.sweep(now).await.unwrap();
        assert_eq!((swept.put_back, swept.failed), (put_back, failed));
        let next = db.store.claim(jobs[1].job_id, "v1", "w", now).await.unwrap();
        assert_eq!(next.is_some(), failed == 1, "its turn comes when the first has failed for good");
    }
    let told = db.told().await;
    let of = |job: &Job| told.iter().filter(|(kind, id)| *kind == "landed" && *id == job.job_id).count();
    assert!(of(&jobs[1]) >= 2, "it landed, and was called: {told:?}");
}

async fn a_job_retried_by_hand_waits_for_the_one_that_runs(db: Database) {
    let jobs = line(&db, 3).await;
    let first = claim(&db.store, jobs[0].job_id).await.unwrap();
    assert!(db.settler.finish(&first, failure("no_records")).await.unwrap());
    let second = claim(&db.store, jobs[1].job_id).await.unwrap();
    db.settler.retry(jobs[0].job_id).await.unwrap();
    assert!(claim(&db.store, jobs[0].job_id).await.is_none(), "the second runs");
    let before = db.told().await.len();
    assert!(db.settler.finish(&second, success()).await.unwrap());
    assert_eq!(called(&db, before).await, [jobs[0].job_id]);
    assert!(claim(&db.store, jobs[2].job_id).await.is_none(), "the first arrived before it");
    assert!(claim(&db.store, jobs[0].job_id).await.is_some());
}

async fn jobs_that_take_no_turns_and_other_pipelines_do_not_wait(db: Database) {
    line(&db, 1).await;
    claimed(&db.store, "sales").await;
    let elsewhere = landed(&db.store, in_turn("stock")).await;
    assert!(claim(&db.store, elsewhere.job_id).await.is_some());
}

/// The store as one of three processors has it, with the numbers that starts and ends are counted by.
#[derive(Clone)]
struct Worker {
    store: JobStore,
    settler: Settler,
    clock: Arc<AtomicU64>,
    running: Arc<AtomicU64>,
}

impl Worker {
    /// Tries jobs by chance until all have ended; gives when each of its own ended.
    async fn work(self, jobs: Vec<JobId>, mut seed: u64) -> Vec<(JobId, u64)> {
        let mut ended = Vec::new();
        loop {
            let mut open = Vec::new();
            for id in &jobs {
                let job = self.store.get(*id).await.unwrap().unwrap();
                if !job.status.has_ended() {
                    open.push(*id);
                }
            }
            if open.is_empty() {
                return ended;
            }
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let chance = seed >> 33;
            let id = open[(chance / 1_009) as usize % open.len().min(4)];
            let claim = self.store.claim(id, "v1", "w", Utc::now()).await.unwrap();
            let Some(claim) = claim else { continue };
            assert_eq!(self.running.fetch_add(1, Ordering::SeqCst), 0, "two at once");
            tokio::time::sleep(Duration::from_millis(chance % 5)).await;
            self.running.fetch_sub(1, Ordering::SeqCst);
            if chance.is_multiple_of(3) {
                let later = Utc::now() + TimeDelta::milliseconds((chance % 20) as i64);
                assert!(self.settler.release(&claim, later, true).await.unwrap());
                continue;
            }
            let outcome = if chance.is_multiple_of(5) { failure("no_records") } else { success() };
            let number = self.clock.fetch_add(1, Ordering::SeqCst);
            assert!(self.settler.finish(&claim, outcome).await.unwrap());
            ended.push((id, number));
        }
    }
}

async fn the_order_holds_for_three_workers_with_retries(db: Database) {
    let jobs: Vec<JobId> = line(&db, 20).await.into_iter().map(|job| job.job_id).collect();
    let (clock, running) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut workers = JoinSet::new();
    for seed in 1..4 {
        let store = if seed == 1 { db.store.clone() } else { db.another_process().await };
        let settler = Settler::new(store.clone(), db.ledger.clone());
        let worker = Worker { settler, store, clock: clock.clone(), running: running.clone() };
        workers.spawn(worker.work(jobs.clone(), seed));
    }
    let mut ended: Vec<(JobId, u64)> = workers.join_all().await.into_iter().flatten().collect();
    ended.sort_by_key(|(_, number)| *number);
    assert_eq!(ended.into_iter().map(|(job, _)| job).collect::<Vec<_>>(), jobs);
    let mut last_end = None;
    for id in jobs {
        let job = db.store.get(id).await.unwrap().unwrap();
        assert!(matches!(job.status, JobStatus::Success | JobStatus::Failed));
        assert!(job.started_at >= last_end, "{id} began before the one before it ended");
        last_end = job.finished_at;
    }
}

async fn jobs_that_land_at_once_arrive_in_the_order_of_their_commits(db: Database) {
    let stores = [db.store.clone(), db.another_process().await, db.another_process().await];
    let watch = db.another_process().await;
    let mut landings = JoinSet::new();
    for nth in 0..60 {
        let store = stores[nth % 3].clone();
        landings.spawn(async move { drop(landed(&store, in_turn("sales")).await) });
    }
    // A number that appears after a larger one was seen would have been overtaken.
    let mut seen: Vec<i64> = Vec::new();
    loop {
        let done = landings.is_empty();
        let rows = sqlx::query("SELECT arrival FROM tidemill_jobs ORDER BY arrival").fetch_all(watch.pool());
        let found: Vec<i64> = rows.await.unwrap().iter().map(|row| row.get(0)).collect();
        let largest = seen.last().copied().unwrap_or(0);
        let late: Vec<_> =
            found.iter().filter(|number| **number < largest && !seen.contains(number)).collect();
        assert!(late.is_empty(), "{late:?} came after {largest}");
        seen = found;
        if done {
            break;
        }
        while let Some(landed) = landings.try_join_next() {
            landed.unwrap();
        }
    }
    assert_eq!(seen.len(), 60);
}

async fn a_pushed_object_is_taken_by_one_job(db: Database) {
    let pushing = |ids: &[&str], key: Option<&str>| NewJob {
        pushed: ids.iter().map(|id| (*id).to_owned()).collect(),
        idempotency_key: key.map(str::to_owned),
        duplicates: tidemill_pipelines::Duplicates::Accept,
        ..in_turn("sales")
    };
    let new = pushing(&["a", "b"], Some("k"));
    let first = landed(&db.store, new.clone()).await;
    let refused = db.store.land(pushing(&["c", "b"], None)).await;
    let of_first = first.job_id.to_string();
    assert!(
        matches!(&refused, Err(Error::ObjectTaken { object_id, job_id }) if object_id == "b" && *job_id == of_first),
        "{refused:?}"
    );
    let found = db.store.pushed(&["a".to_owned(), "c".to_owned()]).await.unwrap();
    assert_eq!(found, [("a".to_owned(), of_first)], "what was refused took nothing");
    let again = NewJob { job_id: JobId::new(), ..new };
    assert!(matches!(db.store.land(again).await, Ok(Landed::Duplicate(job)) if job.job_id == first.job_id));
}
