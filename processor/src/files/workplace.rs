//! The folder in which the programs of one attempt work: its own, for its user only, removed when it is done.
//!
//! A processor that is killed leaves its folders behind. Each has a locked file, and the lock ends with the
//! process, so [`sweep`], called at the next start, knows them.

use std::fs::{File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use super::ProgramFault;
use crate::error::{Error, Result};

const PREFIX: &str = "tidemill-program-";
const LOCK: &str = "lock";
/// A folder without a lock is being made, unless it is as old as this.
const MAKING_MAX: Duration = Duration::from_secs(60);
/// Longest ending of a file name that an input keeps: some programs look at it.
const ENDING_BYTES_MAX: usize = 10;

/// A temporary folder.
pub(super) struct Workplace {
    folder: TempDir,
    _lock: File,
}

impl Workplace {
    /// Makes one in a folder, or in the system's for temporary files.
    pub(super) fn make(base: Option<&Path>) -> Result<Self> {
        let make = || {
            let base = base.map_or_else(std::env::temp_dir, Path::to_path_buf);
            std::fs::create_dir_all(&base)?;
            let mut builder = tempfile::Builder::new();
            let folder = builder
                .prefix(PREFIX)
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(std::path::absolute(base)?)?;
            let lock = File::create(folder.path().join(LOCK))?;
            lock.lock()?;
            std::fs::create_dir(folder.path().join("home"))?;
            Ok(Self { folder, _lock: lock })
        };
        make().map_err(failed("make"))
    }

    /// The programs' home, working folder and folder for temporary files.
    pub(super) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// The folder as it may stand in messages of programs.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A new folder for the output of a step.
    pub(super) fn step(&self, index: usize) -> Result<PathBuf> {
        let path = self.folder.path().join(format!("step{index}"));
        std::fs::create_dir(&path).map_err(failed("prepare"))?;
        Ok(path)
    }

    /// Writes the input into it, under a name that keeps only the ending of the sender's.
    pub(super) async fn fetch(
        &self,
        mut bytes: BoxStream<'static, Result<Bytes>>,
        file_name: Option<&str>,
    ) -> Result<PathBuf> {
        let path = self.folder.path().join(format!("input{}", ending(file_name.unwrap_or_default())));
        let mut file = tokio::fs::File::create(&path).await.map_err(failed("write the input to"))?;
        while let Some(chunk) = bytes.next().await {
            file.write_all(&chunk?).await.map_err(failed("write the input to"))?;
        }
        file.flush().await.map_err(failed("write the input to"))?;
        Ok(path)
    }
}

fn ending(file_name: &str) -> String {
    let ending = file_name.rsplit_once('.').map(|(_, ending)| ending).unwrap_or_default();
    let harmless =
        (1..=ENDING_BYTES_MAX).contains(&ending.len()) && ending.bytes().all(|b| b.is_ascii_alphanumeric());
    if harmless { format!(".{ending}") } else { String::new() }
}

/// Removes the folders of processors that are gone. Called once at start; blocks.
pub(crate) fn sweep(base: Option<&Path>) -> io::Result<usize> {
    let base = base.map_or_else(std::env::temp_dir, Path::to_path_buf);
    let mut swept = 0;
    for entry in std::fs::read_dir(base)? {
        let entry = entry?;
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if ours && entry.file_type()?.is_dir() && is_left_behind(&entry.path()) {
            std::fs::remove_dir_all(entry.path())?;
            swept += 1;
        }
    }
    Ok(swept)
}

fn is_left_behind(folder: &Path) -> bool {
    match File::open(folder.join(LOCK)) {
        Ok(lock) => !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
        // Also a folder of another user's processor cannot be looked into: that one is not ours.
        Err(error) if error.kind() != io::ErrorKind::NotFound => false,
        Err(_) => {
            let age =
                folder.metadata().and_then(|data| data.modified()).map(|at| at.elapsed().unwrap_or_default());
            age.is_ok_and(|age| age > MAKING_MAX)
        }
    }
}

/// An error of the folder.
pub(super) fn failed(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| ProgramFault::Workplace { action, source }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_private_and_goes_with_its_attempt() {
        let base = tempfile::tempdir().unwrap();
        let place = Workplace::make(Some(base.path())).unwrap();
        let path = place.path().to_owned();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        drop(place);
        assert!(!path.exists());
    }

    #[test]
    fn only_folders_of_processors_that_are_gone_are_swept() {
        let base = tempfile::tempdir().unwrap();
        let living = Workplace::make(Some(base.path())).unwrap();
        let dead = base.path().join(format!("{PREFIX}dead"));
        std::fs::create_dir_all(dead.join("home")).unwrap();
        std::fs::write(dead.join(LOCK), "").unwrap();
        let making = base.path().join(format!("{PREFIX}making"));
        std::fs::create_dir(&making).unwrap();
        let other = base.path().join("other");
        std::fs::create_dir(&other).unwrap();
        assert_eq!(sweep(Some(base.path())).unwrap(), 1);
        assert!(!dead.exists() && living.home().exists() && making.exists() && other.exists());
    }

    #[test]
    fn an_input_keeps_only_a_harmless_ending() {
        for (name, expected) in [
            ("a.mp4", ".mp4"),
            ("a", ""),
            ("a.", ""),
            ("a.b/c", ""),
            ("a.x y", ""),
            ("a.tar.gz", ".gz"),
            ("a.ümlaut", ""),
        ] {
            assert_eq!(ending(name), expected, "{name}");
        }
    }
}
