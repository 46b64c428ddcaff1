//! The SQL engine: one DataFusion runtime for a process, whose memory pool and spill folder all jobs share.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::logical_expr::ExprSchemable;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};

use crate::limits::ProcessorLimits;

/// Makes sessions that share one bounded runtime.
#[derive(Clone)]
pub struct Engine {
    runtime: Arc<RuntimeEnv>,
    batch_rows: usize,
}

impl Engine {
    /// A runtime with the memory and spill folder of the limits.
    pub fn new(limits: &ProcessorLimits) -> Result<Self, DataFusionError> {
        let mut builder =
            RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(limits.memory_bytes)));
        if let Some(dir) = &limits.spill_dir {
            builder = builder.with_temp_file_path(dir);
        }
        Ok(Self { runtime: builder.build_arc()?, batch_rows: limits.batch_rows })
    }

    /// A fresh session. One partition: rows keep the order of the file, so that the last of two rows
    /// with one key wins whatever the machine.
    pub(crate) fn session(&self) -> SessionContext {
        let config = SessionConfig::new()
            .with_target_partitions(1)
            .with_batch_size(self.batch_rows)
            .with_information_schema(false);
        SessionContext::new_with_config_rt(config, Arc::clone(&self.runtime))
    }

    /// Steps may only read: no DDL, DML, COPY or SET.
    pub(crate) fn read_only() -> SQLOptions {
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false)
    }

    /// A condition over the columns of a schema, ready to be evaluated on batches.
    pub(crate) fn condition(
        &self,
        condition: &str,
        schema: &SchemaRef,
    ) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
        let session = self.session();
        let state = session.state();
        let columns = DFSchema::try_from(Arc::clone(schema))?;
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(columns.clone()))
            .with_config_options(Arc::clone(state.config_options()))
            .with_query_execution_start_time(Some(chrono::Utc::now()))
            .build();
        let simplifier = ExprSimplifier::new(context);
        let expr = session.parse_sql_expr(condition, &columns)?;
        let expr = simplifier.simplify(simplifier.coerce(expr, &columns)?)?;
        match expr.get_type(&columns)? {
            DataType::Boolean | DataType::Null => session.create_physical_expr(expr, &columns),
            other => Err(DataFusionError::Plan(format!("the condition is of type {other}, not boolean"))),
        }
    }
}
