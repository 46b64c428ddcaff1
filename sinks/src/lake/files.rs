//! The Parquet files of a delivery: written to the object store as rows come, one open file for each day, and
//! closed together when they hold too much. Nothing of them is in the table before the commit names them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::Date32Array;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use deltalake_core::datafile::writer::{DeltaWriter, WriterConfig};
use deltalake_core::kernel::Add;
use deltalake_core::operations::get_num_idx_cols_and_stats_columns;
use deltalake_core::parquet::basic::Compression;
use deltalake_core::parquet::file::properties::WriterProperties;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::LakeLimits;
use super::error::{from_delta, from_store};
use crate::{Error, Result};

/// What an open file takes however few rows it has: the buffers of its columns.
const OPEN_FILE_BYTES: usize = 64 << 10;

const ACTION: &str = "write the files";

/// The files of one delivery.
pub(crate) struct Files {
    objects: Arc<dyn ObjectStore>,
    config: WriterConfig,
    limits: LakeLimits,
    writer: DeltaWriter,
    /// Arrow bytes written to each open file, by its day.
    open: HashMap<Option<i32>, usize>,
    closed: Vec<Add>,
}

impl Files {
    pub(crate) fn new(
        objects: Arc<dyn ObjectStore>,
        schema: SchemaRef,
        day: &str,
        limits: LakeLimits,
    ) -> Self {
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_bytes(Some(limits.row_group_bytes))
            .build();
        let (indexed, stats) = get_num_idx_cols_and_stats_columns(None, HashMap::new());
        let config =
            WriterConfig::new(schema, vec![day.to_owned()], Some(properties), None, None, indexed, stats);
        let writer = DeltaWriter::new(Arc::clone(&objects), config.clone());
        Self { objects, config, limits, writer, open: HashMap::new(), closed: Vec::new() }
    }

    /// Writes rows to the files of their days.
    pub(crate) async fn write(&mut self, rows: &RecordBatch, days: &Date32Array) -> Result<()> {
        self.writer.write(rows).await.map_err(|e| from_delta(ACTION, e))?;
        let row_bytes = rows.get_array_memory_size() / rows.num_rows().max(1);
        for day in days {
            *self.open.entry(day).or_default() += row_bytes;
        }
        let files = self.closed.len() + self.open.len();
        if files > self.limits.files_max {
            return Err(Error::Refused {
                action: ACTION,
                message: format!(
                    "the rows are of so many days, in so mixed an order, that they need more than {} files; \
                     is the day the right column?",
                    self.limits.files_max
                ),
            });
        }
        if self.is_full() { self.close().await } else { Ok(()) }
    }

    fn is_full(&self) -> bool {
        let held = |bytes: &usize| (*bytes).min(self.limits.row_group_bytes).max(OPEN_FILE_BYTES);
        self.open.values().map(held).sum::<usize>() > self.limits.held_bytes_max
            || self.open.values().any(|bytes| *bytes > self.limits.file_bytes)
    }

    async fn close(&mut self) -> Result<()> {
        let next = DeltaWriter::new(Arc::clone(&self.objects), self.config.clone());
        let full = std::mem::replace(&mut self.writer, next);
        self.open.clear();
        self.closed.extend(full.close().await.map_err(|e| from_delta(ACTION, e))?);
        Ok(())
    }

    /// Closes every file; they are what a commit adds.
    pub(crate) async fn finish(&mut self) -> Result<Vec<Add>> {
        self.close().await?;
        Ok(self.closed.clone())
    }

    /// Deletes every file.
    pub(crate) async fn delete(mut self) -> Result<()> {
        let next = DeltaWriter::new(Arc::clone(&self.objects), self.config.clone());
        let open = std::mem::replace(&mut self.writer, next).abort().await;
        for file in &self.closed {
            let path = Path::parse(&file.path);
            let path = path.map_err(|e| Error::Refused { action: ACTION, message: e.to_string() })?;
            match self.objects.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(from_store("delete the files", error)),
            }
        }
        open.map_err(|e| from_delta("delete the files", e))
    }
}
