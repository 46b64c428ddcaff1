//! Promises about tables: made to a plan, compared with it.

use arrow::datatypes::{DataType, TimeUnit};
use tidemill_pipelines::Mode;
use tidemill_sinks::{Error, TableState};

use crate::rows::{column, deliver, error, folk, people, plan, schema, text};
use crate::support::Place;

pub async fn a_missing_table_is_planned_then_made_then_fits(place: &Place) {
    let plan = plan(
        Mode::Upsert,
        vec![
            column("id", DataType::Int64),
            text("code", 20),
            text("long_text", 5_000),
            column("any_text", DataType::Utf8),
            column("ratio", DataType::Float64),
            column("price", DataType::Decimal128(38, 10)),
            column("good", DataType::Boolean),
            column("day", DataType::Date32),
            column("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        ],
        &["code", "id"],
    );
    let TableState::Missing { ddl } = place.sink.inspect(&plan).await.unwrap() else {
        panic!("a table is there in an empty database");
    };
    assert!(ddl.starts_with("CREATE TABLE"), "{ddl}");
    assert_eq!(place.sink.schema(&plan.table).await.unwrap(), None, "inspecting made a table");
    place.sink.ensure(&plan).await.unwrap();
    place.sink.ensure(&plan).await.unwrap();
    assert_eq!(place.sink.inspect(&plan).await.unwrap(), TableState::Fits);
    assert_eq!(place.sink.schema(&plan.table).await.unwrap(), Some(schema(&plan)));
    assert_eq!(place.sink.tables().await.unwrap(), [(plan.table.clone(), schema(&plan))]);
}

pub async fn a_table_of_another_shape_is_refused_with_every_difference(place: &Place) {
    place
        .run(
            "CREATE TABLE people (id BIGINT NOT NULL, other BIGINT NOT NULL, name BIGINT, \
             day TEXT NOT NULL, PRIMARY KEY (other))",
        )
        .await;
    let mut wanted = people(Mode::Upsert);
    wanted.columns.push(column("born", DataType::Date32));
    let Error::Shape { table, differences } = error(place.sink.ensure(&wanted).await) else {
        panic!("no error of shape");
    };
    assert_eq!(table, "people");
    for part in [
        "column `born` is missing",
        "column `day` is not in the pipeline",
        "column `name` is bigint",
        "primary key is (other), the pipeline's key is (id)",
    ] {
        let found = differences.iter().any(|d| d.to_lowercase().contains(&part.to_lowercase()));
        assert!(found, "no `{part}` in {differences:?}");
    }
    let TableState::Differs(inspected) = place.sink.inspect(&wanted).await.unwrap() else {
        panic!("it fits");
    };
    assert_eq!(inspected, differences);
}

pub async fn a_plan_that_cannot_be_a_table_is_refused(place: &Place) {
    let no_length = plan(Mode::Upsert, vec![column("name", DataType::Utf8)], &["name"]);
    let message = error(place.sink.ensure(&no_length).await).to_string();
    assert!(message.contains("give the column a max_length"), "{message}");

    let long_key = plan(Mode::Append, vec![text("name", 1_000)], &["name"]);
    let message = error(place.sink.ensure(&long_key).await).to_string();
    assert!(message.contains("the longest is 768"), "{message}");

    let twice = plan(Mode::Append, vec![text("name", 5), text("NAME", 5)], &[]);
    let message = error(place.sink.ensure(&twice).await).to_string();
    assert!(message.contains("column `NAME` is there twice"), "{message}");

    let strange = plan(Mode::Append, vec![column("a", DataType::Binary)], &[]);
    assert!(matches!(place.sink.inspect(&strange).await, Err(Error::Type { .. })));

    let shorter = plan(Mode::Append, vec![text("name", 10)], &[]);
    place.sink.ensure(&shorter).await.unwrap();
    let longer = plan(Mode::Append, vec![text("name", 11)], &[]);
    let message = error(place.sink.ensure(&longer).await).to_string();
    assert!(message.contains("column `name` is"), "{message}");
}

pub async fn extra_columns_are_left_alone_by_an_upsert(place: &Place) {
    let wanted = people(Mode::Upsert);
    place.sink.ensure(&wanted).await.unwrap();
    place.run("ALTER TABLE people ADD COLUMN remark INT DEFAULT 7").await;
    assert_eq!(place.sink.inspect(&wanted).await.unwrap(), TableState::Fits);
    deliver(&*place.sink, &wanted, "first", &[folk(&[(1, "a")])]).await.unwrap();
    place.run("UPDATE people SET remark = 42").await;
    deliver(&*place.sink, &wanted, "second", &[folk(&[(1, "b"), (2, "c")])]).await.unwrap();
    let remark = "remark".parse().unwrap();
    let rows = crate::rows::read(&*place.sink, &wanted.table, &[remark]).await;
    let remarks: &arrow::array::Int64Array = rows.column(0).as_any().downcast_ref().unwrap();
    assert_eq!(remarks.values(), &[42, 7]);
}

pub async fn own_tables_are_not_listed(place: &Place) {
    place.sink.migrate().await.unwrap();
    place.sink.ping().await.unwrap();
    assert_eq!(place.sink.tables().await.unwrap(), []);
}
