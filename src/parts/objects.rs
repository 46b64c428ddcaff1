//! The object store of the settings: S3, or a folder.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::signer::Signer;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use reqwest::{Method, Url};

use super::durable::DurableFolder;
use crate::settings::{Objects, Secret};

/// Longest wait for a connection; a store that is there answers in milliseconds.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for one request, the transfer of its part included: 5 MiB on a slow line.
const REQUEST_MAX: Duration = Duration::from_secs(120);
/// How long one request is tried again. Short: the caller has a retry of its own, with the job put back.
const RETRY_MAX: Duration = Duration::from_secs(20);
/// Tries of one request within that time.
const RETRIES_MAX: usize = 6;

/// Opens the store of a URL. What the settings do not say comes from the machine's identity and `AWS_*`.
pub fn open(url: &str, settings: &Objects) -> Result<Arc<dyn ObjectStore>> {
    if let Some(path) = url.strip_prefix("file://") {
        return folder(Path::new(path));
    }
    let Some(place) = url.strip_prefix("s3://") else {
        bail!("object store `{url}` is neither s3:// nor file://");
    };
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let store = s3(bucket, settings).with_context(|| format!("failed to open bucket `{bucket}`"))?;
    match prefix.trim_matches('/') {
        "" => Ok(Arc::new(store)),
        prefix => Ok(Arc::new(PrefixStore::new(store, prefix))),
    }
}

/// What signs the URLs by which senders push to the store; `None` where it cannot, or shall not.
pub fn signer(url: &str, settings: &Objects) -> Result<Option<Arc<dyn Signer>>> {
    let Some(place) = url.strip_prefix("s3://").filter(|_| settings.presign) else {
        return Ok(None);
    };
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let mut settings = settings.clone();
    settings.endpoint = settings.public_endpoint.clone().or(settings.endpoint);
    let store = s3(bucket, &settings).with_context(|| format!("failed to open bucket `{bucket}`"))?;
    Ok(Some(Arc::new(PrefixSigner { store, prefix: prefix.trim_matches('/').into() })))
}

/// Signs for keys below a prefix, as [`PrefixStore`] stores them.
#[derive(Debug)]
struct PrefixSigner {
    store: AmazonS3,
    prefix: Key,
}

#[async_trait::async_trait]
impl Signer for PrefixSigner {
    async fn signed_url(&self, method: Method, key: &Key, expires_in: Duration) -> object_store::Result<Url> {
        let key: Key = self.prefix.parts().chain(key.parts()).collect();
        self.store.signed_url(method, &key, expires_in).await
    }
}

/// Opens a folder, made when it is missing.
pub fn folder(path: &Path) -> Result<Arc<dyn ObjectStore>> {
    let failed = || format!("failed to open object folder `{}`", path.display());
    std::fs::create_dir_all(path).with_context(failed)?;
    Ok(Arc::new(DurableFolder::open(path).with_context(failed)?))
}

/// The settings with their secrets, for the pipe to a process of this program.
pub fn exposed(url: &str, settings: &Objects) -> serde_json::Value {
    let secret = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned()).into();
    let mut told = serde_json::to_value(settings).unwrap_or_default();
    told["url"] = url.into();
    told["access_key"] = secret(&settings.access_key);
    told["secret_key"] = secret(&settings.secret_key);
    told
}

fn s3(bucket: &str, settings: &Objects) -> object_store::Result<AmazonS3> {
    let options = ClientOptions::new()
        .with_connect_timeout(CONNECT_MAX)
        .with_timeout(REQUEST_MAX)
        .with_allow_http(settings.allow_http);
    let retry =
        RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES_MAX, retry_timeout: RETRY_MAX };
    let mut builder =
        AmazonS3Builder::from_env().with_bucket_name(bucket).with_client_options(options).with_retry(retry);
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint).with_virtual_hosted_style_request(false);
    }
    if let Some(region) = &settings.region {
        builder = builder.with_region(region);
    }
    if let Some(key) = &settings.access_key {
        builder = builder.with_access_key_id(key.expose());
    }
    if let Some(key) = &settings.secret_key {
        builder = builder.with_secret_access_key(key.expose());
    }
    builder.build()
}
