//! Promises about deliveries: what each mode does, and that it happens once.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::Int64Array;
use arrow::datatypes::DataType;
use tidemill_pipelines::{Mode, Retry};
use tidemill_sinks::{CommitKey, Error, Opened};

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
        let Opened::Committed(row) = sink.open(&wanted, &key("job", attempt)).await.unwrap() else {
            panic!("attempt {attempt} was let in");
        };
        assert_eq!(row, first);
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
    let refused = error(sink.open(&wanted, &key("job", 4)).await.map(drop));
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
