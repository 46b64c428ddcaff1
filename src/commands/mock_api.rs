//! `tidemill mock-api`: a made-up API of seeded readings, as the demo, the tests and the benchmark fetch it.
//!
//! It answers slowly, fails, limits its rate, asks for credentials and plays tricks when told to, and it counts what
//! it served, so that a test can say "no page was fetched twice".

mod data;
mod stats;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::Body;
use axum::extract::{Path, Query, RawQuery, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LINK, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use axum::{Json, Router};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use data::{Data, Format};
use rand::Rng;
use serde::Deserialize;
use serde_json::json;
use stats::Stats;
use tokio::net::TcpListener;

use super::print_text;
use crate::cli::MockApiArgs;
use crate::crew::Crew;

/// Serves until a signal comes.
pub async fn run(args: &MockApiArgs, json: bool) -> Result<ExitCode> {
    let listener = TcpListener::bind(&args.listen)
        .await
        .with_context(|| format!("failed to listen on `{}`", args.listen))?;
    let url = format!("http://{}/readings", listener.local_addr()?);
    print_text(&if json { json!({ "url": url }).to_string() } else { format!("mock API: {url}") });
    let mut crew = Crew::new()?;
    let stop = crew.stop.clone();
    let router = router(args.clone());
    crew.front("mock API", async move {
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let server = axum::serve(listener, router).into_future();
        stop.run_until_cancelled(server).await.unwrap_or(Ok(()))
    });
    crew.work().await?;
    Ok(ExitCode::SUCCESS)
}

struct Mock {
    args: MockApiArgs,
    data: Data,
    stats: Stats,
}

type Shared = State<Arc<Mock>>;

/// What a link may say.
#[derive(Debug, Default, Deserialize)]
struct Asked {
    #[serde(default)]
    format: Format,
    trick: Option<Trick>,
    /// The page that the trick is played on; without it, the answer to this very request.
    on: Option<u32>,
    /// Where the trick `redirect` leads.
    to: Option<String>,
    page: Option<u32>,
    cursor: Option<String>,
    api_key: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Trick {
    Html,
    Half,
    Redirect,
    Gone,
    Hang,
    Twice,
    Loop,
}

/// The number under which the list of links is counted.
const LIST: u32 = 0;

fn router(args: MockApiArgs) -> Router {
    let data = Data { seed: args.seed, pages: args.pages, records: args.records };
    let mock = Arc::new(Mock { args, data, stats: Stats::default() });
    Router::new()
        .route("/readings", get(list))
        .route("/readings/pages/{page}", get(linked))
        .route("/readings/next", get(next))
        .route("/readings/numbered", get(numbered))
        .layer(from_fn_with_state(Arc::clone(&mock), gate))
        .route("/stats", get(|State(mock): Shared| async move { Json(mock.stats.told()) }))
        .with_state(mock)
}

/// What stands before every answer: credentials, the rate, the wait.
async fn gate(State(mock): Shared, Query(asked): Query<Asked>, request: Request, next: Next) -> Response {
    let _under_way = mock.stats.begin();
    let response = if let Some(challenge) = mock.args.unmet(request.headers(), &asked) {
        (
            StatusCode::UNAUTHORIZED,
            [(WWW_AUTHENTICATE, challenge)],
            problem("credentials are missing or wrong"),
        )
            .into_response()
    } else if mock.args.limit_rate.is_some_and(|most| mock.stats.is_beyond(most)) {
        (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "1")], problem("too many requests")).into_response()
    } else {
        tokio::time::sleep(mock.args.wait()).await;
        next.run(request).await
    };
    mock.stats.answered(response.status());
    response
}

impl MockApiArgs {
    fn wait(&self) -> Duration {
        self.latency + self.jitter.mul_f64(rand::rng().random_range(0.0..=1.0))
    }

    /// The challenge, when a request does not show what is asked for.
    fn unmet(&self, headers: &HeaderMap, asked: &Asked) -> Option<&'static str> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let authorization = header(AUTHORIZATION.as_str());
        if let Some(login) = &self.basic {
            let expected = format!("Basic {}", BASE64_STANDARD.encode(login));
            return (authorization != Some(&expected)).then_some("Basic realm=\"mock\"");
        }
        if let Some(token) = &self.bearer {
            return (authorization != Some(&format!("Bearer {token}"))).then_some("Bearer");
        }
        let key = self.api_key.as_deref()?;
        let shown = header("x-api-key").or(asked.api_key.as_deref());
        (shown != Some(key)).then_some("ApiKey")
    }
}

async fn list(
    State(mock): Shared,
    Query(asked): Query<Asked>,
    query: RawQuery,
    headers: HeaderMap,
) -> Response {
    if asked.on.is_none()
        && let Some(answer) = mock.early(LIST, &asked).await
    {
        return answer;
    }
    let mut numbers: Vec<u32> = (1..=mock.args.pages).collect();
    if asked.trick == Some(Trick::Twice) {
        numbers.insert(numbers.len().min(1), 1);
    }
    let link = |page: u32| {
        let dropped: &[&str] = if asked.on == Some(page) { &["on"] } else { &["on", "trick", "to"] };
        link(&headers, &format!("/readings/pages/{page}"), None, &query, dropped)
    };
    let pages: Vec<_> = numbers.into_iter().map(link).collect();
    mock.stats.served(LIST);
    let body = json!({ "generated_at": "2026-01-01T12:00:00Z", "pages": pages }).to_string().into_bytes();
    let trick = asked.trick.filter(|_| asked.on.is_none());
    answer(body, Format::Json, trick, None)
}

async fn linked(State(mock): Shared, Path(page): Path<u32>, Query(asked): Query<Asked>) -> Response {
    if page == 0 || page > mock.args.pages {
        return (StatusCode::NOT_FOUND, problem(&format!("there is no page {page}"))).into_response();
    }
    mock.page(page, &asked, None).await
}

async fn numbered(State(mock): Shared, Query(asked): Query<Asked>) -> Response {
    match asked.page.unwrap_or(1) {
        0 => (StatusCode::BAD_REQUEST, problem("pages are numbered from 1")).into_response(),
        page => mock.page(page, &asked, None).await,
    }
}

async fn next(
    State(mock): Shared,
    Query(asked): Query<Asked>,
    query: RawQuery,
    headers: HeaderMap,
) -> Response {
    let cursor = asked.cursor.as_deref().unwrap_or("c1");
    let number = cursor.strip_prefix('c').and_then(|page| u32::from_str_radix(page, 16).ok());
    let Some(page) = number.filter(|page| (1..=mock.args.pages.max(1)).contains(page)) else {
        return (StatusCode::BAD_REQUEST, problem(&format!("there is no cursor `{cursor}`"))).into_response();
    };
    let following = match page + 1 {
        following if following <= mock.args.pages => Some(following),
        _ if asked.trick == Some(Trick::Loop) => Some(1),
        _ => None,
    };
    let to =
        |page: u32| link(&headers, "/readings/next", Some(&format!("cursor=c{page:x}")), &query, &["cursor"]);
    mock.page(page, &asked, Some(following.map(to))).await
}

impl Mock {
    /// A page as it is asked for; `next` is where another follows, in the style of next links.
    async fn page(&self, page: u32, asked: &Asked, next: Option<Option<String>>) -> Response {
        let tricked = asked.on.is_none_or(|on| on == page);
        // Numbers beyond the last count as one, so that the counts stay few.
        let counted = page.min(self.args.pages + 1);
        let plain = Asked::default();
        if let Some(answer) = self.early(counted, if tricked { asked } else { &plain }).await {
            return answer;
        }
        let told = next.as_ref().map(Option::as_deref);
        match self.data.page(page, asked.format, told) {
            Ok(body) => {
                self.stats.served(counted);
                answer(body, asked.format, asked.trick.filter(|_| tricked), next.flatten())
            }
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, problem(&error.to_string())).into_response(),
        }
    }

    /// An answer that has nothing to do with the data: a failure, or a trick.
    async fn early(&self, page: u32, asked: &Asked) -> Option<Response> {
        let fails = self.data.share(page) < self.args.fail;
        if fails && self.stats.failed(page) <= self.args.fail_times {
            return Some((StatusCode::INTERNAL_SERVER_ERROR, problem("out of order")).into_response());
        }
        let refused = |status: StatusCode, what: &str| Some((status, problem(what)).into_response());
        match asked.trick? {
            Trick::Gone => refused(StatusCode::NOT_FOUND, "gone"),
            Trick::Hang => std::future::pending().await,
            Trick::Redirect => match asked.to.as_deref().map(HeaderValue::from_str) {
                Some(Ok(to)) => Some((StatusCode::FOUND, [(LOCATION, to)]).into_response()),
                _ => refused(StatusCode::BAD_REQUEST, "`to` tells where the redirect leads"),
            },
            Trick::Html | Trick::Half | Trick::Twice | Trick::Loop => None,
        }
    }
}

/// The answer to a request that went well; two of the tricks look well, too.
fn answer(mut body: Vec<u8>, format: Format, trick: Option<Trick>, next: Option<String>) -> Response {
    let mut content_type = format.content_type();
    match trick {
        Some(Trick::Html) => {
            content_type = HeaderValue::from_static("text/html; charset=utf-8");
            body = b"<!doctype html>\n<title>Maintenance</title>\n<p>We will be back soon.</p>\n".to_vec();
        }
        Some(Trick::Half) => body.truncate(body.len() / 2),
        _ => {}
    }
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    if let Some(Ok(link)) = next.map(|url| HeaderValue::try_from(format!("<{url}>; rel=\"next\""))) {
        response.headers_mut().insert(LINK, link);
    }
    response
}

/// A link to `path` here, that carries what this request asked for.
fn link(headers: &HeaderMap, path: &str, extra: Option<&str>, query: &RawQuery, dropped: &[&str]) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("127.0.0.1");
    let parameters = query.0.iter().flat_map(|query| query.split('&'));
    let kept = parameters.filter(|parameter| {
        let name = parameter.split('=').next().unwrap_or_default();
        !name.is_empty() && name != "api_key" && !dropped.contains(&name)
    });
    let query = extra.into_iter().chain(kept).collect::<Vec<_>>().join("&");
    let mark = if query.is_empty() { "" } else { "?" };
    format!("http://{host}{path}{mark}{query}")
}

fn problem(title: &str) -> Json<serde_json::Value> {
    Json(json!({ "title": title }))
}
