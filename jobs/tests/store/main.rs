//! The job store, its sweeper and its relay, on SQLite, MariaDB and MySQL, from one body of tests.

// Clippy knows test functions, not the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod collections;
#[path = "../../../tests/servers/databases.rs"]
mod databases;
mod life;
mod notices;
mod relay;
mod settle;
mod slots;
mod support;
mod sweeper;
mod turns;
mod uploads;

use std::time::Duration;

use support::{Database, claimed, landed, new_job, on_both};
use tidemill_jobs::{Error, Job, JobFilter, JobId, JobStatus};

on_both!(
    migrating_again_changes_nothing,
    a_migration_that_fails_holds_no_other_process_up,
    a_session_is_strict_durable_and_in_utc,
    a_job_comes_back_as_it_landed,
    pages_hold_each_job_once_and_the_newest_first,
    a_filter_finds_what_it_names_and_nothing_else,
    a_cursor_that_no_page_gave_is_refused,
    the_statistics_count_what_waits,
    a_pipeline_version_is_kept_as_first_saved,
    grants_need_their_user,
    objects_without_a_job_are_told_apart,
);

async fn migrating_again_changes_nothing(db: Database) {
    let job = landed(&db.store, new_job("sales")).await;
    let other = db.another_process().await;
    let (first, second) = tokio::join!(db.store.migrate(), other.migrate());
    first.unwrap();
    second.unwrap();
    assert_eq!(db.store.get(job.job_id).await.unwrap(), Some(job));
    db.store.ping().await.unwrap();
}

async fn a_migration_that_fails_holds_no_other_process_up(db: Database) {
    let mark = async |sql: &'static str| sqlx::query(sql).execute(db.store.pool()).await.unwrap();
    mark("UPDATE tidemill_jobs_migrations SET success = FALSE WHERE version = 1").await;
    assert!(matches!(db.store.migrate().await, Err(Error::Migrate(_))), "an unfinished one was passed over");
    let other = db.another_process().await;
    let answered = tokio::time::timeout(Duration::from_secs(30), other.migrate()).await;
    assert!(matches!(answered, Ok(Err(Error::Migrate(_)))), "{answered:?}");
    mark("UPDATE tidemill_jobs_migrations SET success = TRUE WHERE version = 1").await;
    other.migrate().await.unwrap();
}

async fn a_session_is_strict_durable_and_in_utc(db: Database) {
    if db.is_mysql() {
        let mode = db.setting("SELECT @@SESSION.sql_mode").await;
        assert!(mode.contains("STRICT_ALL_TABLES"), "{mode}");
        assert_eq!(db.setting("SELECT @@SESSION.time_zone").await, "+00:00");
        // The name of the variable differs between MySQL and MariaDB before 11.1.
        let known = db.try_setting("SELECT @@SESSION.transaction_isolation").await;
        let isolation = match known {
            Some(isolation) => isolation,
            None => db.setting("SELECT @@SESSION.tx_isolation").await,
        };
        assert_eq!(isolation, "READ-COMMITTED");
    } else {
        assert_eq!(db.setting("SELECT journal_mode FROM pragma_journal_mode").await, "wal");
        let full = "SELECT CASE synchronous WHEN 2 THEN 'full' ELSE 'less' END FROM pragma_synchronous";
        assert_eq!(db.setting(full).await, "full");
    }
}

async fn a_job_comes_back_as_it_landed(db: Database) {
    let mut new = new_job("sales");
    new.files = vec!["landing/sales/é/1.csv".to_owned(), "second \"quoted\"".to_owned()];
    new.file_name = Some("Umsätze 📈.csv".to_owned());
    new.size_bytes = 5_000_000_000;
    new.parameters = [("day".to_owned(), "2024-05-01".into()), ("n".to_owned(), 7.into())].into();
    let job = landed(&db.store, new.clone()).await;
    let found = db.store.get(job.job_id).await.unwrap().unwrap();
    assert_eq!(found, job);
    assert_eq!((found.status, found.attempt, found.retries), (JobStatus::Queued, 0, 0));
    assert_eq!((found.files_to_process, found.file_name), (new.files, new.file_name));
    assert_eq!((found.size_bytes, found.parameters), (5_000_000_000, new.parameters));
    assert_eq!(db.store.get(JobId::new()).await.unwrap(), None);
}

async fn pages_hold_each_job_once_and_the_newest_first(db: Database) {
    let mut made = Vec::new();
    for _ in 0..7 {
        made.insert(0, landed(&db.store, new_job("sales")).await);
    }
    let mut found: Vec<Job> = Vec::new();
    let mut filter = JobFilter { limit: 3, ..JobFilter::default() };
    let mut pages = 0;
    loop {
        let page = db.store.list(&filter).await.unwrap();
        assert!(page.jobs.len() <= 3);
        found.extend(page.jobs);
        pages += 1;
        // A job that lands between two pages moves none of the others.
        landed(&db.store, new_job("sales")).await;
        filter.cursor = page.next_cursor;
        if filter.cursor.is_none() {
            break;
        }
    }
    assert_eq!(pages, 3);
    assert_eq!(found, made);
}

async fn a_filter_finds_what_it_names_and_nothing_else(db: Database) {
    let mut of_bob = new_job("sales");
    of_bob.sender = "bob".to_owned();
    let of_bob = landed(&db.store, of_bob).await;
    let stock = landed(&db.store, new_job("stock")).await;
    let running = claimed(&db.store, "sales").await.job;
    let all = || JobFilter { limit: 10, ..JobFilter::default() };
    let table = [
        (all(), vec![&running, &stock, &of_bob]),
        (JobFilter { statuses: vec![JobStatus::Processing], ..all() }, vec![&running]),
        (JobFilter { pipelines: Some(vec!["stock".parse().unwrap()]), ..all() }, vec![&stock]),
        (JobFilter { pipelines: Some(Vec::new()), ..all() }, vec![]),
        (JobFilter { sender: Some("bob".to_owned()), ..all() }, vec![&of_bob]),
        (JobFilter { sender: Some("BOB".to_owned()), ..all() }, vec![]),
        (JobFilter { sender: Some("' OR 1 = 1".to_owned()), ..all() }, vec![]),
        (
            JobFilter {
                statuses: vec![JobStatus::Queued, JobStatus::Success],
                pipelines: Some(vec!["sales".parse().unwrap(), "stock".parse().unwrap()]),
                ..all()
            },
            vec![&stock, &of_bob],
        ),
    ];
    for (filter, expected) in table {
        let found = db.store.list(&filter).await.unwrap();
        let ids = |jobs: Vec<&Job>| jobs.into_iter().map(|job| job.job_id).collect::<Vec<_>>();
        assert_eq!(ids(found.jobs.iter().collect()), ids(expected), "{filter:?}");
        assert_eq!(found.next_cursor, None);
    }
}

async fn a_cursor_that_no_page_gave_is_refused(db: Database) {
    let filter = JobFilter { limit: 1, cursor: Some("1; DROP TABLE".to_owned()), ..JobFilter::default() };
    assert!(matches!(db.store.list(&filter).await, Err(Error::Malformed { .. })));
}

async fn the_statistics_count_what_waits(db: Database) {
    let empty = db.store.queue_stats().await.unwrap();
    assert!(empty.jobs.iter().all(|(_, count)| *count == 0));
    assert_eq!((empty.jobs.len(), empty.oldest_queued_age_seconds), (5, 0.0));
    let mut large = new_job("sales");
    large.size_bytes = 1_000;
    landed(&db.store, large).await;
    landed(&db.store, new_job("sales")).await;
    claimed(&db.store, "sales").await;
    let stats = db.store.queue_stats().await.unwrap();
    let count = |status| stats.jobs.iter().find(|(known, _)| *known == status).unwrap().1;
    assert_eq!((count(JobStatus::Queued), count(JobStatus::Processing), count(JobStatus::Failed)), (2, 1, 0));
    let work = db.store.work().await.unwrap()["sales"];
    assert_eq!((work.pending.jobs, work.pending.size_bytes), (2, 1_012));
    assert_eq!((work.running.jobs, work.running.size_bytes), (1, 12));
    assert!(work.pending.seconds > work.running.seconds, "{work:?}");
    assert!(!db.store.work().await.unwrap().contains_key("prices"));
    assert!(stats.oldest_queued_age_seconds > 0.0);
    assert_eq!(stats.outbox_length, 3);
}

async fn a_pipeline_version_is_kept_as_first_saved(db: Database) {
    let name = "sales".parse().unwrap();
    assert_eq!(db.store.pipeline_text(&name, "v1").await.unwrap(), None);
    db.store.save_pipeline(&name, "v1", "pipeline: sales").await.unwrap();
    db.store.save_pipeline(&name, "v1", "other").await.unwrap();
    db.store.save_pipeline(&name, "v2", "second").await.unwrap();
    let text = db.store.pipeline_text(&name, "v1").await.unwrap();
    assert_eq!(text.as_deref(), Some("pipeline: sales"));
}

async fn grants_need_their_user(db: Database) {
    let grant = "INSERT INTO tidemill_grants (user_name, pipeline, permission) VALUES ('ann', '*', 'send')";
    assert!(sqlx::query(grant).execute(db.store.pool()).await.is_err(), "there is no such user");
    let user =
        "INSERT INTO tidemill_users (name, password_hash, is_admin, created_at) VALUES ('ann', 'x', 0, 0)";
    sqlx::query(user).execute(db.store.pool()).await.unwrap();
    sqlx::query(grant).execute(db.store.pool()).await.unwrap();
    sqlx::query("DELETE FROM tidemill_users").execute(db.store.pool()).await.unwrap();
    let left = sqlx::query("SELECT user_name FROM tidemill_grants").fetch_all(db.store.pool()).await.unwrap();
    assert!(left.is_empty(), "the grants went with their user");
}

async fn objects_without_a_job_are_told_apart(db: Database) {
    let job = landed(&db.store, new_job("sales")).await;
    let mut asked: Vec<JobId> = (0..1_200).map(|_| JobId::new()).collect();
    asked.push(job.job_id);
    let found = db.store.owners_of_objects(&asked).await.unwrap();
    assert_eq!(found.into_iter().collect::<Vec<_>>(), [job.job_id]);
}
