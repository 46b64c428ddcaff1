//! The table `input` of one step: rows that come once, again as often as the plan wants (spooled), or one batch at a time.
//!
//! A statement sees the columns of the data, and `_file` and `_line` where it names them; the hidden origin is for the plan
//! that passes it on.

use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, AsArray, StringArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use arrow::ipc::{reader::StreamReader, writer::StreamWriter};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::{RecordBatchReceiverStreamBuilder, RecordBatchStreamAdapter};
use datafusion::physical_plan::streaming::PartitionStream;
use futures::{StreamExt, TryStreamExt};
use tempfile::NamedTempFile;

use super::carry::{FILE, LINE};
use crate::error::{Error, Result};
use crate::limits::{BATCHES_BETWEEN_STAGES, ProcessorLimits};
use crate::origins::ORIGIN;
use crate::plan::INPUT;
use crate::refuse::Rejects;

/// The rows of `input`.
pub(super) struct Input {
    schema: SchemaRef,
    rows: Mutex<Rows>,
}

enum Rows {
    Once(Option<SendableRecordBatchStream>),
    Spooled(Arc<NamedTempFile>),
    Batch(RecordBatch),
}

impl Input {
    /// Without rows yet.
    pub(super) fn new(schema: SchemaRef) -> Arc<Self> {
        Arc::new(Self { schema, rows: Mutex::new(Rows::Once(None)) })
    }

    /// Rows that come once.
    pub(super) fn feed(&self, rows: SendableRecordBatchStream) {
        self.set(Rows::Once(Some(rows)));
    }

    /// One batch, as often as it is asked for.
    pub(super) fn put(&self, batch: RecordBatch) {
        self.set(Rows::Batch(batch));
    }

    fn set(&self, to: Rows) {
        if let Ok(mut rows) = self.rows.lock() {
            *rows = to;
        }
    }

    /// A table with these columns of it. `rejects` knows the names of the files.
    pub(super) fn table(
        self: &Arc<Self>,
        columns: &SchemaRef,
        rejects: Option<&Rejects>,
    ) -> Result<Arc<dyn TableProvider>, DataFusionError> {
        let view = View { input: Arc::clone(self), columns: Arc::clone(columns), rejects: rejects.cloned() };
        let view: Arc<dyn PartitionStream> = Arc::new(view);
        Ok(Arc::new(StreamingTable::try_new(Arc::clone(columns), vec![view])?))
    }

    /// Writes rows that come once to disk, so that they can be read more often.
    pub(super) async fn spool(&self, limits: &ProcessorLimits) -> Result<()> {
        let taken = match self.rows.lock() {
            Ok(mut rows) => match &mut *rows {
                Rows::Once(stream) => stream.take(),
                Rows::Spooled(_) | Rows::Batch(_) => None,
            },
            Err(_) => None,
        };
        let Some(mut stream) = taken else { return Ok(()) };
        let file = match &limits.spill_dir {
            Some(dir) => NamedTempFile::new_in(dir)?,
            None => NamedTempFile::new()?,
        };
        let handle = file.reopen()?;
        let schema = Arc::clone(&self.schema);
        let (send, mut receive) = tokio::sync::mpsc::channel::<RecordBatch>(BATCHES_BETWEEN_STAGES);
        let writing = tokio::task::spawn_blocking(move || -> Result<(), DataFusionError> {
            let mut writer = StreamWriter::try_new_buffered(handle, &schema)?;
            while let Some(batch) = receive.blocking_recv() {
                writer.write(&batch)?;
            }
            writer.finish()?;
            Ok(())
        });
        while let Some(batch) = stream.try_next().await? {
            if send.send(batch).await.is_err() {
                break; // the writer failed; its error is told below
            }
        }
        drop(send);
        writing.await.map_err(|_| Error::Broken("the spool"))??;
        self.set(Rows::Spooled(Arc::new(file)));
        Ok(())
    }

    fn read(&self) -> SendableRecordBatchStream {
        let once = |item: Result<RecordBatch, DataFusionError>| -> SendableRecordBatchStream {
            let stream = futures::stream::once(async { item });
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream))
        };
        let failed = |what| once(Err(DataFusionError::Internal(format!("`{INPUT}` {what}"))));
        match self.rows.lock() {
            Err(_) => failed("broke down"),
            Ok(mut rows) => match &mut *rows {
                Rows::Once(stream) => stream.take().unwrap_or_else(|| failed("was read twice")),
                Rows::Spooled(file) => read_spool(Arc::clone(file), Arc::clone(&self.schema)),
                Rows::Batch(batch) => once(Ok(batch.clone())),
            },
        }
    }
}

/// Some of the columns, as a statement's table.
struct View {
    input: Arc<Input>,
    columns: SchemaRef,
    rejects: Option<Rejects>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(INPUT)
    }
}

impl PartitionStream for View {
    fn schema(&self) -> &SchemaRef {
        &self.columns
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (columns, rejects) = (Arc::clone(&self.columns), self.rejects.clone());
        let shown = self.input.read().map(move |batch| Ok(show(&batch?, &columns, rejects.as_ref())?));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.columns), shown))
    }
}

/// These columns of a batch; `_file` and `_line` are made of its origins.
fn show(
    batch: &RecordBatch,
    columns: &SchemaRef,
    rejects: Option<&Rejects>,
) -> Result<RecordBatch, DataFusionError> {
    let column = |name: &str| -> Result<ArrayRef, DataFusionError> {
        let found = batch.column_by_name(name).cloned();
        match (found, batch.column_by_name(ORIGIN).and_then(AsArray::as_struct_opt)) {
            (Some(found), _) => Ok(found),
            (None, Some(origins)) if name == LINE => Ok(Arc::clone(origins.column(1))),
            (None, Some(origins)) if name == FILE => {
                let names = rejects.map(Rejects::file_names).unwrap_or_default();
                let names: StringArray = names.iter().map(|name| Some(name.as_ref())).collect();
                let numbers: &UInt32Array = origins.column(0).as_primitive();
                Ok(take(&names, numbers, None)?)
            }
            _ => Err(DataFusionError::Internal(format!("`{INPUT}` has no column `{name}`"))),
        }
    };
    let arrays = columns.fields().iter().map(|field| column(field.name())).collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(columns), arrays, &options)?)
}

fn read_spool(file: Arc<NamedTempFile>, schema: SchemaRef) -> SendableRecordBatchStream {
    let mut builder = RecordBatchReceiverStreamBuilder::new(schema, BATCHES_BETWEEN_STAGES);
    let send = builder.tx();
    builder.spawn_blocking(move || {
        for batch in StreamReader::try_new_buffered(file.reopen()?, None)? {
            if send.blocking_send(batch.map_err(Into::into)).is_err() {
                break; // the reader wants no more
            }
        }
        Ok(())
    });
    builder.build()
}
