//! Opening stores of any kind, and substituters.

use std::path::Path;
use std::sync::Arc;

use futures::future::join_all;
use nix_compat::signature::{SigningKey, VerifyingKey};
use nix_compat::store_path::StoreDir;
use tvix_store_api::cache::{BinaryCache, Tuning};
use tvix_store_api::{OpenOptions, OpenedStore, Store, StoreUri};

use crate::args::{Network, SubstituteArgs, TransferOptions};
use crate::error::CliError;
use crate::output::say;
use crate::stores;

/// The purpose of opening a store.
pub enum Access {
    /// Reading. With `check`, paths of a cache must be signed by one of the keys.
    Read {
        keys: Vec<VerifyingKey>,
        check: bool,
    },
    /// Adding paths. A cache that does not exist is created with this store directory.
    Write { dir: StoreDir },
}

impl Access {
    /// Reading without signatures, for callers that verify contents otherwise.
    pub const ANYTHING: Self = Self::Read {
        keys: Vec::new(),
        check: false,
    };
}

/// The settings of transfers that were given. A parameter of the same name in the URI of a cache takes
/// precedence.
fn tuning(transfer: &TransferOptions) -> Tuning {
    let mut tuning = Tuning::default();
    tuning.transfer = transfer.settings();
    tuning
}

/// Opens a store of any kind; without a URI the default one. A local store that is only read may belong to another
/// user.
pub async fn open(
    uri: Option<StoreUri>,
    access: Access,
    network: Network<'_>,
) -> Result<Arc<dyn Store>, CliError> {
    let uri = uri.unwrap_or_else(stores::usual);
    match (uri.local_root(), &access) {
        (Some(_), Access::Read { .. }) => Ok(Arc::new(stores::open_to_read(Some(uri)).await?)),
        (Some(_), Access::Write { .. }) => Ok(Arc::new(stores::open(Some(uri)).await?)),
        (None, _) => open_remote(uri, access, network).await,
    }
}

/// Opens a store that is not on this file system: a daemon, or a cache.
pub async fn open_remote(
    uri: StoreUri,
    access: Access,
    network: Network<'_>,
) -> Result<Arc<dyn Store>, CliError> {
    if !matches!(uri.scheme(), "daemon" | "unix" | "ssh-ng") {
        return Ok(Arc::new(open_cache(uri, access, network).await?));
    }
    let options = OpenOptions::new().with_ssh_arguments(ssh_arguments());
    Ok(tvix_store_api::open(&uri, options).await?)
}

/// The options of `ssh`, which come from the environment, as for Nix.
pub fn ssh_arguments() -> Vec<String> {
    let arguments = std::env::var("NIX_SSHOPTS").unwrap_or_default();
    arguments.split_whitespace().map(str::to_owned).collect()
}

pub async fn open_cache(
    uri: StoreUri,
    access: Access,
    network: Network<'_>,
) -> Result<BinaryCache, CliError> {
    let options = OpenOptions::new()
        .with_netrc_file(network.netrc)
        .with_tuning(tuning(network.transfer));
    let options = match access {
        Access::Read { keys, check } => options.with_trusted_keys(keys).with_allow_unsigned(!check),
        Access::Write { dir } => options
            .with_allow_unsigned(true)
            .with_create(true)
            .with_store_dir(dir),
    };
    match tvix_store_api::open_kind(&uri, options).await? {
        OpenedStore::BinaryCache(cache) => Ok(cache),
        _ => Err(CliError::UnsupportedStore(uri)),
    }
}

/// The requested substituters that can be opened, with their priorities. Each of the others causes a warning;
/// its paths are fetched from another one, or built.
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
                say!("warning: substituter '{uri}' is not used: its store directory is '{other}'");
            }
            Ok(substituter) => opened.push(substituter),
            // It names the substituter.
            Err(CliError::Store(error)) => say!("warning: {error}"),
            Err(error) => {
                let why = error.about_store();
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
