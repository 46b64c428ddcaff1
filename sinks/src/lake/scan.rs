//! Reading a lake table back, file by file, at one version. For look-ups and tests; SQL over the lake reads
//! through Delta's own provider, with pruning.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use deltalake_core::datafile::DataFileReader;
use deltalake_core::datafile::reader::ParquetFileReader;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use tidemill_pipelines::ColumnName;

use super::error::from_delta;
use super::log::Log;
use crate::builder::missing;
use crate::{Result, Selection};

const ACTION: &str = "read the table";

type Partition = HashMap<String, Option<String>>;

/// Streams a part of a table; no row is left out by its filters.
pub(crate) async fn select(
    log: Log,
    selection: &Selection,
) -> Result<BoxStream<'static, Result<RecordBatch>>> {
    let snapshot = log.snapshot().await?;
    let snapshot = snapshot.ok_or_else(|| missing(format!("there is no table `{}`", log.name())))?;
    let schema = wanted(&snapshot.arrow_schema(), &selection.columns, &log)?;
    let files: Vec<(Path, Partition)> = snapshot
        .file_views(log.store().as_ref(), None)
        .map_ok(|file| (file.object_store_path(), file.partition_values_map()))
        .try_collect()
        .await
        .map_err(|e| from_delta(ACTION, e))?;
    let reader = ParquetFileReader::new(log.objects());
    let batches = futures::stream::iter(files).map(Ok).and_then(move |(path, partition)| {
        let (reader, schema) = (reader.clone(), Arc::clone(&schema));
        async move {
            let rows = reader.read_file(path).await.map_err(|e| from_delta(ACTION, e))?;
            Ok(rows.map(move |rows| {
                let rows = rows.map_err(|e| from_delta(ACTION, e))?;
                shaped(&rows, &partition, &schema).map_err(|e| missing(e.to_string()))
            }))
        }
    });
    let limit = selection.limit.unwrap_or(u64::MAX);
    let limited = batches.try_flatten().scan(limit, |left, batch: Result<RecordBatch>| {
        let rows = batch.as_ref().map_or(0, |batch| (batch.num_rows() as u64).min(*left));
        let next = if *left == 0 { None } else { Some(batch.map(|batch| batch.slice(0, rows as usize))) };
        *left -= rows;
        std::future::ready(next)
    });
    Ok(limited.boxed())
}

fn wanted(schema: &SchemaRef, columns: &[ColumnName], log: &Log) -> Result<SchemaRef> {
    let fields = columns.iter().map(|name| {
        let field = schema.field_with_name(name.as_str());
        field.cloned().map_err(|_| missing(format!("table `{}` has no column `{name}`", log.name())))
    });
    Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>>>()?)))
}

/// The wanted columns of a file's rows: those in the file, the partition's, and null for what came later.
fn shaped(rows: &RecordBatch, partition: &Partition, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let column = |field: &Arc<Field>| -> Result<ArrayRef, ArrowError> {
        match (rows.column_by_name(field.name()), partition.get(field.name())) {
            (Some(column), _) => cast(column, field.data_type()),
            (None, Some(Some(value))) => {
                let texts = StringArray::from_iter_values(std::iter::repeat_n(value, rows.num_rows()));
                cast(&texts, field.data_type())
            }
            (None, _) => Ok(new_null_array(field.data_type(), rows.num_rows())),
        }
    };
    let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}
