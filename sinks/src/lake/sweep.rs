//! The sweep of the lake: deletes files that no version names any more, and those that a killed delivery left.
//! Called on a schedule by the processor.

use deltalake_core::DeltaTable;
use deltalake_core::operations::vacuum::VacuumMode;

use super::Lake;
use super::error::from_delta;
use crate::{Result, Sink};

const ACTION: &str = "sweep the table";

impl Lake {
    /// Deletes files older than the bound that the tables do not name; tells how many. Commits only where
    /// there is something to delete.
    pub async fn sweep(&self) -> Result<u64> {
        let mut deleted = 0;
        for (name, _) in self.tables().await? {
            if let Some(table) = self.table(&name).await?
                && self.vacuum(table.clone(), true).await? > 0
            {
                deleted += self.vacuum(table, false).await?;
            }
        }
        Ok(deleted)
    }

    async fn vacuum(&self, table: DeltaTable, dry: bool) -> Result<u64> {
        let age = chrono::Duration::from_std(self.limits.orphan_age);
        let age = age.unwrap_or(chrono::Duration::MAX);
        let swept = table
            .vacuum()
            .with_mode(VacuumMode::Full)
            .with_retention_period(age)
            .with_enforce_retention_duration(false)
            .with_dry_run(dry)
            .await;
        let (_, swept) = swept.map_err(|e| from_delta(ACTION, e))?;
        Ok(swept.files_deleted.len() as u64)
    }
}
