//! What SQLite alone promises: a line of writers, and the tables of others.

use std::time::Duration;

use arrow::datatypes::DataType;
use tidemill_pipelines::{Mode, Retry};
use tidemill_sinks::{Error, Sink, SinkLimits, SqliteSink, TableState};

use crate::rows::{attempt, begin, deliver, error, everybody, folk, key, owned, people};
use crate::support::{limits, on_sqlite};

#[tokio::test]
async fn a_delivery_waits_its_turn_and_not_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let limits = SinkLimits { lock_wait_seconds: 1, ..limits(true) };
    let sink = SqliteSink::open_with(folder.path().join("a.db"), limits).await.unwrap();
    let wanted = people(Mode::Append);
    sink.ensure(&wanted).await.unwrap();
    let mut first = begin(&sink, &wanted, &key("first", 1)).await.unwrap();
    first.write(folk(&[(1, "a")])).await.unwrap();
    let waited = error(attempt(&sink, &wanted, &key("second", 1), &[]).await);
    assert!(matches!(waited, Error::Unavailable { retry: Retry::Now, .. }), "{waited}");
    let second_key = key("second", 2);
    let (second, ()) = tokio::join!(begin(&sink, &wanted, &second_key), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        first.commit().await.unwrap();
    });
    let mut second = second.unwrap();
    second.write(folk(&[(2, "b")])).await.unwrap();
    second.commit().await.unwrap();
    assert_eq!(everybody(&sink).await, owned(&[(1, "a"), (2, "b")]));
}

#[tokio::test]
async fn two_sinks_on_one_file_wait_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let one = SqliteSink::open_with(&path, limits(true)).await.unwrap();
    let two = SqliteSink::open_with(&path, limits(true)).await.unwrap();
    let wanted = people(Mode::Append);
    one.ensure(&wanted).await.unwrap();
    let mut held = begin(&one, &wanted, &key("one", 1)).await.unwrap();
    held.write(folk(&[(1, "a")])).await.unwrap();
    let (ended, ()) = tokio::join!(deliver(&two, &wanted, "two", &[]), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        held.commit().await.unwrap();
    });
    ended.unwrap();
    assert_eq!(everybody(&two).await, owned(&[(1, "a")]));
}

#[tokio::test]
async fn tables_of_others_are_read_as_far_as_they_have_types() {
    on_sqlite(async |place| {
        place
            .run(
                "CREATE TABLE theirs (a INTEGER PRIMARY KEY, b VARCHAR(10) NOT NULL, c DOUBLE, d BLOB, \
                 e NUMERIC); INSERT INTO theirs VALUES (1, 'x', 0.5, x'00', 1)",
            )
            .await;
        let table = "theirs".parse().unwrap();
        let schema = place.sink.schema(&table).await.unwrap().unwrap();
        let kinds: Vec<_> =
            schema.fields().iter().map(|f| (f.name().as_str(), f.data_type().clone())).collect();
        assert_eq!(kinds, [("a", DataType::Int64), ("b", DataType::Utf8), ("c", DataType::Float64)]);
        let names = ["a", "b", "c"].map(|name| name.parse().unwrap());
        assert_eq!(crate::rows::read(&*place.sink, &table, &names).await.num_rows(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_table_made_by_hand_with_the_same_storage_fits() {
    on_sqlite(async |place| {
        place.run("CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, remark TEXT)").await;
        let wanted = people(Mode::Upsert);
        assert_eq!(place.sink.inspect(&wanted).await.unwrap(), TableState::Fits);
        deliver(&*place.sink, &wanted, "job", &[folk(&[(1, "a")])]).await.unwrap();
        assert_eq!(everybody(&*place.sink).await, owned(&[(1, "a")]));

        place.run("CREATE UNIQUE INDEX people_name ON people (name)").await;
        let refused = error(place.sink.ensure(&wanted).await).to_string();
        assert!(refused.contains("unique index `people_name`"), "{refused}");
    })
    .await;
}

#[tokio::test]
async fn a_table_made_anew_by_hand_is_not_taken_for_the_old_one() {
    on_sqlite(async |place| {
        let mut wanted = people(Mode::Append);
        wanted.columns[1].kind = DataType::Date32;
        wanted.columns[1].max_length = None;
        place.sink.ensure(&wanted).await.unwrap();
        place.run("DROP TABLE people; CREATE TABLE people (id INTEGER PRIMARY KEY, name INTEGER)").await;
        let schema = place.sink.schema(&wanted.table).await.unwrap().unwrap();
        assert_eq!(schema.field(1).data_type(), &DataType::Int64);
        assert!(matches!(place.sink.inspect(&wanted).await.unwrap(), TableState::Differs(_)));
    })
    .await;
}
