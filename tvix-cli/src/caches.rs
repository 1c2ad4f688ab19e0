//! Stores of any kind that the command line names, and substituters.

use std::path::Path;
use std::sync::Arc;

use futures::future::join_all;
use nix_compat::signature::{SigningKey, VerifyingKey};
use nix_compat::store_path::StoreDir;
use tvix_store_api::cache::{BinaryCache, BinaryCacheOptions, Tuning};
use tvix_store_api::{Store, StoreError, StoreUri};

use crate::args::{Network, SubstituteArgs, TransferOptions};
use crate::error::{CliError, describe};
use crate::output::say;
use crate::stores;

/// What a store is opened for.
pub enum Access {
    /// To be read. Of a cache, only what one of these keys signed is taken, unless that is not
    /// checked.
    Read {
        keys: Vec<VerifyingKey>,
        check: bool,
    },
    /// To be added to. A cache that is none yet becomes one with this directory.
    Write { dir: StoreDir },
}

impl Access {
    /// To be read, by somebody who knows better what to believe.
    pub const ANYTHING: Self = Self::Read {
        keys: Vec::new(),
        check: false,
    };
}

/// The settings of transfers that were given. A parameter of the same name in the URI of a cache takes
/// precedence.
fn tuning(transfer: &TransferOptions) -> Tuning {
    let mut tuning = Tuning::default();
    for (name, value) in [
        ("connect-timeout", transfer.connect_timeout),
        (
            "stalled-download-timeout",
            transfer.stalled_download_timeout,
        ),
        ("download-attempts", transfer.download_attempts),
    ] {
        if let Some(value) = value {
            // The names are known, and any number is valid.
            let _ = tuning.set(name, &value.to_string());
        }
    }
    tuning
}

/// Opens a store of any kind, or the usual one. One on this file system that is only read may belong
/// to somebody else.
pub async fn open(
    uri: Option<StoreUri>,
    access: Access,
    network: Network<'_>,
) -> Result<Arc<dyn Store>, CliError> {
    let uri = uri.unwrap_or_else(stores::usual);
    match (uri.local_root(), &access) {
        (Some(_), Access::Read { .. }) => Ok(Arc::new(stores::open_to_read(Some(uri)).await?)),
        (Some(_), Access::Write { .. }) => Ok(Arc::new(stores::open(Some(uri)).await?)),
        (None, _) => Ok(Arc::new(open_cache(uri, access, network).await?)),
    }
}

pub async fn open_cache(
    uri: StoreUri,
    access: Access,
    network: Network<'_>,
) -> Result<BinaryCache, CliError> {
    let opened = async {
        if !matches!(uri.scheme(), "file" | "http" | "https" | "s3") {
            return Err(CliError::UnknownStore(uri.clone()));
        }
        let options = BinaryCacheOptions::new(uri.clone());
        let options = options.map_err(|source| CliError::CacheOption {
            uri: uri.clone(),
            source,
        })?;
        let options = options.netrc_file(network.netrc);
        let options = options.tuning(tuning(network.transfer));
        let options = match access {
            Access::Read { keys, check } => {
                let check = check && options.require_signatures;
                options.trusted_keys(keys).require_signatures(check)
            }
            Access::Write { dir } => options.require_signatures(false).create(dir),
        };
        let opened = BinaryCache::open(options).await;
        opened.map_err(|source| open_failed(&uri, source))
    };
    opened.await
}

fn open_failed(uri: &StoreUri, source: StoreError) -> CliError {
    if matches!(source, StoreError::Unreachable { .. }) {
        return CliError::store(source);
    }
    CliError::OpenStore {
        uri: uri.clone(),
        source: Box::new(source),
    }
}

/// The substituters that were asked for and answer, with their priorities. Of those that do not,
/// a warning tells: what they might have is had from others, or built.
pub async fn substituters(
    args: &SubstituteArgs,
    dir: &StoreDir,
    network: Network<'_>,
) -> Vec<(i32, Arc<dyn Store>)> {
    if args.no_substitute {
        return Vec::new();
    }
    let open = args.substituters.iter().map(|uri| {
        let access = Access::Read {
            keys: args.trusted_public_keys.clone(),
            check: !args.more.unsigned,
        };
        open_substituter(uri.clone(), access, network)
    });
    let mut opened = Vec::new();
    for (uri, substituter) in args.substituters.iter().zip(join_all(open).await) {
        match substituter {
            Ok((_, store)) if store.store_dir() != dir => {
                let other = store.store_dir();
                say!("warning: substituter '{uri}' is for '{other}', and is not used");
            }
            Ok(substituter) => opened.push(substituter),
            // It names the substituter, and says all there is to say.
            Err(CliError::Store(error)) => say!("warning: {error}"),
            Err(error) => {
                let why = describe(&error);
                say!("warning: substituter '{uri}' is not used: {why}");
            }
        }
    }
    opened
}

async fn open_substituter(
    uri: StoreUri,
    access: Access,
    network: Network<'_>,
) -> Result<(i32, Arc<dyn Store>), CliError> {
    if uri.local_root().is_some() {
        // One on this file system costs nothing to ask.
        return Ok((0, open(Some(uri), access, network).await?));
    }
    let cache = open_cache(uri, access, network).await?;
    Ok((cache.info().priority, Arc::new(cache)))
}

/// Reads a secret key, as `nix-store --generate-binary-cache-key` writes it.
pub fn read_key(file: &Path) -> Result<SigningKey, CliError> {
    let failed = |source: tvix_store_api::BoxError| CliError::Key {
        file: file.to_owned(),
        source,
    };
    let text = std::fs::read_to_string(file).map_err(|error| failed(error.into()))?;
    text.trim()
        .parse()
        .map_err(|error: nix_compat::signature::SignatureError| failed(error.into()))
}
