//! Rejects of one attempt, from whichever stage: the decoder and checks on records, SQL steps, the database.
//!
//! One handle that all stages clone. Each reject is counted once and goes to the rejects file in the order in which it
//! comes. Memory is bounded: the raw text of a late reject is cut from the decoder's last windows, or read again from the
//! object by its byte range.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::csv::WriterBuilder;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tidemill_jobs::{FinishedData, RejectSample};

use crate::decode::{Decoded, Origin, Reject, RejectProblem};
use crate::error::{Error, Result};
use crate::intake::TakeReject;
use crate::origins::{Origins, RecordOrigin};

/// Batches whose bytes are kept for late rejects: as many as lie between the decoder and the SQL steps. They are parts of the
/// decoder's windows of 4 MiB, mostly of the same one.
const WINDOWS_MAX: usize = 8;

/// The stage of a reject that the database made.
pub(crate) const DELIVER: &str = "deliver";

/// The handle; see [`crate::origins`] for how a deliverer uses it.
#[derive(Clone)]
pub(crate) struct Rejects(Arc<Shared>);

struct Shared {
    taking: Mutex<Taking>,
    files: Mutex<Vec<FileOf>>,
    windows: Mutex<VecDeque<Window>>,
    /// Where records can be read again.
    objects: Option<Arc<dyn ObjectStore>>,
    raw_bytes_max: usize,
}

/// What was refused.
#[derive(Debug, Default, Clone)]
pub(crate) struct Refused {
    /// Records refused; behind an aggregate, output rows.
    pub rejected: u64,
    /// Those of them that the steps had made rows of.
    pub late: u64,
    /// By the code of their first problem.
    pub by_code: BTreeMap<String, u64>,
    /// The first ones, for messages.
    pub samples: Vec<RejectSample>,
}

struct Taking {
    /// `None` once it is closed.
    take: Option<TakeReject>,
    refused: Refused,
}

/// An object of the job.
#[derive(Debug, Clone)]
pub(crate) struct FileOf {
    /// What SQL sees as `_file`.
    pub name: Arc<str>,
    /// Its key, where it can be read again.
    pub key: Option<Arc<str>>,
    /// Whether the job has several, so that a reject names its own.
    pub is_one_of_many: bool,
}

/// The bytes of a decoded batch.
struct Window {
    file: u32,
    start: u64,
    bytes: Bytes,
}

impl Rejects {
    /// Gives rejects to the closure. `objects` holds the job's objects, if they are objects.
    pub(crate) fn new(take: TakeReject, objects: Option<Arc<dyn ObjectStore>>, raw_bytes_max: usize) -> Self {
        let taking = Mutex::new(Taking { take: Some(take), refused: Refused::default() });
        let (files, windows) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { taking, files, windows, objects, raw_bytes_max }))
    }

    /// Refuses the record that row `row` of a batch came from, as a reject of this stage with line, bytes and raw text.
    /// Call it once for a record, and leave out all of its rows ([`Origins::record`]). Behind an aggregate the reject
    /// names the number of the output row, and its raw text is the row as CSV.
    ///
    /// Fails when the rejects cannot be written any more: the attempt is over then.
    pub(crate) async fn refuse(
        &self,
        origins: &Origins,
        batch: &RecordBatch,
        row: usize,
        stage: &'static str,
        problem: RejectProblem,
    ) -> Result<()> {
        let reject = match origins.of(row) {
            Some(record) => self.of_record(record, stage, problem).await?,
            None => self.of_row(origins.output_row(row), &batch.slice(row, 1), stage, problem),
        };
        let rejects = self.clone();
        // The closure may wait for an upload, so it never runs on a thread of the runtime.
        let taken = tokio::task::spawn_blocking(move || rejects.take(&reject)).await;
        taken.map_err(|_| Error::Broken("the rejects"))?
    }

    /// Counts a reject and writes it; blocks while the upload is behind.
    pub(crate) fn take(&self, reject: &Reject) -> Result<()> {
        let Some(first) = reject.problems.first() else {
            return Err(Error::Broken("a reject without reason"));
        };
        let mut taking = locked(&self.0.taking);
        let Taking { take: Some(take), refused } = &mut *taking else {
            return Err(Error::Broken("a reject behind the end of the rejects"));
        };
        refused.rejected += 1;
        refused.late += u64::from(reject.stage == DELIVER);
        *refused.by_code.entry(first.code.clone()).or_default() += 1;
        if refused.samples.len() < FinishedData::REJECTS_MAX {
            refused.samples.push(RejectSample {
                file: reject.file.as_deref().map(str::to_owned),
                line: reject.origin.line,
                column: first.column.clone(),
                code: first.code.clone(),
                message: first.message.clone(),
            });
        }
        take(reject)
    }

    /// Rejects so far.
    pub(crate) fn count(&self) -> u64 {
        locked(&self.0.taking).refused.rejected
    }

    /// Ends the rejects: no stage can refuse any more.
    pub(crate) fn close(&self) -> Refused {
        let mut taking = locked(&self.0.taking);
        taking.take = None;
        std::mem::take(&mut taking.refused)
    }

    /// A new object begins; gives its number.
    pub(crate) fn begin_file(&self, file: FileOf) -> u32 {
        let mut files = locked(&self.0.files);
        files.push(file);
        (files.len() - 1) as u32
    }

    /// The names of the objects so far, by their numbers.
    pub(crate) fn file_names(&self) -> Vec<Arc<str>> {
        locked(&self.0.files).iter().map(|file| Arc::clone(&file.name)).collect()
    }

    /// What a reject of an object is shown to be of.
    pub(crate) fn shown_file(&self, file: u32) -> Option<Arc<str>> {
        let files = locked(&self.0.files);
        files.get(file as usize).filter(|file| file.is_one_of_many).map(|file| Arc::clone(&file.name))
    }

    /// Keeps the bytes of a decoded batch for a while.
    pub(crate) fn keep(&self, file: u32, decoded: &Decoded) {
        let mut windows = locked(&self.0.windows);
        if windows.len() == WINDOWS_MAX {
            windows.pop_front();
        }
        windows.push_back(Window { file, start: decoded.raw_start, bytes: decoded.raw.clone() });
    }

    async fn of_record(
        &self,
        record: RecordOrigin,
        stage: &'static str,
        problem: RejectProblem,
    ) -> Result<Reject> {
        let raw = match self.kept(record) {
            Some(raw) => raw,
            None => self.read_again(record).await?,
        };
        let file = self.shown_file(record.file);
        Ok(Reject { origin: record.origin, file, stage, problems: vec![problem], raw, output_row: None })
    }

    fn of_row(&self, number: u64, row: &RecordBatch, stage: &'static str, problem: RejectProblem) -> Reject {
        let mut raw = Vec::new();
        // A row that is no CSV has no raw text; the reject is worth more than that.
        let _ = WriterBuilder::new().with_header(false).build(&mut raw).write(row);
        let raw = raw.strip_suffix(b"\n").unwrap_or(&raw);
        let raw = Bytes::copy_from_slice(&raw[..raw.len().min(self.0.raw_bytes_max)]);
        let problem =
            RejectProblem { message: format!("output row {number}: {}", problem.message), ..problem };
        let origin = Origin { line: 0, byte_start: 0, byte_end: 0 };
        Reject { origin, file: None, stage, problems: vec![problem], raw, output_row: Some(number) }
    }

    /// A copy of the record's bytes, if they are still held.
    fn kept(&self, record: RecordOrigin) -> Option<Bytes> {
        let windows = locked(&self.0.windows);
        let (start, end) = self.range(record);
        let cut = |window: &Window| {
            let from = usize::try_from(start.checked_sub(window.start)?).ok()?;
            window.bytes.get(from..from + (end - start) as usize).map(Bytes::copy_from_slice)
        };
        windows.iter().rev().filter(|window| window.file == record.file).find_map(cut)
    }

    async fn read_again(&self, record: RecordOrigin) -> Result<Bytes> {
        let key = locked(&self.0.files).get(record.file as usize).and_then(|file| file.key.clone());
        let (Some(key), Some(objects)) = (key, &self.0.objects) else {
            return Ok(Bytes::new());
        };
        let failed = |source| Error::Objects { action: "read", key: key.to_string(), source };
        let path = Path::parse(&*key).map_err(|error| failed(error.into()))?;
        let (start, end) = self.range(record);
        if start == end {
            return Ok(Bytes::new());
        }
        objects.get_range(&path, start..end).await.map_err(failed)
    }

    fn range(&self, record: RecordOrigin) -> (u64, u64) {
        let Origin { byte_start, byte_end, .. } = record.origin;
        (byte_start, byte_end.min(byte_start + self.0.raw_bytes_max as u64).max(byte_start))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use object_store::memory::InMemory;

    use super::*;
    use crate::origins::attach;

    const TEXT: &[u8] = b"id\n1,a\n2,b\n";

    fn rejects(objects: Option<Arc<dyn ObjectStore>>) -> (Rejects, Arc<Mutex<Vec<Reject>>>) {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&taken);
        let take = Box::new(move |reject: &Reject| {
            locked(&into).push(reject.clone());
            Ok(())
        });
        (Rejects::new(take, objects, 64), taken)
    }

    fn problem() -> RejectProblem {
        RejectProblem { column: None, code: "foreign_key".into(), message: "no such shop".into() }
    }

    fn rows() -> RecordBatch {
        let fields =
            vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, false)];
        let columns: Vec<arrow::array::ArrayRef> =
            vec![Arc::new(Int64Array::from(vec![1, 2])), Arc::new(StringArray::from(vec!["a", "b,c"]))];
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }

    fn origins() -> [Origin; 2] {
        [Origin { line: 2, byte_start: 3, byte_end: 6 }, Origin { line: 3, byte_start: 7, byte_end: 10 }]
    }

    async fn refuse_second(rejects: &Rejects, batch: RecordBatch, first_row: u64) {
        let (batch, origins) = Origins::split(batch, first_row);
        rejects.refuse(&origins, &batch, 1, DELIVER, problem()).await.unwrap();
    }

    #[tokio::test]
    async fn a_late_reject_has_line_bytes_and_raw_text_of_its_record() {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        objects.put(&Path::from("landing/a"), TEXT.into()).await.unwrap();
        let decoded = |batch| Decoded {
            batch,
            origins: origins().to_vec(),
            raw: Bytes::from_static(TEXT).slice(3..10),
            raw_start: 3,
        };
        for (is_kept, objects) in [(true, None), (false, Some(objects))] {
            let (rejects, taken) = rejects(objects);
            let file = FileOf { name: "a.csv".into(), key: Some("landing/a".into()), is_one_of_many: false };
            let file = rejects.begin_file(file);
            if is_kept {
                rejects.keep(file, &decoded(rows()));
            }
            refuse_second(&rejects, attach(&rows(), file, &origins()).unwrap(), 0).await;
            let reject = locked(&taken)[0].clone();
            assert_eq!((reject.origin, &reject.raw[..], reject.stage), (origins()[1], &b"2,b"[..], DELIVER));
            let refused = rejects.close();
            assert_eq!((refused.rejected, refused.late, refused.samples[0].line), (1, 1, 3));
            assert!(rejects.take(&reject).is_err(), "nothing is refused once the counts are told");
        }
    }

    #[tokio::test]
    async fn behind_an_aggregate_a_reject_names_the_output_row() {
        let (rejects, taken) = rejects(None);
        refuse_second(&rejects, rows(), 40).await;
        let reject = locked(&taken)[0].clone();
        assert_eq!((reject.output_row, &reject.raw[..]), (Some(42), &b"2,\"b,c\""[..]));
        assert_eq!(reject.problems[0].message, "output row 42: no such shop");
    }

    #[test]
    fn rows_of_one_record_are_found_together() {
        let batch = attach(&rows(), 0, &[origins()[0], origins()[0]]).unwrap();
        let (_, origins) = Origins::split(batch, 0);
        assert_eq!((origins.record(0), origins.record(1)), (0..2, 0..2));
    }
}
