//! Certificate authorities that TLS servers are verified with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;

use super::HttpError;

/// Where the trusted certificate authorities come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Roots {
    /// The file that `NIX_SSL_CERT_FILE` names, else the file that `SSL_CERT_FILE` names, else those
    /// of the system.
    #[default]
    System,
    /// The PEM certificates in a file.
    File(PathBuf),
    /// None: connections over TLS fail.
    None,
}

/// The file with the certificate authorities that [`Roots::System`] names, if there is one.
pub fn roots_file() -> Option<PathBuf> {
    let named = ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"]
        .into_iter()
        .filter_map(std::env::var_os)
        .map(PathBuf::from);
    let usual = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/ssl/certs/ca-bundle.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/nix/var/nix/profiles/default/etc/ssl/certs/ca-bundle.crt",
    ];
    let mut files = named.chain(usual.map(PathBuf::from));
    files.find(|file| file.is_file())
}

impl Roots {
    /// Certificates that cannot be parsed are skipped: the others still verify servers.
    fn load(&self) -> Result<Vec<CertificateDer<'static>>, HttpError> {
        let named = |file: &Path| rustls_native_certs::load_certs_from_paths(Some(file), None);
        let found = match self {
            Self::None => return Ok(Vec::new()),
            Self::File(file) => {
                // Unlike a file of the environment, this one was asked for.
                std::fs::metadata(file).map_err(|source| HttpError::Roots {
                    file: file.clone(),
                    source,
                })?;
                named(file)
            }
            Self::System => {
                let own = std::env::var_os("NIX_SSL_CERT_FILE").filter(|file| !file.is_empty());
                match own {
                    Some(file) => named(Path::new(&file)),
                    // It knows SSL_CERT_FILE.
                    None => rustls_native_certs::load_native_certs(),
                }
            }
        };
        Ok(found.certs)
    }
}

pub(super) fn config(roots: &Roots) -> Result<rustls::ClientConfig, HttpError> {
    let mut store = rustls::RootCertStore::empty();
    store.add_parsable_certificates(roots.load()?);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(HttpError::setup)?
        .with_root_certificates(store)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}
