//! Tables about the installation: `tidemill.jobs` and `tidemill.ledger`, with the rows of the pipelines that the user
//! may see. Each is a view over a table of Tidemill's own, so its filters go to the database like all others.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, cast};
use datafusion::prelude::{col, lit};
use tidemill_pipelines::TableName;
use tidemill_sinks::Sink;

use super::table::SinkTable;
use super::{Data, Visible, outside};

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// The schema `tidemill` of a user.
pub(super) struct System {
    data: Arc<Data>,
    visible: Visible,
}

/// A column of a view: its name, and how it is read.
enum Read {
    As,
    Int64,
    /// Microseconds, or a text of a time, as a time.
    Time,
}

use Read::{As, Int64, Time};

const JOBS: [(&str, Read); 17] = [
    ("job_id", As),
    ("pipeline", As),
    ("status", As),
    ("attempt", As),
    ("retries", As),
    ("created_at", Time),
    ("started_at", Time),
    ("finished_at", Time),
    ("sender", As),
    ("file_name", As),
    ("files", As),
    ("size_bytes", As),
    ("records_in", As),
    ("records_written", As),
    ("records_rejected", As),
    ("records_filtered", As),
    ("error", As),
];

const LEDGER: [(&str, Read); 7] = [
    ("job_id", As),
    ("sink", As),
    ("chunk", Int64),
    ("attempt", Int64),
    ("table_name", As),
    ("row_count", Int64),
    ("committed_at", Time),
];

impl System {
    pub(super) const NAMES: [&str; 2] = ["jobs", "ledger"];

    pub(super) fn new(data: Arc<Data>, visible: Visible) -> Self {
        Self { data, visible }
    }

    async fn jobs(&self) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(sink) = self.data.jobs().await.map_err(outside)? else {
            return Ok(None);
        };
        let only = match &self.visible {
            Visible::All => None,
            Visible::Only { pipelines, .. } => Some(one_of("pipeline", pipelines.iter().map(|p| p.as_str()))),
        };
        view(sink, "tidemill_jobs", &JOBS, only).await
    }

    async fn ledger(&self) -> Result<Option<Arc<dyn TableProvider>>> {
        let sink = self.data.tables().await.map_err(outside)?;
        let only = match &self.visible {
            Visible::All => None,
            Visible::Only { tables, .. } => Some(one_of("table_name", tables.iter().map(|t| t.as_str()))),
        };
        view(sink, "tidemill_ledger", &LEDGER, only).await
    }
}

fn one_of<'a>(column: &str, names: impl Iterator<Item = &'a str>) -> Expr {
    let names: Vec<Expr> = names.map(lit).collect();
    if names.is_empty() { lit(false) } else { col(column).in_list(names, false) }
}

async fn view(
    sink: &Arc<dyn Sink>,
    table: &str,
    columns: &[(&str, Read)],
    only: Option<Expr>,
) -> Result<Option<Arc<dyn TableProvider>>> {
    let name: TableName = table.parse().map_err(outside)?;
    let Some(schema) = sink.schema(&name).await.map_err(outside)? else {
        return Ok(None);
    };
    let source = provider_as_source(Arc::new(SinkTable::new(Arc::clone(sink), name, schema)));
    let mut plan = LogicalPlanBuilder::scan(table, source, None)?;
    if let Some(only) = only {
        plan = plan.filter(only)?;
    }
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns = columns.iter().map(|(name, read)| match read {
        As => col(*name),
        Int64 => cast(col(*name), DataType::Int64).alias(*name),
        Time => cast(col(*name), time.clone()).alias(*name),
    });
    let plan = plan.project(columns.collect::<Vec<_>>())?.build()?;
    Ok(Some(Arc::new(ViewTable::new(plan, None))))
}

impl fmt::Debug for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("System")
    }
}

#[async_trait]
impl SchemaProvider for System {
    fn table_names(&self) -> Vec<String> {
        Self::NAMES.map(str::to_owned).to_vec()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        match name {
            "jobs" => self.jobs().await,
            "ledger" => self.ledger().await,
            _ => Ok(None),
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        Self::NAMES.contains(&name)
    }
}
