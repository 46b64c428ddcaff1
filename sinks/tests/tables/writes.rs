//! Promises about deliveries: what each mode does, and that it happens once.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::Int64Array;
use arrow::datatypes::DataType;
use tidemill_pipelines::{Mode, Retry};
use tidemill_sinks::{Commit, CommitKey, Error, RefusedRow, Sink};

use crate::rows::{
    attempt, batch, begin, column, deliver, error, everybody, folk, key, owned, people, plan, read,
};
use crate::support::Place;

pub async fn append_adds_upsert_updates_replace_replaces(place: &Place) {
    let sink = &*place.sink;
    sink.ensure(&people(Mode::Append)).await.unwrap();
    let row = deliver(sink, &people(Mode::Append), "a", &[folk(&[(1, "a"), (2, "b")])]).await.unwrap();
    assert_eq!((row.rows, row.table.as_str(), row.key.attempt), (2, "people", 1));
    deliver(sink, &people(Mode::Append), "b", &[folk(&[(3, "c")])]).await.unwrap();
    assert_eq!(everybody(sink).await, owned(&[(1, "a"), (2, "b"), (3, "c")]));

    let rows = [folk(&[(2, "B"), (4, "d")]), folk(&[(5, "e")])];
    let row = deliver(sink, &people(Mode::Upsert), "c", &rows).await.unwrap();
    assert_eq!(row.rows, 3);
    let expected = owned(&[(1, "a"), (2, "B"), (3, "c"), (4, "d"), (5, "e")]);
    assert_eq!(everybody(sink).await, expected);

    deliver(sink, &people(Mode::Replace), "d", &[folk(&[(9, "z")])]).await.unwrap();
    assert_eq!(everybody(sink).await, owned(&[(9, "z")]));
    assert_eq!(sink.ledger("c").await.unwrap().len(), 1);
}

pub async fn an_upsert_of_nothing_but_its_key_keeps_the_row(place: &Place) {
    let wanted = plan(Mode::Upsert, vec![column("id", DataType::Int64)], &["id"]);
    place.sink.ensure(&wanted).await.unwrap();
    let rows = batch(&wanted, vec![Arc::new(Int64Array::from(vec![1, 2, 1]))]);
    deliver(&*place.sink, &wanted, "a", std::slice::from_ref(&rows)).await.unwrap();
    deliver(&*place.sink, &wanted, "b", &[rows]).await.unwrap();
    assert_eq!(read(&*place.sink, &wanted.table, &["id".parse().unwrap()]).await.num_rows(), 2);
}

pub async fn the_last_row_of_a_key_wins_an_upsert(place: &Place) {
    let (sink, wanted) = (&*place.sink, people(Mode::Upsert));
    sink.ensure(&wanted).await.unwrap();
    // Into an empty table, then into one with rows: MySQL goes two ways.
    for job in ["empty", "filled"] {
        let rows = [folk(&[(1, "first"), (1, "second"), (2, "x")]), folk(&[(1, job)])];
        assert_eq!(deliver(sink, &wanted, job, &rows).await.unwrap().rows, 4);
        assert_eq!(everybody(sink).await, owned(&[(1, job), (2, "x")]));
    }
}

pub async fn a_delivery_without_rows_is_in_the_ledger(place: &Place) {
    let (sink, wanted) = (&*place.sink, people(Mode::Replace));
    sink.ensure(&wanted).await.unwrap();
    deliver(sink, &wanted, "a", &[folk(&[(1, "a")])]).await.unwrap();
    deliver(sink, &wanted, "none", &[]).await.unwrap();
    assert_eq!(everybody(sink).await, owned(&[]));
    deliver(sink, &people(Mode::Upsert), "empty", &[folk(&[])]).await.unwrap();
    for job in ["none", "empty"] {
        let ledger = sink.ledger(job).await.unwrap();
        assert_eq!(ledger.iter().map(|row| row.rows).collect::<Vec<_>>(), [0], "{job}");
    }
}

pub async fn a_second_delivery_writes_nothing(place: &Place) {
    let (sink, wanted) = (&*place.sink, people(Mode::Append));
    sink.ensure(&wanted).await.unwrap();
    let first = attempt(sink, &wanted, &key("job", 1), &[folk(&[(1, "a")])]).await.unwrap();
    let age = chrono::Utc::now().signed_duration_since(first.committed_at);
    assert!(age.num_seconds().abs() < 60, "committed at {}", first.committed_at);
    for attempt in [1, 2] {
        assert_eq!(sink.raise("job", attempt).await.unwrap(), std::slice::from_ref(&first));
    }
    assert_eq!(everybody(sink).await, owned(&[(1, "a")]));
    assert_eq!(sink.ledger("job").await.unwrap(), [first]);
}

pub async fn chunks_of_a_job_are_commits_of_their_own(place: &Place) {
    let (sink, wanted) = (&*place.sink, people(Mode::Append));
    sink.ensure(&wanted).await.unwrap();
    for chunk in [1, 0] {
        let key = CommitKey { chunk, ..key("job", 1) };
        attempt(sink, &wanted, &key, &[folk(&[(i64::from(chunk), "a")])]).await.unwrap();
    }
    let ledger = sink.ledger("job").await.unwrap();
    assert_eq!(ledger.iter().map(|row| row.key.chunk).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(sink.ledger("another").await.unwrap(), []);
}

pub async fn an_older_attempt_is_fenced(place: &Place) {
    let (sink, wanted) = (&*place.sink, people(Mode::Append));
    sink.ensure(&wanted).await.unwrap();
    let mut older = begin(sink, &wanted, &key("job", 1)).await.unwrap();
    older.write(folk(&[(1, "older")])).await.unwrap();
    let (newer_key, older_ends) = (key("job", 2), async {
        // The newer attempt raises the fence before it waits for anything.
        tokio::time::sleep(Duration::from_millis(500)).await;
        older.commit().await
    });
    let (newer, older) = tokio::join!(begin(sink, &wanted, &newer_key), older_ends);
    let message = error(older);
    assert!(matches!(message, Error::Fenced { attempt: 1, newer: 2, .. }), "{message}");
    let mut newer = newer.unwrap();
    newer.write(folk(&[(1, "newer")])).await.unwrap();
    newer.commit().await.unwrap();
    assert_eq!(everybody(sink).await, owned(&[(1, "newer")]));
}

pub async fn an_overtaken_attempt_does_not_begin(place: &Place) {
    let (sink, wanted) = (&*place.sink, people(Mode::Append));
    sink.ensure(&wanted).await.unwrap();
    begin(sink, &wanted, &key("job", 5)).await.unwrap().rollback().await.unwrap();
    let refused = error(begin(sink, &wanted, &key("job", 4)).await.map(drop));
    assert!(matches!(refused, Error::Fenced { attempt: 4, newer: 5, .. }), "{refused}");
    assert_eq!(refused.retry(), Retry::Never);
}

pub async fn a_dropped_delivery_leaves_nothing(place: &Place) {
    let (sink, wanted) = (&*place.sink, people(Mode::Replace));
    sink.ensure(&wanted).await.unwrap();
    deliver(sink, &wanted, "before", &[folk(&[(7, "stays")])]).await.unwrap();
    let many: Vec<(i64, &str)> = (0..100_000).map(|id| (id, "some text that fills a chunk")).collect();
    for number in 1..4 {
        let mut dropped = begin(sink, &wanted, &key("job", number)).await.unwrap();
        dropped.write(folk(&many)).await.unwrap();
        drop(dropped);
        let mut given_up = begin(sink, &wanted, &key("other", number)).await.unwrap();
        given_up.write(folk(&[(1, "a")])).await.unwrap();
        given_up.rollback().await.unwrap();
    }
    assert_eq!(everybody(sink).await, owned(&[(7, "stays")]));
    assert_eq!(sink.ledger("job").await.unwrap(), []);
    deliver(sink, &wanted, "after", &[folk(&[(8, "comes")])]).await.unwrap();
    assert_eq!(everybody(sink).await, owned(&[(8, "comes")]));
}

pub async fn a_row_that_is_there_already_is_named_and_nothing_stays(place: &Place) {
    let (sink, wanted) = (&*place.sink, people(Mode::Append));
    sink.ensure(&wanted).await.unwrap();
    deliver(sink, &wanted, "before", &[folk(&[(1_500, "stays")])]).await.unwrap();
    let rows: Vec<(i64, &str)> = (0..3_000).map(|id| (id, "new")).collect();
    let batches = [folk(&rows[..1_000]), folk(&rows[1_000..])];
    let refused = error(deliver(sink, &wanted, "job", &batches).await);
    let Error::Row { table, row, message } = &refused else { panic!("{refused}") };
    assert_eq!((table.as_str(), *row), ("people", 1_501));
    let words = message.to_lowercase();
    assert!(words.contains("duplicate") || words.contains("unique"), "{message}");

    let twice = [folk(&[(1, "a"), (2, "b"), (1, "c")])];
    let refused = error(deliver(sink, &wanted, "twice", &twice).await);
    assert!(matches!(refused, Error::Row { row: 3, .. }), "{refused}");
    assert_eq!(everybody(sink).await, owned(&[(1_500, "stays")]));
    assert_eq!(sink.ledger("job").await.unwrap(), []);
}

pub async fn upserts_of_the_same_keys_at_once_all_come_in(place: &Place) {
    let wanted = people(Mode::Upsert);
    place.sink.ensure(&wanted).await.unwrap();
    deliver(&*place.sink, &wanted, "before", &[folk(&[(0, "old")])]).await.unwrap();
    let jobs = (0..6).map(|job| {
        let (sink, wanted) = (Arc::clone(&place.sink), wanted.clone());
        tokio::spawn(async move {
            // Each in another order.
            let ids = (0..500i64).map(|id| if job % 2 == 0 { id } else { 499 - id });
            let rows: Vec<(i64, &str)> = ids.map(|id| (id, "new")).collect();
            deliver(&*sink, &wanted, &format!("job{job}"), &[folk(&rows)]).await
        })
    });
    for job in jobs.collect::<Vec<_>>() {
        job.await.unwrap().unwrap();
    }
    let rows = everybody(&*place.sink).await;
    assert_eq!(rows.len(), 500);
    assert!(rows.iter().all(|(_, name)| name == "new"));
}

pub async fn replacing_at_once_leaves_the_rows_of_one(place: &Place) {
    let wanted = people(Mode::Replace);
    place.sink.ensure(&wanted).await.unwrap();
    let jobs = (0..4i64).map(|job| {
        let (sink, wanted) = (Arc::clone(&place.sink), wanted.clone());
        tokio::spawn(async move {
            let rows: Vec<(i64, &str)> = (0..200).map(|id| (job * 1_000 + id, "x")).collect();
            deliver(&*sink, &wanted, &format!("job{job}"), &[folk(&rows)]).await
        })
    });
    for job in jobs.collect::<Vec<_>>() {
        job.await.unwrap().unwrap();
    }
    let rows = everybody(&*place.sink).await;
    assert_eq!(rows.len(), 200);
    assert_eq!(rows[0].0 / 1_000, rows[199].0 / 1_000, "rows of two jobs");
}

pub async fn a_raised_fence_keeps_an_attempt_from_committing(place: &Place) {
    let (sink, wanted) = (&*place.sink, people(Mode::Append));
    sink.ensure(&wanted).await.unwrap();
    let mut ended = begin(sink, &wanted, &key("job", 1)).await.unwrap();
    ended.write(folk(&[(1, "late")])).await.unwrap();
    // As whoever ends the job from outside does; on SQLite that waits for the write lock of the attempt.
    let late = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        ended.commit().await
    };
    let (raised, late) = tokio::join!(sink.raise("job", 2), late);
    assert_eq!(raised.unwrap(), []);
    let message = error(late);
    assert!(matches!(message, Error::Fenced { attempt: 1, newer: 2, .. }), "{message}");
    assert_eq!(everybody(sink).await, owned(&[]));
    // The next attempt has the number that the fence was raised to.
    attempt(sink, &wanted, &key("job", 2), &[folk(&[(1, "again")])]).await.unwrap();
    assert_eq!(everybody(sink).await, owned(&[(1, "again")]));
}

pub async fn a_fence_raised_after_the_commit_finds_it(place: &Place) {
    let (sink, wanted) = (&*place.sink, people(Mode::Append));
    sink.ensure(&wanted).await.unwrap();
    let row = attempt(sink, &wanted, &key("job", 1), &[folk(&[(1, "a")])]).await.unwrap();
    assert_eq!(row.summary.as_deref(), Some("{}"));
    assert_eq!(sink.raise("job", 2).await.unwrap(), [row]);
}

pub async fn a_commit_without_a_table_is_in_the_ledger(place: &Place) {
    let sink = &*place.sink;
    for _ in 0..2 {
        sink.raise("job", 1).await.unwrap();
        let delivery = sink.open(&[], &key("job", 1)).await.unwrap();
        let rows = delivery.commit(Commit { summary: Some("made"), lake: &[] }).await.unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(
            (rows[0].sink.as_str(), rows[0].rows, rows[0].summary.as_deref()),
            ("files", 0, Some("made"))
        );
    }
    assert_eq!(sink.ledger("job").await.unwrap().len(), 1);
}

pub async fn tables_of_one_delivery_commit_together(place: &Place) {
    let sink = &*place.sink;
    let first = people(Mode::Append);
    let second = tidemill_sinks::TablePlan { table: "crowd".parse().unwrap(), ..people(Mode::Upsert) };
    let plans = [first.clone(), second.clone()];
    for plan in &plans {
        sink.ensure(plan).await.unwrap();
    }
    let all = async |table: &tidemill_pipelines::TableName| {
        let names = ["id".parse().unwrap()];
        read(sink, table, &names).await.num_rows()
    };
    for (job, commits) in [("rolled back", false), ("committed", true), ("again", true)] {
        sink.raise(job, 1).await.unwrap();
        let mut delivery = sink.open(&plans, &key(job, 1)).await.unwrap();
        for from in [0, 10] {
            // Rows of the two tables come by turns.
            let offset = if job == "again" { 100 } else { 0 };
            let rows = |names: i64| (from..from + names).map(|id| (offset + id, "x")).collect::<Vec<_>>();
            assert_eq!(delivery.write(0, folk(&rows(10))).await.unwrap(), []);
            assert_eq!(delivery.write(1, folk(&rows(5))).await.unwrap(), []);
        }
        if commits {
            let rows = delivery.commit(Commit { summary: Some("{}"), lake: &[] }).await.unwrap();
            let counts: Vec<_> = rows.iter().map(|row| (row.table.as_str(), row.rows)).collect();
            assert_eq!(counts, [("crowd", 10), ("people", 20)]);
        } else {
            delivery.rollback().await.unwrap();
            assert_eq!((all(&first.table).await, all(&second.table).await), (0, 0));
            assert_eq!(sink.ledger(job).await.unwrap(), []);
        }
    }
    assert_eq!((all(&first.table).await, all(&second.table).await), (40, 20));
}

pub async fn refused_rows_are_told_and_the_others_written(place: &Place) {
    let (sink, wanted) = (&*place.sink, people(Mode::Append));
    sink.ensure(&wanted).await.unwrap();
    deliver(sink, &wanted, "before", &[folk(&[(5, "there")])]).await.unwrap();
    let long = "x".repeat(51);
    let mut rows: Vec<(i64, &str)> = (0..2_000).map(|id| (id, "new")).collect();
    rows[700] = (3_000, &long);
    rows[1_500] = (1_400, "twice");
    let batch = folk(&rows);
    let refused = refusing(sink, &wanted, "job", &batch).await;
    let numbers: Vec<_> = refused.iter().map(|refused| refused.row).collect();
    assert_eq!(numbers, [5, 700, 1_500], "{refused:?}");
    assert!(refused[1].message.contains("51 characters"), "{refused:?}");
    let found = everybody(sink).await;
    assert_eq!(found.len(), 1_998);
    assert_eq!(sink.ledger("job").await.unwrap()[0].rows, 1_997);
    assert!(found.contains(&(5, "there".to_owned())) && !found.iter().any(|(_, name)| name == "twice"));
}

/// Attempts until one is through, as a processor that rejects what the database refuses.
pub async fn refusing(
    sink: &dyn Sink,
    plan: &tidemill_sinks::TablePlan,
    job: &str,
    batch: &arrow::record_batch::RecordBatch,
) -> Vec<RefusedRow> {
    for number in 1..5 {
        sink.raise(job, number).await.unwrap();
        let mut delivery = sink.open(std::slice::from_ref(plan), &key(job, number)).await.unwrap();
        let ended = match delivery.write(0, batch.clone()).await {
            Ok(refused) => {
                let commit = Commit { summary: Some("{}"), lake: &[] };
                delivery.commit(commit).await.map(|_| refused)
            }
            Err(error) => Err(error),
        };
        match ended {
            Err(error) if error.retry() == Retry::Now => continue,
            ended => return ended.unwrap(),
        }
    }
    panic!("no attempt came to an end");
}
