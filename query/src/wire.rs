//! The Postgres wire: psql, drivers and BI tools ask SQL of the results, each with the login and the rights of a user.
//!
//! Read-only in every way of the protocol; statements run in the same workers, with the same limits, as those that
//! come by HTTP. pgwire encodes what is sent; reading, login and sessions are here, since the library's own have no
//! bounds. A connection passes `login.rs`, then stays in `session.rs`; the gateway's role serves it.

mod answers;
mod cancel;
mod commands;
mod engine;
mod frames;
mod login;
mod numeric;
mod parameters;
mod prepared;
mod refusal;
mod rows;
mod session;
mod stream;
mod tls;
mod tries;
mod variables;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::scram::Verifier;
use crate::{Metrics, Visible, Workers};

use cancel::Cancels;
use refusal::{Refusal, code};
use session::Session;
use stream::{ReadError, Reader, Writer};
use tries::Tries;

/// From the first byte to the end of the login: more than the slowest client takes for its share of SCRAM.
const LOGIN_MAX: Duration = Duration::from_secs(20);
/// Longest message before the login is done.
const LOGIN_BYTES_MAX: usize = 10_000;
/// Connections beyond the most that are told so; others are dropped at once.
const TOLD_MAX: usize = 100;
/// How long a client may go on talking after its connection was ended.
const PARTING: Duration = Duration::from_secs(2);
/// Pause after a connection that could not be taken, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds and keys of the wire.
#[derive(Debug, Clone)]
pub struct WireSettings {
    /// PEM files of the certificate, with those it hangs on, and its key. Without them only this machine may connect.
    pub tls: Option<(std::path::PathBuf, std::path::PathBuf)>,
    /// Open connections, those that are logging in among them.
    pub connections_max: usize,
    /// Open connections of one user: a pool that leaks must not lock out the others.
    pub user_connections_max: usize,
    /// How long a connection may say nothing.
    pub idle: Duration,
    /// How long a client may leave an answer untaken.
    pub stall_max: Duration,
    /// Longest message; values of parameters are what makes one long.
    pub message_bytes_max: usize,
    /// Prepared statements of one connection.
    pub statements_max: usize,
    /// Open portals of one connection; one that is half-way holds a worker.
    pub portals_max: usize,
    /// How long statements may go on after a stop was asked for.
    pub drain: Duration,
    /// Makes the salts of names that are not known; the same on every replica.
    pub decoy_secret: Vec<u8>,
}

impl Default for WireSettings {
    fn default() -> Self {
        Self {
            tls: None,
            connections_max: 100,
            user_connections_max: 20,
            idle: Duration::from_secs(1800),
            stall_max: Duration::from_secs(60),
            message_bytes_max: 1 << 20,
            statements_max: 256,
            portals_max: 16,
            drain: Duration::from_secs(20),
            decoy_secret: rand::random::<[u8; 32]>().to_vec(),
        }
    }
}

/// Who may come in and what they see; the binary gives the gateway's users.
#[async_trait]
pub trait Accounts: Send + Sync {
    /// What the password of this user is checked by, and its mark; `None` for who is not known.
    async fn verifier(&self, user: &str) -> Result<Option<(Verifier, String)>, AccountsError>;

    /// What the user sees now, `None` when the user was removed or has another password.
    async fn visible(&self, login: &Login) -> Result<Option<Visible>, AccountsError>;
}

/// Who logged in.
#[derive(Debug, Clone)]
pub struct Login {
    /// The user.
    pub user: String,
    /// Another one for each password.
    pub password_mark: String,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// Nothing can be said of a user: the database does not answer.
#[derive(Debug, thiserror::Error)]
#[error("failed to look up a user: {0}")]
pub struct AccountsError(pub String);

impl From<AccountsError> for End {
    fn from(error: AccountsError) -> Self {
        Refusal { fatal: true, ..Refusal::internal(&error) }.into()
    }
}

/// Why the wire does not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The certificate or its key cannot be used.
    #[error("failed to use certificate `{certificate}` with key `{key}`: {why}")]
    Tls {
        /// The file of the certificate.
        certificate: String,
        /// The file of the key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// Open to other machines without TLS.
    #[error("the postgres wire listens on {0}, which other machines reach, without a certificate for TLS")]
    Open(SocketAddr),
    /// The listening socket failed.
    #[error("failed to listen for the postgres wire")]
    Listen(#[source] std::io::Error),
}

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// The client went away, or leaves us no way to tell it anything.
    Gone,
    Refused(Refusal),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        End::Refused(refusal)
    }
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        End::Gone
    }
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Broken(broken) => Refusal::fatal(code::PROTOCOL, broken.to_string()).into(),
            ReadError::Io(_) => End::Gone,
        }
    }
}

/// The wire, ready to serve.
pub struct Wire {
    shared: Arc<Shared>,
}

/// What all connections share.
struct Shared {
    settings: WireSettings,
    decoy_secret: Vec<u8>,
    tls: Option<TlsAcceptor>,
    accounts: Arc<dyn Accounts>,
    workers: Workers,
    cancels: Cancels,
    tries: Tries,
    users: Mutex<HashMap<String, usize>>,
}

impl Shared {
    fn metrics(&self) -> &Metrics {
        self.workers.metrics()
    }
}

impl Wire {
    /// Reads the certificate.
    pub fn new(
        settings: WireSettings,
        accounts: Arc<dyn Accounts>,
        workers: Workers,
    ) -> Result<Self, WireError> {
        let tls =
            settings.tls.as_ref().map(|(certificate, key)| tls::acceptor(certificate, key)).transpose()?;
        let shared = Shared {
            // Never the secret itself as key: it signs tokens.
            decoy_secret: decoy_key(&settings.decoy_secret),
            tls,
            accounts,
            workers,
            cancels: Cancels::default(),
            tries: Tries::default(),
            users: Mutex::default(),
            settings,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Serves until told to stop; then running statements have a while to end.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> Result<(), WireError> {
        let address = listener.local_addr().map_err(WireError::Listen)?;
        if self.shared.tls.is_none() && !address.ip().is_loopback() {
            return Err(WireError::Open(address));
        }
        info!(%address, tls = self.shared.tls.is_some(), "postgres wire listens");
        let places = Arc::new(Semaphore::new(self.shared.settings.connections_max));
        let mut connections = JoinSet::new();
        loop {
            self.shared.metrics().connections.set(i64::try_from(connections.len()).unwrap_or(i64::MAX));
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(ended) = connections.join_next() => {
                    told_if_broken(ended);
                    continue;
                }
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok(_) if connections.len() >= self.shared.settings.connections_max + TOLD_MAX => {}
                Ok((socket, peer)) => {
                    let (shared, stop) = (Arc::clone(&self.shared), stop.clone());
                    let place = Arc::clone(&places).try_acquire_owned().ok();
                    connections.spawn(async move {
                        let full = place.is_none();
                        connection(&shared, socket, peer, full, &stop).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "failed to take a connection of the postgres wire");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        let ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(self.shared.settings.drain, ended).await.is_err() {
            connections.shutdown().await;
        }
        Ok(())
    }
}

fn told_if_broken(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection of the postgres wire broke down");
    }
}

fn decoy_key(secret: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(secret).map(|mut mac| {
        mac.update(b"salts of names that are not known");
        mac.finalize().into_bytes().to_vec()
    });
    mac.unwrap_or_default()
}

/// From the first byte of a connection to its last.
async fn connection(
    shared: &Shared,
    socket: TcpStream,
    peer: SocketAddr,
    full: bool,
    stop: &CancellationToken,
) {
    // Answers are sent when they are whole; waiting for more only delays them.
    let _ = socket.set_nodelay(true);
    let opened = tokio::time::timeout(LOGIN_MAX, login::open(Box::new(socket), peer, shared)).await;
    let Ok(Ok(Some((socket, startup)))) = opened else { return };
    let (mut reader, mut writer) = stream::split(socket, LOGIN_BYTES_MAX, shared.settings.stall_max);
    let entered = if full {
        Err(Refusal::fatal(code::TOO_MANY_CONNECTIONS, "too many connections are open").into())
    } else {
        let login = login::log_in(startup, peer, shared, &mut reader, &mut writer);
        tokio::time::timeout(LOGIN_MAX, login).await.unwrap_or(Err(End::Gone))
    };
    let entered =
        entered.and_then(|(login, variables)| Ok((UserPlace::take(shared, &login.user)?, login, variables)));
    match &entered {
        Ok(_) => shared.metrics().login("accepted"),
        Err(End::Refused(refusal)) if refusal.code == code::BAD_PASSWORD => {
            shared.metrics().login("wrong_password")
        }
        Err(End::Refused(_)) => shared.metrics().login("refused"),
        Err(End::Gone) => {}
    }
    let (_user_place, login, variables) = match entered {
        Ok(entered) => entered,
        Err(end) => return farewell(end, &mut reader, &mut writer).await,
    };
    reader.allow(shared.settings.message_bytes_max);
    let place = shared.cancels.take_place();
    info!(user = login.user, %peer, "a client of the postgres wire logged in");
    let welcomed = login::welcome(&variables, &place, &mut writer);
    let mut session = Session::new(shared, place, login, variables, writer);
    let ended = match welcomed {
        Ok(()) => match session.writer.flush().await {
            Ok(()) => session.run(&mut reader, stop).await,
            Err(error) => Err(error.into()),
        },
        Err(end) => Err(end),
    };
    farewell(ended.err().unwrap_or(End::Gone), &mut reader, &mut session.writer).await;
}

/// Tells the client why, when it can hear it.
async fn farewell(end: End, reader: &mut Reader, writer: &mut Writer) {
    let End::Refused(refusal) = end else { return };
    let said = match writer.put(refusal.into()) {
        Ok(()) => writer.flush().await,
        failed => failed,
    };
    if said.is_ok() && writer.close().await.is_ok() {
        // A socket that is closed with bytes unread takes back what was said last.
        let _ = tokio::time::timeout(PARTING, reader.discard()).await;
    }
}

/// One of a user's connections, given up when dropped.
struct UserPlace<'a> {
    shared: &'a Shared,
    user: String,
}

impl<'a> UserPlace<'a> {
    fn take(shared: &'a Shared, user: &str) -> Result<Self, Refusal> {
        let mut users = shared.users.lock().unwrap_or_else(PoisonError::into_inner);
        let count = users.entry(user.to_owned()).or_default();
        if *count >= shared.settings.user_connections_max {
            let message = format!("too many connections for user \"{user}\"");
            return Err(Refusal::fatal(code::TOO_MANY_CONNECTIONS, message));
        }
        *count += 1;
        Ok(Self { shared, user: user.to_owned() })
    }
}

impl Drop for UserPlace<'_> {
    fn drop(&mut self) {
        let mut users = self.shared.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.user);
            }
        }
    }
}
