//! The certificate of the Postgres wire.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::WireError;

/// Reads certificate and key, once at start.
pub(super) fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, WireError> {
    let read = || -> Result<ServerConfig, Box<dyn std::error::Error>> {
        let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
        let private = PrivateKeyDer::from_pem_file(key)?;
        let versions = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = versions.with_safe_default_protocol_versions()?.with_no_client_auth();
        Ok(builder.with_single_cert(chain, private)?)
    };
    let config = read().map_err(|error| WireError::Tls {
        certificate: certificate.display().to_string(),
        key: key.display().to_string(),
        why: error.to_string(),
    })?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
