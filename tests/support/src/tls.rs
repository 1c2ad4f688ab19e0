//! TLS for servers of tests.

use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
pub use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A server's configuration with a new self-signed certificate for `localhost`, and the certificate
/// in PEM, for clients that should trust it.
pub fn self_signed() -> (Arc<ServerConfig>, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (Arc::new(config), made.cert.pem())
}
