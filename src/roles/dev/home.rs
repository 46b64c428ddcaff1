//! The folder of `tidemill dev`: held by one process at a time, with the secret of its tokens.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::settings::Secret;

/// A lock file holds a process id; more is not ours.
const PID_BYTES_MAX: u64 = 20;

/// The folder, locked as long as this lives. The lock is the kernel's: it ends with the process, however it ends.
pub struct Home {
    path: PathBuf,
    _lock: File,
}

impl Home {
    /// Makes the folder when it is missing and locks it; the error says which process holds it.
    pub fn take(path: &Path) -> Result<Self> {
        let failed = || format!("failed to use folder `{}`", path.display());
        // Its files hold passwords' hashes and the data of senders.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(failed)?;
        let file = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&file)
            .with_context(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&mut lock).unwrap_or_else(|| "unknown".to_owned());
                let path = path.display();
                bail!(
                    "folder `{path}` is in use by process {holder}: stop it, or name another folder with --data"
                );
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(failed),
        }
        write_pid(&mut lock).with_context(failed)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The secret of the tokens, made at the first start, readable by its owner only.
    pub fn jwt_secret(&self) -> Result<Secret> {
        self.kept("jwt.secret", 48, 32).map(Secret::new)
    }

    /// Names the processes that work on this folder, one after the other, in the job table.
    pub fn worker_name(&self) -> Result<String> {
        Ok(format!("dev:{}", self.kept("worker.id", 16, 16)?))
    }

    /// A random text of a file, made at the first start with this many characters.
    fn kept(&self, name: &str, length: usize, length_min: usize) -> Result<String> {
        let path = self.path.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) if text.trim().len() >= length_min => return Ok(text.trim().to_owned()),
            Ok(_) => {
                bail!("`{}` holds less than {length_min} bytes: remove it, a new one is made", path.display())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("failed to read `{}`", path.display())),
        }
        let secret = crate::commands::random_text(length);
        // Written beside and renamed: a start that is killed half-way leaves no half text.
        let beside = self.path.join(format!("{name}.new"));
        let written = || -> std::io::Result<()> {
            std::fs::remove_file(&beside).or_else(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(secret.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)
        };
        written().with_context(|| format!("failed to write `{}`", path.display()))?;
        Ok(secret)
    }
}

fn write_pid(lock: &mut File) -> std::io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    write!(lock, "{}", std::process::id())
}

fn holder(lock: &mut File) -> Option<String> {
    let mut text = String::new();
    lock.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_is_held_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let home = Home::take(&path).unwrap();
        let told = Home::take(&path).err().unwrap().to_string();
        assert!(told.contains(&format!("in use by process {}", std::process::id())), "{told}");
        drop(home);
        Home::take(&path).unwrap();
    }

    #[test]
    fn the_secret_stays_and_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::take(folder.path()).unwrap();
        let first = home.jwt_secret().unwrap();
        assert_eq!(home.jwt_secret().unwrap(), first);
        assert!(first.expose().len() >= 32);
        let mode = std::fs::metadata(folder.path().join("jwt.secret")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(folder.path().join("jwt.secret"), "short").unwrap();
        home.jwt_secret().unwrap_err();
    }
}
