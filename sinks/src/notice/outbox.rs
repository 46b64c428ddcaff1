//! Mails as `.eml` files in a folder: what an installation without a mail server gets, and what people read
//! on a laptop. A file appears whole or not at all, and a doubled message replaces its own file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use lettre::message::Mailbox;
use tokio::fs;
use tokio::io::AsyncWriteExt;

use super::{Message, NoticeError, Notifier, mail};

/// Writes each mail as `{id}.eml` into one folder.
pub struct FileNotifier {
    folder: PathBuf,
    from: Mailbox,
    temporary: AtomicU64,
}

impl FileNotifier {
    /// A notifier that writes to this folder (made when it is missing); `from` stands in the mails.
    pub fn new(folder: impl Into<PathBuf>, from: &str) -> Result<Self, NoticeError> {
        let from = mail::from_mailbox(from)?;
        Ok(Self { folder: folder.into(), from, temporary: AtomicU64::new(0) })
    }

    /// Writes beside the final name, then renames: both files and the folder are synced to disk.
    async fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.folder).await?;
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.folder.join(format!(".{name}.{}.{number}.part", std::process::id()));
        let written = write_synced(&temporary, bytes).await;
        let renamed = match written {
            Ok(()) => fs::rename(&temporary, self.folder.join(name)).await,
            Err(error) => Err(error),
        };
        if renamed.is_err() {
            // The first error is the one to tell; a part left behind is hidden and harmless.
            let _ = fs::remove_file(&temporary).await;
        }
        renamed?;
        fs::File::open(&self.folder).await?.sync_all().await
    }

    fn failed(&self, error: &io::Error) -> NoticeError {
        NoticeError::Setting {
            action: format!("write to the outbox `{}`", self.folder.display()),
            message: error.to_string(),
        }
    }
}

#[async_trait]
impl Notifier for FileNotifier {
    async fn send(&self, message: &Message) -> Result<(), NoticeError> {
        let Message::Mail(message) = message else {
            return Err(misrouted(message, "the outbox"));
        };
        // The bytes are made first: they refuse an id that is no file name.
        let bytes = mail::bytes(&self.from, message)?;
        self.write(&format!("{}.eml", message.id), &bytes).await.map_err(|error| self.failed(&error))
    }

    async fn ping(&self) -> Result<(), NoticeError> {
        let probe = format!("probe-{}", std::process::id());
        let written = self.write(&probe, b"").await;
        let removed = match written {
            Ok(()) => fs::remove_file(self.folder.join(&probe)).await,
            Err(error) => Err(error),
        };
        removed.map_err(|error| self.failed(&error))
    }
}

async fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::File::create(path).await?;
    file.write_all(bytes).await?;
    // Only a flush tells of a write that failed: the sync would forget it, and the mail with it.
    file.flush().await?;
    file.sync_all().await
}

/// A message of one kind came to a notifier of the other.
pub(super) fn misrouted(message: &Message, by: &str) -> NoticeError {
    let job_id = match message {
        Message::Mail(mail) => mail.job_id.clone(),
        Message::Post(post) => post.job_id.clone(),
    };
    NoticeError::Message { job_id, message: format!("{by} cannot take messages of this kind") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_disk_is_told_and_no_mail_is_called_written() {
        let told = write_synced(Path::new("/dev/full"), b"a mail").await.unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::StorageFull, "{told}");
    }
}
