//! What a commit of the database makes valid in the lake: an object `lake/_pending/{job}/{table}/{chunk}/{attempt}.json`
//! that lists the files of one delivery. It is written before the database commits and deleted once Delta has them;
//! the ledger row in the database says whether it counts.

use deltalake_core::kernel::Add;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tidemill_pipelines::TableName;

use super::error::from_store;
use super::{FOLDER, Lake};
use crate::{CommitKey, Error, Result};

/// No table begins with `_` and lists as one of these, because its folder has no Delta log.
const PENDING: &str = "_pending";

fn path(table: &TableName, key: &CommitKey) -> Path {
    let CommitKey { job_id, chunk, attempt } = key;
    Path::from(format!("{FOLDER}/{PENDING}/{job_id}/{table}/{chunk}/{attempt}.json"))
}

/// Writes the list.
pub(crate) async fn write(lake: &Lake, table: &TableName, key: &CommitKey, files: &[Add]) -> Result<()> {
    let action = "list the files of a commit of the lake";
    let json = serde_json::to_vec(files);
    let json = json.map_err(|e| Error::Refused { action, message: e.to_string() })?;
    let written = lake.objects.put(&path(table, key), json.into()).await;
    written.map(drop).map_err(|e| from_store(action, e))
}

/// Reads the list; `None` when there is none any more.
pub(crate) async fn read(lake: &Lake, table: &TableName, key: &CommitKey) -> Result<Option<Vec<Add>>> {
    let action = "read the files of a commit of the lake";
    let object = match lake.objects.get(&path(table, key)).await {
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        object => object.map_err(|e| from_store(action, e))?,
    };
    let json = object.bytes().await.map_err(|e| from_store(action, e))?;
    let files = serde_json::from_slice(&json);
    files.map(Some).map_err(|e| Error::Refused { action, message: e.to_string() })
}

/// Deletes the list. One that stays does no harm.
pub(crate) async fn delete(lake: &Lake, table: &TableName, key: &CommitKey) {
    if let Err(error) = lake.objects.delete(&path(table, key)).await {
        tracing::debug!(%error, "the list of a commit of the lake stays");
    }
}
