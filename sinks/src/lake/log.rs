//! The Delta log of one table: looked at afresh before each commit, committed with Delta's own check of conflicts.
//!
//! The application transaction of a (job, table, chunk) says that its files are in the table: twice the attempt and
//! one. A process that looked before another wrote that number conflicts, looks again, and finds what the other did.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::Utc;
use deltalake_core::DeltaTable;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake_core::kernel::{Action, Add, EagerSnapshot, StructField, Transaction};
use deltalake_core::logstore::{LogStoreRef, StorageConfig, default_logstore};
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use tidemill_pipelines::TableName;
use url::Url;

use super::Lake;
use super::day::Day;
use super::error::from_delta;
use super::shape::properties;
use crate::{CommitKey, Error, Result, TablePlan};

/// The host of the URLs under which Delta knows our object store; the path is the key. Under a host of this form,
/// that of S3's directory buckets, Delta sorts what is listed, which is needed for folders too.
const UNSORTED: &str = "objects--x-s3";

/// The log of a table that may or may not be there.
#[derive(Clone)]
pub(crate) struct Log {
    table: TableName,
    store: LogStoreRef,
}

impl Log {
    pub(crate) fn of(objects: &Arc<dyn ObjectStore>, table: &TableName) -> Result<Self> {
        let location = Lake::location(table);
        let url = Url::parse(&format!("tidemill://{UNSORTED}/{location}/"));
        let url =
            url.map_err(|e| Error::Refused { action: "name the table's folder", message: e.to_string() })?;
        let folder = Arc::new(PrefixStore::new(Arc::clone(objects), location));
        let store = default_logstore(folder, Arc::clone(objects), &url, &StorageConfig::default());
        Ok(Self { table: table.clone(), store })
    }

    /// The objects of the table, by paths within its folder.
    pub(crate) fn objects(&self) -> Arc<dyn ObjectStore> {
        self.store.object_store(None)
    }

    pub(crate) fn store(&self) -> &LogStoreRef {
        &self.store
    }

    pub(crate) fn name(&self) -> &TableName {
        &self.table
    }

    async fn exists(&self) -> Result<bool> {
        self.store.is_delta_table_location().await.map_err(|e| from_delta("look for the table", e))
    }

    /// The table as it is now; `None` when it is not there.
    pub(crate) async fn snapshot(&self) -> Result<Option<EagerSnapshot>> {
        if !self.exists().await? {
            return Ok(None);
        }
        let snapshot = EagerSnapshot::try_new(self.store.as_ref(), None).await;
        snapshot.map(Some).map_err(|e| from_delta("read the table's log", e))
    }

    /// The same for readers by other means.
    pub(crate) async fn table(&self) -> Result<Option<DeltaTable>> {
        if !self.exists().await? {
            return Ok(None);
        }
        let mut table = DeltaTable::new(Arc::clone(&self.store));
        table.load().await.map_err(|e| from_delta("read the table's log", e))?;
        Ok(Some(table))
    }

    /// Whether the files of a commit are in the table, as of a snapshot.
    pub(crate) async fn has(&self, snapshot: &EagerSnapshot, key: &CommitKey) -> Result<bool> {
        let version = snapshot.transaction_version(self.store.as_ref(), self.app_id(key)).await;
        let version = version.map_err(|e| from_delta("read the table's log", e))?;
        // An even number is the fence of an older version, under which nothing was committed.
        Ok(version.is_some_and(|version| version % 2 == 1))
    }

    /// Makes the table; fails when it is there.
    pub(crate) async fn create(&self, plan: &TablePlan) -> Result<()> {
        let action = "make the table";
        let day = Day::of(plan)?;
        let columns = day.schema.fields().iter().map(|field| field.as_ref().try_into_kernel());
        let columns: Vec<StructField> = columns
            .collect::<Result<_, arrow::error::ArrowError>>()
            .map_err(|e| Error::Refused { action, message: e.to_string() })?;
        let made = DeltaTable::new(Arc::clone(&self.store))
            .create()
            .with_table_name(plan.table.as_str())
            .with_columns(columns)
            .with_partition_columns([day.name.as_str()])
            .with_configuration(properties())
            // Never tried again: a second try would write over the table that another process made.
            .with_commit_properties(CommitProperties::default().with_max_retries(0))
            .await;
        made.map(drop).map_err(|e| from_delta(action, e))
    }

    /// Commits files and the transaction that tells of them, unless another has written that since the snapshot.
    pub(crate) async fn commit(
        &self,
        snapshot: &EagerSnapshot,
        key: &CommitKey,
        files: Vec<Add>,
    ) -> Result<()> {
        let about = serde_json::json!({
            "job_id": key.job_id, "chunk": key.chunk, "attempt": key.attempt,
        });
        let now = Utc::now().timestamp_millis();
        let properties = CommitProperties::default()
            .with_metadata(HashMap::from([("tidemill".to_owned(), about)]))
            .with_application_transaction(Transaction::new_with_last_update(
                self.app_id(key),
                i64::from(key.attempt) * 2 + 1,
                Some(now),
            ));
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(snapshot.metadata().partition_columns().to_vec()),
            predicate: None,
        };
        let committed = CommitBuilder::from(properties)
            .with_actions(files.into_iter().map(Action::Add).collect())
            .build(Some(snapshot), Arc::clone(&self.store), operation)
            .await;
        committed.map(drop).map_err(|e| from_delta("commit", e))
    }

    fn app_id(&self, key: &CommitKey) -> String {
        format!("tidemill:{}:{}:{}", self.table, key.job_id, key.chunk)
    }
}
