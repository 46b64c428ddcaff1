//! The catalog of PostgreSQL, as its clients look into it: `pg_catalog` with its tables and functions over what the
//! user may see.
//!
//! Promise: the numbers of tables are the same in each statement and each worker, as long as the same tables are seen:
//! psql asks for a table's number first and for its columns by that number then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use arrow::array::{AsArray, BooleanArray};
use arrow::datatypes::{DataType, Int32Type, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList};
use datafusion::common::{ScalarValue, exec_err};
use datafusion::datasource::TableType;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use datafusion::prelude::SessionContext;
use datafusion_pg_catalog::pg_catalog::catalog_info::CatalogInfo;
use datafusion_pg_catalog::pg_catalog::context::EmptyContextProvider;
use datafusion_pg_catalog::pg_catalog::{PgCatalogSchemaProvider, PgCatalogStaticTables};
use datafusion_pg_catalog::setup_pg_catalog;
use postgres_types::Type;

use super::NAME;
use crate::Statement;

/// The name of its schema.
const SCHEMA: &str = "pg_catalog";

/// Tables that are found without their schema's name.
const VISIBLE: &str = "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
                       ON n.oid = c.relnamespace WHERE n.nspname IN ('pg_catalog', 'public')";
/// Numbers of PostgreSQL's own types are below this one.
const TYPES_MAX: u32 = 10_000;
static TYPES: LazyLock<BTreeMap<String, i32>> = LazyLock::new(|| {
    let types = (1..TYPES_MAX).filter_map(Type::from_oid);
    types.filter_map(|found| Some((found.name().to_owned(), i32::try_from(found.oid()).ok()?))).collect()
});

/// What is the same for all users; made once in a worker.
pub(super) struct Postgres {
    base: SessionState,
    tables: Arc<PgCatalogStaticTables>,
}

impl Postgres {
    pub(super) fn new(base: &SessionState) -> Result<Self> {
        // The library adds its functions to a session that has the database already.
        let catalogs = MemoryCatalogProviderList::new();
        catalogs.register_catalog(NAME.to_owned(), Arc::new(MemoryCatalogProvider::new()));
        let state =
            SessionStateBuilder::new_from_existing(base.clone()).with_catalog_list(Arc::new(catalogs));
        let session = SessionContext::new_with_state(state.build());
        setup_pg_catalog(&session, NAME, EmptyContextProvider).map_err(|error| *error)?;
        Ok(Self { base: session.state(), tables: Arc::new(PgCatalogStaticTables::try_new()?) })
    }

    /// The engine with the functions of PostgreSQL.
    pub(super) fn base(&self) -> &SessionState {
        &self.base
    }

    /// Adds what depends on the user to a session.
    pub(super) async fn complete(
        &self,
        session: &SessionContext,
        statement: &Statement,
        variables: &BTreeMap<String, String>,
    ) -> Result<()> {
        for function in [
            Told::text("version", format!("PostgreSQL 16.6 (Tidemill {})", env!("CARGO_PKG_VERSION"))),
            Told::text("session_user", statement.user.clone()),
            Told::text("current_user", statement.user.clone()),
            Told::setting(variables.clone()),
            Told::types(),
        ] {
            session.register_udf(ScalarUDF::new_from_impl(function));
        }
        let catalogs = Sorted(Arc::clone(session.state().catalog_list()));
        let provider =
            PgCatalogSchemaProvider::try_new(catalogs, Arc::clone(&self.tables), EmptyContextProvider)?;
        let database =
            session.catalog(NAME).ok_or_else(|| DataFusionError::Internal("no database".to_owned()))?;
        database.register_schema(SCHEMA, Arc::new(provider))?;
        if super::lists_tables(&statement.sql) {
            // Read first, in this order, it gives out the numbers.
            session.table(format!("{NAME}.{SCHEMA}.pg_class")).await?.collect().await?;
            let batches = session.sql(VISIBLE).await?.collect().await?;
            let numbers = batches
                .iter()
                .flat_map(|batch| batch.column(0).as_primitive::<Int32Type>().values().to_vec());
            session.register_udf(ScalarUDF::new_from_impl(Told::visible(numbers.collect())));
        }
        Ok(())
    }
}

/// The names of a catalog in order: numbers are given out as they come.
#[derive(Debug, Clone)]
struct Sorted(Arc<dyn CatalogProviderList>);

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names
}

#[async_trait]
impl CatalogInfo for Sorted {
    async fn catalog_names(&self) -> Result<Vec<String>> {
        CatalogInfo::catalog_names(&self.0).await.map(sorted)
    }

    async fn schema_names(&self, catalog: &str) -> Result<Option<Vec<String>>> {
        Ok(self.0.schema_names(catalog).await?.map(sorted))
    }

    async fn table_names(&self, catalog: &str, schema: &str) -> Result<Option<Vec<String>>> {
        Ok(self.0.table_names(catalog, schema).await?.map(sorted))
    }

    async fn table_schema(&self, catalog: &str, schema: &str, table: &str) -> Result<Option<SchemaRef>> {
        self.0.table_schema(catalog, schema, table).await
    }

    async fn table_type(&self, catalog: &str, schema: &str, table: &str) -> Result<Option<TableType>> {
        self.0.table_type(catalog, schema, table).await
    }
}

/// A function that tells something of the session or the catalog.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Told {
    name: &'static str,
    signature: Signature,
    told: What,
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum What {
    Text(String),
    Setting(BTreeMap<String, String>),
    /// The number of a type, by its name.
    Type,
    /// Whether a table is one of these.
    Visible(BTreeSet<i32>),
}

impl Told {
    fn text(name: &'static str, text: String) -> Self {
        Self { name, signature: Signature::nullary(Volatility::Stable), told: What::Text(text) }
    }

    /// `current_setting(name [, missing_ok])`.
    fn setting(variables: BTreeMap<String, String>) -> Self {
        let one = TypeSignature::Exact(vec![DataType::Utf8]);
        let two = TypeSignature::Exact(vec![DataType::Utf8, DataType::Boolean]);
        let signature = Signature::one_of(vec![one, two], Volatility::Stable);
        Self { name: "current_setting", signature, told: What::Setting(variables) }
    }

    /// `to_regtype(name)`.
    fn types() -> Self {
        let signature = Signature::exact(vec![DataType::Utf8], Volatility::Stable);
        Self { name: "to_regtype", signature, told: What::Type }
    }

    /// `pg_table_is_visible(oid)`.
    fn visible(numbers: BTreeSet<i32>) -> Self {
        let signature = Signature::exact(vec![DataType::Int32], Volatility::Stable);
        Self { name: "pg_table_is_visible", signature, told: What::Visible(numbers) }
    }
}

impl ScalarUDFImpl for Told {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match &self.told {
            What::Text(_) | What::Setting(_) => DataType::Utf8,
            What::Type => DataType::Int32,
            What::Visible(_) => DataType::Boolean,
        })
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let given = arguments.args.as_slice();
        let name = || match given.first() {
            Some(ColumnarValue::Scalar(ScalarValue::Utf8(name))) => Ok(name.as_deref().unwrap_or_default()),
            _ => exec_err!("{} takes a name as a text", self.name),
        };
        let value = match &self.told {
            What::Text(text) => ScalarValue::from(text.as_str()),
            What::Type => ScalarValue::Int32(TYPES.get(name()?).copied()),
            What::Setting(variables) => {
                let missing_ok =
                    matches!(given.get(1), Some(ColumnarValue::Scalar(ScalarValue::Boolean(Some(true)))));
                match variables.get(&name()?.to_ascii_lowercase()) {
                    None if !missing_ok => {
                        return exec_err!("unrecognized configuration parameter \"{}\"", name()?);
                    }
                    found => ScalarValue::Utf8(found.cloned()),
                }
            }
            What::Visible(numbers) => {
                let column =
                    given.first().map(|column| column.to_array(arguments.number_rows)).transpose()?;
                let column = column.as_ref().and_then(|column| column.as_primitive_opt::<Int32Type>());
                let seen = |number: Option<i32>| number.map(|number| numbers.contains(&number));
                let seen: BooleanArray =
                    column.into_iter().flat_map(|column| column.iter().map(seen)).collect();
                return Ok(ColumnarValue::Array(Arc::new(seen)));
            }
        };
        Ok(ColumnarValue::Scalar(value))
    }
}
