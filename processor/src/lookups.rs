//! Tables that steps and references look into: those of the sink, tables given by hand, or, when a
//! pipeline is only checked, what the other pipelines of the set declare.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use futures::TryStreamExt;
use tidemill_pipelines::{ColumnName, Pipeline, Reference, TableName};
use tidemill_sinks::Sink;

use crate::decode::{KnownKeys, References};
use crate::error::{Error, Result};

/// Where tables other than `input` come from.
#[derive(Clone)]
pub enum Lookups {
    /// The tables of the database of the settings.
    Sink(Arc<dyn Sink>),
    /// Tables given by hand, for `tidemill run` and pipeline tests.
    Memory(HashMap<TableName, (SchemaRef, Vec<RecordBatch>)>),
}

impl Lookups {
    /// The columns of a table, `None` when there is no such table.
    pub(crate) async fn schema(&self, table: &TableName) -> Result<Option<SchemaRef>> {
        match self {
            Lookups::Sink(sink) => Ok(sink.schema(table).await?),
            Lookups::Memory(tables) => Ok(tables.get(table).map(|(schema, _)| Arc::clone(schema))),
        }
    }

    /// These columns of a table (all when `None`), whole, at most `rows_max` rows.
    pub(crate) async fn load(
        &self,
        table: &TableName,
        columns: Option<&[ColumnName]>,
        rows_max: usize,
    ) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let problem = |message: String| Error::Lookup { table: table.to_string(), message };
        let schema = self.schema(table).await?.ok_or_else(|| {
            problem("is not there yet: send the file of the pipeline that writes it first".to_owned())
        })?;
        let indices = match columns {
            None => (0..schema.fields().len()).collect(),
            Some(columns) => columns
                .iter()
                .map(|column| schema.index_of(column.as_str()))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| {
                    problem(format!(
                        "has no column `{}`",
                        columns.iter().map(ColumnName::as_str).collect::<Vec<_>>().join("`, `")
                    ))
                })?,
        };
        let narrow = Arc::new(schema.project(&indices).map_err(|error| problem(error.to_string()))?);
        let batches = match self {
            Lookups::Memory(tables) => {
                let batches = tables.get(table).map(|(_, batches)| batches.as_slice()).unwrap_or_default();
                batches
                    .iter()
                    .map(|batch| batch.project(&indices))
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| problem(error.to_string()))?
            }
            Lookups::Sink(sink) => {
                let names = narrow
                    .fields()
                    .iter()
                    .map(|field| field.name().parse())
                    .collect::<Result<Vec<ColumnName>, _>>()
                    .map_err(|error| problem(format!("has a column that SQL steps cannot name: {error}")))?;
                let mut rows = 0;
                let mut batches = Vec::new();
                let mut stream = sink.scan(table, &names).await?;
                while let Some(batch) = stream.try_next().await? {
                    rows += batch.num_rows();
                    if rows > rows_max {
                        return Err(problem(format!(
                            "has more than {rows_max} rows, the bound for look-ups (processor.lookup_rows_max)"
                        )));
                    }
                    batches.push(batch);
                }
                batches
            }
        };
        Ok((narrow, batches))
    }

    /// The keys of every column that the pipeline's columns refer to.
    pub(crate) async fn references(&self, pipeline: &Pipeline, rows_max: usize) -> Result<References> {
        let mut references = References::new();
        for reference in pipeline.columns.iter().filter_map(|column| column.references.as_ref()) {
            if !references.contains_key(reference) {
                let keys = self.keys(reference, rows_max).await?;
                references.insert(reference.clone(), Arc::new(keys));
            }
        }
        Ok(references)
    }

    async fn keys(&self, reference: &Reference, rows_max: usize) -> Result<KnownKeys> {
        let column = [reference.column.clone()];
        let (schema, batches) = self.load(&reference.table, Some(&column), rows_max).await?;
        let columns = batches.iter().map(|batch| batch.column(0));
        match schema.field(0).data_type() {
            DataType::Int64 => Ok(KnownKeys::Int64(
                columns.flat_map(|keys| keys.as_primitive::<Int64Type>().iter().flatten()).collect(),
            )),
            DataType::Utf8 => Ok(KnownKeys::Text(
                columns
                    .flat_map(|keys| keys.as_string::<i32>().iter().flatten().map(str::to_owned))
                    .collect(),
            )),
            other => Err(Error::Lookup {
                table: reference.table.to_string(),
                message: format!(
                    "cannot be referred to by `{}`: it is of type {other}, not int64 or text",
                    reference.column
                ),
            }),
        }
    }
}
