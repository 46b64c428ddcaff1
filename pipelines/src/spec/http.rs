//! The fields of `source: http` and of schedules, as they are written.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{OneOrMany, Written};

/// Pages of an API that Tidemill fetches.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSpec {
    /// URL of the first request, http or https, without user and password; may take the slot, as in `https://api.example.com/days/{{ slot.date }}`.
    pub url: String,
    /// Parameters that are added to the URL, such as `since: "{{ slot.previous }}"`.
    pub parameters: Option<BTreeMap<String, Written>>,
    /// Headers of every request, such as `Accept: application/json`; may take secrets of the settings, as in `"Token {{ secrets.crm }}"`.
    pub headers: Option<BTreeMap<String, Written>>,
    /// Who asks; without it, anybody.
    pub auth: Option<AuthSpec>,
    /// How the pages hang together; without it, there is one.
    pub pages: Option<PagesSpec>,
    /// When it is fetched; without it, only by hand.
    pub schedule: Option<ScheduleSpec>,
    /// Bounds of the requests.
    pub limits: Option<HttpLimitsSpec>,
    /// Whether pages without records are a success; default true.
    pub allow_empty: Option<bool>,
}

/// Who asks.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AuthSpec {
    /// A user and a password.
    Basic(BasicSpec),
    /// A token.
    Bearer(BearerSpec),
    /// A key in a header or in a parameter.
    ApiKey(ApiKeySpec),
}

/// A user and a password.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicSpec {
    /// The name of the user.
    pub user: String,
    /// Name of the secret in the settings that is the password.
    pub secret: String,
}

/// A token.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BearerSpec {
    /// Name of the secret in the settings that is the token.
    pub secret: String,
}

/// A key in a header or in a parameter.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeySpec {
    /// Name of the secret in the settings that is the key.
    pub secret: String,
    /// The header that carries it, such as `X-Api-Key`.
    pub header: Option<String>,
    /// The parameter of the URL that carries it; a header is safer, where the API takes one.
    pub parameter: Option<String>,
}

/// How the pages of an API hang together.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PagesSpec {
    /// The first answer lists the URLs of the others.
    Links(LinksSpec),
    /// Each page names the next one.
    Next(NextSpec),
    /// Pages are numbered; the first without records is the end.
    Number(NumberSpec),
}

/// The first answer lists the URLs of the others.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinksSpec {
    /// JSONPath of the URLs in the first answer, such as `$.pages[*]`.
    pub path: String,
    /// Most URLs; default 1000.
    #[schemars(range(min = 1, max = 1000))]
    pub max: Option<u32>,
    /// Whether the first answer itself holds records; default false.
    pub first_has_records: Option<bool>,
}

/// Each page names the next one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NextSpec {
    /// JSONPath of the next URL in the page, such as `$.next`.
    Path(String),
    /// Relation of the next URL in the header `Link`, mostly `next`.
    LinkHeader(String),
}

/// Pages are numbered; the first without records is the end.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NumberSpec {
    /// The parameter with the number, such as `page`.
    pub parameter: String,
    /// The number of the first page; default 1.
    pub first: Option<u32>,
    /// How much larger the number of each page is than the one before; default 1. Where the parameter counts records, such as `offset`, the number of records of a page.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub step: Option<u32>,
    /// JSONPath of the records in a page, such as `$.items[*]`, to see whether there are any; without it, the page is empty when the whole answer is.
    pub records: Option<String>,
}

/// When something is due.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSpec {
    /// A cron line or a list of them: minute, hour, day of the month, month, day of the week, such as `*/15 * * * *`.
    pub cron: OneOrMany,
    /// The time zone of the hours, such as `Europe/Madrid`; default UTC.
    pub zone: Option<String>,
    /// What is done about slots that passed while no fetcher ran; default latest.
    pub missed: Option<MissedSpec>,
}

/// What is done about slots that passed while no fetcher ran.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MissedSpec {
    /// The latest of them is done.
    Latest,
    /// Each of them is done, in order.
    All,
    /// They are left out.
    None,
}

/// Bounds of the requests to an API.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpLimitsSpec {
    /// Requests to one host at once; default 8.
    #[schemars(range(min = 1, max = 256))]
    pub concurrency: Option<u32>,
    /// Requests to one host in a second, minute or hour, such as `50/s` or `600/m`; default no limit.
    pub rate: Option<String>,
    /// Time for one request with its answer, such as `30s`; default 60s.
    pub timeout: Option<String>,
    /// Largest page, such as `16MiB`; default 64MiB.
    pub page_size_max: Option<Written>,
    /// Most pages of one run; default 5000.
    #[schemars(range(min = 1, max = 5_000))]
    pub pages_max: Option<u32>,
    /// How often a page is asked for that fails by the network or the server; default 5.
    #[schemars(range(min = 1, max = 20))]
    pub attempts: Option<u32>,
}
