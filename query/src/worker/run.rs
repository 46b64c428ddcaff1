//! One statement in the worker: read, plan over what the user may see, run, encode.

use std::io::Stdout;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::dataframe::DataFrame;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::{SQLOptions, SessionContext};
use futures::TryStreamExt;

use super::encode::{Encoder, schema_bytes};
use super::problem::{explain, unknown_table};
use super::read::Text;
use crate::catalog::{Catalog, kind_word};
use crate::frames::{self, Kind};
use crate::{Code, Error, Parameter, QueryLimits, Refusal, Result, Statement};

/// Runs a statement and sends its columns and its rows.
pub(super) async fn run(
    catalog: &Catalog,
    statement: &Statement,
    limits: &QueryLimits,
    out: &mut Stdout,
) -> Result<()> {
    let text = Text::read(&statement.sql, &statement.flavour)?;
    let session = catalog.session(statement).await?;
    let run = async {
        let plan = plan(&session, catalog, statement, &text).await?;
        let plan = bind(plan, &statement.parameters)?;
        let plan = match statement.limit {
            Some(limit) if !text.explains() => {
                let rows = usize::try_from(limit).unwrap_or(usize::MAX);
                LogicalPlanBuilder::from(plan).limit(0, Some(rows))?.build()?
            }
            _ => plan,
        };
        let mut rows = DataFrame::new(session.state(), plan).execute_stream().await?;
        let schema = rows.schema();
        send(out, Kind::Schema, &schema_bytes(&schema)?)?;
        let mut encoder = Encoder::new(statement.format, &schema, out)?;
        while let Some(batch) = rows.try_next().await? {
            encoder.write(&batch)?;
        }
        encoder.finish()
    };
    run.await.map_err(|error: DataFusionError| explain(&error, &text, limits))
}

/// Sends the columns that a statement would give, and the types of its parameters.
pub(super) async fn describe(
    catalog: &Catalog,
    statement: &Statement,
    limits: &QueryLimits,
    out: &mut Stdout,
) -> Result<()> {
    let text = Text::read(&statement.sql, &statement.flavour)?;
    let session = catalog.session(statement).await?;
    let describe = async {
        let plan = plan(&session, catalog, statement, &text).await?;
        let types = parameter_types(&plan)?;
        let plan = bind_samples(plan, &types, &statement.parameters)?;
        // Without the analyzer a column may still be of a type that the rows will not have.
        let plan = session.state().analyzer().execute_and_check(
            plan,
            session.state().config_options(),
            |_, _| {},
        )?;
        let schema: SchemaRef = Arc::clone(plan.schema().inner());
        let fields = types
            .into_iter()
            .enumerate()
            .map(|(index, kind)| Field::new(format!("${}", index + 1), kind.unwrap_or(DataType::Null), true));
        let parameters: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        send(out, Kind::Schema, &schema_bytes(&schema)?)?;
        send(out, Kind::Parameters, &schema_bytes(&parameters)?)
    };
    describe.await.map_err(|error: DataFusionError| explain(&error, &text, limits))
}

fn send(out: &mut Stdout, kind: Kind, payload: &[u8]) -> Result<(), DataFusionError> {
    frames::write(out, kind, payload).map_err(DataFusionError::IoError)
}

async fn plan(
    session: &SessionContext,
    catalog: &Catalog,
    statement: &Statement,
    text: &Text,
) -> Result<LogicalPlan, DataFusionError> {
    let state = session.state();
    for reference in state.resolve_table_references(&text.statement)? {
        let function = state.table_functions().contains_key(reference.table());
        let resolved = reference.clone().resolve(catalog.name(), catalog.schema());
        let there = match state.schema_for_ref(resolved.clone()) {
            Ok(schema) => schema.table(&resolved.table).await?.is_some(),
            Err(_) => false,
        };
        if !there && !function {
            let known = catalog.table_names(&statement.visible).await?;
            let name = if reference.schema().is_some_and(|schema| schema != catalog.schema()) {
                format!("{}.{}", resolved.schema, resolved.table)
            } else {
                resolved.table.to_string()
            };
            return Err(refused(unknown_table(&name, &known, text)));
        }
    }
    let plan = state.statement_to_plan(text.statement.clone()).await?;
    // The second lock on the same door: what is no reading statement was refused by `Text`.
    let only_reads =
        SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    only_reads.verify_plan(&plan)?;
    Ok(plan)
}

fn refused(refusal: Refusal) -> DataFusionError {
    DataFusionError::External(Box::new(Error::Refused(refusal)))
}

/// Puts the values in the places of `$1`, `$2`, …, each as the type that its place asks for.
fn bind(plan: LogicalPlan, parameters: &[Parameter]) -> Result<LogicalPlan, DataFusionError> {
    let types = parameter_types(&plan)?;
    if types.len() != parameters.len() {
        let message =
            format!("the statement asks for {} parameters, {} are given", types.len(), parameters.len());
        return Err(refused(Refusal::new(Code::BadParameter, message)));
    }
    if types.is_empty() {
        return Ok(plan);
    }
    let values = types.iter().zip(parameters).enumerate().map(|(index, (kind, parameter))| {
        let value = scalar(parameter)?;
        let Some(kind) = kind else {
            return Ok(value);
        };
        fitting(&value, kind).ok_or_else(|| {
            let message = format!("parameter ${} is `{value}`, which is no {}", index + 1, kind_word(kind));
            refused(Refusal::new(Code::BadParameter, message))
        })
    });
    let values: Vec<ScalarValue> = values.collect::<Result<_, DataFusionError>>()?;
    plan.with_param_values(ParamValues::from(values))
}

/// The value as its place asks for it. One that would lose something on the way keeps its type, so that `id < 1.5` is
/// not `id < 1`; what a text says is read, and must be right.
fn fitting(value: &ScalarValue, kind: &DataType) -> Option<ScalarValue> {
    let cast = value.cast_to(kind).ok();
    if value.is_null() || matches!(value, ScalarValue::Utf8(_)) {
        return cast;
    }
    let back = cast.as_ref().and_then(|cast| cast.cast_to(&value.data_type()).ok());
    if back.as_ref() == Some(value) { cast } else { Some(value.clone()) }
}

/// For a description: values like those that will come, so that the columns made of them have their types.
fn bind_samples(
    plan: LogicalPlan,
    types: &[Option<DataType>],
    samples: &[Parameter],
) -> Result<LogicalPlan, DataFusionError> {
    if types.is_empty() {
        return Ok(plan);
    }
    let values = types.iter().enumerate().map(|(index, kind)| {
        let sample = samples.get(index).map_or(Ok(ScalarValue::Null), scalar)?;
        match kind {
            Some(kind) if sample.is_null() => ScalarValue::try_from(kind),
            Some(kind) => Ok(fitting(&sample, kind).unwrap_or(ScalarValue::try_from(kind)?)),
            None if sample.is_null() => Ok(ScalarValue::Utf8(None)),
            None => Ok(sample),
        }
    });
    let values: Vec<ScalarValue> = values.collect::<Result<_, DataFusionError>>()?;
    plan.with_param_values(ParamValues::from(values))
}

/// The types of `$1`, `$2`, …, where their places tell them.
fn parameter_types(plan: &LogicalPlan) -> Result<Vec<Option<DataType>>, DataFusionError> {
    let mut types = Vec::new();
    for (name, kind) in plan.get_parameter_types()? {
        let number = name.strip_prefix('$').and_then(|digits| digits.parse::<usize>().ok());
        let Some(index) = number.and_then(|number| number.checked_sub(1)).filter(|n| *n < PLACES_MAX) else {
            let message = format!("there is no parameter `{name}`: they are written $1, $2, …");
            return Err(refused(Refusal::new(Code::BadParameter, message)));
        };
        if types.len() <= index {
            types.resize(index + 1, None);
        }
        types[index] = kind;
    }
    Ok(types)
}

/// Highest number of a parameter.
const PLACES_MAX: usize = crate::limits::PARAMETERS_MAX;

fn scalar(parameter: &Parameter) -> Result<ScalarValue, DataFusionError> {
    Ok(match parameter {
        Parameter::Null => ScalarValue::Null,
        Parameter::Boolean(value) => ScalarValue::from(*value),
        Parameter::Int64(value) => ScalarValue::from(*value),
        Parameter::Float64(value) => ScalarValue::from(*value),
        Parameter::Text(text) => ScalarValue::from(text.as_str()),
        Parameter::Date(day) => ScalarValue::Date32(Some(*day)),
        Parameter::Timestamp(micros) => ScalarValue::TimestampMicrosecond(Some(*micros), Some("UTC".into())),
        Parameter::Decimal(digits) => {
            let scale = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len());
            let scale = i8::try_from(scale.min(38)).unwrap_or(38);
            ScalarValue::from(digits.as_str()).cast_to(&DataType::Decimal128(38, scale))?
        }
    })
}
