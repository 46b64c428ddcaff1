//! The domain of `source: http`: what is asked of an API, by whom, and how its pages hang together.

use std::num::NonZeroU32;
use std::time::Duration;

use serde_json_path::JsonPath;

use crate::{Schedule, SlotTemplate};

/// An API whose pages are fetched.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpSource {
    /// The first request, http or https; without user and password.
    pub url: SlotTemplate,
    /// Parameters that are added to the URL of the first request.
    pub parameters: Vec<(String, SlotTemplate)>,
    /// Headers of every request; those with secrets are sent to the origin of `url` only.
    pub headers: Vec<(String, SlotTemplate)>,
    /// Who asks.
    pub auth: Auth,
    /// How the pages hang together.
    pub pages: Pages,
    /// When it is fetched; `None` only by hand.
    pub schedule: Option<Schedule>,
    /// Bounds of its requests.
    pub limits: HttpLimits,
    /// Whether pages without records are a success; default true: often there is nothing new.
    pub allow_empty: bool,
}

/// Who asks; secrets are named, the settings hold them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Anybody.
    None,
    /// `Authorization: Basic`.
    Basic {
        /// The user.
        user: String,
        /// Name of the secret that is the password.
        secret: String,
    },
    /// `Authorization: Bearer`.
    Bearer {
        /// Name of the secret that is the token.
        secret: String,
    },
    /// A key in a header.
    KeyHeader {
        /// The header.
        name: String,
        /// Name of the secret that is the key.
        secret: String,
    },
    /// A key as a parameter of the URL.
    KeyParameter {
        /// The parameter.
        name: String,
        /// Name of the secret that is the key.
        secret: String,
    },
}

impl Auth {
    /// The secret that it needs.
    pub fn secret(&self) -> Option<&str> {
        match self {
            Auth::None => None,
            Auth::Basic { secret, .. }
            | Auth::Bearer { secret }
            | Auth::KeyHeader { secret, .. }
            | Auth::KeyParameter { secret, .. } => Some(secret),
        }
    }
}

/// How the pages of an API hang together.
#[derive(Debug, Clone, PartialEq)]
pub enum Pages {
    /// There is one.
    One,
    /// The first answer lists the URLs of the others.
    Links {
        /// Where the URLs stand in it.
        path: JsonPath,
        /// Most URLs; default and most 1,000.
        max: usize,
        /// Whether the first answer itself holds records; default false.
        first_has_records: bool,
    },
    /// Each page names the next in its body; without a text there the page is the last.
    NextPath(JsonPath),
    /// Each page names the next in its header `Link` with this relation (RFC 8288).
    NextLink(String),
    /// Pages are numbered; the first without records is the end.
    Number {
        /// The parameter with the number.
        parameter: String,
        /// The number of the first page; default 1.
        first: u64,
        /// What each next number is larger by; default 1. The records of a page where the parameter counts records.
        step: u64,
        /// Where the records stand in a JSON page, to see whether there are any; `None`: the whole answer.
        records: Option<JsonPath>,
    },
}

/// Bounds of the requests of one source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HttpLimits {
    /// Requests to one host at once; default 8.
    pub concurrency: usize,
    /// Requests to one host in this time: number and span; default no limit.
    pub rate: Option<(NonZeroU32, Duration)>,
    /// Time for one request, with its body; default 60 s.
    pub timeout: Duration,
    /// Largest page in bytes; default 64 MiB.
    pub page_bytes_max: u64,
    /// Most pages of one run; default and most 5,000: a job with more would be too long for an event.
    pub pages_max: usize,
    /// How often a page is asked for that fails by the network or the server (5xx, 408); default 5.
    pub attempts: u32,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            concurrency: 8,
            rate: None,
            timeout: Duration::from_secs(60),
            page_bytes_max: 64 << 20,
            pages_max: 5_000,
            attempts: 5,
        }
    }
}

impl HttpSource {
    /// Every secret that it names.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        let headers = self.headers.iter().flat_map(|(_, value)| value.secrets()).map(String::as_str);
        self.auth.secret().into_iter().chain(headers)
    }
}
