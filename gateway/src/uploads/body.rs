//! The bytes of an upload as a stream that ends well only when all of them came.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use multer::{Field, Multipart};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::request::clean;
use crate::gateway::State;
use crate::problem::Problem;

/// Bytes of a form's other fields that are read over, in all.
const OTHER_FIELDS_BYTES_MAX: u64 = 64 * 1024;

/// After a refusal, so many bytes and so long the sender is listened to: a connection that is closed while the
/// sender still writes is reset, and the reset can overtake the answer.
const DRAINED_BYTES_MAX: usize = 4 * 1024 * 1024;
const DRAINED_TIME_MAX: Duration = Duration::from_secs(2);

/// Why a body did not end well.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum BodyFault {
    #[error("the body stalled: no byte came for {seconds} seconds")]
    Stalled { seconds: u64 },
    #[error("the upload took longer than {seconds} seconds")]
    TooSlow { seconds: u64 },
    #[error("the connection broke off after {received_bytes} bytes: {message}")]
    Broken { received_bytes: u64, message: String },
    #[error("the body ended after {received_bytes} of {length_bytes} bytes")]
    Short { received_bytes: u64, length_bytes: u64 },
    #[error("{0}")]
    Form(String),
    #[error("the server is stopping; nothing was taken, send the file again")]
    Stopping,
}

/// The file of an upload. Remembers its fault, so that the answer can tell it.
pub(crate) struct UploadBody {
    stream: BoxStream<'static, Result<Bytes, BodyFault>>,
    fault: Option<BodyFault>,
}

impl UploadBody {
    /// The body as it is, under the limits of the settings.
    pub(crate) fn new(body: Body, length: Option<u64>, shared: &State) -> Self {
        let guard = Guard {
            body: body.into_data_stream(),
            received_bytes: 0,
            length_bytes: length,
            idle: shared.settings.upload_idle_timeout,
            whole: shared.settings.upload_timeout,
            deadline: Instant::now() + shared.settings.upload_timeout,
            break_off: shared.break_off.clone(),
        };
        let stream = stream::unfold(Some(guard), |guard| async {
            let mut guard = guard?;
            match guard.next().await {
                Some(Ok(bytes)) => Some((Ok(bytes), Some(guard))),
                Some(Err(fault)) => Some((Err(fault), None)),
                None => None,
            }
        });
        Self { stream: stream.fuse().boxed(), fault: None }
    }

    /// The field `file` of the form that this body is, and the name that the form gives the file.
    /// The stream ends well only when the rest of the form holds no second file.
    pub(super) async fn file_of_form(self, boundary: String) -> Result<(Self, Option<String>), BodyFault> {
        let mut form = Form { parts: Multipart::new(self.stream, boundary), skipped_bytes: 0 };
        let Some(file) = form.next_file().await? else {
            return Err(BodyFault::Form("the form has no field `file`".to_owned()));
        };
        let file_name = file.file_name().and_then(clean);
        let file = file.map(|chunk| chunk.map_err(form_fault));
        let rest = stream::once(async move {
            match form.next_file().await {
                Ok(None) => Ok(Bytes::new()),
                Ok(Some(_)) => {
                    Err(BodyFault::Form("the form has two fields `file`; send one file at a time".to_owned()))
                }
                Err(fault) => Err(fault),
            }
        });
        Ok((Self { stream: file.chain(rest).fuse().boxed(), fault: None }, file_name))
    }

    /// What the sender is told when the landing failed with `error`: the fault of the body, if it had one. Else
    /// the sender is listened to for a moment, so that it reads the answer.
    pub(crate) async fn refusal(&mut self, error: tidemill_ingest::Error) -> Problem {
        match self.fault.take() {
            Some(fault) => fault.into(),
            None => {
                drain(self).await;
                error.into()
            }
        }
    }
}

impl Stream for UploadBody {
    type Item = Result<Bytes, BodyFault>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.stream.poll_next_unpin(cx);
        if let Poll::Ready(Some(Err(fault))) = &polled {
            self.fault = Some(fault.clone());
        }
        polled
    }
}

struct Guard {
    body: BodyDataStream,
    received_bytes: u64,
    length_bytes: Option<u64>,
    idle: Duration,
    whole: Duration,
    deadline: Instant,
    break_off: CancellationToken,
}

impl Guard {
    async fn next(&mut self) -> Option<Result<Bytes, BodyFault>> {
        let next = tokio::select! {
            biased;
            () = self.break_off.cancelled() => return Some(Err(BodyFault::Stopping)),
            next = tokio::time::timeout(self.idle, self.body.next()) => next,
            () = tokio::time::sleep_until(self.deadline) => {
                return Some(Err(BodyFault::TooSlow { seconds: self.whole.as_secs() }));
            }
        };
        match next {
            Err(_) => Some(Err(BodyFault::Stalled { seconds: self.idle.as_secs() })),
            Ok(Some(Ok(bytes))) => {
                self.received_bytes += bytes.len() as u64;
                Some(Ok(bytes))
            }
            Ok(Some(Err(error))) => Some(Err(BodyFault::Broken {
                received_bytes: self.received_bytes,
                message: crate::problem::chain(&error),
            })),
            Ok(None) => self.end(),
        }
    }

    /// hyper ends the body of a connection that is dropped as if it were complete: the length tells.
    fn end(&self) -> Option<Result<Bytes, BodyFault>> {
        match self.length_bytes {
            _ if self.break_off.is_cancelled() => Some(Err(BodyFault::Stopping)),
            Some(length_bytes) if length_bytes != self.received_bytes => {
                Some(Err(BodyFault::Short { received_bytes: self.received_bytes, length_bytes }))
            }
            _ => None,
        }
    }
}

struct Form {
    parts: Multipart<'static>,
    skipped_bytes: u64,
}

impl Form {
    /// The next field `file`; other fields are read over.
    async fn next_file(&mut self) -> Result<Option<Field<'static>>, BodyFault> {
        while let Some(mut field) = self.parts.next_field().await.map_err(form_fault)? {
            if field.name() == Some("file") {
                return Ok(Some(field));
            }
            while let Some(chunk) = field.chunk().await.map_err(form_fault)? {
                self.skipped_bytes += chunk.len() as u64;
                if self.skipped_bytes > OTHER_FIELDS_BYTES_MAX {
                    let detail =
                        format!("the form's other fields have more than {OTHER_FIELDS_BYTES_MAX} bytes");
                    return Err(BodyFault::Form(detail));
                }
            }
        }
        Ok(None)
    }
}

/// A fault of the body below comes back as it was; the rest is the form's own.
fn form_fault(error: multer::Error) -> BodyFault {
    match error {
        multer::Error::StreamReadFailed(source) => match source.downcast::<BodyFault>() {
            Ok(fault) => *fault,
            Err(error) => BodyFault::Form(format!("failed to read the form: {error}")),
        },
        error => BodyFault::Form(format!("failed to read the form: {error}")),
    }
}

/// Reads on for a moment and forgets what comes, so that the sender gets to read the refusal.
pub(crate) async fn drain<S, E>(mut body: S)
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    let mut drained_bytes = 0;
    let drained = async {
        while let Some(Ok(bytes)) = body.next().await {
            drained_bytes += bytes.len();
            if drained_bytes > DRAINED_BYTES_MAX {
                break;
            }
        }
    };
    // Running out of time is no failure: the answer is sent, whether it is read or not.
    let _ = tokio::time::timeout(DRAINED_TIME_MAX, drained).await;
}
