//! URI parameters of caches.

use tvix_http::{SettingError, TransferSettings};

use crate::{BoxError, StoreUri};

/// Parameters of every cache.
const COMMON: [&str; 12] = [
    "compression",
    "compression-level",
    "priority",
    "secret-key",
    "secret-keys",
    "trusted",
    "want-mass-query",
    "write-nar-listing",
    "realisations",
    "http-connections",
    "decode-memory-limit",
    "allow-other-hosts",
];

/// Further parameters of caches in S3.
const S3: [&str; 6] = [
    "addressing-style",
    "endpoint",
    "profile",
    "region",
    "scheme",
    "storage-class",
];

/// Parameters of Nix that do not change the contents read or written. They are accepted and
/// ignored.
const WITHOUT_EFFECT: [&str; 11] = [
    "buffer-size",
    "local-nar-cache",
    "log-compression",
    "ls-compression",
    "multipart-chunk-size",
    "multipart-threshold",
    "multipart-upload",
    "narinfo-compression",
    "parallel-compression",
    "path-info-cache-size",
    "system-features",
];

/// Parameters of Nix that would change the contents read or written. They are not implemented, so
/// they are rejected.
const UNSUPPORTED: [&str; 4] = [
    "index-debug-info",
    "store",
    "tls-certificate",
    "tls-private-key",
];

/// Rejects unknown and unsupported parameters.
pub(super) fn check_cache(uri: &StoreUri) -> Result<(), BoxError> {
    for (name, _) in uri.parameters() {
        let known = COMMON.contains(&name)
            || TransferSettings::NAMES.contains(&name)
            || WITHOUT_EFFECT.contains(&name)
            || (uri.scheme() == "s3" && S3.contains(&name));
        if UNSUPPORTED.contains(&name) {
            return Err(format!("parameter '{name}' is not supported").into());
        }
        if !known {
            return Err(uri.unknown_parameter(name).into());
        }
    }
    Ok(())
}

/// A boolean, in the syntax of Nix settings.
pub(super) fn boolean(name: &str, value: &str) -> Result<bool, SettingError> {
    match value {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err(SettingError::invalid(name, value, "'true' or 'false'")),
    }
}
