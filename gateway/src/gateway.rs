//! The gateway and its parts, and what its handlers share.

use std::sync::Arc;

use axum::Router;
use object_store::ObjectStore;
use object_store::signer::Signer;
use prometheus::Registry;
use tidemill_ingest::Landing;
use tidemill_jobs::{JobStore, Settler};
use tidemill_pipelines::PipelineSet;
use tidemill_query::Workers;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fair::FairPermits;
use crate::health::{Readiness, ReadinessCheck};
use crate::login::LoginLimit;
use crate::metrics::Metrics;
use crate::settings::GatewaySettings;
use crate::tokens::Tokens;
use crate::users::Users;

/// Why a gateway cannot be made of its parts.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The secret of the tokens is too short.
    #[error("the secret of the tokens has {bytes} bytes, but needs at least {bytes_min}")]
    ShortSecret {
        /// What it has.
        bytes: usize,
        /// What it needs.
        bytes_min: usize,
    },
    /// The registry has metrics of these names already.
    #[error("failed to register the metrics of the gateway")]
    Metrics(#[from] prometheus::Error),
}

/// What a gateway is made of.
pub struct GatewayParts {
    /// The pipelines that may be sent to.
    pub pipelines: Arc<PipelineSet>,
    /// The job store.
    pub jobs: JobStore,
    /// Ends jobs, for cancel and retry.
    pub settler: Settler,
    /// Where uploads land.
    pub landing: Landing,
    /// Where rejects and artifacts are read from.
    pub objects: Arc<dyn ObjectStore>,
    /// Signs URLs by which senders push to the object store; without it they push through the gateway.
    pub signer: Option<Arc<dyn Signer>>,
    /// Who may log in.
    pub users: Users,
    /// Answers SQL.
    pub query: Workers,
    /// What `/readyz` asks, each part once.
    pub readiness: Vec<ReadinessCheck>,
    /// Gets the gateway's metrics; `/metrics` shows all that is in it.
    pub registry: Registry,
    /// Limits.
    pub settings: GatewaySettings,
}

/// The HTTP surface, ready to serve.
pub struct Gateway {
    pub(crate) shared: Shared,
}

impl Gateway {
    /// Checks the settings and registers the metrics.
    pub fn new(parts: GatewayParts) -> Result<Self, SetupError> {
        let state = State {
            tokens: Tokens::new(&parts.settings)?,
            metrics: Metrics::register(&parts.registry)?,
            readiness: Readiness::new(parts.readiness),
            login_limit: LoginLimit::new(parts.settings.logins_per_minute),
            uploads: FairPermits::new(parts.settings.uploads_max),
            waiters: Arc::new(Semaphore::new(parts.settings.waiters_max)),
            landings: TaskTracker::new(),
            break_off: CancellationToken::new(),
            pipelines: parts.pipelines,
            jobs: parts.jobs,
            settler: parts.settler,
            landing: parts.landing,
            objects: parts.objects,
            signer: parts.signer,
            users: parts.users,
            query: parts.query,
            registry: parts.registry,
            settings: parts.settings,
        };
        Ok(Self { shared: Arc::new(state) })
    }

    /// Every route, with its layers.
    pub fn router(&self) -> Router {
        crate::routes::router(self.shared.clone())
    }
}

/// What handlers share.
pub(crate) type Shared = Arc<State>;

pub(crate) struct State {
    pub(crate) pipelines: Arc<PipelineSet>,
    pub(crate) jobs: JobStore,
    pub(crate) settler: Settler,
    pub(crate) landing: Landing,
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) signer: Option<Arc<dyn Signer>>,
    pub(crate) users: Users,
    pub(crate) query: Workers,
    pub(crate) tokens: Tokens,
    pub(crate) metrics: Metrics,
    pub(crate) registry: Registry,
    pub(crate) readiness: Readiness,
    pub(crate) login_limit: LoginLimit,
    /// Permits for uploads.
    pub(crate) uploads: FairPermits,
    /// Places for requests that wait for a job to change.
    pub(crate) waiters: Arc<Semaphore>,
    /// Landings run in tasks of their own, so that a connection that goes away cannot stop one half-way
    /// through cleaning up; shutdown waits for them.
    pub(crate) landings: TaskTracker,
    /// Cancelled when the grace of a shutdown is over, before connections are dropped: a landing must not
    /// take the end of a dropped connection for the end of a body.
    pub(crate) break_off: CancellationToken,
    pub(crate) settings: GatewaySettings,
}
