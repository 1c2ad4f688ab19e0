//! Opening stores of any kind, and substituters.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::join_all;
use nix_compat::signature::{SigningKey, VerifyingKey};
use nix_compat::store_path::StoreDir;
use tvix_store_api::cache::{BinaryCache, BinaryCacheOptions, DiskCache, Tuning};
use tvix_store_api::{OpenOptions, OpenedStore, Store, StoreUri};

use crate::args::{BuildingArgs, DEFAULT_SUBSTITUTER, Network, SubstituteArgs, TransferOptions};
use crate::default_store::directory_of_user;
use crate::error::CliError;
use crate::lazy_substituter::LazySubstituter;
use crate::output::say;
use crate::{default_store, stores};

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
    if let Some(connections) = transfer.connections {
        // Any number is valid.
        let _ = tuning.set("http-connections", &connections.to_string());
    }
    tuning
}

/// Opens a store of any kind; without a URI the default one. A local store that is only read may belong to another
/// user.
pub async fn open(
    uri: Option<StoreUri>,
    access: Access,
    network: Network<'_>,
) -> Result<Arc<dyn Store>, CliError> {
    let uri = default_store::resolve(uri)?;
    match &access {
        _ if !stores::is_main(&uri) => Ok(Arc::new(open_cache(uri, access, network).await?)),
        Access::Read { .. } => Ok(stores::open_to_read(Some(uri)).await?.any()),
        Access::Write { .. } => Ok(stores::open(Some(uri)).await?.any()),
    }
}

pub async fn open_cache(
    uri: StoreUri,
    access: Access,
    network: Network<'_>,
) -> Result<BinaryCache, CliError> {
    open_with(uri, cache_options(access, network)).await
}

fn cache_options(access: Access, network: Network<'_>) -> OpenOptions {
    let options = OpenOptions::new()
        .with_netrc_file(network.netrc)
        .with_tuning(tuning(network.transfer));
    match access {
        Access::Read { keys, check } => options.with_trusted_keys(keys).with_allow_unsigned(!check),
        Access::Write { dir } => options
            .with_allow_unsigned(true)
            .with_create(true)
            .with_store_dir(dir),
    }
}

async fn open_with(uri: StoreUri, options: OpenOptions) -> Result<BinaryCache, CliError> {
    match tvix_store_api::open_kind(&uri, options).await? {
        OpenedStore::BinaryCache(cache) => Ok(cache),
        _ => Err(CliError::UnsupportedStore(uri)),
    }
}

/// Opened substituters, with their priorities.
pub type Substituters = Vec<(i32, Arc<dyn Store>)>;

/// The requested substituters of a store that can be opened, with their priorities. Each of the others causes a
/// warning; its paths are fetched from another one, or built. For a store of the user's own, the system's store is
/// one, which is trusted.
pub async fn substituters(building: &BuildingArgs, store: &dyn Store) -> Substituters {
    let system = default_store::system_store().filter(|_| default_store::is_own(store.uri()));
    substituters_and(system, building, store.store_dir()).await
}

/// The requested substituters alone, for paths in `dir`.
pub async fn requested_substituters(building: &BuildingArgs, dir: &StoreDir) -> Substituters {
    substituters_and(None, building, dir).await
}

async fn substituters_and(
    system: Option<StoreUri>,
    building: &BuildingArgs,
    dir: &StoreDir,
) -> Substituters {
    let args = &building.substitute;
    if args.no_substitute {
        return Vec::new();
    }
    let system = system.filter(|system| !args.substituters.contains(system));
    let (default, others): (Vec<_>, Vec<_>) =
        args.substituters.iter().partition(|uri| is_default(uri));
    let uris: Vec<_> = system.iter().chain(others).collect();
    let open = uris.iter().map(|&uri| {
        let access = Access::Read {
            keys: args.trusted_public_keys.clone(),
            check: !args.more.unsigned,
        };
        open_substituter(uri.clone(), access, building)
    });
    let mut opened = Vec::new();
    // It has nothing for another store directory.
    if let Some(uri) = default.first().filter(|_| *dir == StoreDir::default()) {
        match default_substituter(building, uri) {
            Ok(cache) => opened.push((DEFAULT_PRIORITY, Arc::new(cache) as Arc<dyn Store>)),
            Err(error) => say!("warning: substituter '{uri}' is not used: {error}"),
        }
    }
    for (uri, substituter) in uris.iter().zip(join_all(open).await) {
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
    building: &BuildingArgs,
) -> Result<(i32, Arc<dyn Store>), CliError> {
    let network = building.network();
    if uri.local_root().is_some() {
        // One on this file system costs nothing to ask.
        return Ok((0, open(Some(uri), access, network).await?));
    }
    let options = cache_options(access, network);
    let options = options.with_disk_cache(disk_cache(&building.substitute));
    let cache = open_with(uri, options).await?;
    Ok((cache.info().priority, Arc::new(cache)))
}

/// The priority that the default substituter advertises.
const DEFAULT_PRIORITY: i32 = 40;

fn is_default(uri: &StoreUri) -> bool {
    uri.to_string().trim_end_matches('/') == DEFAULT_SUBSTITUTER.trim_end_matches('/')
}

/// The default substituter, which is not opened before something is to be fetched: nobody need have it, or the
/// network.
fn default_substituter(
    building: &BuildingArgs,
    uri: &StoreUri,
) -> Result<LazySubstituter, tvix_store_api::BoxError> {
    let args = &building.substitute;
    let mut tuning = tuning(&building.transfer);
    if building.transfer.download_attempts.is_none() {
        tuning.transfer.download_attempts = 1;
    }
    if building.transfer.connect_timeout.is_none() {
        tuning.transfer.connect_timeout = Some(QUICK);
        tuning.transfer.answer_timeout = QUICK;
    }
    let options = BinaryCacheOptions::new(uri.clone())?
        .with_tuning(tuning)
        .with_netrc_file(&building.netrc_file)
        .with_disk_cache(disk_cache(args))
        .with_trusted_keys(args.trusted_public_keys.iter().cloned());
    let options = match args.more.unsigned {
        true => options.with_require_signatures(false),
        false => options,
    };
    Ok(LazySubstituter::new(options))
}

/// How long the default substituter may take to be reached.
const QUICK: Duration = Duration::from_secs(3);

/// Answers of substituters that are remembered on disk.
fn disk_cache(args: &SubstituteArgs) -> DiskCache {
    static SHARED: OnceLock<DiskCache> = OnceLock::new();
    let open = || {
        let directory = directory_of_user("XDG_CACHE_HOME", ".cache");
        DiskCache::new(directory.join("tvix/binary-caches-1.sqlite"))
    };
    let mut cache = SHARED.get_or_init(open).clone();
    let seconds = |given: Option<u64>| match args.refresh {
        true => Some(Duration::ZERO),
        false => given.map(Duration::from_secs),
    };
    if let Some(ttl) = seconds(args.more.positive_ttl) {
        cache = cache.with_positive_ttl(ttl);
    }
    if let Some(ttl) = seconds(args.more.negative_ttl) {
        cache = cache.with_negative_ttl(ttl);
    }
    if let Some(ttl) = seconds(args.more.info_ttl) {
        cache = cache.with_info_ttl(ttl);
    }
    cache
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
