//! Every limit of the gateway in one place, each with its unit, default and reason.

use std::num::NonZeroU32;
use std::time::Duration;

use secrecy::SecretString;

/// Settings of the gateway. Largest bodies are set by each pipeline (`max_size`).
#[derive(Debug, Clone)]
pub struct GatewaySettings {
    /// Signs tokens (HMAC-SHA-256): at least 32 bytes, the same for all replicas.
    pub jwt_secret: SecretString,
    /// How long a token is valid: 8 hours, a working day. A removed user is locked out in seconds all the same.
    pub token_lifetime: Duration,
    /// `iss` of the tokens made and accepted here.
    pub token_issuer: String,
    /// `aud` of the tokens made and accepted here.
    pub token_audience: String,
    /// Logins a minute for one user from one address: 20, enough for a script, useless for guessing.
    pub logins_per_minute: NonZeroU32,
    /// Connections at once: 1,024; more wait in the kernel's queue. Each costs up to 128 KiB of buffers.
    pub connections_max: usize,
    /// Uploads at once: 32; more wait, fairly between users. Each costs up to three parts of 5 MiB.
    pub uploads_max: usize,
    /// How long an upload waits to begin before it gets 503 with Retry-After: 30 s, the patience of common clients.
    pub upload_wait: Duration,
    /// Requests that wait for a job to change (`?wait=`) at once: 256; more are answered without waiting.
    pub waiters_max: usize,
    /// From the first byte of a request to the end of its headers, also the idle time between requests: 30 s.
    pub header_read_timeout: Duration,
    /// A request other than an upload, until its answer begins: 45 s, more than the longest `?wait=`.
    pub request_timeout: Duration,
    /// Longest pause between two bytes of an upload: 60 s; a stalled sender gives its place to others.
    pub upload_idle_timeout: Duration,
    /// A whole upload: 6 hours, 10 GiB on a slow line.
    pub upload_timeout: Duration,
    /// Longest time that an answer may wait for its reader to take bytes: 60 s.
    pub write_idle_timeout: Duration,
    /// At shutdown, how long requests may go on: 25 s, below the 30 s that Kubernetes gives.
    pub shutdown_grace: Duration,
}

impl GatewaySettings {
    /// The defaults, with this secret.
    pub fn new(jwt_secret: SecretString) -> Self {
        Self {
            jwt_secret,
            token_lifetime: Duration::from_secs(8 * 3600),
            token_issuer: "tidemill".to_owned(),
            token_audience: "tidemill".to_owned(),
            logins_per_minute: NonZeroU32::MIN.saturating_add(19),
            connections_max: 1_024,
            uploads_max: 32,
            upload_wait: Duration::from_secs(30),
            waiters_max: 256,
            header_read_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(45),
            upload_idle_timeout: Duration::from_secs(60),
            upload_timeout: Duration::from_secs(6 * 3600),
            write_idle_timeout: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(25),
        }
    }
}
