//! Slots are done once, and the pages of their runs land once.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tidemill_jobs::{
    EventKind, FailedPage, JobError, JobFilter, JobId, JobStatus, JobStore, LandedPage, NewJob, Page,
    SlotAnswer, SlotClaim, Sweeper, Swept,
};
use tidemill_pipelines::Blame;

use crate::support::{Database, claim, new_job, on_both};

on_both!(
    of_many_who_ask_for_a_slot_one_gets_it,
    a_slot_that_is_left_behind_is_taken_over_with_its_run,
    who_was_overtaken_changes_nothing,
    a_slot_that_is_let_go_is_taken_at_once,
    a_slot_that_is_done_or_failed_is_not_given_again,
    work_goes_on_while_its_slot_is_held_and_is_dropped_when_it_is_not,
    a_page_lands_once_however_often_it_is_listed,
    a_run_ends_together_with_the_job_over_its_pages,
    a_run_that_fails_is_told_of_as_a_failed_job,
    a_job_of_a_failed_run_is_never_done,
    the_objects_of_a_run_belong_to_somebody_under_way_and_as_a_job,
    the_objects_of_a_failed_run_belong_to_nobody,
    pages_of_old_runs_are_forgotten,
);

const LEASE: Duration = Duration::from_secs(60);
const GONE: Duration = Duration::from_micros(1);

fn noon() -> DateTime<Utc> {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

async fn ask(store: &JobStore, lease: Duration) -> SlotAnswer {
    store.claim_slot("fetch:sales", noon(), "worker", lease, false).await.unwrap()
}

async fn claimed(store: &JobStore, lease: Duration) -> SlotClaim {
    match ask(store, lease).await {
        SlotAnswer::Claimed(claim) => claim,
        other => panic!("{other:?}"),
    }
}

fn page(number: u64, url: &str) -> Page {
    Page { number, url: url.to_owned(), url_sha256: format!("{url:x<64}"), landed: None }
}

fn landed(number: u64) -> LandedPage {
    LandedPage {
        number,
        object: Some(format!("landing/sales/x/page-{number}.json")),
        content_sha256: "ab".repeat(32),
        size_bytes: 10 + number,
        http_status: 200,
        attempts: 2,
    }
}

fn job_of(claim: &SlotClaim) -> NewJob {
    NewJob { job_id: claim.run_id, ..new_job("sales") }
}

fn cause() -> JobError {
    let message = "the API is away".to_owned();
    JobError { code: "fetch_failed".to_owned(), message, blame: Blame::World }
}

async fn fail(store: &JobStore, claim: &SlotClaim) -> bool {
    store.fail_run(claim, NewJob { files: Vec::new(), ..job_of(claim) }, cause()).await.unwrap()
}

async fn of_many_who_ask_for_a_slot_one_gets_it(db: Database) {
    let stores = [db.store.clone(), db.another_process().await, db.another_process().await];
    let asked = (0..12).map(|number| {
        let store = stores[number % 3].clone();
        tokio::spawn(async move { ask(&store, LEASE).await })
    });
    let mut won = 0;
    for answer in asked.collect::<Vec<_>>() {
        match answer.await.unwrap() {
            SlotAnswer::Claimed(claim) => {
                won += 1;
                assert_eq!(claim.attempt, 1);
            }
            SlotAnswer::Held { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(won, 1);
    assert_eq!(db.store.last_slot("fetch:sales").await.unwrap(), Some(noon()));
    assert_eq!(db.store.last_slot("fetch:stock").await.unwrap(), None);
}

async fn a_slot_that_is_left_behind_is_taken_over_with_its_run(db: Database) {
    let first = claimed(&db.store, GONE).await;
    let left = db.store.slots_left_behind("fetch:sales").await.unwrap();
    assert_eq!(left, [noon()]);
    let second = claimed(&db.store, LEASE).await;
    assert_eq!((second.run_id, second.attempt), (first.run_id, 2));
    assert!(matches!(ask(&db.store, LEASE).await, SlotAnswer::Held { until } if until > Utc::now()));
    assert!(db.store.slots_left_behind("fetch:sales").await.unwrap().is_empty());
}

async fn who_was_overtaken_changes_nothing(db: Database) {
    let first = claimed(&db.store, GONE).await;
    let second = claimed(&db.store, LEASE).await;
    assert!(!db.store.hold_slot(&first).await.unwrap());
    assert!(!db.store.note_pages(&first, &[], &[page(0, "a")]).await.unwrap());
    assert!(!db.store.end_slot(&first).await.unwrap());
    assert!(!fail(&db.store, &first).await);
    assert_eq!(db.store.complete_run(&first, job_of(&first)).await.unwrap(), None);
    assert!(db.store.pages(first.run_id).await.unwrap().is_empty());
    assert_eq!((db.store.get(first.run_id).await.unwrap(), db.told().await), (None, Vec::new()));
    assert!(db.store.hold_slot(&second).await.unwrap());
}

async fn a_slot_that_is_let_go_is_taken_at_once(db: Database) {
    let first = claimed(&db.store, LEASE).await;
    assert!(db.store.release_slot(&first).await.unwrap());
    assert_eq!(claimed(&db.store, LEASE).await.attempt, 2);
}

async fn a_slot_that_is_done_or_failed_is_not_given_again(db: Database) {
    let claim = claimed(&db.store, LEASE).await;
    assert!(db.store.note_pages(&claim, &[], &[page(0, "a")]).await.unwrap());
    assert!(fail(&db.store, &claim).await);
    assert_eq!(ask(&db.store, LEASE).await, SlotAnswer::Failed("the API is away".to_owned()));
    let again = db.store.claim_slot("fetch:sales", noon(), "worker", LEASE, true).await.unwrap();
    let SlotAnswer::Claimed(again) = again else { panic!("{again:?}") };
    assert_eq!(again.attempt, 1);
    assert_ne!(again.run_id, claim.run_id, "a failed run is begun anew");
    assert!(db.store.pages(claim.run_id).await.unwrap().is_empty());
    assert!(!db.store.hold_slot(&claim).await.unwrap());
    assert!(db.store.end_slot(&again).await.unwrap());
    assert_eq!(ask(&db.store, LEASE).await, SlotAnswer::Done(again.run_id));
    let again_done = db.store.claim_slot("fetch:sales", noon(), "worker", LEASE, true).await.unwrap();
    assert_eq!(again_done, SlotAnswer::Done(again.run_id));
}

async fn work_goes_on_while_its_slot_is_held_and_is_dropped_when_it_is_not(db: Database) {
    let claim = claimed(&db.store, Duration::from_millis(300)).await;
    let work = tokio::time::sleep(Duration::from_millis(900));
    assert_eq!(db.store.while_held(&claim, work).await, Some(()));
    // Held for the second time well after the first lease, so nobody could take it.
    assert!(db.store.hold_slot(&claim).await.unwrap());
    assert!(db.store.release_slot(&claim).await.unwrap());
    claimed(&db.store, LEASE).await;
    assert_eq!(db.store.while_held(&claim, std::future::pending::<()>()).await, None);
}

async fn a_page_lands_once_however_often_it_is_listed(db: Database) {
    let claim = claimed(&db.store, LEASE).await;
    let many: Vec<Page> = (0..450).map(|number| page(number, &format!("u{number}"))).collect();
    assert!(db.store.note_pages(&claim, &[], &many).await.unwrap());
    let again = [page(450, "u7"), page(7, "other"), page(451, "new")];
    assert!(db.store.note_pages(&claim, &[landed(7), landed(3)], &again).await.unwrap());
    let pages = db.store.pages(claim.run_id).await.unwrap();
    assert_eq!(pages.len(), 451);
    assert_eq!((pages[7].url.as_str(), pages[450].url.as_str()), ("u7", "new"));
    let done: Vec<_> = pages.iter().filter_map(|page| page.landed.clone()).collect();
    assert_eq!(done, [landed(3), landed(7)]);
    let failed = FailedPage { number: 9, http_status: Some(404), attempts: 1, error: "gone".to_owned() };
    assert!(db.store.page_failed(&claim, &failed).await.unwrap());
    let text = db.setting("SELECT error FROM tidemill_pages WHERE status = 'failed'").await;
    assert_eq!(text, "gone");
}

async fn a_run_ends_together_with_the_job_over_its_pages(db: Database) {
    let claim = claimed(&db.store, LEASE).await;
    let job = db.store.complete_run(&claim, job_of(&claim)).await.unwrap().unwrap();
    assert_eq!(job.job_id, claim.run_id);
    assert_eq!(db.store.get(job.job_id).await.unwrap(), Some(job.clone()));
    assert_eq!(db.told().await, [("landed", job.job_id)]);
    assert_eq!(ask(&db.store, LEASE).await, SlotAnswer::Done(claim.run_id));
    // The answer was lost: the same again gives the same job and tells nobody twice.
    assert_eq!(db.store.complete_run(&claim, job_of(&claim)).await.unwrap(), Some(job));
    assert_eq!(db.told().await.len(), 1);
}

async fn a_run_that_fails_is_told_of_as_a_failed_job(db: Database) {
    let claim = claimed(&db.store, LEASE).await;
    assert!(fail(&db.store, &claim).await);
    let filter = JobFilter { statuses: vec![JobStatus::Failed], limit: 10, ..JobFilter::default() };
    let [job] = &db.store.list(&filter).await.unwrap().jobs[..] else { panic!("not one failed job") };
    assert_eq!((job.job_id, &job.error), (claim.run_id, &Some(cause())));
    assert!(job.files_to_process.is_empty() && job.finished_at.is_some());
    let [event] = &db.outbox().await[..] else { panic!("not one event") };
    let EventKind::Finished(told) = &event.kind else { panic!("{event:?}") };
    assert_eq!((told.job_id, told.status), (job.job_id, JobStatus::Failed));
    assert_eq!(Some(told.finished_at), job.finished_at);
    // The answer was lost: the same again tells nobody twice.
    assert!(fail(&db.store, &claim).await);
    assert_eq!(db.told().await.len(), 1);
}

async fn a_job_of_a_failed_run_is_never_done(db: Database) {
    let run = claimed(&db.store, LEASE).await;
    let new =
        NewJob { files: Vec::new(), file_name: Some("noon".to_owned()), takes_turns: true, ..job_of(&run) };
    assert!(db.store.fail_run(&run, new, cause()).await.unwrap());
    let error = db.settler.retry(run.run_id).await.unwrap_err().to_string();
    assert!(error.ends_with("fetch again with: tidemill fetch sales --slot noon"), "{error}");
    assert!(claim(&db.store, run.run_id).await.is_none());
    let later = Utc::now() + chrono::TimeDelta::days(1);
    let swept = Sweeper::new(db.settler.clone(), Sweeper::INTERVAL).sweep(later).await.unwrap();
    assert_eq!(swept, Swept::default());
    // It stands in the way of no other that takes turns.
    let next = crate::support::landed(&db.store, NewJob { takes_turns: true, ..new_job("sales") }).await;
    assert!(claim(&db.store, next.job_id).await.is_some());
}

async fn the_objects_of_a_run_belong_to_somebody_under_way_and_as_a_job(db: Database) {
    let claim = claimed(&db.store, LEASE).await;
    let asked = [claim.run_id, JobId::new()];
    let owners = |found: std::collections::HashSet<JobId>| found.into_iter().collect::<Vec<_>>();
    assert_eq!(owners(db.store.owners_of_objects(&asked).await.unwrap()), [claim.run_id]);
    assert!(db.store.release_slot(&claim).await.unwrap());
    let again = claimed(&db.store, LEASE).await;
    assert_eq!((again.run_id, again.attempt), (claim.run_id, 2));
    assert_eq!(owners(db.store.owners_of_objects(&asked).await.unwrap()), [claim.run_id]);
    assert!(db.store.runs_taken_over(&asked).await.unwrap().is_empty(), "it is under way");
    assert!(db.store.complete_run(&again, job_of(&again)).await.unwrap().is_some());
    assert_eq!(owners(db.store.owners_of_objects(&asked).await.unwrap()), [claim.run_id]);
    assert_eq!(owners(db.store.runs_taken_over(&asked).await.unwrap()), [claim.run_id]);
}

async fn the_objects_of_a_failed_run_belong_to_nobody(db: Database) {
    let claim = claimed(&db.store, LEASE).await;
    assert!(fail(&db.store, &claim).await);
    assert!(db.store.owners_of_objects(&[claim.run_id]).await.unwrap().is_empty());
}

async fn pages_of_old_runs_are_forgotten(db: Database) {
    let claim = claimed(&db.store, LEASE).await;
    assert!(db.store.note_pages(&claim, &[], &[page(0, "a"), page(1, "b")]).await.unwrap());
    let later = Utc::now() + chrono::TimeDelta::days(1);
    assert_eq!(db.store.forget_pages(later).await.unwrap(), 0, "the run is under way");
    db.store.end_slot(&claim).await.unwrap();
    assert_eq!(db.store.forget_pages(Utc::now() - chrono::TimeDelta::days(1)).await.unwrap(), 0);
    assert_eq!(db.store.forget_pages(later).await.unwrap(), 2);
}
