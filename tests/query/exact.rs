//! The database only spares work: with every condition a statement over MariaDB, MySQL and SQLite takes exactly
//! the rows that the engine takes alone, over texts, numbers and times chosen to trip one of them.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::TryStreamExt;
use tidemill_pipelines::Mode;
use tidemill_query::{Flavour, Format, Places, QueryLimits, Statement, Visible, Workers};
use tidemill_sinks::{Commit, CommitKey, Place, Sink, SinkLimits, TableColumn, TablePlan};

const TEXTS: [&str; 16] = [
    "ab",
    "AB",
    "ab ",
    " ab",
    "áb",
    "a'b",
    "a\\b",
    "a\\",
    "\\'",
    "a\"b",
    "%",
    "_",
    "",
    "ß",
    "ss",
    "\u{1F30A}",
];
const INTS: [i64; 7] = [0, -1, 1, 42, -42, i64::MAX, i64::MIN];
const FLOATS: [f64; 7] = [0.0, -0.0, 0.1, -0.1, 1e300, -1e300, 5e-324];
const DECIMALS: [i128; 6] = [0, 150, -150, 1, -1, 99_999_999_999];
const DAYS: [i32; 6] = [0, -1, 18_628, -719_162, 2_932_896, 11_016];
/// Whole seconds, parts of them, before 1970, and the ends of the years.
const TIMES: [i64; 9] = [
    0,
    1,
    -1,
    1_000_000,
    1_000_001,
    999_999,
    1_609_459_200_000_000,
    -62_135_596_800_000_000,
    253_402_300_799_999_999,
];

fn batch() -> RecordBatch {
    // Each column walks its values at a pace of its own, with a null every eleventh row.
    const ROWS: usize = 240;
    fn walk<T: Copy>(values: &[T], pace: usize) -> Vec<Option<T>> {
        let at = |row: usize| (row * pace / 3 + row) % values.len();
        (0..ROWS).map(|row| (!(row + pace).is_multiple_of(11)).then(|| values[at(row)])).collect()
    }
    let times = TimestampMicrosecondArray::from(walk(&TIMES, 1)).with_timezone("UTC");
    let decimals = Decimal128Array::from(walk(&DECIMALS, 2)).with_precision_and_scale(20, 2).unwrap();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..ROWS as i64))),
        ("i", Arc::new(Int64Array::from(walk(&INTS, 1)))),
        ("f", Arc::new(Float64Array::from(walk(&FLOATS, 2)))),
        ("d", Arc::new(decimals)),
        ("b", Arc::new(BooleanArray::from(walk(&[true, false, true], 3)))),
        ("t", Arc::new(StringArray::from(walk(&TEXTS, 1)))),
        ("day", Arc::new(Date32Array::from(walk(&DAYS, 3)))),
        ("at", Arc::new(times)),
    ];
    let fields =
        columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), *name != "id"));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns.into_iter().map(|(_, array)| array).collect()).unwrap()
}

fn conditions() -> Vec<String> {
    let mut literals: Vec<(&str, String)> = Vec::new();
    literals.extend(INTS.iter().filter(|v| **v != i64::MIN).map(|v| ("i", v.to_string())));
    literals.extend(["0.0", "-0.0", "0.1", "1e300"].map(|v| ("f", v.to_owned())));
    literals.extend(["1.50", "-1.50", "1.5", "0", "0.01", "999999999.99"].map(|v| ("d", v.to_owned())));
    literals.extend(["true", "false"].map(|v| ("b", v.to_owned())));
    literals.extend(TEXTS.map(|v| ("t", format!("'{}'", v.replace('\'', "''")))));
    literals.extend(
        ["1970-01-01", "1969-12-31", "2021-01-01", "0001-01-01", "9999-12-31"]
            .map(|v| ("day", format!("DATE '{v}'"))),
    );
    literals.extend(
        [
            "1970-01-01T00:00:00Z",
            "1970-01-01T00:00:00.000001Z",
            "1970-01-01T00:00:01Z",
            "1969-12-31T23:59:59.999999Z",
            "2021-01-01T00:00:00Z",
            "2021-01-01",
        ]
        .map(|v| ("at", format!("'{v}'"))),
    );
    let mut found = Vec::new();
    for (column, literal) in &literals {
        for sign in ["=", "<", "<=", ">", ">=", "<>"] {
            found.push(format!("{column} {sign} {literal}"));
        }
        found.push(format!("{literal} < {column}"));
        found.push(format!("{column} IN ({literal}) OR {column} IS NULL"));
    }
    for column in ["i", "f", "d", "b", "t", "day", "at"] {
        found.push(format!("{column} IS NULL"));
        found.push(format!("{column} IS NOT NULL AND id > 100"));
        found.push(format!("NOT ({column} IS NULL OR id < 17)"));
    }
    let mixed = [
        "b",
        "NOT b",
        "b IS TRUE",
        "b IS NOT TRUE",
        "b AND i > 0",
        "i BETWEEN -1 AND 42",
        "i NOT BETWEEN -1 AND 42",
        "i IN (1, 42, NULL)",
        "i NOT IN (1, 42)",
        "t IN ('ab', 'AB ', 'ss')",
        "t LIKE 'a%'",
        "t ILIKE 'AB'",
        "t LIKE '%\\%'",
        "upper(t) = 'AB'",
        "t = 'ab' AND i = 0 OR at < '1970-01-01T00:00:01Z' AND d > 0",
        "i + 1 > 1 AND i < 100",
        "i = 0.5",
        "i > -0.5",
        "f = 0",
        "f IN (0, 0.1)",
        "i = f",
        "d = i",
        "i IS DISTINCT FROM 1",
        "at BETWEEN '1970-01-01' AND '2021-01-01'",
        "day IN (DATE '1970-01-01', DATE '2021-01-01')",
        "date_trunc('day', at) = '1970-01-01'",
        "CAST(at AS DATE) = day",
        "1 = 1",
        "1 = 0",
        "i = NULL",
        "t > 'a' AND t < 'b'",
        "t = 'a\\' OR t = ''' OR ''1''=''1'",
        "CASE WHEN i > 0 THEN b ELSE f > 0 END",
    ];
    found.extend(mixed.map(str::to_owned));
    found
}

async fn fill(sink: &dyn Sink, table: &str, batch: &RecordBatch) {
    sink.migrate().await.unwrap();
    let schema = batch.schema();
    let columns = schema.fields().iter().map(|field| TableColumn {
        name: field.name().parse().unwrap(),
        kind: field.data_type().clone(),
        nullable: field.is_nullable(),
        max_length: (*field.data_type() == DataType::Utf8).then_some(20),
    });
    let plan = TablePlan {
        table: table.parse().unwrap(),
        columns: columns.collect(),
        key: vec![],
        mode: Mode::Append,
        place: Place::Database,
    };
    sink.ensure(&plan).await.unwrap();
    let key = CommitKey { job_id: format!("job-{table}"), chunk: 0, attempt: 1 };
    sink.raise(&key.job_id, 1).await.unwrap();
    let mut delivery = sink.open(&[plan], &key).await.unwrap();
    assert_eq!(delivery.write(0, batch.clone()).await.unwrap(), []);
    delivery.commit(Commit { summary: Some("{}"), lake: &[] }).await.unwrap();
}

async fn alone(session: &SessionContext, sql: &str) -> Result<Vec<i64>, String> {
    let rows = session.sql(sql).await.map_err(|error| error.to_string())?;
    Ok(ids(&rows.collect().await.map_err(|error| error.to_string())?))
}

async fn through(workers: &Workers, sql: &str) -> Result<Vec<i64>, String> {
    let statement = Statement {
        user: "tester".to_owned(),
        sql: sql.to_owned(),
        parameters: Vec::new(),
        visible: Visible::All,
        flavour: Flavour::Plain,
        format: Format::Arrow,
        limit: None,
        timeout: None,
    };
    let answer = workers.run(&statement).await.map_err(|error| error.to_string())?;
    let batches: Vec<RecordBatch> = answer.into_batches().try_collect().await.unwrap();
    Ok(ids(&batches))
}

fn ids(batches: &[RecordBatch]) -> Vec<i64> {
    batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

async fn the_engine_decides(url: &str, table: &str) {
    let batch = batch();
    let sink = tidemill_sinks::connect(url, SinkLimits::default()).await.unwrap();
    fill(sink.as_ref(), table, &batch).await;
    let program = PathBuf::from(env!("CARGO_BIN_EXE_tidemill"));
    let places = Places { tables: url.to_owned(), jobs: None, objects: None };
    let workers = Workers::new(program, places, QueryLimits::default()).unwrap();
    let config = SessionConfig::new().with_target_partitions(1);
    let session = SessionContext::new_with_config(config);
    let memory = MemTable::try_new(batch.schema(), vec![vec![batch]]).unwrap();
    session.register_table(table, Arc::new(memory)).unwrap();
    let mut taken = 0;
    for condition in conditions() {
        let sql = format!("SELECT id FROM {table} WHERE {condition} ORDER BY id");
        let (expected, found) = (alone(&session, &sql).await, through(&workers, &sql).await);
        match (&expected, &found) {
            (Ok(expected), Ok(found)) => assert_eq!(found, expected, "{condition}"),
            (Err(_), Err(_)) => {}
            _ => panic!("{condition}: {expected:?} alone, {found:?} through the database"),
        }
        taken += usize::from(expected.is_ok_and(|rows| !rows.is_empty()));
    }
    assert!(taken > 200, "only {taken} conditions took a row");
    let counted = through(&workers, &format!("SELECT count(*) FROM {table}")).await;
    assert_eq!(counted, Ok(vec![240]));
    let few = through(&workers, &format!("SELECT id FROM {table} LIMIT 7")).await;
    assert_eq!(few.unwrap().len(), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_decides_every_row_of_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("tables.db").display());
    the_engine_decides(&url, "odd_values").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_decides_every_row_of_each_server() {
    for (server, url) in crate::databases::databases() {
        eprintln!("on {server}");
        let database = format!("tidemill_query_{}", std::process::id());
        let pool = sqlx::MySqlPool::connect(&url).await.unwrap();
        let run = async |sql: String| {
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
        };
        run(format!("CREATE DATABASE {database}")).await;
        the_engine_decides(&format!("{url}/{database}"), "odd_values").await;
        run(format!("DROP DATABASE {database}")).await;
    }
}
