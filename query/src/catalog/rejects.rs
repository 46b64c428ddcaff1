//! `tidemill.rejects`: the refused records of the jobs that the user may see, read from the jobs' artifacts. Conditions on
//! `job_id` and `pipeline` choose the files; the rest is the engine's.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Decoder;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::{Buf, Bytes};
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::stream::{BoxStream, iter, try_unfold};
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tidemill_sinks::{Comparison, Filter, Literal, Selection};

use super::pushdown::filter_of;
use super::{Data, Visible, outside};
use crate::limits::{BATCH_ROWS, REJECT_FILES_MAX};
use crate::{Code, Refusal};

/// Columns that name the job; the others are those of the file.
const OF_JOB: [&str; 2] = ["job_id", "pipeline"];

/// The table.
pub(super) struct Rejects {
    data: Arc<Data>,
    visible: Visible,
    schema: SchemaRef,
}

impl Rejects {
    pub(super) fn new(data: Arc<Data>, visible: Visible) -> Self {
        let of_job = OF_JOB.map(|name| Field::new(name, DataType::Utf8, false));
        let of_file = file_schema();
        let fields = of_job.into_iter().chain(of_file.fields().iter().map(|field| field.as_ref().clone()));
        Self { data, visible, schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())) }
    }
}

/// What stands in a rejects file.
fn file_schema() -> SchemaRef {
    let number = ["line", "byte_start", "byte_end"].map(|name| Field::new(name, DataType::Int64, true));
    let text = ["column", "stage", "code", "message", "problems", "raw"];
    let text = text.map(|name| Field::new(name, DataType::Utf8, true));
    Arc::new(Schema::new(number.into_iter().chain(text).collect::<Vec<_>>()))
}

/// Whether a filter is about the job alone.
fn chooses_jobs(filter: &Filter) -> bool {
    match filter {
        Filter::Compare(column, ..) | Filter::OneOf(column, _) => OF_JOB.contains(&column.as_str()),
        Filter::IsNull(_) | Filter::IsNotNull(_) => false,
        Filter::Any(filters) | Filter::All(filters) => filters.iter().all(chooses_jobs),
    }
}

impl fmt::Debug for Rejects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rejects")
    }
}

#[async_trait]
impl TableProvider for Rejects {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match filter_of(filter, &self.schema).filter(chooses_jobs) {
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
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let filters =
            filters.iter().filter_map(|filter| filter_of(filter, &self.schema)).filter(chooses_jobs);
        let files = Files {
            data: Arc::clone(&self.data),
            visible: self.visible.clone(),
            filters: filters.collect(),
            schema: Arc::clone(&self.schema),
        };
        let (schema, parts) = (Arc::clone(&self.schema), vec![Arc::new(files) as Arc<dyn PartitionStream>]);
        Ok(Arc::new(StreamingTableExec::try_new(schema, parts, projection, vec![], false, None)?))
    }
}

/// The files of the jobs that were chosen.
#[derive(Clone)]
struct Files {
    data: Arc<Data>,
    visible: Visible,
    filters: Vec<Filter>,
    schema: SchemaRef,
}

/// A job with a rejects file.
struct Job {
    id: String,
    pipeline: String,
    /// The key of its report; the rejects lie beside it.
    report: String,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.filters)
    }
}

impl PartitionStream for Files {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (files, schema) = (self.clone(), Arc::clone(&self.schema));
        let rows = async move {
            let jobs = files.jobs().await?;
            let rows = move |job: Job| {
                let files = files.clone();
                async move { files.rows(job).await }.try_flatten_stream()
            };
            Ok::<_, DataFusionError>(iter(jobs).map(rows).flatten())
        };
        Box::pin(RecordBatchStreamAdapter::new(schema, rows.try_flatten_stream()))
    }
}

impl Files {
    /// The jobs with rejects that may be seen and that the conditions leave in.
    async fn jobs(&self) -> Result<Vec<Job>> {
        let Some(sink) = self.data.jobs().await.map_err(outside)? else {
            return Ok(Vec::new());
        };
        let mut filters = self.filters.clone();
        let rejected = "records_rejected".parse().map_err(outside)?;
        filters.push(Filter::Compare(rejected, Comparison::Greater, Literal::Int64(0)));
        let columns = ["job_id", "pipeline", "report"].map(str::parse).into_iter();
        let columns = columns.collect::<Result<_, _>>().map_err(outside)?;
        let table = "tidemill_jobs".parse().map_err(outside)?;
        let selection = Selection { table, columns, filters, limit: None };
        let mut rows = sink.select(&selection).await.map_err(outside)?;
        let mut jobs = Vec::new();
        while let Some(batch) = rows.try_next().await.map_err(outside)? {
            let [ids, pipelines, reports] = [0, 1, 2].map(|index| batch.column(index).as_string::<i32>());
            for ((id, pipeline), report) in ids.iter().zip(pipelines).zip(reports) {
                let (Some(id), Some(pipeline), Some(report)) = (id, pipeline, report) else { continue };
                if self.visible.shows_jobs_of(pipeline) {
                    jobs.push(Job {
                        id: id.to_owned(),
                        pipeline: pipeline.to_owned(),
                        report: report.to_owned(),
                    });
                }
            }
            if jobs.len() > REJECT_FILES_MAX {
                let message =
                    format!("more than {REJECT_FILES_MAX} jobs have rejects; choose some by `job_id`");
                return Err(outside(crate::Error::Refused(Refusal::new(Code::Invalid, message))));
            }
        }
        Ok(jobs)
    }

    /// The rejects of one job.
    async fn rows(&self, job: Job) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let Some(objects) = self.data.objects().await.map_err(outside)? else {
            return Ok(iter([]).boxed());
        };
        let folder = job.report.rsplit_once('/').map_or("", |(folder, _)| folder);
        let object = objects.get(&Path::from(format!("{folder}/rejects.csv"))).await?;
        let decoder = ReaderBuilder::new(file_schema()).with_header(true).with_batch_size(BATCH_ROWS);
        let (bytes, schema) = (object.into_stream().boxed(), Arc::clone(&self.schema));
        let batches = try_unfold((bytes, Bytes::new(), decoder.build_decoder()), decode);
        Ok(batches.map(move |batch| with_job(&schema, &job, &batch?)).boxed())
    }
}

type Decoding = (BoxStream<'static, object_store::Result<Bytes>>, Bytes, Decoder);

async fn decode((mut bytes, mut rest, mut decoder): Decoding) -> Result<Option<(RecordBatch, Decoding)>> {
    loop {
        if rest.is_empty() {
            rest = bytes.try_next().await?.unwrap_or_default();
        }
        let used = decoder.decode(&rest)?;
        rest.advance(used);
        // Nothing used of something: a batch is full. Nothing there: the file has ended.
        if used == 0 || decoder.capacity() == 0 {
            let batch = decoder.flush()?;
            return Ok(batch.map(|batch| (batch, (bytes, rest, decoder))));
        }
    }
}

fn with_job(schema: &SchemaRef, job: &Job, batch: &RecordBatch) -> Result<RecordBatch> {
    let of_job = [&job.id, &job.pipeline].map(|text| {
        let texts: ArrayRef =
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, batch.num_rows())));
        texts
    });
    let columns = of_job.into_iter().chain(batch.columns().iter().cloned());
    Ok(RecordBatch::try_new(Arc::clone(schema), columns.collect())?)
}
