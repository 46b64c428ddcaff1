//! Promises that only the lake makes: days, files, and commits among several writers.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow::array::{AsArray, Date32Array, Int64Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Date32Type, Int64Type, TimeUnit};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use tidemill_pipelines::Mode;
use tidemill_sinks::{Commit, Error, Lake, LakeLimits, Place as Where, Sink, TablePlan, TableState};

use crate::rows::{
    attempt, batch, begin, column, deliver, error, everybody, folk, key, owned, people, plan, read,
};
use crate::support::{InLake, Place};

const DAY_MICROS: i64 = 86_400_000_000;

fn objects(place: &Place) -> Arc<dyn ObjectStore> {
    Arc::clone(place.objects.as_ref().unwrap())
}

/// The Parquet files of the lake, committed or not.
async fn files(place: &Place) -> Vec<String> {
    let listed: Vec<ObjectMeta> = objects(place).list(None).try_collect().await.unwrap();
    let paths = listed.into_iter().map(|object| object.location.to_string());
    let mut files: Vec<_> = paths.filter(|path| path.ends_with(".parquet")).collect();
    files.retain(|path| !path.contains("/_delta_log/"));
    files.sort();
    files
}

/// Commits in the log of `people`.
async fn versions(place: &Place) -> usize {
    let log = Path::from("lake/people/_delta_log");
    let listed: Vec<ObjectMeta> = objects(place).list(Some(&log)).try_collect().await.unwrap();
    listed.iter().filter(|object| object.location.as_ref().ends_with(".json")).count()
}

/// `people (id, at)` by the day of `at`.
fn dated() -> TablePlan {
    let at = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns = vec![column("id", DataType::Int64), column("at", at)];
    TablePlan { place: Where::Lake { day: Some("at".parse().unwrap()) }, ..plan(Mode::Append, columns, &[]) }
}

/// One row for each id, on these days.
fn on_days(days: &[Option<i64>]) -> RecordBatch {
    let ids = Int64Array::from_iter_values(0..days.len() as i64);
    let noons = days.iter().map(|day| day.map(|day| day * DAY_MICROS + DAY_MICROS / 2));
    let at: TimestampMicrosecondArray = noons.collect();
    batch(&dated(), vec![Arc::new(ids), Arc::new(at.with_timezone("UTC"))])
}

pub async fn a_missing_table_is_planned_then_made_then_fits(place: &Place) {
    let wanted = dated();
    let TableState::Missing { ddl } = place.sink.inspect(&wanted).await.unwrap() else {
        panic!("a table is there in an empty lake");
    };
    assert_eq!(
        ddl,
        "CREATE TABLE lake.`people` (\n  `id` BIGINT,\n  `at` TIMESTAMP,\n  `at_day` DATE\n) \
         USING DELTA PARTITIONED BY (`at_day`)"
    );
    assert_eq!(place.sink.schema(&wanted.table).await.unwrap(), None, "inspecting made a table");
    place.sink.ensure(&wanted).await.unwrap();
    place.sink.ensure(&wanted).await.unwrap();
    assert_eq!(place.sink.inspect(&wanted).await.unwrap(), TableState::Fits);
    let tables = place.sink.tables().await.unwrap();
    assert_eq!((tables.len(), tables[0].0.as_str()), (1, "people"));
    let names: Vec<_> = tables[0].1.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["id", "at", "at_day"]);
}

pub async fn a_table_of_another_shape_is_refused_with_every_difference(place: &Place) {
    place.sink.ensure(&dated()).await.unwrap();
    let mut wanted = plan(
        Mode::Append,
        vec![column("ID", DataType::Int64), column("at", DataType::Utf8), column("born", DataType::Date32)],
        &[],
    );
    wanted.place = Where::Lake { day: Some("born".parse().unwrap()) };
    let Error::Shape { differences, .. } = error(place.sink.ensure(&wanted).await) else {
        panic!("no error of shape");
    };
    for part in [
        "column `ID` is written `id`",
        "column `at` is TIMESTAMP, the pipeline needs STRING",
        "column `born` is missing, the pipeline needs DATE",
        "it is partitioned by (at_day), the pipeline's day is in `born`",
    ] {
        assert!(differences.iter().any(|difference| difference == part), "no `{part}` in {differences:?}");
    }
    assert_eq!(place.sink.inspect(&wanted).await.unwrap(), TableState::Differs(differences));
}

pub async fn a_table_made_by_several_at_once_is_made_once(place: &Place) {
    let makers = (0..6).map(|_| {
        let lake = Lake::new(objects(place));
        tokio::spawn(async move { lake.ensure(&dated()).await })
    });
    for maker in makers.collect::<Vec<_>>() {
        maker.await.unwrap().unwrap();
    }
    assert_eq!(versions(place).await, 1);
}

pub async fn rows_lie_in_a_folder_for_each_day(place: &Place) {
    place.sink.ensure(&dated()).await.unwrap();
    let rows = [on_days(&[Some(0), Some(19_723), None, Some(-1)]), on_days(&[Some(19_723)])];
    assert_eq!(deliver(&*place.sink, &dated(), "job", &rows).await.unwrap().rows, 5);
    let files = files(place).await;
    for day in ["1970-01-01", "2024-01-01", "1969-12-31", "__HIVE_DEFAULT_PARTITION__"] {
        let folder = format!("lake/people/at_day={day}/");
        assert_eq!(files.iter().filter(|file| file.starts_with(&folder)).count(), 1, "{day} of {files:?}");
    }
    let names = ["id", "at_day"].map(|name| name.parse().unwrap());
    let stored = read(&*place.sink, &dated().table, &names).await;
    let (ids, days) =
        (stored.column(0).as_primitive::<Int64Type>(), stored.column(1).as_primitive::<Date32Type>());
    let mut rows: Vec<_> = ids.iter().zip(days).collect();
    rows.sort();
    let expected = [(0, Some(0)), (0, Some(19_723)), (1, Some(19_723)), (2, None), (3, Some(-1))];
    assert_eq!(rows, expected.map(|(id, day)| (Some(id), day)));

    // Without a day column, all rows are of one day.
    let undated = TablePlan { table: "undated".parse().unwrap(), ..people(Mode::Append) };
    place.sink.ensure(&undated).await.unwrap();
    let id = "018cc251-f400-7000-8000-000000000000"; // 2024-01-01
    let row = attempt(&*place.sink, &undated, &key(id, 1), &[folk(&[(1, "a")])]).await.unwrap();
    assert_eq!(place.sink.ledger(id).await.unwrap(), [row]);
    let stored = read(&*place.sink, &undated.table, &["landed_day".parse().unwrap()]).await;
    assert_eq!(stored.column(0).as_primitive::<Date32Type>(), &Date32Array::from(vec![19_723]));
}

/// Closes files after every few kilobytes.
fn small() -> LakeLimits {
    LakeLimits { held_bytes_max: 200 << 10, files_max: 40, ..LakeLimits::default() }
}

pub async fn files_that_hold_too_much_are_closed_and_too_many_days_are_refused(place: &Place) {
    let lake = InLake::beside(place, Lake::with_limits(objects(place), small())).await;
    lake.ensure(&dated()).await.unwrap();
    // Three files at once are the most that the limit bears: a fourth closes them all.
    let rows: Vec<_> = (0..8).map(|from| on_days(&[Some(from), Some(from + 1), Some(from + 2)])).collect();
    assert_eq!(deliver(&lake, &dated(), "job", &rows).await.unwrap().rows, 24);
    assert!(files(place).await.len() > 10, "{:?}", files(place).await);
    assert_eq!(read(&lake, &dated().table, &["id".parse().unwrap()]).await.num_rows(), 24);

    let days: Vec<_> = (0..41).map(Some).collect();
    let refused = error(deliver(&lake, &dated(), "wild", &[on_days(&days)]).await).to_string();
    assert!(refused.contains("is the day the right column?"), "{refused}");
    assert_eq!(lake.ledger("wild").await.unwrap(), []);
}

pub async fn an_attempt_killed_before_its_commit_leaves_only_files_that_the_sweep_takes(place: &Place) {
    let swept = Lake::with_limits(objects(place), LakeLimits { orphan_age: Duration::ZERO, ..small() });
    let lake = InLake::beside(place, swept).await;
    lake.ensure(&dated()).await.unwrap();
    let days: Vec<_> = (0..10).map(Some).collect();
    let mut killed = begin(&lake, &dated(), &key("job", 1)).await.unwrap();
    killed.write(on_days(&days)).await.unwrap();
    std::mem::forget(killed); // as a kill does: nothing is cleaned up
    let orphans = files(place).await;
    assert!(!orphans.is_empty());
    assert_eq!(read(&lake, &dated().table, &["id".parse().unwrap()]).await.num_rows(), 0);
    assert_eq!(lake.ledger("job").await.unwrap(), []);

    let row = attempt(&lake, &dated(), &key("job", 2), &[on_days(&days)]).await.unwrap();
    assert_eq!((row.rows, row.key.attempt), (10, 2));
    assert_eq!(lake.ledger("job").await.unwrap(), [row]);
    assert_eq!(lake.lake.sweep().await.unwrap(), orphans.len() as u64);
    assert!(files(place).await.iter().all(|file| !orphans.contains(file)));
    assert_eq!(read(&lake, &dated().table, &["id".parse().unwrap()]).await.num_rows(), 10);
    assert_eq!(lake.lake.sweep().await.unwrap(), 0);
}

pub async fn a_delivery_given_up_leaves_no_file(place: &Place) {
    let lake = InLake::beside(place, Lake::with_limits(objects(place), small())).await;
    lake.ensure(&dated()).await.unwrap();
    let before = versions(place).await;
    let mut given_up = begin(&lake, &dated(), &key("job", 1)).await.unwrap();
    for _ in 0..3 {
        given_up.write(on_days(&[Some(1), Some(2), Some(3), Some(4)])).await.unwrap();
    }
    assert!(!files(place).await.is_empty());
    given_up.rollback().await.unwrap();
    assert_eq!(files(place).await, Vec::<String>::new());
    assert_eq!((versions(place).await, lake.ledger("job").await.unwrap()), (before, vec![]));
}

pub async fn the_same_delivery_by_two_processors_at_once_is_written_once(place: &Place) {
    place.sink.ensure(&people(Mode::Append)).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..3 {
        let lake = InLake::beside(place, Lake::new(objects(place))).await;
        let mut delivery = begin(&lake, &people(Mode::Append), &key("job", 1)).await.unwrap();
        delivery.write(folk(&[(1, "a"), (2, "b")])).await.unwrap();
        open.push(delivery);
    }
    let commits: Vec<_> = open.into_iter().map(|delivery| tokio::spawn(delivery.commit())).collect();
    for commit in commits {
        assert_eq!(commit.await.unwrap().unwrap().rows, 2);
    }
    assert_eq!(everybody(&*place.sink).await, owned(&[(1, "a"), (2, "b")]));
    assert_eq!((place.sink.ledger("job").await.unwrap().len(), versions(place).await), (1, 2));
}

pub async fn an_attempt_overtaken_by_one_that_began_is_refused(place: &Place) {
    let (sink, wanted) = (&*place.sink, people(Mode::Append));
    sink.ensure(&wanted).await.unwrap();
    let mut older = begin(sink, &wanted, &key("job", 1)).await.unwrap();
    older.write(folk(&[(1, "older")])).await.unwrap();
    let mut newer = begin(sink, &wanted, &key("job", 2)).await.unwrap();
    let refused = error(older.commit().await);
    assert!(matches!(refused, Error::Fenced { attempt: 1, newer: 2, .. }), "{refused}");
    newer.write(folk(&[(1, "newer")])).await.unwrap();
    newer.commit().await.unwrap();
    assert_eq!(everybody(sink).await, owned(&[(1, "newer")]));
}

pub async fn an_attempt_overtaken_by_a_commit_is_refused(place: &Place) {
    let (sink, wanted) = (&*place.sink, people(Mode::Append));
    sink.ensure(&wanted).await.unwrap();
    let mut older = begin(sink, &wanted, &key("job", 1)).await.unwrap();
    older.write(folk(&[(1, "older")])).await.unwrap();
    attempt(sink, &wanted, &key("job", 2), &[folk(&[(1, "newer")])]).await.unwrap();
    let refused = error(older.commit().await);
    assert!(matches!(refused, Error::Fenced { attempt: 1, newer: 2, .. }), "{refused}");
    assert_eq!(everybody(sink).await, owned(&[(1, "newer")]));
    assert_eq!(files(place).await.len(), 1, "the files of the older attempt are there still");
}

pub async fn an_older_attempt_that_committed_first_stands(place: &Place) {
    let (sink, wanted) = (&*place.sink, people(Mode::Append));
    sink.ensure(&wanted).await.unwrap();
    let first = attempt(sink, &wanted, &key("job", 1), &[folk(&[(1, "first")])]).await.unwrap();
    assert_eq!(sink.raise("job", 2).await.unwrap(), [first]);
}

pub async fn jobs_at_once_all_come_in(place: &Place) {
    place.sink.ensure(&people(Mode::Append)).await.unwrap();
    let jobs = (0..8i64).map(|job| {
        let sink = Arc::clone(&place.sink);
        tokio::spawn(async move {
            let rows = [folk(&[(job, "a"), (job + 100, "b")])];
            deliver(&*sink, &people(Mode::Append), &format!("job{job}"), &rows).await
        })
    });
    for job in jobs.collect::<Vec<_>>() {
        assert_eq!(job.await.unwrap().unwrap().rows, 2);
    }
    assert_eq!(everybody(&*place.sink).await.len(), 16);
}

pub async fn a_job_is_still_known_after_a_checkpoint(place: &Place) {
    let (sink, wanted) = (&*place.sink, people(Mode::Append));
    sink.ensure(&wanted).await.unwrap();
    for job in 0..22 {
        deliver(sink, &wanted, &format!("job{job}"), &[folk(&[(job, "a")])]).await.unwrap();
    }
    let log = Path::from("lake/people/_delta_log");
    let listed: Vec<ObjectMeta> = objects(place).list(Some(&log)).try_collect().await.unwrap();
    assert!(listed.iter().any(|object| object.location.as_ref().contains("checkpoint.parquet")));
    let found = sink.raise("job3", 2).await.unwrap();
    assert_eq!(found.iter().map(|row| row.rows).collect::<Vec<_>>(), [1]);
    assert_eq!(everybody(sink).await.len(), 22);
}

pub async fn a_commit_whose_answer_was_lost_is_found(place: &Place) {
    let wanted = people(Mode::Append);
    place.sink.ensure(&wanted).await.unwrap();
    let deaf = Arc::new(AnswersGetLost { inner: objects(place), lose: AtomicBool::new(false) });
    let lake = InLake::beside(place, Lake::new(Arc::clone(&deaf) as _)).await;
    let mut delivery = begin(&lake, &wanted, &key("job", 1)).await.unwrap();
    delivery.write(folk(&[(1, "a")])).await.unwrap();
    deaf.lose.store(true, Ordering::Relaxed);
    let row = delivery.commit().await.unwrap();
    assert!(!deaf.lose.load(Ordering::Relaxed), "no answer was lost");
    assert_eq!(place.sink.ledger("job").await.unwrap(), [row]);
    assert_eq!(everybody(&*place.sink).await, owned(&[(1, "a")]));
}

/// A fake: a store in which Delta commits nothing as long as it is told so.
struct RefusesCommits {
    inner: Arc<dyn ObjectStore>,
    refuse: AtomicBool,
}

pub async fn a_commit_of_the_database_that_the_lake_missed_is_completed_by_whoever_looks(place: &Place) {
    let wanted = people(Mode::Append);
    place.sink.ensure(&wanted).await.unwrap();
    let unwilling = Arc::new(RefusesCommits { inner: objects(place), refuse: AtomicBool::new(true) });
    let lake = InLake::beside(place, Lake::new(Arc::clone(&unwilling) as _)).await;
    for (number, job) in ["next attempt", "settled", "verified"].into_iter().enumerate() {
        let mut delivery = begin(&lake, &wanted, &key(job, 1)).await.unwrap();
        delivery.write(folk(&[(number as i64, job)])).await.unwrap();
        error(delivery.commit().await);
        assert_eq!(everybody(&*place.sink).await.len(), number, "the lake has nothing of {job} yet");
        let rows = match job {
            "verified" => place.sink.ledger(job).await.unwrap(),
            _ => place.sink.raise(job, 2).await.unwrap(),
        };
        assert_eq!(
            rows.iter().map(|row| (row.sink.as_str(), row.rows)).collect::<Vec<_>>(),
            [("lake:people", 1)]
        );
        assert_eq!(everybody(&*place.sink).await.len(), number + 1, "{job}");
        // Completed once: another look changes nothing.
        let before = versions(place).await;
        place.sink.ledger(job).await.unwrap();
        assert_eq!((versions(place).await, everybody(&*place.sink).await.len()), (before, number + 1));
    }
    let pending = Path::from("lake/_pending");
    let left: Vec<ObjectMeta> = objects(place).list(Some(&pending)).try_collect().await.unwrap();
    assert_eq!(left.len(), 0, "{left:?}");
}

pub async fn a_table_and_the_lake_commit_together(place: &Place) {
    let database = tidemill_sinks::SqliteSink::open(place.path.as_ref().unwrap()).await.unwrap();
    let sinks = tidemill_sinks::Sinks::new(Arc::new(database.clone()), Some(Lake::new(objects(place))));
    let table = TablePlan { table: "crowd".parse().unwrap(), ..people(Mode::Append) };
    let lake = TablePlan { place: Where::Lake { day: None }, ..people(Mode::Append) };
    let plans = [table.clone(), lake];
    for plan in &plans {
        sinks.ensure(plan).await.unwrap();
    }
    for (job, commits) in [("given up", false), ("committed", true)] {
        sinks.raise(job, 1).await.unwrap();
        let mut delivery = sinks.open(&plans, &key(job, 1)).await.unwrap();
        for number in 0..2 {
            assert_eq!(delivery.write(number, folk(&[(1, "a"), (2, "b")])).await.unwrap(), []);
        }
        match commits {
            true => drop(delivery.commit(Commit { summary: Some("{}"), lake: &[] }).await.unwrap()),
            false => delivery.rollback().await.unwrap(),
        }
        let rows = sinks.ledger(job).await.unwrap();
        let found: Vec<_> = rows.iter().map(|row| (row.sink.as_str(), row.rows)).collect();
        let expected: &[(&str, u64)] = if commits { &[("crowd", 2), ("lake:people", 2)] } else { &[] };
        assert_eq!(found, expected);
        let there = read(&database, &table.table, &["id".parse().unwrap()]).await.num_rows();
        let count = if commits { 2 } else { 0 };
        assert_eq!((there, everybody(&*place.sink).await.len()), (count, count), "{job}");
    }
    database.close().await;
}

/// A fake: a store that commits, once, and then says that it did not.
struct AnswersGetLost {
    inner: Arc<dyn ObjectStore>,
    lose: AtomicBool,
}

impl fmt::Debug for AnswersGetLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnswersGetLost")
    }
}

impl fmt::Display for AnswersGetLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnswersGetLost")
    }
}

impl fmt::Debug for RefusesCommits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefusesCommits")
    }
}

impl fmt::Display for RefusesCommits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefusesCommits")
    }
}

type Result<T> = object_store::Result<T>;

#[async_trait]
impl ObjectStore for AnswersGetLost {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let put = self.inner.put_opts(path, payload, options).await?;
        let commit = path.as_ref().contains("_delta_log/") && path.as_ref().ends_with(".json");
        if commit && self.lose.swap(false, Ordering::Relaxed) {
            return Err(object_store::Error::Generic { store: "fake", source: "the answer got lost".into() });
        }
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[async_trait]
impl ObjectStore for RefusesCommits {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let commit = path.as_ref().contains("_delta_log/") && path.as_ref().ends_with(".json");
        if commit && self.refuse.load(Ordering::Relaxed) {
            return Err(object_store::Error::Generic { store: "fake", source: "no commit today".into() });
        }
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
