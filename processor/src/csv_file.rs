//! The sink `file`: the rows of an attempt as a CSV artifact, in bounded memory. Called by `deliver`.

use std::sync::Arc;

use arrow::csv::WriterBuilder;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use object_store::ObjectStore;
use tidemill_jobs::JobId;
use tidemill_pipelines::FileName;

use crate::artifacts::{Artifact, ArtifactWriter};
use crate::error::{Error, Result};

/// A file in the writing; dropped or aborted it becomes no object.
pub(crate) struct CsvFile {
    out: ArtifactWriter,
    /// The text of one batch.
    text: Vec<u8>,
}

impl CsvFile {
    /// Begins with the header, so that a file without rows tells its columns, too.
    pub(crate) async fn start(
        objects: &Arc<dyn ObjectStore>,
        job: JobId,
        attempt: u32,
        name: &FileName,
        schema: &SchemaRef,
    ) -> Result<Self> {
        let out = ArtifactWriter::start(Arc::clone(objects), job, attempt, name.as_str());
        let mut file = Self { out, text: Vec::new() };
        file.put(&RecordBatch::new_empty(Arc::clone(schema)), true).await?;
        Ok(file)
    }

    /// Adds rows.
    pub(crate) async fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.put(batch, false).await
    }

    async fn put(&mut self, batch: &RecordBatch, header: bool) -> Result<()> {
        self.text.clear();
        let mut writer = WriterBuilder::new().with_header(header).build(&mut self.text);
        writer.write(batch).map_err(|error| Error::Sql(error.to_string()))?;
        drop(writer);
        self.out.write(&self.text).await
    }

    /// Completes the object.
    pub(crate) async fn finish(self) -> Result<Artifact> {
        self.out.finish().await
    }

    /// Gives it up.
    pub(crate) async fn abort(self) {
        self.out.abort().await;
    }
}
