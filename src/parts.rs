//! The parts of an installation, made from its settings: databases, broker, object store, mail.
//!
//! Each part is the server that the settings name, or the embedded one in the folder `data`. Roles,
//! commands and `doctor` all get their parts here, so they cannot differ.

mod durable;
mod ledger;
mod mail;
mod objects;
mod wait;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use object_store::ObjectStore;
use object_store::signer::Signer;
use tidemill_gateway::GatewaySettings;
use tidemill_ingest::{FetchMetrics, Fetcher, FetcherParts, Landing, LandingLimits};
use tidemill_jobs::{EmbeddedLog, EventLog, JobStore, KafkaLog, KafkaSettings, Settler, StoreLimits};
use tidemill_pipelines::PipelineSet;
use tidemill_processor::ProcessorLimits;
use tidemill_query::{Places, QueryLimits, Workers};
use tidemill_sinks::notice::{Allow, Notifiers};
use tidemill_sinks::{Lake, Sink, SinkLimits, Sinks};

use crate::folder;
use crate::settings::{Secret, Settings};
use ledger::LateLedger;

/// Makes parts from settings.
#[derive(Clone)]
pub struct Parts {
    settings: Arc<Settings>,
}

impl Parts {
    /// Connects to nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings) }
    }

    /// The settings they are made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The pipelines of the folder.
    pub fn pipelines(&self) -> Result<Arc<PipelineSet>> {
        Ok(Arc::new(folder::read(&self.settings.pipelines)?))
    }

    /// The job store, connected.
    pub async fn jobs(&self) -> Result<JobStore> {
        let url = self.database_url()?;
        let processor = &self.settings.processor;
        let limits = StoreLimits {
            connections: self.settings.database.connections,
            job_limit: processor.job_limit.get(),
            lease: processor.lease.get(),
            retries_max: processor.retries_max,
            ..StoreLimits::default()
        };
        let wait = self.settings.connect_wait.get();
        let connect = || JobStore::connect(url.expose(), limits.clone());
        wait::until_answers("the job database", wait, connect, |error| error.retry())
            .await
            .with_context(|| format!("no job database at {}", redacted(&url)))
    }

    /// Brings the schema of the job database up to date; waits while it takes no writes.
    pub async fn migrate_jobs(&self, jobs: &JobStore) -> Result<()> {
        let wait = self.settings.connect_wait.get();
        Ok(wait::until_answers("the job database", wait, || jobs.migrate(), |error| error.retry()).await?)
    }

    /// Makes what a sink lacks; waits while its database takes no writes.
    pub async fn migrate_tables(&self, sink: &Arc<dyn Sink>) -> Result<()> {
        let wait = self.settings.connect_wait.get();
        let migrate = || sink.migrate();
        Ok(wait::until_answers("the database of the tables", wait, migrate, |error| error.retry()).await?)
    }

    /// The sinks: the database of the tables, connected, and the lake, where an object store is named.
    pub async fn sink(&self) -> Result<Arc<dyn Sink>> {
        let has_objects = self.settings.objects.url.is_some() || self.settings.data.is_some();
        let lake = if has_objects { Some(Lake::new(self.objects()?)) } else { None };
        Ok(Arc::new(Sinks::new(self.tables().await?, lake)))
    }

    /// What ends jobs by the ledger; connects to the tables when it is first used.
    pub fn settler(&self, jobs: &JobStore) -> Settler {
        Settler::new(jobs.clone(), Arc::new(LateLedger::new(self.clone())))
    }

    async fn tables(&self) -> Result<Arc<dyn Sink>> {
        let url = self.tables_url()?;
        let limits = SinkLimits {
            connections_max: self.settings.tables.connections as usize,
            lock_wait_seconds: self.settings.tables.lock_wait.get().as_secs(),
            local_infile: self.settings.tables.local_infile,
            ..SinkLimits::default()
        };
        let wait = self.settings.connect_wait.get();
        let connect = || tidemill_sinks::connect(url.expose(), limits.clone());
        wait::until_answers("the database of the tables", wait, connect, |error| error.retry())
            .await
            .with_context(|| format!("no database of tables at {}", redacted(&url)))
    }

    /// The event log, reached once.
    pub async fn log(&self) -> Result<Arc<dyn EventLog>> {
        let log = self.log_unasked().await?;
        let wait = self.settings.connect_wait.get();
        wait::until_answers("the broker", wait, || log.ping(), |error| error.retry())
            .await
            .with_context(|| format!("no broker at {}", self.broker_place()))?;
        Ok(log)
    }

    /// The event log, not asked whether it answers.
    async fn log_unasked(&self) -> Result<Arc<dyn EventLog>> {
        let broker = &self.settings.broker;
        if let Some(servers) = &broker.servers {
            let client = broker.client.iter().map(|(key, value)| (key.clone(), value.expose().to_owned()));
            let settings = KafkaSettings {
                bootstrap_servers: servers.clone(),
                topic_prefix: broker.topic_prefix.clone(),
                partitions: i32::try_from(broker.partitions)?,
                replication: i32::try_from(broker.replication)?,
                client: client.collect::<BTreeMap<_, _>>(),
                ..KafkaSettings::default()
            };
            return Ok(Arc::new(KafkaLog::new(settings)?));
        }
        let path = self.embedded("no broker", "servers", "broker")?.join("events.db");
        Ok(Arc::new(EmbeddedLog::open(&path, i32::try_from(broker.partitions)?).await?))
    }

    /// The object store; it connects when it is used.
    pub fn objects(&self) -> Result<Arc<dyn ObjectStore>> {
        if let Some(url) = &self.settings.objects.url {
            return objects::open(url, &self.settings.objects);
        }
        objects::folder(&self.embedded("no object store", "url", "objects")?.join("objects"))
    }

    /// What fetches the pages of APIs.
    pub fn fetcher(
        &self,
        pipelines: &PipelineSet,
        jobs: &JobStore,
        objects: &Arc<dyn ObjectStore>,
        metrics: FetchMetrics,
    ) -> Result<Fetcher> {
        let settings = &self.settings.fetcher;
        let cidrs = settings.allow.iter().map(|block| block.parse()).collect::<Result<Vec<_>, _>>()?;
        let secrets = settings.secrets.iter().map(|(name, secret)| (name.clone(), secret.to_secrecy()));
        Ok(Fetcher::new(FetcherParts {
            landing: Landing::new(Arc::clone(objects), jobs.clone(), LandingLimits::default()),
            jobs: jobs.clone(),
            pipelines,
            allow: Allow { cidrs },
            secrets: secrets.collect(),
            run_limit: settings.run_limit.get(),
            metrics,
        })?)
    }

    /// What signs URLs of the object store for senders, where it can.
    pub fn signer(&self) -> Result<Option<Arc<dyn Signer>>> {
        match &self.settings.objects.url {
            Some(url) => objects::signer(url, &self.settings.objects),
            None => Ok(None),
        }
    }

    /// Mail and webhooks.
    pub fn notifiers(&self) -> Result<Notifiers> {
        let notifier = &self.settings.notifier;
        let outbox = match (&notifier.smtp.host, &notifier.outbox) {
            (Some(_), _) => None,
            (None, Some(outbox)) => Some(outbox.clone()),
            (None, None) => Some(self.embedded("no mail server", "host", "notifier.smtp")?.join("outbox")),
        };
        mail::notifiers(notifier, outbox)
    }

    /// Whether a database of tables is named, or embedded in a folder.
    pub fn has_tables(&self) -> bool {
        let settings = &self.settings;
        settings.tables.url.is_some() || settings.database.url.is_some() || settings.data.is_some()
    }

    /// Bounds of the processor.
    pub fn processor_limits(&self) -> ProcessorLimits {
        let processor = &self.settings.processor;
        ProcessorLimits {
            concurrency: processor.concurrency as usize,
            memory_bytes: processor.memory.len(),
            spill_dir: processor.spill_dir.clone(),
            lease: processor.lease.get(),
            drain_grace: processor.drain.get(),
            batch_rows: processor.batch_rows as usize,
            record_bytes_max: processor.record_max.len(),
            document_bytes_max: processor.document_max.len(),
            raw_bytes_max: processor.raw_max.len(),
            lookup_rows_max: usize::try_from(processor.lookup_rows_max).unwrap_or(usize::MAX),
            ..ProcessorLimits::default()
        }
    }

    /// Answers SQL over the results; starts nothing yet.
    pub fn workers(&self) -> Result<Workers> {
        let query = &self.settings.query;
        let limits = QueryLimits {
            timeout: query.timeout.get(),
            memory_bytes: query.memory.bytes(),
            statements_max: query.statements_max as usize,
            statements_per_user_max: query.statements_per_user_max as usize,
            queue_wait: query.queue_wait.get(),
            warm: query.warm as usize,
            threads: query.threads as usize,
        };
        let tables = match &query.tables_url {
            Some(url) => url.clone(),
            None => self.tables_url()?,
        };
        let (settings, data) = (&self.settings, self.settings.data.as_deref());
        let embedded = |name: &str| Some(std::path::absolute(data?.join(name)).ok()?.display().to_string());
        let jobs = settings.database.url.as_ref().map(|url| url.expose().to_owned());
        let jobs = jobs.or_else(|| Some(format!("sqlite:{}", embedded("tidemill.db")?)));
        let objects = settings.objects.url.clone();
        let objects = objects.or_else(|| Some(format!("file://{}", embedded("objects")?)));
        let objects = objects.map(|url| objects::exposed(&url, &settings.objects));
        let places = Places { tables: tables.expose().to_owned(), jobs, objects };
        let program = std::env::current_exe().context("failed to find this program's own file")?;
        Ok(Workers::new(program, places, limits)?)
    }

    /// Settings of the gateway, with the secret of its tokens.
    pub fn gateway_settings(&self, jwt_secret: &Secret) -> GatewaySettings {
        let gateway = &self.settings.gateway;
        GatewaySettings {
            token_lifetime: gateway.token_lifetime.get(),
            connections_max: gateway.connections_max as usize,
            uploads_max: gateway.uploads_max as usize,
            request_timeout: gateway.request_timeout.get(),
            upload_idle_timeout: gateway.upload_idle.get(),
            shutdown_grace: gateway.drain.get(),
            ..GatewaySettings::new(jwt_secret.to_secrecy())
        }
    }

    /// How people reach the gateway; links of notices begin with it.
    pub fn public_url(&self) -> String {
        let gateway = &self.settings.gateway;
        match &gateway.public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", gateway.listen),
        }
    }

    /// Where the job database is, without its password.
    pub fn database_place(&self) -> String {
        self.database_url().map_or_else(|error| error.to_string(), |url| redacted(&url))
    }

    /// Where the tables are, without the password.
    pub fn tables_place(&self) -> String {
        self.tables_url().map_or_else(|error| error.to_string(), |url| redacted(&url))
    }

    /// Where the broker is.
    pub fn broker_place(&self) -> String {
        match (&self.settings.broker.servers, &self.settings.data) {
            (Some(servers), _) => servers.clone(),
            (None, Some(data)) => data.join("events.db").display().to_string(),
            (None, None) => "nowhere".to_owned(),
        }
    }

    /// Where objects are.
    pub fn objects_place(&self) -> String {
        match (&self.settings.objects.url, &self.settings.data) {
            (Some(url), _) => url.clone(),
            (None, Some(data)) => data.join("objects").display().to_string(),
            (None, None) => "nowhere".to_owned(),
        }
    }

    /// Where mail goes.
    pub fn mail_place(&self) -> String {
        let notifier = &self.settings.notifier;
        match (&notifier.smtp.host, &notifier.outbox, &self.settings.data) {
            (Some(host), _, _) => format!("{host}:{}", mail::port(&notifier.smtp)),
            (None, Some(outbox), _) => outbox.display().to_string(),
            (None, None, Some(data)) => data.join("outbox").display().to_string(),
            (None, None, None) => "nowhere".to_owned(),
        }
    }

    fn database_url(&self) -> Result<Secret> {
        if let Some(url) = &self.settings.database.url {
            return Ok(url.clone());
        }
        sqlite_url(&self.embedded("no job database", "url", "database")?.join("tidemill.db"))
    }

    fn tables_url(&self) -> Result<Secret> {
        if let Some(url) = self.settings.tables.url.as_ref().or(self.settings.database.url.as_ref()) {
            return Ok(url.clone());
        }
        let path = self.embedded("no database of tables", "url", "tables")?.join("tables.db");
        Ok(Secret::new(format!("sqlite:{}", std::path::absolute(path)?.display())))
    }

    /// The folder of the embedded parts, made when it is missing.
    fn embedded(&self, missing: &str, key: &str, section: &str) -> Result<PathBuf> {
        let Some(data) = &self.settings.data else {
            bail!(
                "{missing} is named: write {key} = … under [{section}] in tidemill.toml, or give --data DIR"
            );
        };
        std::fs::create_dir_all(data)
            .with_context(|| format!("failed to make folder `{}`", data.display()))?;
        Ok(data.clone())
    }
}

/// A path as a URL of sqlx, which takes `?` for its options and undoes `%`.
fn sqlite_url(path: &Path) -> Result<Secret> {
    let path = std::path::absolute(path)?.display().to_string();
    Ok(Secret::new(format!("sqlite://{}", path.replace('%', "%25").replace('?', "%3F").replace('#', "%23"))))
}

/// A URL without user and password.
fn redacted(url: &Secret) -> String {
    let text = url.expose();
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    // Options may carry secrets too.
    format!("{scheme}://{}", place.split('?').next().unwrap_or(place))
}

/// Longest wait of a command for a part: a person sits before it.
pub const COMMAND_WAIT: Duration = Duration::from_secs(5);

/// Opens the object store that [`Parts::workers`] told a query worker of.
pub fn open_objects(settings: &serde_json::Value) -> Result<Arc<dyn ObjectStore>, String> {
    let open = || {
        let settings = serde_json::from_value::<crate::settings::Objects>(settings.clone())?;
        objects::open(settings.url.as_deref().unwrap_or_default(), &settings)
    };
    open().map_err(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_never_shows_the_password() {
        for (url, place) in [
            ("mysql://u:p@ss@host:3306/d?ssl=p", "mysql://host:3306/d"),
            ("mysql://host/d", "mysql://host/d"),
            ("sqlite:///a/b.db", "sqlite:///a/b.db"),
            ("sqlite:/a/b.db", "sqlite:/a/b.db"),
        ] {
            assert_eq!(redacted(&Secret::new(url)), place);
        }
    }
}
