//! Passwords: hashed and verified with argon2id, off the async threads, a bounded number at once. Beside the hash goes
//! what SCRAM needs to check the same password on the Postgres wire.

use std::sync::Arc;
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{Error as HashError, PasswordHasher, PasswordVerifier};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tidemill_query::scram::Verifier;
use tokio::sync::Semaphore;

use super::UsersError;

/// Shortest password in characters.
pub(super) const CHARS_MIN: usize = 10;

/// Longest password in bytes: more than any person or manager makes, little enough to hash.
pub(super) const BYTES_MAX: usize = 1024;

/// Hashes under way at once; each takes 19 MiB and some 30 ms of one core.
const HASHES_MAX: usize = 4;

/// Longest wait for a place among them.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The hash of no password, verified for names that are not known, so that they take the same time.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// Bytes of a password's mark: that two hashes share one does not happen.
const MARK_BYTES: usize = 8;

/// What is kept of a password.
pub(super) struct Kept {
    pub(super) hash: String,
    pub(super) scram: String,
}

/// Another one for each hash, which it does not tell; see [`User::password_mark`](super::User::password_mark).
pub(super) fn mark(hash: &str) -> String {
    hex::encode(&Sha256::digest(hash)[..MARK_BYTES])
}

#[derive(Clone)]
pub(super) struct Passwords {
    places: Arc<Semaphore>,
}

impl Passwords {
    pub(super) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(HASHES_MAX)) }
    }

    pub(super) async fn keep(&self, password: SecretString) -> Result<Kept, UsersError> {
        let text = password.expose_secret();
        if text.chars().count() < CHARS_MIN || text.len() > BYTES_MAX {
            return Err(UsersError::BadPassword);
        }
        self.run(move || Ok(Kept { hash: hash(&password)?, scram: scram(&password) })).await
    }

    /// What SCRAM needs, of a password that was found right.
    pub(super) async fn scram(&self, password: SecretString) -> Result<String, UsersError> {
        self.run(move || Ok(scram(&password))).await
    }

    /// Whether the password is that of the hash; false, after the same work, when there is none.
    pub(super) async fn verify(
        &self,
        password: SecretString,
        hash: Option<String>,
    ) -> Result<bool, UsersError> {
        if password.expose_secret().len() > BYTES_MAX {
            return Ok(false);
        }
        self.run(move || verify(&password, hash.as_deref())).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, UsersError> + Send + 'static,
    ) -> Result<T, UsersError> {
        let place = tokio::time::timeout(WAIT_MAX, self.places.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Err(UsersError::Busy);
        };
        // The place moves along: a client that goes away does not make room before the work is done.
        let work = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        work.await.map_err(|error| UsersError::Hash(error.to_string()))?
    }
}

fn scram(password: &SecretString) -> String {
    Verifier::of(password.expose_secret()).to_string()
}

fn hash(password: &SecretString) -> Result<String, UsersError> {
    let hash: PasswordHash = Argon2::default()
        .hash_password(password.expose_secret().as_bytes())
        .map_err(|error| UsersError::Hash(error.to_string()))?;
    Ok(hash.to_string())
}

fn verify(password: &SecretString, hash: Option<&str>) -> Result<bool, UsersError> {
    let failed = |error: String| UsersError::Hash(error);
    let stored = PasswordHash::new(hash.unwrap_or(NOBODY)).map_err(|error| failed(error.to_string()))?;
    match Argon2::default().verify_password(password.expose_secret().as_bytes(), &stored) {
        Ok(()) => Ok(hash.is_some()),
        Err(HashError::PasswordInvalid) => Ok(false),
        Err(error) => Err(failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_is_taken() {
        let passwords = Passwords::new();
        let Kept { hash, scram } = passwords.keep("correct horse".to_owned().into()).await.unwrap();
        assert!(scram.starts_with("SCRAM-SHA-256$"), "{scram}");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        let check = |text: &str| passwords.verify(text.to_owned().into(), Some(hash.clone()));
        assert!(check("correct horse").await.unwrap());
        for wrong in ["", "correct hors", "correct horse ", "Correct horse"] {
            assert!(!check(wrong).await.unwrap(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_password_out_of_bounds_is_refused() {
        let passwords = Passwords::new();
        for bad in ["short".to_owned(), "x".repeat(BYTES_MAX + 1)] {
            assert!(matches!(passwords.keep(bad.into()).await, Err(UsersError::BadPassword)));
        }
    }

    #[test]
    fn an_unknown_user_costs_a_whole_hash_and_is_refused() {
        let nobody = PasswordHash::new(NOBODY).unwrap();
        let real = hash(&"correct horse".to_owned().into()).unwrap();
        let real = PasswordHash::new(&real).unwrap();
        assert_eq!(nobody.params, real.params);
        assert!(!verify(&"correct horse".to_owned().into(), None).unwrap());
    }
}
