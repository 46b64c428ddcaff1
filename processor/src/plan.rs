//! The plan of a pipeline: its SQL planned against its columns, its checks, and the tables it writes.
//!
//! Made once before a job runs, and by `tidemill check` for every pipeline; all problems are told together.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use tidemill_pipelines::{
    Check, ColumnName, ColumnType, FileName, LakeSink, Mode, Pipeline, PipelineSet, Problem, SinkSpec, Step,
    TableName, TableSink,
};
use tidemill_sinks::{Place, TableColumn, TablePlan, made_day_column, plan_problems};

use crate::decode;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::lengths::{self, Lengths};
use crate::lookups::Lookups;
use crate::origins::full;
use crate::steps::carry::{FILE, LINE, carry, plan_statement};

/// The name of the table that each step reads.
pub(crate) const INPUT: &str = "input";

/// What a pipeline does, once its SQL is known to plan.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Checks on records, before the first SQL step.
    pub(crate) record_checks: Vec<Check>,
    /// What follows, in order.
    pub(crate) stages: Vec<Stage>,
    /// The columns of the rows that are delivered.
    pub output: SchemaRef,
    /// The tables that are written, in the order of the sinks.
    pub tables: Vec<TablePlan>,
    /// The files that are written.
    pub files: Vec<FileName>,
}

/// One step after the record checks, with the columns of its result.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    Sql { sql: String },
    Check(Check),
}

/// Plans a pipeline. `lookups` gives the tables of the database; tables that are not there yet are taken
/// as the other pipelines of the set declare them.
pub async fn plan(
    engine: &Engine,
    pipeline: &Pipeline,
    set: &PipelineSet,
    lookups: Option<&Lookups>,
) -> Result<Plan> {
    let engine = &engine.with_parameters_of(pipeline);
    let mut planner = Planner { engine, set, lookups, pipeline, problems: Vec::new() };
    let plan = planner.plan(0).await?;
    match plan {
        Some(plan) if planner.problems.is_empty() => Ok(plan),
        _ => Err(Error::Plan(planner.problems)),
    }
}

/// The problems of planning a pipeline without any database, for `tidemill check`.
pub async fn check_pipeline(engine: &Engine, pipeline: &Pipeline, set: &PipelineSet) -> Vec<Problem> {
    match plan(engine, pipeline, set, None).await {
        Ok(_) => Vec::new(),
        Err(Error::Plan(problems)) => problems,
        Err(other) => vec![Problem {
            file: format!("{}.yaml", pipeline.name),
            line: 0,
            column: 0,
            message: other.to_string(),
            help: None,
        }],
    }
}

/// How deep pipelines may look into tables of pipelines that look into tables.
const LOOKUP_DEPTH_MAX: usize = 8;

struct Planner<'a> {
    engine: &'a Engine,
    set: &'a PipelineSet,
    lookups: Option<&'a Lookups>,
    pipeline: &'a Pipeline,
    problems: Vec<Problem>,
}

impl Planner<'_> {
    async fn plan(&mut self, depth: usize) -> Result<Option<Plan>> {
        let mut record_checks = Vec::new();
        let mut stages = Vec::new();
        let mut schema = decode::schema(&self.pipeline.columns);
        let mut lengths = declared_lengths(self.pipeline);
        let mut are_records = true;
        for (index, step) in self.pipeline.steps.iter().enumerate() {
            match step {
                Step::Check(check) => {
                    if let Err(error) = self.engine.condition(&check.condition, &schema) {
                        let message = format!("check `{}` does not plan: {}", check.name, words(&error));
                        self.problem(index, "check", message, columns_help(&schema));
                        continue;
                    }
                    if stages.is_empty() {
                        record_checks.push(check.clone());
                    } else {
                        stages.push(Stage::Check(check.clone()));
                    }
                }
                Step::Sql(sql) => match self.plan_sql(sql, &schema, are_records, depth).await? {
                    Ok((logical, stay_records)) => {
                        lengths = lengths::of_result(&logical, &lengths);
                        schema = Arc::new(logical.schema().as_arrow().clone());
                        are_records = stay_records;
                        stages.push(Stage::Sql { sql: sql.clone() });
                    }
                    Err(error) => {
                        let message = format!("sql does not plan: {}", words(&error));
                        let help = input_help(&schema, are_records);
                        self.problem(index, "sql", message, help);
                        return Ok(None);
                    }
                },
            }
        }
        let Some(output) = self.output(&schema) else {
            return Ok(None);
        };
        let (mut tables, mut files) = (Vec::new(), Vec::new());
        for (index, sink) in self.pipeline.sinks.iter().enumerate() {
            match sink {
                SinkSpec::Table(sink) => tables.extend(self.table(index, sink, &output, &lengths)),
                SinkSpec::Lake(sink) => tables.extend(self.lake(index, sink, &output, &lengths)),
                SinkSpec::File(sink) => files.push(sink.name.clone()),
            }
        }
        let output = self.non_null_keys(output);
        Ok(Some(Plan { record_checks, stages, output, tables, files }))
    }

    /// The plan, and whether its rows are records still. The outer error is of the lookups' database, the inner one of the SQL.
    async fn plan_sql(
        &self,
        sql: &str,
        input: &SchemaRef,
        are_records: bool,
        depth: usize,
    ) -> Result<Result<(LogicalPlan, bool), DataFusionError>> {
        let session = self.engine.session();
        let tables = match referenced_tables(&session, sql) {
            Ok(tables) => tables,
            Err(error) => return Ok(Err(error)),
        };
        for table in tables {
            let schema = match self.lookup_schema(&table, depth).await? {
                Some(schema) => schema,
                None => continue, // planning itself names the missing table
            };
            let registered = empty(&schema).and_then(|empty| session.register_table(table.as_str(), empty));
            if let Err(error) = registered {
                return Ok(Err(error));
            }
        }
        let planned = plan_statement(self.engine, &session, sql, input, are_records, &empty).await;
        Ok(planned.and_then(|planned| {
            let stay_records = are_records && carry(&planned, empty(&full(&planned.input))?)?.is_some();
            Ok((planned.plan, stay_records))
        }))
    }

    async fn lookup_schema(&self, table: &TableName, depth: usize) -> Result<Option<SchemaRef>> {
        if let Some(lookups) = self.lookups
            && let Some(schema) = lookups.schema(table).await?
        {
            return Ok(Some(schema));
        }
        let Some(writer) = self.set.writer_of(table) else {
            return Ok(None);
        };
        if depth >= LOOKUP_DEPTH_MAX || writer.name == self.pipeline.name {
            return Ok(None);
        }
        let engine = &self.engine.with_parameters_of(writer);
        let mut planner = Planner { engine, pipeline: writer, problems: Vec::new(), ..*self };
        let plan = Box::pin(planner.plan(depth + 1)).await?;
        Ok(plan.map(|plan| plan.output))
    }

    /// The schema of the delivered rows: the types that sinks know, names that tables can have.
    fn output(&mut self, schema: &SchemaRef) -> Option<SchemaRef> {
        let mut fields = Vec::new();
        let mut seen = HashMap::new();
        let before = self.problems.len();
        for field in schema.fields() {
            let name = field.name();
            if name.parse::<ColumnName>().is_err() {
                let help = format!("name it in the last sql step: `{name} AS a_name`");
                self.sink_problem(
                    format!("the steps make a column `{name}`, which is no column name"),
                    Some(help),
                );
            } else if seen.insert(name.to_ascii_lowercase(), ()).is_some() {
                let help = "give each column a name of its own with AS".to_owned();
                self.sink_problem(format!("the steps make two columns `{name}`"), Some(help));
            }
            match delivered_type(field.data_type()) {
                Some(kind) => fields.push(Field::new(name, kind, field.is_nullable())),
                None => {
                    let help = format!("cast it in the last sql step: `CAST({name} AS VARCHAR) AS {name}`");
                    let message =
                        format!("column `{name}` is of type {}, which no sink stores", field.data_type());
                    self.sink_problem(message, Some(help));
                }
            }
        }
        (self.problems.len() == before).then(|| Arc::new(Schema::new(fields)))
    }

    fn table(
        &mut self,
        index: usize,
        sink: &TableSink,
        output: &SchemaRef,
        lengths: &Lengths,
    ) -> Option<TablePlan> {
        let before = self.problems.len();
        for key in &sink.key {
            if output.index_of(key.as_str()).is_err() {
                let message = format!("key column `{key}` of table `{}` is not made by the steps", sink.name);
                self.problem_at(&format!("sinks[{index}].table.key"), message, columns_help(output));
            }
        }
        if self.problems.len() > before {
            return None;
        }
        let plan = TablePlan {
            table: sink.name.clone(),
            columns: planned_columns(output, &sink.key, lengths),
            key: sink.key.clone(),
            mode: sink.mode,
            place: Place::Database,
        };
        for found in plan_problems(&plan) {
            let field = if found.of_key { "key" } else { "name" };
            self.problem_at(&format!("sinks[{index}].table.{field}"), found.message, Some(found.help));
        }
        Some(plan)
    }

    fn lake(
        &mut self,
        index: usize,
        sink: &LakeSink,
        output: &SchemaRef,
        lengths: &Lengths,
    ) -> Option<TablePlan> {
        let plan = TablePlan {
            table: sink.name.clone(),
            columns: planned_columns(output, &[], lengths),
            key: Vec::new(),
            mode: Mode::Append,
            place: Place::Lake { day: sink.day.clone() },
        };
        let Some((message, help)) = day_problem(sink, output, &plan) else {
            return Some(plan);
        };
        self.problem_at(&format!("sinks[{index}].lake.day"), message, help);
        None
    }

    /// A key is never null, whatever the SQL says of it.
    fn non_null_keys(&self, output: SchemaRef) -> SchemaRef {
        let is_key = |name: &str| {
            self.pipeline.sinks.iter().any(|sink| match sink {
                SinkSpec::Table(sink) => sink.key.iter().any(|key| key.as_str() == name),
                SinkSpec::Lake(_) | SinkSpec::File(_) => false,
            })
        };
        let fields: Vec<_> = output
            .fields()
            .iter()
            .map(|field| {
                let nullable = field.is_nullable() && !is_key(field.name());
                field.as_ref().clone().with_nullable(nullable)
            })
            .collect();
        Arc::new(Schema::new(fields))
    }

    fn problem(&mut self, step: usize, what: &str, message: String, help: Option<String>) {
        self.problem_at(&format!("steps[{step}].{what}"), message, help);
    }

    fn sink_problem(&mut self, message: String, help: Option<String>) {
        self.problem_at("steps", message, help);
    }

    fn problem_at(&mut self, path: &str, message: String, help: Option<String>) {
        let (line, column) = self.pipeline.locate(path);
        self.problems.push(Problem {
            file: format!("{}.yaml", self.pipeline.name),
            line,
            column,
            message,
            help,
        });
    }
}

/// The tables that a statement reads, but for `input`.
pub(crate) fn referenced_tables(
    session: &SessionContext,
    sql: &str,
) -> Result<Vec<TableName>, DataFusionError> {
    let state = session.state();
    let dialect = state.config_options().sql_parser.dialect;
    let statement = state.sql_to_statement(sql, &dialect)?;
    let references = state.resolve_table_references(&statement)?;
    Ok(references
        .iter()
        .filter(|reference| reference.table() != INPUT)
        .filter_map(|reference| reference.table().parse().ok())
        .collect())
}

/// The tables other than `input` that a pipeline looks into, by references and by SQL.
pub(crate) fn tables_read(engine: &Engine, pipeline: &Pipeline) -> Vec<TableName> {
    let references = pipeline.columns.iter().filter_map(|column| column.references.as_ref());
    let mut tables: Vec<_> = references.map(|reference| reference.table.clone()).collect();
    for step in &pipeline.steps {
        if let Step::Sql(sql) = step {
            tables.extend(referenced_tables(&engine.session(), sql).unwrap_or_default());
        }
    }
    tables
}

fn empty(schema: &SchemaRef) -> Result<Arc<dyn TableProvider>, DataFusionError> {
    Ok(Arc::new(MemTable::try_new(Arc::clone(schema), vec![vec![]])?))
}

fn planned_columns(output: &SchemaRef, key: &[ColumnName], lengths: &Lengths) -> Vec<TableColumn> {
    let columns = output.fields().iter().filter_map(|field| {
        let name: ColumnName = field.name().parse().ok()?;
        let nullable = field.is_nullable() && !key.contains(&name);
        let max_length = lengths.get(field.name()).copied();
        Some(TableColumn { name, kind: field.data_type().clone(), nullable, max_length })
    });
    columns.collect()
}

/// Why the day of a lake table cannot be told from the rows, and what to write instead.
fn day_problem(sink: &LakeSink, output: &SchemaRef, plan: &TablePlan) -> Option<(String, Option<String>)> {
    if let Some(day) = &sink.day {
        let Ok(field) = output.field_with_name(day.as_str()) else {
            let message =
                format!("the day of lake table `{}` is `{day}`, which the steps do not make", sink.name);
            return Some((message, columns_help(output)));
        };
        if !matches!(field.data_type(), DataType::Date32 | DataType::Timestamp(..)) {
            let message = format!("`{day}` is of type {}, so no day can be told from it", field.data_type());
            return Some((message, Some("name a column of type date or timestamp".to_owned())));
        }
    }
    let made = made_day_column(plan)?;
    let taken = output.fields().iter().any(|field| field.name().eq_ignore_ascii_case(&made));
    taken.then(|| {
        let message = format!("the steps make a column `{made}`, which the lake table gets for its days");
        (message, Some("give the column another name in the last sql step".to_owned()))
    })
}

/// The type under which a column is delivered; `None` when no sink stores it.
fn delivered_type(kind: &DataType) -> Option<DataType> {
    Some(match kind {
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => DataType::Int64,
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => DataType::Float64,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Decimal128(_, scale) if *scale >= 0 => kind.clone(),
        DataType::Boolean => DataType::Boolean,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Date32 | DataType::Date64 => DataType::Date32,
        DataType::Timestamp(_, _) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Dictionary(_, value) => delivered_type(value)?,
        _ => return None,
    })
}

fn declared_lengths(pipeline: &Pipeline) -> Lengths {
    pipeline
        .columns
        .iter()
        .filter_map(|column| match column.kind {
            ColumnType::Text { max_length: Some(length) } => Some((column.name.to_string(), length)),
            _ => None,
        })
        .collect()
}

fn columns_help(schema: &SchemaRef) -> Option<String> {
    let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    Some(format!("the columns are {}", names.join(", ")))
}

/// The columns that a statement may name.
fn input_help(schema: &SchemaRef, are_records: bool) -> Option<String> {
    let origin = match are_records {
        true => format!(", and {FILE} and {LINE}"),
        false => format!("; behind an aggregate a row has no {FILE} and {LINE}"),
    };
    columns_help(schema).map(|columns| columns + &origin)
}

fn words(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    let text = text.strip_prefix("Error during planning: ").unwrap_or(&text).trim();
    text.lines().next().unwrap_or(text).to_owned()
}
