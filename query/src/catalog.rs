//! What a statement may name: the tables of the sinks in the schema `public`, those of the lake in `lake`, and
//! `tidemill` with the tables about the installation, each only as far as the user may see it.
//!
//! Tables are looked up when a statement names them; all are listed only where a statement asks for the list.

mod postgres;
mod pushdown;
mod rejects;
mod system;
mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow::datatypes::DataType;
use async_trait::async_trait;
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, SchemaProvider,
    TableProvider,
};
use datafusion::config::Dialect;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionState;
use datafusion::prelude::{SessionConfig, SessionContext};
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use tidemill_pipelines::{PipelineName, PipelineSet, TableName};
use tidemill_sinks::{Lake, Sink, SinkLimits};
use tokio::sync::OnceCell;

use crate::limits::{BATCH_ROWS, CONNECTIONS_MAX, POOL_PERCENT};
use crate::worker::OpenObjects;
use crate::workers::Places;
use crate::{Error, Flavour, QueryLimits, Result, Statement};
use postgres::Postgres;
use system::System;
use table::SinkTable;

/// The database that clients see.
const NAME: &str = "tidemill";
/// The schema of the tables of the sinks.
const SCHEMA: &str = "public";
/// The schema of the tables of the lake.
const LAKE: &str = "lake";
/// Tables of Tidemill itself in the database of the sinks begin so; users see them only through `tidemill.…`.
const OWN_PREFIX: &str = "tidemill_";

/// What a user may see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visible {
    /// Everything: every table of the database, every job.
    All,
    /// What these pipelines made.
    Only {
        /// Whose jobs are seen.
        pipelines: Vec<PipelineName>,
        /// The tables that nobody else's pipelines write.
        tables: Vec<TableName>,
        /// Those of the lake.
        lake: Vec<TableName>,
    },
}

impl Visible {
    /// The pipelines that may be read, and the tables that only they write.
    pub fn of(set: &PipelineSet, may_read: impl Fn(&PipelineName) -> bool) -> Self {
        let (mut tables, mut lake) = (BTreeMap::new(), BTreeMap::new());
        for pipeline in set.iter() {
            for table in pipeline.tables() {
                *tables.entry(table.clone()).or_insert(true) &= may_read(&pipeline.name);
            }
            for table in pipeline.lake_tables() {
                *lake.entry(table.clone()).or_insert(true) &= may_read(&pipeline.name);
            }
        }
        let seen = |tables: BTreeMap<TableName, bool>| {
            tables.into_iter().filter(|(_, seen)| *seen).map(|(table, _)| table).collect()
        };
        let pipelines = set.iter().map(|pipeline| pipeline.name.clone()).filter(&may_read).collect();
        Visible::Only { pipelines, tables: seen(tables), lake: seen(lake) }
    }

    /// Whether the jobs of a pipeline are seen.
    fn shows_jobs_of(&self, pipeline: &str) -> bool {
        match self {
            Visible::All => true,
            Visible::Only { pipelines, .. } => pipelines.iter().any(|name| name.as_str() == pipeline),
        }
    }

    /// Whether a table of the sinks is seen.
    fn shows(&self, table: &TableName) -> bool {
        let own = table.as_str().to_ascii_lowercase().starts_with(OWN_PREFIX);
        !own && match self {
            Visible::All => true,
            Visible::Only { tables, .. } => tables.contains(table),
        }
    }

    /// Whether a table of the lake is seen.
    fn shows_in_lake(&self, table: &TableName) -> bool {
        match self {
            Visible::All => true,
            Visible::Only { lake, .. } => lake.contains(table),
        }
    }
}

/// The databases and the object store, connected when they are first asked.
pub(crate) struct Data {
    places: Places,
    open: OpenObjects,
    tables: OnceCell<Arc<dyn Sink>>,
    jobs: OnceCell<Arc<dyn Sink>>,
    objects: OnceCell<Arc<dyn ObjectStore>>,
}

impl Data {
    pub(crate) fn new(places: Places, open: OpenObjects) -> Arc<Self> {
        let (tables, jobs, objects) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        Arc::new(Self { places, open, tables, jobs, objects })
    }

    /// Connects before the first statement comes; what fails here is told to that statement.
    pub(crate) async fn connect(&self) {
        if let Ok(tables) = self.tables().await {
            tables.ping().await.ok();
        }
    }

    async fn tables(&self) -> Result<&Arc<dyn Sink>> {
        self.tables.get_or_try_init(|| connect(&self.places.tables)).await
    }

    /// The job database read as a sink's: its tables are tables like others.
    async fn jobs(&self) -> Result<Option<&Arc<dyn Sink>>> {
        match &self.places.jobs {
            Some(url) => self.jobs.get_or_try_init(|| connect(url)).await.map(Some),
            None => Ok(None),
        }
    }

    /// The lake, where there is an object store.
    async fn lake(&self) -> Result<Option<Lake>> {
        Ok(self.objects().await?.map(|objects| Lake::new(Arc::clone(objects))))
    }

    /// The object store, for lake tables and rejects.
    async fn objects(&self) -> Result<Option<&Arc<dyn ObjectStore>>> {
        let Some(settings) = &self.places.objects else {
            return Ok(None);
        };
        let open = async || (self.open)(settings).map_err(|message| Error::Unavailable { message });
        self.objects.get_or_try_init(open).await.map(Some)
    }
}

async fn connect(url: &str) -> Result<Arc<dyn Sink>> {
    let limits = SinkLimits { connections_max: CONNECTIONS_MAX, ..SinkLimits::default() };
    let sink = tidemill_sinks::connect_read_only(url, limits).await;
    sink.map_err(|error| Error::Unavailable { message: error.to_string() })
}

/// Makes a session for each statement.
pub(crate) struct Catalog {
    base: SessionState,
    /// Made when the first client of Postgres comes.
    postgres: OnceLock<Postgres>,
    data: Arc<Data>,
}

impl Catalog {
    /// The engine with its bounds; it writes no files, so what needs more memory fails.
    pub(crate) fn new(data: Arc<Data>, limits: &QueryLimits) -> Result<Self> {
        let pool = usize::try_from(limits.memory_bytes * POOL_PERCENT / 100).unwrap_or(usize::MAX);
        let no_files = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(pool)))
            .with_disk_manager_builder(no_files)
            .build_arc()
            .map_err(|error| Error::Worker { message: error.to_string() })?;
        let mut config = SessionConfig::new()
            .with_target_partitions(limits.threads)
            .with_batch_size(BATCH_ROWS)
            .with_default_catalog_and_schema(NAME, SCHEMA)
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(true);
        config.options_mut().sql_parser.map_string_types_to_utf8view = false;
        let base = SessionStateBuilder::new_with_default_features()
            .with_config(config)
            .with_runtime_env(runtime)
            .build();
        Ok(Self { base, postgres: OnceLock::new(), data })
    }

    pub(crate) fn name(&self) -> &'static str {
        NAME
    }

    pub(crate) fn schema(&self) -> &'static str {
        SCHEMA
    }

    /// A session that sees what the user may see.
    pub(crate) async fn session(&self, statement: &Statement) -> Result<SessionContext> {
        let lists = lists_tables(&statement.sql);
        let (data, visible) = (Arc::clone(&self.data), statement.visible.clone());
        let tables = async |place| -> Result<Arc<Tables>> {
            let listed = if lists { self.list(place, &visible).await? } else { Vec::new() };
            let (data, visible) = (Arc::clone(&data), visible.clone());
            Ok(Arc::new(Tables { place, data, visible, listed, known: Mutex::default() }))
        };
        let catalog = MemoryCatalogProvider::new();
        let registered = [
            catalog.register_schema(SCHEMA, tables(Place::Database).await?),
            catalog.register_schema(LAKE, tables(Place::Lake).await?),
            catalog.register_schema(NAME, Arc::new(System::new(data, visible))),
        ];
        for done in registered {
            done.map_err(|error| Error::Worker { message: error.to_string() })?;
        }
        let catalogs = MemoryCatalogProviderList::new();
        catalogs.register_catalog(NAME.to_owned(), Arc::new(catalog));
        let postgres = match &statement.flavour {
            Flavour::Plain => None,
            Flavour::Postgres { variables } => Some((self.postgres()?, variables)),
        };
        let base = postgres.map_or(&self.base, |(postgres, _)| postgres.base());
        let mut state = SessionStateBuilder::new_from_existing(base.clone())
            .with_catalog_list(Arc::new(catalogs))
            .build();
        let Some((postgres, variables)) = postgres else {
            return Ok(SessionContext::new_with_state(state));
        };
        state.config_mut().options_mut().sql_parser.dialect = Dialect::PostgreSQL;
        let session = SessionContext::new_with_state(state);
        postgres.complete(&session, statement, variables).await.map_err(broken)?;
        Ok(session)
    }

    fn postgres(&self) -> Result<&Postgres> {
        if self.postgres.get().is_none() {
            let made = Postgres::new(&self.base).map_err(broken)?;
            self.postgres.set(made).ok();
        }
        self.postgres.get().ok_or_else(|| Error::Worker { message: "there is no pg_catalog".to_owned() })
    }

    /// The names to choose the nearest from.
    pub(crate) async fn table_names(&self, visible: &Visible) -> Result<Vec<String>, DataFusionError> {
        let listed = self.list(Place::Database, visible).await.map_err(outside)?;
        let lake = self.list(Place::Lake, visible).await.map_err(outside)?;
        let lake = lake.iter().map(|name| format!("{LAKE}.{name}"));
        let system = System::NAMES.iter().map(|name| format!("{NAME}.{name}"));
        Ok(listed.iter().map(ToString::to_string).chain(lake).chain(system).collect())
    }

    async fn list(&self, place: Place, visible: &Visible) -> Result<Vec<TableName>> {
        let tables = match place {
            Place::Database => self.data.tables().await?.tables().await,
            Place::Lake => match self.data.lake().await? {
                Some(lake) => lake.tables().await,
                None => Ok(Vec::new()),
            },
        };
        let tables = tables.map_err(|error| Error::Unavailable { message: error.to_string() })?;
        Ok(tables.into_iter().map(|(name, _)| name).filter(|name| place.shows(visible, name)).collect())
    }
}

/// Whether a statement may ask for the list of tables.
fn lists_tables(sql: &str) -> bool {
    let sql = sql.to_ascii_lowercase();
    ["information_schema", "pg_", "show"].iter().any(|word| sql.contains(word))
}

/// Where tables of the sinks lie.
#[derive(Debug, Clone, Copy)]
enum Place {
    Database,
    /// Read by Delta's own provider, which prunes by day and by the statistics of the files.
    Lake,
}

impl Place {
    fn shows(self, visible: &Visible, table: &TableName) -> bool {
        match self {
            Place::Database => visible.shows(table),
            Place::Lake => visible.shows_in_lake(table),
        }
    }

    async fn table(
        self,
        data: &Data,
        table: TableName,
    ) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        match self {
            Place::Database => {
                let sink = data.tables().await.map_err(outside)?;
                let schema = sink.schema(&table).await.map_err(outside)?;
                Ok(schema.map(|schema| Arc::new(SinkTable::new(Arc::clone(sink), table, schema)) as _))
            }
            Place::Lake => {
                let Some(lake) = data.lake().await.map_err(outside)? else { return Ok(None) };
                match lake.table(&table).await.map_err(outside)? {
                    Some(table) => table.table_provider().await.map(Some).map_err(outside),
                    None => Ok(None),
                }
            }
        }
    }
}

/// The tables of one place that a user may see.
struct Tables {
    place: Place,
    data: Arc<Data>,
    visible: Visible,
    /// Empty but for statements that ask for the list.
    listed: Vec<TableName>,
    /// What was looked up for this statement.
    known: Mutex<BTreeMap<String, Arc<dyn TableProvider>>>,
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tables")
    }
}

#[async_trait]
impl SchemaProvider for Tables {
    fn table_names(&self) -> Vec<String> {
        self.listed.iter().map(ToString::to_string).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let shown = |table: &TableName| self.place.shows(&self.visible, table);
        let Some(table) = name.parse::<TableName>().ok().filter(shown) else {
            return Ok(None);
        };
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(Some(Arc::clone(known)));
        }
        let Some(found) = self.place.table(&self.data, table).await? else {
            return Ok(None);
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(name.to_owned(), Arc::clone(&found));
        Ok(Some(found))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.listed.iter().any(|table| table.as_str() == name)
    }
}

fn broken(error: DataFusionError) -> Error {
    Error::Worker { message: error.to_string() }
}

fn outside(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// A type in the words of pipeline files, where they have one.
pub(crate) fn kind_word(kind: &DataType) -> String {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Date32 | DataType::Date64 => "date".to_owned(),
        DataType::Timestamp(..) => "timestamp".to_owned(),
        DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale) => {
            format!("decimal({precision},{scale})")
        }
        other => other.to_string().to_lowercase(),
    }
}
