//! An object store that remembers small data files for one reader of a lake table.
//!
//! A reader of Parquet asks for a file piece by piece: its end, its page index, a column for each filter, the rest. The end
//! of a small file is all of it, so what follows needs no further question to the store. Data files never change.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// Largest file that is remembered: what DataFusion reads of the end of a file at once.
const FILE_BYTES_MAX: u64 = 512 << 10;
/// Most that is remembered at once; beyond it all is forgotten, as no file is read twice.
const BYTES_MAX: usize = 16 << 20;

/// Small data files are asked for once.
#[derive(Debug)]
pub(crate) struct SmallFiles {
    inner: Arc<dyn ObjectStore>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    files: HashMap<Path, (ObjectMeta, Bytes)>,
    size_bytes: usize,
}

impl SmallFiles {
    pub(crate) fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, kept: Mutex::default() }
    }

    /// A range of a file, when the file is remembered.
    fn kept(&self, path: &Path, range: &Range<u64>) -> Option<(ObjectMeta, Bytes)> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (meta, bytes) = kept.files.get(path)?;
        let (start, end) = (usize::try_from(range.start).ok()?, usize::try_from(range.end).ok()?);
        let there = start <= end && end <= bytes.len();
        there.then(|| (meta.clone(), bytes.slice(start..end)))
    }

    fn keep(&self, path: &Path, meta: ObjectMeta, bytes: Bytes) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.size_bytes + bytes.len() > BYTES_MAX {
            *kept = Kept::default();
        }
        kept.size_bytes += bytes.len();
        kept.files.insert(path.clone(), (meta, bytes));
    }
}

impl fmt::Display for SmallFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SmallFiles({})", self.inner)
    }
}

/// The range of a plain question for a part of a data file.
fn part_of_file(path: &Path, options: &GetOptions) -> Option<Range<u64>> {
    match options {
        GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: None,
            if_none_match: None,
            if_modified_since: None,
            if_unmodified_since: None,
            version: None,
            head: false,
            ..
        } if path.extension() == Some("parquet") => Some(range.clone()),
        _ => None,
    }
}

fn answer(meta: ObjectMeta, bytes: Bytes, range: Range<u64>) -> GetResult {
    let payload = GetResultPayload::Stream(futures::stream::once(async { Ok(bytes) }).boxed());
    GetResult { payload, meta, range, attributes: Default::default() }
}

#[async_trait]
impl ObjectStore for SmallFiles {
    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let Some(range) = part_of_file(path, &options) else {
            return self.inner.get_opts(path, options).await;
        };
        if let Some((meta, bytes)) = self.kept(path, &range) {
            return Ok(answer(meta, bytes, range));
        }
        let found = self.inner.get_opts(path, options).await?;
        if range.start > 0 || found.range.end != found.meta.size || found.meta.size > FILE_BYTES_MAX {
            return Ok(found);
        }
        let (meta, range) = (found.meta.clone(), found.range.clone());
        let bytes = found.bytes().await?;
        self.keep(path, meta.clone(), bytes.clone());
        Ok(answer(meta, bytes, range))
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let kept: Option<Vec<Bytes>> =
            ranges.iter().map(|range| self.kept(path, range).map(|(_, bytes)| bytes)).collect();
        match kept {
            Some(kept) => Ok(kept),
            None => self.inner.get_ranges(path, ranges).await,
        }
    }

    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn a_small_file_is_asked_for_once_and_a_large_one_each_time() {
        let objects = Arc::new(InMemory::new());
        let store = SmallFiles::new(objects.clone());
        let small = vec![7; 1000];
        let large = vec![8; FILE_BYTES_MAX as usize + 1];
        for (name, bytes) in [("a.parquet", &small), ("b.parquet", &large), ("c.json", &small)] {
            objects.put(&Path::from(name), bytes.clone().into()).await.unwrap();
            let whole = store.get_range(&Path::from(name), 0..bytes.len() as u64).await.unwrap();
            assert_eq!(&whole, bytes, "{name}");
        }
        // Gone from the store, so what still comes is remembered.
        for name in ["a.parquet", "b.parquet", "c.json"] {
            objects.delete(&Path::from(name)).await.unwrap();
        }
        assert_eq!(store.get_range(&Path::from("a.parquet"), 10..20).await.unwrap(), small[10..20]);
        let parts = store.get_ranges(&Path::from("a.parquet"), &[0..1, 999..1000]).await.unwrap();
        assert_eq!(parts, [&small[..1], &small[999..]]);
        for (name, range) in [("a.parquet", 990..1001), ("b.parquet", 0..9), ("c.json", 0..9)] {
            assert!(store.get_range(&Path::from(name), range).await.is_err(), "{name}");
        }
    }

    #[tokio::test]
    async fn no_more_is_remembered_than_there_is_room_for() {
        let objects = Arc::new(InMemory::new());
        let store = SmallFiles::new(objects.clone());
        let bytes = vec![7; FILE_BYTES_MAX as usize];
        for number in 0..100 {
            let path = Path::from(format!("{number}.parquet"));
            objects.put(&path, bytes.clone().into()).await.unwrap();
            store.get_range(&path, 0..FILE_BYTES_MAX).await.unwrap();
        }
        let kept = store.kept.lock().unwrap();
        let held: usize = kept.files.values().map(|(_, bytes)| bytes.len()).sum();
        assert!(held <= BYTES_MAX && held == kept.size_bytes && held > 0, "{held}");
    }
}
