//! Answers on their way to the client: rows of a query as they come from its worker, or a few of the session's own.

use std::sync::Arc;

use arrow::datatypes::DataType;
use pgwire::api::Type;
use pgwire::api::results::{DataRowEncoder, FieldFormat, FieldInfo};
use pgwire::messages::PgWireBackendMessage as Reply;
use pgwire::messages::response::CommandComplete;

use super::End;
use super::engine::Answer;
use super::refusal::Refusal;
use super::rows::{Fields, Rows};
use super::stream::Writer;

/// A query that runs.
pub(super) struct Running {
    answer: Answer,
    fields: Fields,
    types: Vec<DataType>,
    rows: Option<Rows>,
}

impl Running {
    /// `types` are those that the client was told of.
    pub(super) fn new(answer: Answer, fields: Fields, types: Vec<DataType>) -> Self {
        Self { answer, fields, types, rows: None }
    }

    /// Sends rows as they come, so many at most; gives their number, and whether the answer has ended.
    pub(super) async fn send(&mut self, writer: &mut Writer, rows_max: usize) -> Result<(usize, bool), End> {
        let mut sent = 0;
        while sent < rows_max {
            if let Some(row) = self.rows.as_mut().and_then(Rows::next) {
                writer.put(Reply::DataRow(row?))?;
                writer.flush_some().await?;
                sent += 1;
                continue;
            }
            match self.answer.next().await? {
                Some(batch) => self.rows = Some(Rows::new(&batch, &self.fields, &self.types)?),
                None => return Ok((sent, true)),
            }
        }
        Ok((sent, false))
    }
}

/// The end of a statement that went well.
pub(super) fn complete(tag: &str) -> Reply {
    Reply::CommandComplete(CommandComplete::new(tag.to_owned()))
}

/// Columns of texts.
pub(super) fn text_fields(names: &[&str], formats: &[i16]) -> Fields {
    let format = |at: usize| {
        formats.get(at).or(formats.first()).map_or(FieldFormat::Text, |code| FieldFormat::from(*code))
    };
    let field = |(at, name): (usize, &&str)| {
        FieldInfo::new((*name).to_owned(), None, None, Type::TEXT, format(at)).with_type_size(-1)
    };
    Arc::new(names.iter().enumerate().map(field).collect())
}

/// A row of texts.
pub(super) fn text_row(fields: &Fields, values: &[&str]) -> Result<Reply, Refusal> {
    let mut encoder = DataRowEncoder::new(Arc::clone(fields));
    for value in values {
        encoder.encode_field(value).map_err(|error| Refusal::internal(&error))?;
    }
    Ok(Reply::DataRow(encoder.take_row()))
}
