//! The sweep of the lake: deletes files that no version names any more, and those that a killed delivery left.
//! Called on a schedule by the processor.

use deltalake_core::operations::vacuum::VacuumMode;

use super::Lake;
use super::error::from_delta;
use crate::Result;

impl Lake {
    /// Deletes files older than the bound that the tables do not name; tells how many. Commits only where
    /// there is something to delete.
    pub async fn sweep(&self) -> Result<u64> {
        let age = chrono::Duration::from_std(self.limits.orphan_age).unwrap_or(chrono::Duration::MAX);
        let mut deleted = 0;
        for (name, _) in self.tables().await? {
            let Some(table) = self.table(&name).await? else { continue };
            let swept = table
                .vacuum()
                .with_mode(VacuumMode::Full)
                .with_retention_period(age)
                .with_enforce_retention_duration(false)
                .await;
            let (_, swept) = swept.map_err(|error| from_delta("sweep the table", error))?;
            deleted += swept.files_deleted.len() as u64;
        }
        Ok(deleted)
    }
}
