//! A table of a sink as the engine sees it: only the columns that a statement uses, and only rows that may pass its
//! filters, streamed. The engine decides each filter again, so a row counts exactly as the engine says.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{TryFutureExt, TryStreamExt};
use tidemill_pipelines::{ColumnName, TableName};
use tidemill_sinks::{Selection, Sink};

use super::outside;
use super::pushdown::filter_of;

/// One table.
pub(super) struct SinkTable {
    sink: Arc<dyn Sink>,
    name: TableName,
    schema: SchemaRef,
}

impl SinkTable {
    pub(super) fn new(sink: Arc<dyn Sink>, name: TableName, schema: SchemaRef) -> Self {
        Self { sink, name, schema }
    }
}

impl fmt::Debug for SinkTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SinkTable({})", self.name)
    }
}

#[async_trait]
impl TableProvider for SinkTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match filter_of(filter, &self.schema) {
            Some(_) => TableProviderFilterPushDown::Inexact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(indices) => Arc::new(self.schema.project(indices)?),
            None => Arc::clone(&self.schema),
        };
        let columns: Vec<ColumnName> = schema
            .fields()
            .iter()
            .map(|field| field.name().parse().map_err(outside))
            .collect::<Result<_>>()?;
        let filters: Vec<_> = filters.iter().filter_map(|filter| filter_of(filter, &self.schema)).collect();
        let counted = filters.is_empty().then_some(limit).flatten();
        let limit_rows = counted.and_then(|limit| u64::try_from(limit).ok());
        let selection = Selection { table: self.name.clone(), columns, filters, limit: limit_rows };
        let part = Part { sink: Arc::clone(&self.sink), selection, schema: Arc::clone(&schema) };
        let plan = StreamingTableExec::try_new(schema, vec![Arc::new(part)], None, vec![], false, counted)?;
        Ok(Arc::new(plan))
    }
}

/// The rows of a selection; read when they are first asked for.
struct Part {
    sink: Arc<dyn Sink>,
    selection: Selection,
    schema: SchemaRef,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.selection)
    }
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (sink, selection) = (Arc::clone(&self.sink), self.selection.clone());
        let rows = async move { sink.select(&selection).await }.map_err(outside);
        let rows = rows.map_ok(|rows| rows.map_err(outside)).try_flatten_stream();
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}
