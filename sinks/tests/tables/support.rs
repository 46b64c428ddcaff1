//! Places to test in: a database or a lake of its own for each test, dropped afterwards also when the test fails.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::bucket;
use crate::databases::databases;
use crate::decides_once::DecidesOnce;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use futures::FutureExt;
use futures::stream::BoxStream;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use tidemill_pipelines::TableName;
use tidemill_sinks::{
    CommitKey, Delivery, Lake, LedgerRow, MySqlSink, Place as Where, Result, Selection, Sink, SinkLimits,
    Sinks, SqliteSink, TablePlan, TableState,
};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A sink of its own, and a way past it.
pub struct Place {
    pub sink: Arc<dyn Sink>,
    pub url: String,
    pub path: Option<std::path::PathBuf>,
    /// Of a lake: where it lies.
    pub objects: Option<Arc<dyn ObjectStore>>,
}

impl Place {
    /// A MySQL connection that is not Tidemill's, and may make tables without a key on a server that asks for one.
    pub async fn other(&self) -> Conn {
        let mut conn = Conn::new(Opts::from_url(&self.url).unwrap()).await.unwrap();
        // MariaDB passes over comments of 50700 to 50999.
        let sql = "SET SESSION autocommit = 1 /*!50799 , SESSION sql_require_primary_key = OFF */";
        conn.query_drop(sql).await.unwrap();
        conn
    }

    /// Runs SQL past Tidemill, in the words of both databases (names in no quotes).
    pub async fn run(&self, sql: &str) {
        match &self.path {
            None => self.other().await.query_drop(sql).await.unwrap(),
            Some(path) => {
                use sqlx::Connection;
                let url = format!("sqlite:{}", path.display());
                let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
                sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }
}

/// Limits that keep a test that hangs short.
pub fn limits(local_infile: bool) -> SinkLimits {
    SinkLimits { local_infile, lock_wait_seconds: 20, statement_timeout_seconds: 60, ..SinkLimits::default() }
}

/// On each server: MariaDB, then MySQL.
pub async fn on_mysql(local_infile: bool, test: impl AsyncFn(&Place)) {
    on_mysql_with(limits(local_infile), test).await;
}

pub async fn on_mysql_with(limits: SinkLimits, test: impl AsyncFn(&Place)) {
    for (server, url) in databases() {
        eprintln!("on {server}");
        on_server(&url, limits.clone(), &test).await;
    }
}

async fn on_server(url: &str, limits: SinkLimits, test: impl AsyncFn(&Place)) {
    let nth = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("tidemill_test_{}_{nth}", std::process::id());
    let opts = Opts::from_url(url).unwrap();
    let mut admin = Conn::new(opts.clone()).await.unwrap();
    admin.query_drop(format!("CREATE DATABASE {name}")).await.unwrap();
    let mut url = url_of(&opts, &name);
    if opts.socket().is_some() {
        url = format!("{url}?socket={}", opts.socket().unwrap_or_default());
    }
    let sink = MySqlSink::connect(&url, limits).await.unwrap();
    sink.migrate().await.unwrap();
    let place = Place { sink: Arc::new(sink.clone()), url, path: None, objects: None };
    let ended = AssertUnwindSafe(test(&place)).catch_unwind().await;
    drop(place);
    sink.close().await;
    admin.query_drop(format!("DROP DATABASE {name}")).await.unwrap();
    admin.disconnect().await.unwrap();
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

fn url_of(opts: &Opts, database: &str) -> String {
    let opts: Opts = OptsBuilder::from_opts(opts.clone()).into();
    format!(
        "mysql://{}:{}@{}:{}/{database}",
        opts.user().unwrap_or("root"),
        opts.pass().unwrap_or(""),
        opts.ip_or_hostname(),
        opts.tcp_port()
    )
}

pub async fn on_sqlite(test: impl AsyncFnOnce(&Place)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tables.db");
    let sink = SqliteSink::open_with(&path, limits(true)).await.unwrap();
    let url = format!("sqlite:{}", path.display());
    let place = Place { sink: Arc::new(sink.clone()), url, path: Some(path), objects: None };
    test(&place).await;
    drop(place);
    sink.close().await;
}

/// A lake in a folder.
pub async fn on_folder_lake(test: impl AsyncFnOnce(&Place)) {
    let folder = tempfile::tempdir().unwrap();
    on_lake(Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap()), test).await;
}

/// A lake below a prefix of its own in the bucket of the test server.
pub async fn on_s3_lake(test: impl AsyncFnOnce(&Place)) {
    let nth = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = bucket::folder(format!("lakes/{}_{nth}", std::process::id()));
    on_lake(Arc::new(DecidesOnce::new(folder)), test).await;
}

async fn on_lake(objects: Arc<dyn ObjectStore>, test: impl AsyncFnOnce(&Place)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tables.db");
    let database = SqliteSink::open_with(&path, limits(true)).await.unwrap();
    let sink = Arc::new(InLake::new(&database, Lake::new(Arc::clone(&objects))));
    let url = format!("sqlite:{}", path.display());
    test(&Place { sink, url, path: Some(path), objects: Some(objects) }).await;
    database.close().await;
}

/// Database and lake, of which the tests see the lake: plans that name no place go there, and reads come from there.
pub struct InLake {
    sinks: Sinks,
    pub lake: Lake,
}

impl InLake {
    pub fn new(database: &SqliteSink, lake: Lake) -> Self {
        Self { sinks: Sinks::new(Arc::new(database.clone()), Some(lake.clone())), lake }
    }

    /// Another process on the same database and the lake of these objects and limits.
    pub async fn beside(place: &Place, lake: Lake) -> Self {
        let database = SqliteSink::open_with(place.path.as_ref().unwrap(), limits(true)).await.unwrap();
        Self::new(&database, lake)
    }
}

fn in_lake(plan: &TablePlan) -> TablePlan {
    match plan.place {
        Where::Database => TablePlan { place: Where::Lake { day: None }, ..plan.clone() },
        Where::Lake { .. } => plan.clone(),
    }
}

#[async_trait]
impl Sink for InLake {
    async fn migrate(&self) -> Result<()> {
        self.sinks.migrate().await
    }

    async fn inspect(&self, plan: &TablePlan) -> Result<TableState> {
        self.sinks.inspect(&in_lake(plan)).await
    }

    async fn ensure(&self, plan: &TablePlan) -> Result<()> {
        self.sinks.ensure(&in_lake(plan)).await
    }

    async fn raise(&self, job_id: &str, attempt: u32) -> Result<Vec<LedgerRow>> {
        self.sinks.raise(job_id, attempt).await
    }

    async fn open(&self, plans: &[TablePlan], key: &CommitKey) -> Result<Box<dyn Delivery>> {
        let plans: Vec<_> = plans.iter().map(in_lake).collect();
        self.sinks.open(&plans, key).await
    }

    async fn ledger(&self, job_id: &str) -> Result<Vec<LedgerRow>> {
        self.sinks.ledger(job_id).await
    }

    async fn tables(&self) -> Result<Vec<(TableName, SchemaRef)>> {
        self.lake.tables().await
    }

    async fn schema(&self, table: &TableName) -> Result<Option<SchemaRef>> {
        self.lake.schema(table).await
    }

    async fn select(&self, selection: &Selection) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        self.lake.select(selection).await
    }

    async fn ping(&self) -> Result<()> {
        self.lake.ping().await
    }
}
