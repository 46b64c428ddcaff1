//! What `run` and `test` share: tables from files, rows and rejects as CSV.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use arrow::csv::{Writer, WriterBuilder};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::StreamExt;
use tidemill_pipelines::{PipelineSet, TableName};
use tidemill_processor::decode::{Reject, RejectWriter};
use tidemill_processor::{Engine, LocalFile, Lookups, ProcessorLimits, plan, run_local};

/// The closure that takes rejects.
pub type TakeReject = Box<dyn FnMut(&Reject) -> tidemill_processor::Result<()> + Send>;

/// Reads tables from files, each by the pipeline that writes the table. A pipeline that itself refers to
/// other tables of the list is read after them.
pub async fn tables(
    set: &PipelineSet,
    limits: &ProcessorLimits,
    mut files: Vec<(TableName, Bytes)>,
) -> Result<Lookups> {
    let mut loaded = HashMap::new();
    while !files.is_empty() {
        let waiting: Vec<TableName> = files.iter().map(|(name, _)| name.clone()).collect();
        let next = files.iter().position(|(name, _)| {
            let refers = |table: &TableName| table != name && waiting.contains(table);
            let columns = set.writer_of(name).map(|pipeline| pipeline.columns.as_slice()).unwrap_or_default();
            !columns.iter().filter_map(|column| column.references.as_ref()).any(|to| refers(&to.table))
        });
        let Some(next) = next else { bail!("the tables {waiting:?} refer to each other in a ring") };
        let (name, bytes) = files.remove(next);
        let table = read_table(set, limits, &loaded, &name, bytes).await;
        let table = table.with_context(|| format!("table `{name}` cannot be read from its file"))?;
        loaded.insert(name, table);
    }
    Ok(Lookups::Memory(loaded))
}

type Tables = HashMap<TableName, (SchemaRef, Vec<RecordBatch>)>;

async fn read_table(
    set: &PipelineSet,
    limits: &ProcessorLimits,
    loaded: &Tables,
    name: &TableName,
    bytes: Bytes,
) -> Result<(SchemaRef, Vec<RecordBatch>)> {
    let pipeline = set.writer_of(name).context("no pipeline writes this table")?;
    let lookups = Lookups::Memory(loaded.clone());
    let planned = plan(&Engine::new(limits)?, pipeline, set, Some(&lookups)).await?;
    let bytes = futures::stream::once(async { Ok(bytes) }).boxed();
    let input = LocalFile { name: format!("{name}.csv"), bytes };
    let mut batches = Vec::new();
    let mut keep = |batch| {
        batches.push(batch);
        Ok(())
    };
    let ran = run_local(pipeline, set, &lookups, limits, input, &mut keep, Box::new(|_| Ok(()))).await?;
    ran.verdict?;
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    ensure!(rows <= limits.lookup_rows_max, "{rows} rows are more than processor.lookup_rows_max");
    Ok((planned.output, batches))
}

/// A CSV writer that has its header also when no row comes.
pub fn csv_writer<W: Write>(out: W, schema: &SchemaRef) -> Result<Writer<W>> {
    let mut writer = WriterBuilder::new().with_header(true).build(out);
    writer.write(&RecordBatch::new_empty(Arc::clone(schema)))?;
    Ok(writer)
}

/// The file of rejects; `finish` writes what is still held.
pub struct RejectOut(Option<Arc<Mutex<(RejectWriter, File)>>>);

/// A writer of rejects into a file, or one that only drops them.
pub fn reject_writer(path: Option<&Path>) -> Result<(RejectOut, TakeReject)> {
    let Some(path) = path else {
        return Ok((RejectOut(None), Box::new(|_| Ok(()))));
    };
    let file = File::create(path).with_context(|| format!("failed to write `{}`", path.display()))?;
    let shared = Arc::new(Mutex::new((RejectWriter::new(), file)));
    let taken = Arc::clone(&shared);
    let take = Box::new(move |reject: &Reject| {
        let mut held = taken.lock().unwrap_or_else(PoisonError::into_inner);
        held.0.write(reject)?;
        if let Some(chunk) = held.0.take_chunk() {
            held.1.write_all(&chunk)?;
        }
        Ok(())
    });
    Ok((RejectOut(Some(shared)), take))
}

impl RejectOut {
    /// Writes the rest to disk.
    pub fn finish(self) -> Result<()> {
        let Some(shared) = self.0 else { return Ok(()) };
        let mut held = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = std::mem::take(&mut held.0).finish();
        held.1.write_all(&rest).context("failed to write the rejects")
    }
}
