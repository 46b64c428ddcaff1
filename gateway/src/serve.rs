//! Serving: accepts connections within a bound, and stops without dropping what is under way.
//!
//! HTTP/1.1 only: every wait of a connection has a limit here (headers, idle, write), which the negotiation
//! of a second protocol would not have. Proxies in front speak HTTP/2 to browsers and HTTP/1.1 to us.

mod idle;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::gateway::{Gateway, Shared};
use crate::metrics::Gauged;
use idle::WriteTimeout;

/// Most headers of a request; a browser behind two proxies sends about 30.
const HEADERS_MAX: usize = 100;

/// Buffer for one read of a connection, also the largest head of a request, in bytes.
const BUFFER_BYTES_MAX: usize = 128 * 1024;

/// Pause after an error of accept, such as too many open files, before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time for landings to take back what they wrote, once their connections were told to end.
const CLEAN_UP_MAX: Duration = Duration::from_secs(5);

/// Why serving ended badly.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// At the end of the grace, requests were still under way; they were broken off.
    #[error("{connections} connections were broken off after {grace:?} of grace")]
    BrokenOff {
        /// How many.
        connections: usize,
        /// How long they were waited for.
        grace: Duration,
    },
}

impl Gateway {
    /// Answers connections until `shutdown` is cancelled; then takes no more, lets requests end within the
    /// grace of the settings, breaks off the rest and waits until their landings have cleaned up.
    pub async fn serve(&self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
        let shared = &self.shared;
        let router = self.router();
        let places = Arc::new(Semaphore::new(shared.settings.connections_max));
        let mut connections = JoinSet::new();
        while let Some((stream, peer, place)) = accept(&listener, &places, &shutdown, &mut connections).await
        {
            let connection = Connection {
                shared: shared.clone(),
                router: router.clone(),
                peer,
                shutdown: shutdown.clone(),
                _place: place,
            };
            connections.spawn(connection.run(stream));
        }
        drop(listener);
        drain(shared, connections).await
    }
}

/// The next connection, `None` at shutdown. Reaps connections that ended while it waits.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    shutdown: &CancellationToken,
    connections: &mut JoinSet<()>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            let place = places.clone().acquire_owned().await.ok()?;
            match listener.accept().await {
                Ok((stream, peer)) => Some((stream, peer, place)),
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    None
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return None,
            accepted = next => if accepted.is_some() { return accepted },
        }
    }
}

async fn drain(shared: &Shared, mut connections: JoinSet<()>) -> Result<(), ServeError> {
    let grace = shared.settings.shutdown_grace;
    let ended = async { while connections.join_next().await.is_some() {} };
    let in_time = tokio::time::timeout(grace, ended).await.is_ok();
    shared.break_off.cancel();
    shared.landings.close();
    if tokio::time::timeout(CLEAN_UP_MAX, shared.landings.wait()).await.is_err() {
        tracing::warn!(landings = shared.landings.len(), "landings did not end; their objects will be swept");
    }
    let left = connections.len();
    connections.shutdown().await;
    if in_time { Ok(()) } else { Err(ServeError::BrokenOff { connections: left, grace }) }
}

struct Connection {
    shared: Shared,
    router: Router,
    peer: SocketAddr,
    shutdown: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        let _open = Gauged::new(&self.shared.metrics.connections);
        let _ = stream.set_nodelay(true);
        let settings = &self.shared.settings;
        let io = TokioIo::new(WriteTimeout::new(stream, settings.write_idle_timeout));
        let service = service_fn(|request: hyper::Request<Incoming>| {
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(self.peer));
            self.router.clone().oneshot(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(settings.header_read_timeout)
            .max_headers(HEADERS_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(io, service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer = %self.peer, %error, "a connection ended badly");
        }
    }
}
