//! The flags of `tidemill mock-api`, in the units that people write.

use std::time::Duration;

use clap::Args;

use crate::settings::Span;

/// How the made-up API answers.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Routes, each with ?format=json (default), jsonl or csv:
  /readings                 links to all pages: {\"generated_at\": …, \"pages\": [URL, …]}
  /readings/pages/N         page N: {\"page\": N, \"items\": [{\"id\": …, \"sensor\": …, …}, …]}
  /readings/next?cursor=…   the same page by page: `next` in the body, and in a Link header
  /readings/numbered?page=N the same by number, from 1; empty after the last
  /stats                    what was asked for: how often each page was served, answers by status

Tricks, for tests: ?trick=html (HTML with status 200), half (half of the answer), gone (404), hang,
redirect (to &to=URL); twice (page 1 twice in the list), loop (the last page leads to the first).
With &on=N the trick is played on page N only.

Examples:
  tidemill mock-api                                         200 pages of 50 records
  tidemill mock-api --listen 127.0.0.1:0 --pages 1000 --latency 100ms --jitter 20ms
  tidemill mock-api --fail 5% --limit-rate 50/s --bearer s3cret")]
pub struct MockApiArgs {
    /// Address and port; port 0 takes a free one, which is printed
    #[arg(long, default_value = "127.0.0.1:8099", value_name = "ADDR")]
    pub listen: String,
    /// Pages; a fetch takes up to 1,000 links, so that more can be seen to be refused
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub pages: u32,
    /// Records of a page
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub records: u32,
    /// The same seed gives the same bytes
    #[arg(long, default_value_t = 7, value_name = "N")]
    pub seed: u64,
    /// Wait before each answer
    #[arg(long, default_value = "0s", value_name = "TIME", value_parser = time)]
    pub latency: Duration,
    /// Up to so much longer, at random
    #[arg(long, default_value = "0s", value_name = "TIME", value_parser = time)]
    pub jitter: Duration,
    /// This share of the pages is answered with 500 at first
    #[arg(long, default_value = "0%", value_name = "PERCENT", value_parser = percent)]
    pub fail: f64,
    /// So many times each of them, before it is served
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub fail_times: u32,
    /// Answer what goes beyond with 429 and Retry-After
    #[arg(long, value_name = "N/s", value_parser = per_second)]
    pub limit_rate: Option<u32>,
    /// Ask for this user and password
    #[arg(long, value_name = "USER:PASSWORD", conflicts_with_all = ["bearer", "api_key"])]
    pub basic: Option<String>,
    /// Ask for this bearer token
    #[arg(long, value_name = "TOKEN", conflicts_with = "api_key")]
    pub bearer: Option<String>,
    /// Ask for this key in the header X-Api-Key or the parameter api_key
    #[arg(long, value_name = "KEY")]
    pub api_key: Option<String>,
}

/// A time with its unit.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    Span::parse(text).map(Span::get).ok_or_else(|| format!("`{text}` is no time with a unit, such as 100ms"))
}

/// A share from 0 to 1.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
    match number {
        Some(number) if (0.0..=100.0).contains(&number) => Ok(number / 100.0),
        _ => Err(format!("`{text}` is no share between 0% and 100%")),
    }
}

fn per_second(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix("/s").and_then(|number| number.parse().ok());
    number.filter(|&number| number > 0).ok_or_else(|| format!("`{text}` is no rate such as 50/s"))
}
