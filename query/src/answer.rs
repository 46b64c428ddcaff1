//! The answer to a statement as it comes from its worker: the columns first, then bytes or batches.
//!
//! Dropped before its end, the worker is killed; read to its end, the worker takes the next statement.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::Stream;
use futures::stream::try_unfold;

use crate::frames::{Kind, from_json};
use crate::metrics::Count;
use crate::workers::process::Process;
use crate::workers::{Deadline, Place, Shared};
use crate::{Description, Error, Result};

/// A running answer.
pub struct Answer {
    schema: SchemaRef,
    /// The first bytes: they came before the answer was given out.
    first: Option<Bytes>,
    running: Option<Running>,
}

/// A worker with a statement in hand.
pub(crate) struct Running {
    pub(crate) shared: Arc<Shared>,
    pub(crate) process: Process,
    pub(crate) deadline: Deadline,
    pub(crate) count: Count,
    pub(crate) _place: Place,
}

/// Waits for the columns and the first bytes: until then an error is an error of the statement as a whole.
pub(crate) async fn begin(mut running: Running) -> Result<Answer> {
    let schema = match running.next().await {
        (running_on, Ok((Kind::Schema, payload))) => {
            running = running_on.ok_or_else(unexpected)?;
            schema_of(&payload)?
        }
        (_, Ok(_)) => return Err(unexpected()),
        (_, Err(error)) => return Err(error),
    };
    let mut answer = Answer { schema, first: None, running: Some(running) };
    answer.first = answer.chunk().await?;
    Ok(answer)
}

/// Waits for a description.
pub(crate) async fn describe(running: Running) -> Result<Description> {
    let mut running = Some(running);
    let mut payloads = HashMap::new();
    while let Some(now) = running.take() {
        let (on, frame) = now.next().await;
        let (kind, payload) = frame?;
        payloads.insert(kind as u8, schema_of(&payload));
        running = on;
    }
    let mut take = |kind: Kind| payloads.remove(&(kind as u8)).unwrap_or_else(|| Err(unexpected()));
    let (schema, parameters) = (take(Kind::Schema)?, take(Kind::Parameters)?);
    let kind = |kind: &arrow::datatypes::DataType| (!kind.is_null()).then(|| kind.clone());
    let parameters = parameters.fields().iter().map(|field| kind(field.data_type())).collect();
    Ok(Description { schema, parameters })
}

impl Answer {
    /// The columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The next bytes, `None` when the answer is whole. After an error there is no more.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let Some(running) = self.running.take() else {
            return Ok(None);
        };
        let (running, frame) = running.next().await;
        self.running = running;
        match frame? {
            (Kind::Chunk, bytes) => Ok(Some(bytes)),
            (Kind::End, _) => Ok(None),
            _ => Err(unexpected()),
        }
    }

    /// The bytes as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send {
        try_unfold(self, async |mut answer| Ok(answer.chunk().await?.map(|chunk| (chunk, answer))))
    }

    /// The batches of an answer in [`crate::Format::Arrow`].
    pub fn into_batches(self) -> impl Stream<Item = Result<RecordBatch>> + Send {
        let decoder = StreamDecoder::new();
        try_unfold((self, decoder, Buffer::from(&[])), async |(mut answer, mut decoder, mut buffer)| {
            loop {
                let broken = |error: arrow::error::ArrowError| Error::Worker { message: error.to_string() };
                if let Some(batch) = decoder.decode(&mut buffer).map_err(broken)? {
                    return Ok(Some((batch, (answer, decoder, buffer))));
                }
                match answer.chunk().await? {
                    Some(bytes) => buffer = Buffer::from(bytes),
                    None => return Ok(None),
                }
            }
        })
    }
}

impl Running {
    /// The next frame; the worker is given back with its last frame, and is dead after an error of its own.
    async fn next(mut self) -> (Option<Self>, Result<(Kind, Bytes)>) {
        match tokio::time::timeout_at(self.deadline.at, self.process.receive()).await {
            Err(_) => (None, Err(self.count.failed(self.deadline.passed()))),
            Ok(Err(_)) => {
                let error = self.process.obituary(&self.shared.limits).await;
                (None, Err(self.count.failed(error)))
            }
            Ok(Ok((Kind::Failed, payload))) => {
                self.shared.give_back(self.process, self.deadline.used());
                (None, Err(self.count.failed(from_json(&payload).unwrap_or_else(|error| error))))
            }
            Ok(Ok((Kind::End, payload))) => {
                self.count.answered();
                self.shared.give_back(self.process, self.deadline.used());
                (None, Ok((Kind::End, payload)))
            }
            Ok(Ok(frame)) => (Some(self), Ok(frame)),
        }
    }
}

fn schema_of(payload: &Bytes) -> Result<SchemaRef> {
    let mut decoder = StreamDecoder::new();
    let mut buffer = Buffer::from(payload.clone());
    let broken = |error: arrow::error::ArrowError| Error::Worker { message: error.to_string() };
    decoder.decode(&mut buffer).map_err(broken)?;
    decoder.schema().ok_or_else(unexpected)
}

fn unexpected() -> Error {
    Error::Worker { message: "it sent something else than an answer".to_owned() }
}
