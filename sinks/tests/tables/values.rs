//! Promises about values: stored and read back exactly, or refused with the row's number.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use tidemill_pipelines::{ColumnName, Mode};
use tidemill_sinks::{Error, TablePlan};

use crate::rows::{
    attempt, batch, column, deliver, error, everybody, folk, key, owned, people, plan, read, text,
};
use crate::support::Place;

const DAY_MIN: i32 = -719_162;
const DAY_MAX: i32 = 2_932_896;
const DAY_MICROS: i64 = 86_400_000_000;

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn everything() -> TablePlan {
    plan(
        Mode::Append,
        vec![
            column("id", DataType::Int64),
            column("whole", DataType::Int64),
            column("ratio", DataType::Float64),
            column("price", DataType::Decimal128(38, 4)),
            column("good", DataType::Boolean),
            text("short", 20),
            column("any_text", DataType::Utf8),
            column("day", DataType::Date32),
            column("at", timestamp()),
        ],
        &["id"],
    )
}

fn extremes() -> Vec<ArrayRef> {
    let most = 10i128.pow(38) - 1;
    let long = "🌊é\\".repeat(30_000);
    let midnight = |day: i32| Some(i64::from(day) * DAY_MICROS);
    let texts =
        ["", "NULL", "\\N", "\\", "a\tb", "a\nb\r\n", "nul\0nul", "'quotes\"`", "🌊\u{10ffff}", " x "];
    let any: Vec<_> = texts.iter().map(|t| Some(*t)).chain([Some(long.as_str()), None]).collect();
    let short: Vec<_> =
        texts.iter().map(|t| Some(*t)).chain([Some("é".repeat(20).leak() as &str), None]).collect();
    vec![
        Arc::new(Int64Array::from_iter_values(1..13)),
        Arc::new(Int64Array::from(
            [i64::MIN, i64::MAX, 0, -1].map(Some).into_iter().chain([None; 8]).collect::<Vec<_>>(),
        )),
        Arc::new(Float64Array::from(
            [
                5e-324,
                f64::MAX,
                f64::MIN,
                0.1,
                1.0 / 3.0,
                123_456_789.123_456_79,
                -2.225_073_858_507_201e-308,
                f64::MIN_POSITIVE,
                1e22,
                9_007_199_254_740_993.0,
                0.0,
            ]
            .map(Some)
            .into_iter()
            .chain([None])
            .collect::<Vec<_>>(),
        )),
        Arc::new(
            Decimal128Array::from(
                [most, -most, 0, 1, -1, 10_000, 12_345]
                    .map(Some)
                    .into_iter()
                    .chain([None; 5])
                    .collect::<Vec<_>>(),
            )
            .with_precision_and_scale(38, 4)
            .unwrap(),
        ),
        Arc::new(BooleanArray::from(
            [Some(true), Some(false)].into_iter().chain([None; 10]).collect::<Vec<_>>(),
        )),
        Arc::new(StringArray::from(short)),
        Arc::new(StringArray::from(any)),
        Arc::new(Date32Array::from(
            [DAY_MIN, DAY_MAX, 0, -1, 11_016].map(Some).into_iter().chain([None; 7]).collect::<Vec<_>>(),
        )),
        Arc::new(
            TimestampMicrosecondArray::from(vec![
                midnight(DAY_MIN),
                midnight(DAY_MAX + 1).map(|end| end - 1),
                Some(0),
                Some(-1),
                Some(1),
                Some(1_357_016_400_000_000),
                Some(1_357_016_400_100_000),
                None,
                None,
                None,
                None,
                None,
            ])
            .with_timezone("UTC"),
        ),
    ]
}

pub async fn values_come_back_exactly(place: &Place) {
    let wanted = everything();
    place.sink.ensure(&wanted).await.unwrap();
    let written = batch(&wanted, extremes());
    let row = deliver(&*place.sink, &wanted, "job", std::slice::from_ref(&written)).await.unwrap();
    assert_eq!(row.rows, 12);
    let names: Vec<ColumnName> = wanted.columns.iter().map(|c| c.name.clone()).collect();
    let rows = read(&*place.sink, &wanted.table, &names).await;
    for (index, name) in names.iter().enumerate() {
        assert_eq!(rows.column(index), written.column(index), "column {name}");
    }
}

pub async fn texts_that_differ_in_case_or_spaces_are_different_keys(place: &Place) {
    let wanted = plan(Mode::Upsert, vec![text("name", 20)], &["name"]);
    place.sink.ensure(&wanted).await.unwrap();
    let names = ["ab", "AB", "a", "a ", "a  ", "é", "e", "e\u{301}", "", "ß", "ss"];
    let rows = batch(&wanted, vec![Arc::new(StringArray::from(names.to_vec()))]);
    deliver(&*place.sink, &wanted, "first", std::slice::from_ref(&rows)).await.unwrap();
    deliver(&*place.sink, &wanted, "again", &[rows]).await.unwrap();
    let stored = read(&*place.sink, &wanted.table, &["name".parse().unwrap()]).await;
    assert_eq!(stored.num_rows(), names.len());
}

pub async fn a_row_that_no_database_can_hold_is_named(place: &Place) {
    let mut wanted = everything();
    if place.objects.is_none() {
        // The good rows come twice, and a key that is there is no fault here.
        wanted.mode = Mode::Upsert;
    }
    place.sink.ensure(&wanted).await.unwrap();
    let good = extremes();
    let broken: [(usize, ArrayRef, u64, &str); 7] = [
        (0, Arc::new(Int64Array::from(vec![Some(1), None])), 14, "`id` is null"),
        (2, Arc::new(Float64Array::from(vec![1.0, f64::NAN])), 14, "no finite number"),
        (2, Arc::new(Float64Array::from(vec![f64::INFINITY, 1.0])), 13, "no finite number"),
        (
            3,
            Arc::new(Decimal128Array::from(vec![10i128.pow(38), 1]).with_precision_and_scale(38, 4).unwrap()),
            13,
            "more than 38 digits",
        ),
        (5, Arc::new(StringArray::from(vec!["é".repeat(20), "é".repeat(21)])), 14, "21 characters"),
        (7, Arc::new(Date32Array::from(vec![DAY_MIN - 1, 0])), 13, "the year is not within"),
        (
            8,
            Arc::new(
                TimestampMicrosecondArray::from(vec![0, i64::from(DAY_MAX + 1) * DAY_MICROS])
                    .with_timezone("UTC"),
            ),
            14,
            "the year is not within",
        ),
    ];
    for (index, array, expected, words) in broken {
        let mut arrays: Vec<ArrayRef> = good.iter().map(|a| a.slice(0, 2)).collect();
        arrays[index] = array;
        let batches = [batch(&wanted, good.clone()), batch(&wanted, arrays)];
        let error = error(attempt(&*place.sink, &wanted, &key("job", 1), &batches).await);
        let Error::Row { row, message, .. } = &error else { panic!("{error}") };
        assert_eq!(*row, expected, "{message}");
        assert!(message.contains(words), "{message}");
    }
    let rows = read(&*place.sink, &wanted.table, &["id".parse().unwrap()]).await;
    assert_eq!(rows.num_rows(), 0, "a refused delivery left rows");
}

pub async fn a_single_empty_text_is_a_row(place: &Place) {
    let wanted = plan(Mode::Append, vec![text("name", 5)], &[]);
    place.sink.ensure(&wanted).await.unwrap();
    let names = StringArray::from(vec![Some(""), None, Some(""), Some("x")]);
    let rows = batch(&wanted, vec![Arc::new(names.clone())]);
    deliver(&*place.sink, &wanted, "job", &[rows]).await.unwrap();
    let stored = read(&*place.sink, &wanted.table, &["name".parse().unwrap()]).await;
    let stored: &StringArray = stored.column(0).as_any().downcast_ref().unwrap();
    assert_eq!(stored, &names);
}

fn many(rows: i64) -> Vec<RecordBatch> {
    let ids: Vec<i64> = (0..rows).collect();
    ids.chunks(8_192).map(|ids| folk(&ids.iter().map(|id| (*id, "somebody")).collect::<Vec<_>>())).collect()
}

pub async fn a_scan_without_columns_counts_rows(place: &Place) {
    let wanted = people(Mode::Append);
    place.sink.ensure(&wanted).await.unwrap();
    deliver(&*place.sink, &wanted, "job", &many(10_000)).await.unwrap();
    let batches: Vec<_> = place.sink.scan(&wanted.table, &[]).await.unwrap().collect().await;
    let rows: usize = batches.into_iter().map(|b| b.unwrap().num_rows()).sum();
    assert_eq!(rows, 10_000);
}

pub async fn a_scan_comes_in_batches_and_may_be_left(place: &Place) {
    let wanted = people(Mode::Append);
    place.sink.ensure(&wanted).await.unwrap();
    deliver(&*place.sink, &wanted, "job", &many(60_000)).await.unwrap();
    let id: ColumnName = "id".parse().unwrap();
    // More scans than the pool has connections: one that is left gives its connection back.
    for _ in 0..20 {
        let mut left = place.sink.scan(&wanted.table, std::slice::from_ref(&id)).await.unwrap();
        let first = left.next().await.unwrap().unwrap();
        assert_eq!(first.num_rows(), 8_192);
    }
    let rows = read(&*place.sink, &wanted.table, &[id]).await;
    assert_eq!(rows.num_rows(), 60_000);
}

pub async fn a_scan_of_nothing_says_so(place: &Place) {
    let wanted = people(Mode::Append);
    let message = error(place.sink.scan(&wanted.table, &[]).await.map(drop)).to_string();
    assert!(message.contains("there is no table `people`"), "{message}");
    place.sink.ensure(&wanted).await.unwrap();
    let gone: ColumnName = "gone".parse().unwrap();
    let message = error(place.sink.scan(&wanted.table, &[gone]).await.map(drop)).to_string();
    assert!(message.contains("has no column `gone`"), "{message}");
    assert_eq!(everybody(&*place.sink).await, owned(&[]));
}
