//! The SQL engine: one DataFusion runtime for a process, whose memory pool and spill folder all jobs share.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Date32Type, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_plan::PhysicalExpr;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use tidemill_pipelines::{ParameterType, ParameterValue, Pipeline};

use crate::exact::{ExactCasts, in_expr};
use crate::limits::ProcessorLimits;

/// Makes sessions that share one bounded runtime.
#[derive(Clone)]
pub struct Engine {
    runtime: Arc<RuntimeEnv>,
    batch_rows: usize,
    /// What SQL sees as `$name`.
    parameters: HashMap<String, ScalarValue>,
}

impl Engine {
    /// A runtime with the memory and spill folder of the limits.
    pub fn new(limits: &ProcessorLimits) -> Result<Self, DataFusionError> {
        let mut builder =
            RuntimeEnvBuilder::new().with_memory_pool(Arc::new(FairSpillPool::new(limits.memory_bytes)));
        if let Some(dir) = &limits.spill_dir {
            builder = builder.with_temp_file_path(dir);
        }
        Ok(Self { runtime: builder.build_arc()?, batch_rows: limits.batch_rows, parameters: HashMap::new() })
    }

    /// The same engine, whose SQL sees these values of a pipeline's parameters.
    pub(crate) fn with_parameters(&self, values: &BTreeMap<String, ParameterValue>) -> Self {
        let scalar = |(name, value): (&String, &ParameterValue)| (name.clone(), scalar(value));
        Self { parameters: values.iter().map(scalar).collect(), ..self.clone() }
    }

    /// The same engine, whose SQL sees the parameters of a pipeline without a value: enough to plan it.
    pub(crate) fn with_parameters_of(&self, pipeline: &Pipeline) -> Self {
        let nulls = pipeline.parameters.iter().map(|parameter| {
            let null = match parameter.kind {
                ParameterType::Int64 => ScalarValue::Int64(None),
                ParameterType::Float64 => ScalarValue::Float64(None),
                ParameterType::Bool => ScalarValue::Boolean(None),
                ParameterType::Text => ScalarValue::Utf8(None),
                ParameterType::Date => ScalarValue::Date32(None),
            };
            (parameter.name.to_string(), null)
        });
        Self { parameters: nulls.collect(), ..self.clone() }
    }

    /// Reads the text of one statement.
    pub(crate) fn statement(
        &self,
        session: &SessionContext,
        sql: &str,
    ) -> Result<Statement, DataFusionError> {
        let state = session.state();
        state.sql_to_statement(sql, &state.config_options().sql_parser.dialect)
    }

    /// Plans one statement that may only read.
    pub(crate) async fn plan(
        &self,
        session: &SessionContext,
        statement: Statement,
    ) -> Result<LogicalPlan, DataFusionError> {
        let plan = session.state().statement_to_plan(statement).await?;
        Self::read_only().verify_plan(&plan)?;
        plan.with_param_values(self.parameters.clone())
    }

    /// A fresh session. One partition: rows keep the order of the file, so that the last of two rows
    /// with one key wins whatever the machine.
    pub(crate) fn session(&self) -> SessionContext {
        let config = SessionConfig::new()
            .with_target_partitions(1)
            .with_batch_size(self.batch_rows)
            .with_information_schema(false);
        let session = SessionContext::new_with_config_rt(config, Arc::clone(&self.runtime));
        session.add_analyzer_rule(Arc::new(ExactCasts));
        session.add_optimizer_rule(Arc::new(ExactCasts));
        session
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
        let expr = self.bound(session.parse_sql_expr(condition, &columns)?)?;
        let expr = in_expr(simplifier.coerce(expr, &columns)?, &columns)?.data;
        let expr = in_expr(simplifier.simplify(expr)?, &columns)?.data;
        match expr.get_type(&columns)? {
            DataType::Boolean | DataType::Null => session.create_physical_expr(expr, &columns),
            other => Err(DataFusionError::Plan(format!("the condition is of type {other}, not boolean"))),
        }
    }

    /// An expression with the values of the parameters.
    fn bound(&self, expr: Expr) -> Result<Expr, DataFusionError> {
        let bound = expr.transform(|expr| match &expr {
            Expr::Placeholder(placeholder) => {
                match self.parameters.get(placeholder.id.trim_start_matches('$')) {
                    Some(value) => Ok(Transformed::yes(Expr::Literal(value.clone(), None))),
                    None => Err(DataFusionError::Plan(format!("there is no parameter `{}`", placeholder.id))),
                }
            }
            _ => Ok(Transformed::no(expr)),
        })?;
        Ok(bound.data)
    }
}

fn scalar(value: &ParameterValue) -> ScalarValue {
    match value {
        ParameterValue::Int64(value) => ScalarValue::Int64(Some(*value)),
        ParameterValue::Float64(value) => ScalarValue::Float64(Some(*value)),
        ParameterValue::Bool(value) => ScalarValue::Boolean(Some(*value)),
        ParameterValue::Text(value) => ScalarValue::Utf8(Some(value.clone())),
        ParameterValue::Date(value) => ScalarValue::Date32(Some(Date32Type::from_naive_date(*value))),
    }
}
