//! The versions of pipeline files that jobs began with, so that a later attempt runs what the first one ran.

use sqlx::Row;
use tidemill_pipelines::PipelineName;

use super::connect::failed;
use super::rows::micros;
use super::write::{Write, values};
use super::{JobStore, now};
use crate::Result;

impl JobStore {
    /// Keeps the text of a version; a version that is kept already is left as it is.
    pub async fn save_pipeline(&self, name: &PipelineName, version: &str, text: &str) -> Result<()> {
        let statement = "INSERT INTO tidemill_pipelines (name, version, text, saved_at) VALUES (?, ?, ?, ?)";
        let write = Write::new(statement, values![name.as_str(), version, text, micros(now())]);
        match self.try_commit(&write).await {
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(()),
            done => done.map(drop).map_err(failed("save a pipeline")),
        }
    }

    /// The text of a version that was kept.
    pub async fn pipeline_text(&self, name: &PipelineName, version: &str) -> Result<Option<String>> {
        let statement = "SELECT text FROM tidemill_pipelines WHERE name = ? AND version = ?";
        let rows = self.rows("read a pipeline", statement, values![name.as_str(), version]).await?;
        rows.first().map(|row| row.try_get(0)).transpose().map_err(failed("read a pipeline"))
    }
}
