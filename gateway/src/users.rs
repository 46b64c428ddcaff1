//! Users and what they may do, in the tables `tidemill_users` and `tidemill_grants` of the job database.
//!
//! Passwords are kept as argon2id hashes, with a SCRAM verifier beside for the Postgres wire. A change is seen by every replica within [`CACHE_AGE_MAX`].
//! Called by the gateway at each request and by `tidemill user`.

mod password;
mod store;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use tidemill_jobs::{Job, JobStore};
use tidemill_pipelines::PipelineName;
use tidemill_query::scram::{NoVerifier, Verifier};

use password::{Passwords, mark};

/// How long a user's rights are remembered without asking the database.
pub const CACHE_AGE_MAX: Duration = Duration::from_secs(5);

/// Users remembered at once; when there are more, all are forgotten and read again.
const CACHED_MAX: usize = 10_000;

/// Longest user name in bytes; the tables hold as many characters.
const NAME_BYTES_MAX: usize = 190;

/// Why something about users was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// The database refused or did not answer.
    #[error("failed to {action} in the job database")]
    Database {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: sqlx::Error,
    },
    /// The name is taken.
    #[error("there is already a user `{0}`")]
    Exists(String),
    /// The name is not known.
    #[error("there is no user `{0}`")]
    Unknown(String),
    /// The name cannot be one.
    #[error(
        "a user name has 1 to {NAME_BYTES_MAX} bytes without `:`, control characters or space at its ends"
    )]
    BadName,
    /// The password is too short or too long.
    #[error(
        "a password has at least {} characters and at most {} bytes",
        password::CHARS_MIN,
        password::BYTES_MAX
    )]
    BadPassword,
    /// Too many passwords are being checked at once.
    #[error("too many passwords are being checked at once; try again")]
    Busy,
    /// A stored hash or the hash function failed.
    #[error("failed to hash a password: {0}")]
    Hash(String),
    /// A row holds a word that this version does not know.
    #[error("failed to read the grants of `{user}`: {what}")]
    Malformed {
        /// Whose grants.
        user: String,
        /// What is not understood.
        what: String,
    },
}

/// What a grant allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Upload, and see, retry and cancel one's own jobs.
    Send,
    /// See all jobs.
    Read,
}

impl Permission {
    /// The word in the database and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Permission::Send => "send",
            Permission::Read => "read",
        }
    }

    /// The reverse of [`Permission::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "send" => Some(Permission::Send),
            "read" => Some(Permission::Read),
            _ => None,
        }
    }
}

/// Where a grant holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All pipelines, written `*`.
    All,
    /// One pipeline.
    Pipeline(PipelineName),
}

impl Scope {
    /// The word in the database and on the command line.
    pub fn as_str(&self) -> &str {
        match self {
            Scope::All => "*",
            Scope::Pipeline(name) => name.as_str(),
        }
    }

    /// The reverse of [`Scope::as_str`].
    pub fn parse(text: &str) -> Result<Self, tidemill_pipelines::NameError> {
        if text == "*" { Ok(Scope::All) } else { text.parse().map(Scope::Pipeline) }
    }
}

/// One right of a user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Grant {
    /// Where.
    pub scope: Scope,
    /// What.
    pub permission: Permission,
}

/// A user with all rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name, usually an e-mail address.
    pub name: String,
    /// May do everything.
    pub is_admin: bool,
    /// When the user was added.
    pub created_at: DateTime<Utc>,
    /// What a user who is no admin may do.
    pub grants: Vec<Grant>,
    /// Another one after each change of the password; tells nothing of it.
    pub password_mark: String,
}

impl User {
    /// Whether the user may do this on this pipeline.
    pub fn may(&self, permission: Permission, pipeline: &PipelineName) -> bool {
        self.is_admin
            || self.grants.iter().any(|grant| {
                grant.permission == permission
                    && match &grant.scope {
                        Scope::All => true,
                        Scope::Pipeline(name) => name == pipeline,
                    }
            })
    }

    /// Whether the user holds this very grant.
    pub fn has(&self, permission: Permission, scope: &Scope) -> bool {
        self.grants.iter().any(|grant| grant.permission == permission && grant.scope == *scope)
    }

    /// The pipelines for which the user holds this permission by name.
    pub fn named(&self, permission: Permission) -> Vec<PipelineName> {
        let held = self.grants.iter().filter(|grant| grant.permission == permission);
        held.filter_map(|grant| match &grant.scope {
            Scope::All => None,
            Scope::Pipeline(name) => Some(name.clone()),
        })
        .collect()
    }

    /// Whether the user may see this job.
    pub fn may_see(&self, job: &Job) -> bool {
        self.may(Permission::Read, &job.pipeline)
            || (job.sender == self.name && self.may(Permission::Send, &job.pipeline))
    }

    /// Whether the user may retry or cancel this job.
    pub fn may_change(&self, job: &Job) -> bool {
        self.is_admin || (job.sender == self.name && self.may(Permission::Send, &job.pipeline))
    }
}

/// The users of this installation. Cheap to clone.
#[derive(Clone)]
pub struct Users {
    jobs: JobStore,
    passwords: Passwords,
    cache: Arc<Mutex<HashMap<String, Cached>>>,
}

struct Cached {
    at: Instant,
    /// The same, in seconds since 1970.
    second: u64,
    user: Option<Arc<User>>,
}

impl Users {
    /// The users in the database of this job store.
    pub fn new(jobs: &JobStore) -> Self {
        Self { jobs: jobs.clone(), passwords: Passwords::new(), cache: Arc::default() }
    }

    /// Adds a user without grants.
    pub async fn add(&self, name: &str, password: SecretString, is_admin: bool) -> Result<(), UsersError> {
        check_name(name)?;
        let kept = self.passwords.keep(password).await?;
        self.insert(name, &kept, is_admin).await
    }

    /// Gives a user another password, which ends the tokens and sessions made before, within [`CACHE_AGE_MAX`].
    pub async fn set_password(&self, name: &str, password: SecretString) -> Result<(), UsersError> {
        let kept = self.passwords.keep(password).await?;
        self.update_password(name, &kept).await
    }

    /// The user when name and password are right. Takes the same time for a name that is not known.
    pub async fn verify(&self, name: &str, password: SecretString) -> Result<Option<User>, UsersError> {
        let kept = self.kept_password(name).await?;
        let (hash, has_scram) = kept.map_or((None, true), |kept| (Some(kept.hash), !kept.scram.is_empty()));
        if !self.passwords.verify(password.clone(), hash).await? {
            return Ok(None);
        }
        if !has_scram {
            self.add_scram(name, &self.passwords.scram(password).await?).await?;
        }
        self.get(name).await
    }

    /// What SCRAM checks the password of this user by, with its [`User::password_mark`]; `None` for a name that is not known, and for a user of an
    /// older version who has not logged in over HTTP since.
    pub async fn verifier(&self, name: &str) -> Result<Option<(Verifier, String)>, UsersError> {
        let kept = self.kept_password(name).await?.filter(|kept| !kept.scram.is_empty());
        kept.map(|kept| Ok((kept.scram.parse()?, mark(&kept.hash))))
            .transpose()
            .map_err(|error: NoVerifier| UsersError::Hash(error.to_string()))
    }

    /// The user who logged in at this second since 1970, with a password of this [`User::password_mark`]; `None` when
    /// the user was removed or got another password. At most [`CACHE_AGE_MAX`] old, and not older than the login.
    pub async fn logged_in(&self, name: &str, mark: &str, at: u64) -> Result<Option<Arc<User>>, UsersError> {
        let user = match self.cached(name, at) {
            Some(user) => user,
            None => self.reread(name).await?,
        };
        Ok(user.filter(|user| user.password_mark == mark))
    }

    async fn reread(&self, name: &str) -> Result<Option<Arc<User>>, UsersError> {
        let user = self.get(name).await?.map(Arc::new);
        self.remember(name, user.clone());
        Ok(user)
    }

    fn cached(&self, name: &str, since: u64) -> Option<Option<Arc<User>>> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |cached: &&Cached| cached.at.elapsed() < CACHE_AGE_MAX && cached.second > since;
        cache.get(name).filter(fresh).map(|cached| cached.user.clone())
    }

    fn remember(&self, name: &str, user: Option<Arc<User>>) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHED_MAX {
            cache.clear();
        }
        cache.insert(name.to_owned(), Cached { at: Instant::now(), second: now(), user });
    }

    fn forget(&self, name: &str) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn check_name(name: &str) -> Result<(), UsersError> {
    let bad = name.is_empty()
        || name.len() > NAME_BYTES_MAX
        || name.trim() != name
        || name.chars().any(|c| c == ':' || c.is_control());
    if bad { Err(UsersError::BadName) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(is_admin: bool, grants: &[(&str, Permission)]) -> User {
        let grants = grants.iter().map(|(scope, permission)| Grant {
            scope: Scope::parse(scope).unwrap(),
            permission: *permission,
        });
        User {
            name: "ann".into(),
            is_admin,
            created_at: Utc::now(),
            grants: grants.collect(),
            password_mark: String::new(),
        }
    }

    #[test]
    fn a_grant_holds_for_its_pipeline_and_permission_only() {
        let (sales, stock) = ("sales".parse().unwrap(), "stock".parse().unwrap());
        let sender = user(false, &[("sales", Permission::Send)]);
        assert!(sender.may(Permission::Send, &sales));
        assert!(!sender.may(Permission::Read, &sales));
        assert!(!sender.may(Permission::Send, &stock));
        let reader = user(false, &[("*", Permission::Read)]);
        assert!(reader.may(Permission::Read, &stock) && !reader.may(Permission::Send, &stock));
        assert!(user(true, &[]).may(Permission::Send, &stock));
        assert!(!user(false, &[]).may(Permission::Read, &stock));
    }

    #[test]
    fn a_name_that_basic_credentials_cannot_carry_is_refused() {
        for bad in ["", "a:b", " a", "a\n", &"x".repeat(191)] {
            assert!(matches!(check_name(bad), Err(UsersError::BadName)), "{bad:?}");
        }
        assert!(check_name("ann@example.org").is_ok());
    }
}
