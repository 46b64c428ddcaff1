//! A small API: pages by links, by next link, by number, and tricks. It counts who asked for what.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How the API answers a path; `None` is 404.
type Answer = dyn Fn(&Asked) -> Option<Response> + Send + Sync;

/// One request.
pub struct Asked {
    /// Path and query.
    pub target: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// How often this target was asked for, this time included.
    pub times: usize,
    /// `http://127.0.0.1:port`.
    pub base: String,
}

impl Asked {
    /// The number at the end of the path, or of a parameter.
    pub fn number(&self) -> u64 {
        self.target.rsplit(['/', '=']).next().unwrap().parse().unwrap_or(0)
    }
}

/// A running API.
pub struct Api {
    pub base: String,
    hits: Arc<Mutex<HashMap<String, usize>>>,
    arrivals: Arc<Mutex<Vec<Instant>>>,
    server: JoinHandle<()>,
}

struct Shared {
    base: String,
    hits: Arc<Mutex<HashMap<String, usize>>>,
    arrivals: Arc<Mutex<Vec<Instant>>>,
    latency: Duration,
    answer: Box<Answer>,
}

impl Api {
    pub async fn start(answer: impl Fn(&Asked) -> Option<Response> + Send + Sync + 'static) -> Self {
        Self::slow(Duration::ZERO, answer).await
    }

    pub async fn slow(
        latency: Duration,
        answer: impl Fn(&Asked) -> Option<Response> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (hits, arrivals) = (Arc::default(), Arc::default());
        let shared = Shared {
            base: base.clone(),
            hits: Arc::clone(&hits),
            arrivals: Arc::clone(&arrivals),
            latency,
            answer: Box::new(answer),
        };
        let router = Router::new().fallback(serve).with_state(Arc::new(shared));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { base, hits, arrivals, server }
    }

    /// How often a target was asked for.
    pub fn hits(&self, target: &str) -> usize {
        self.hits.lock().unwrap().get(target).copied().unwrap_or(0)
    }

    /// When requests came, from the first to the last.
    pub fn arrivals(&self) -> Vec<Instant> {
        self.arrivals.lock().unwrap().clone()
    }

    /// How often each target was asked for.
    pub fn all_hits(&self) -> HashMap<String, usize> {
        self.hits.lock().unwrap().clone()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(State(shared): State<Arc<Shared>>, uri: Uri, request: Request<Body>) -> Response {
    let target = uri.path_and_query().unwrap().to_string();
    shared.arrivals.lock().unwrap().push(Instant::now());
    let times = {
        let mut hits = shared.hits.lock().unwrap();
        let times = hits.entry(target.clone()).or_default();
        *times += 1;
        *times
    };
    tokio::time::sleep(shared.latency).await;
    let asked = Asked { target, headers: request.headers().clone(), times, base: shared.base.clone() };
    (shared.answer)(&asked).unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
}

/// A page of CSV with one record.
pub fn csv(number: u64) -> Option<Response> {
    Some(([("content-type", "text/csv")], format!("id\n{number}\n")).into_response())
}

/// JSON.
pub fn json(text: String) -> Option<Response> {
    Some(([("content-type", "application/json")], text).into_response())
}

/// The first answer: links to so many pages.
pub fn index(asked: &Asked, pages: u64) -> Option<Response> {
    let links: Vec<String> = (0..pages).map(|number| format!("\"{}/pages/{number}\"", asked.base)).collect();
    json(format!("{{\"pages\": [{}]}}", links.join(", ")))
}
