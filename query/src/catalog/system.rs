//! Tables about the installation: `tidemill.jobs`, `tidemill.ledger`, `tidemill.notices`, `tidemill.pages` and
//! `tidemill.rejects`, with the rows of the pipelines that the user may see. Each is a view over a table of Tidemill's own, so its filters go to the database like all others.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::error::DataFusionError;
use datafusion::functions::string::expr_fn::starts_with;
use datafusion::functions::unicode::expr_fn::substr;
use datafusion::logical_expr::{Expr, JoinType, LogicalPlanBuilder, cast};
use datafusion::prelude::{col, lit};
use tidemill_pipelines::TableName;
use tidemill_sinks::Sink;

use super::rejects::Rejects;
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
    /// A column of one of two tables.
    Named(&'static str),
    /// The pipeline of a schedule.
    PipelineOf(&'static str),
}

use Read::{As, Int64, Named, PipelineOf, Time};

/// How schedules of pipelines that fetch are named.
const FETCH: &str = "fetch:";

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

const NOTICES: [(&str, Read); 11] = [
    ("job_id", As),
    ("ended_at", Time),
    ("number", As),
    ("pipeline", As),
    ("kind", As),
    ("receiver", As),
    ("status", As),
    ("tries", As),
    ("not_before", Time),
    ("error", As),
    ("done_at", Time),
];

const PAGES: [(&str, Read); 12] = [
    ("pipeline", PipelineOf("tidemill_slots.schedule")),
    ("slot", Time),
    ("run_id", Named("tidemill_pages.run_id")),
    ("number", As),
    ("url", As),
    ("status", Named("tidemill_pages.status")),
    ("object", As),
    ("size_bytes", As),
    ("http_status", As),
    ("attempts", As),
    ("error", Named("tidemill_pages.error")),
    ("landed_at", Time),
];

impl System {
    pub(super) const NAMES: [&str; 5] = ["jobs", "ledger", "notices", "pages", "rejects"];

    pub(super) fn new(data: Arc<Data>, visible: Visible) -> Self {
        Self { data, visible }
    }

    async fn jobs(&self) -> Result<Option<Arc<dyn TableProvider>>> {
        self.of_pipelines("tidemill_jobs", &JOBS).await
    }

    /// A table of the job database with a column of pipelines.
    async fn of_pipelines(
        &self,
        table: &str,
        columns: &[(&str, Read)],
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(sink) = self.data.jobs().await.map_err(outside)? else {
            return Ok(None);
        };
        let only = match &self.visible {
            Visible::All => None,
            Visible::Only { pipelines, .. } => Some(one_of("pipeline", pipelines.iter().map(|p| p.as_str()))),
        };
        view(own(sink, table).await?, columns, only)
    }

    async fn ledger(&self) -> Result<Option<Arc<dyn TableProvider>>> {
        let sink = self.data.tables().await.map_err(outside)?;
        let only = match &self.visible {
            Visible::All => None,
            Visible::Only { tables, .. } => Some(one_of("table_name", tables.iter().map(|t| t.as_str()))),
        };
        view(own(sink, "tidemill_ledger").await?, &LEDGER, only)
    }

    /// Pages know their run, and the run its schedule.
    async fn pages(&self) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(sink) = self.data.jobs().await.map_err(outside)? else {
            return Ok(None);
        };
        let (pages, slots) = (own(sink, "tidemill_pages").await?, own(sink, "tidemill_slots").await?);
        let Some((pages, slots)) = pages.zip(slots) else {
            return Ok(None);
        };
        let only = match &self.visible {
            Visible::All => starts_with(col("tidemill_slots.schedule"), lit(FETCH)),
            Visible::Only { pipelines, .. } => {
                let schedules: Vec<String> = pipelines.iter().map(|name| format!("{FETCH}{name}")).collect();
                one_of("tidemill_slots.schedule", schedules.iter().map(String::as_str))
            }
        };
        let keys = (vec!["tidemill_pages.run_id"], vec!["tidemill_slots.run_id"]);
        let joined = pages.join(slots.build()?, JoinType::Inner, keys, None)?;
        view(Some(joined), &PAGES, Some(only))
    }
}

fn one_of<'a>(column: &str, names: impl Iterator<Item = &'a str>) -> Expr {
    let names: Vec<Expr> = names.map(lit).collect();
    if names.is_empty() { lit(false) } else { col(column).in_list(names, false) }
}

/// A table of Tidemill's own, whole, under its own name.
async fn own(sink: &Arc<dyn Sink>, table: &str) -> Result<Option<LogicalPlanBuilder>> {
    let name: TableName = table.parse().map_err(outside)?;
    let Some(schema) = sink.schema(&name).await.map_err(outside)? else {
        return Ok(None);
    };
    let source = provider_as_source(Arc::new(SinkTable::new(Arc::clone(sink), name, schema)));
    LogicalPlanBuilder::scan(table, source, None).map(Some)
}

fn view(
    plan: Option<LogicalPlanBuilder>,
    columns: &[(&str, Read)],
    only: Option<Expr>,
) -> Result<Option<Arc<dyn TableProvider>>> {
    let Some(mut plan) = plan else {
        return Ok(None);
    };
    if let Some(only) = only {
        plan = plan.filter(only)?;
    }
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns = columns.iter().map(|(name, read)| match read {
        As => col(*name),
        Int64 => cast(col(*name), DataType::Int64).alias(*name),
        Time => cast(col(*name), time.clone()).alias(*name),
        Named(full) => col(*full).alias(*name),
        PipelineOf(full) => substr(col(*full), lit(FETCH.len() as i64 + 1)).alias(*name),
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
            "notices" => self.of_pipelines("tidemill_notices", &NOTICES).await,
            "pages" => self.pages().await,
            "rejects" => Ok(Some(Arc::new(Rejects::new(Arc::clone(&self.data), self.visible.clone())))),
            _ => Ok(None),
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        Self::NAMES.contains(&name)
    }
}
