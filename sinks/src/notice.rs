//! Notices: messages to people and programs about the end of a job, by mail, as files, and by webhook.
//!
//! Promises. A notice becomes one message for each recipient, so that one bad address keeps no other from
//! its mail. [`deliver`] returns `Ok` only when every recipient's server took its message; each message has
//! an id made from job, notice and recipient, so that a doubled one can be recognised. Nothing here waits
//! longer than the time limit of its settings, and nothing is retried here: an error says whether and when
//! to try again. The notifier role calls [`deliver`] and keeps the [`Progress`] between its tries.

mod address;
mod error;
mod finished;
mod mail;
mod message;
mod outbox;
mod recipient;
mod smtp;
mod webhook;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidemill_pipelines::{Notice, NoticeOn, NoticeTarget, Retry};

pub use address::{Allow, GuardedResolver, NotAllowed};
pub use error::NoticeError;
pub use finished::{Ending, FinishedNotice, NoticeCause, RejectLine};
pub use message::{MailMessage, Message, PostMessage, messages};
pub use outbox::FileNotifier;
pub use recipient::{Addressing, check_address_template};
pub use smtp::{SmtpNotifier, SmtpSettings, SmtpTls};
pub use webhook::{WebhookNotifier, WebhookSettings, retry_after, signature};

/// One way to hand a message over.
#[async_trait]
pub trait Notifier: Send + Sync {
    /// Hands the message over; `Ok` once the other side has taken it for good.
    async fn send(&self, message: &Message) -> Result<(), NoticeError>;
    /// Reaches the other side without sending anything, for readiness and `tidemill doctor`.
    async fn ping(&self) -> Result<(), NoticeError>;
}

/// The ways of this installation.
#[derive(Clone)]
pub struct Notifiers {
    /// Takes mail: SMTP, or an outbox folder.
    pub mail: Arc<dyn Notifier>,
    /// Takes webhooks.
    pub webhook: Arc<dyn Notifier>,
    /// How addresses are made from templates.
    pub addressing: Addressing,
}

/// What became of the messages of one notice so far: kept by the caller between tries, so that a message
/// that was taken, or refused for good, is not sent again. As large as the list of recipients.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    settled: BTreeSet<String>,
    refused: Option<NoticeError>,
}

impl Progress {
    /// Ids of the messages that were taken or refused for good.
    pub fn settled(&self) -> impl Iterator<Item = &str> {
        self.settled.iter().map(String::as_str)
    }
}

/// Whether a notice is about this end of a job.
pub fn applies(on: NoticeOn, status: Ending) -> bool {
    match status {
        Ending::Success => on.success,
        Ending::Failed => on.failed,
    }
}

/// The kinds of notices.
pub const KINDS: [&str; 2] = ["email", "webhook"];

/// The kind of a notice, for rows and metrics: one of [`KINDS`].
pub fn kind(notice: &Notice) -> &'static str {
    match notice.target {
        NoticeTarget::Email { .. } => "email",
        NoticeTarget::Webhook { .. } => "webhook",
    }
}

/// Who has to take a notice: `mail`, for all mail goes to one server, or scheme, host and port of a webhook. It holds no
/// secret.
pub fn receiver(notice: &Notice) -> String {
    match &notice.target {
        NoticeTarget::Email { .. } => "mail".to_owned(),
        NoticeTarget::Webhook { url, .. } => webhook::receiver(url),
    }
}

/// Sends the `index`-th notice of a pipeline to all its recipients that are not settled yet. `event` is the
/// finished event as it stands in the log, the body of webhooks.
///
/// An error with [`Retry::Later`] wants another call with the same `progress`, not before
/// [`NoticeError::retry_after`]. An error with [`Retry::Never`] is told once all recipients are settled: some
/// of them, or the notice itself, were refused for good.
pub async fn deliver(
    notifiers: &Notifiers,
    notice: &Notice,
    index: usize,
    finished: &FinishedNotice,
    event: &Bytes,
    progress: &mut Progress,
) -> Result<(), NoticeError> {
    if !applies(notice.on, finished.status) {
        return Ok(());
    }
    let mut pending = None;
    for (id, message) in messages(notice, index, finished, event, &notifiers.addressing) {
        if progress.settled.contains(&id) {
            continue;
        }
        let sent = match &message {
            Ok(message) => notifiers.route(message).send(message).await,
            Err(error) => Err(error.clone()),
        };
        match sent {
            Err(error) if error.retry() != Retry::Never => pending = Some(later(pending, error)),
            Err(error) => {
                progress.settled.insert(id);
                progress.refused.get_or_insert(error);
            }
            Ok(()) => {
                progress.settled.insert(id);
            }
        }
    }
    match pending.or_else(|| progress.refused.clone()) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Of two errors, the one that wants the longer pause.
fn later(pending: Option<NoticeError>, error: NoticeError) -> NoticeError {
    match pending {
        Some(first) if first.retry_after() >= error.retry_after() => first,
        _ => error,
    }
}

impl Notifiers {
    fn route(&self, message: &Message) -> &dyn Notifier {
        match message {
            Message::Mail(_) => self.mail.as_ref(),
            Message::Post(_) => self.webhook.as_ref(),
        }
    }
}
