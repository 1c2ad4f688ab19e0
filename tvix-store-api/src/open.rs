//! Stores by their URI.

use std::sync::Arc;

#[cfg(feature = "daemon")]
use std::ffi::OsString;
#[cfg(any(feature = "local-fs", feature = "binary-cache"))]
use std::path::PathBuf;

#[cfg(feature = "binary-cache")]
use nix_compat::signature::VerifyingKey;
use nix_compat::store_path::StoreDir;
use thiserror::Error;

#[cfg(feature = "disk-cache")]
use crate::cache::DiskCache;
#[cfg(feature = "binary-cache")]
use crate::cache::{BinaryCache, BinaryCacheOptions, Tuning};
#[cfg(feature = "daemon")]
use crate::daemon::{DaemonOptions, DaemonStore};
#[cfg(feature = "local-fs")]
use crate::local_fs::{Durability, LocalStore, LocalStoreOptions};
use crate::{BoxError, MemoryStore, Store, StoreError, StoreUri};

/// Parameters of local stores: the root, the durability of writes, and parameters of Nix that
/// change nothing here.
#[cfg(feature = "local-fs")]
const LOCAL_PARAMETERS: [&str; 12] = [
    "durability",
    "log",
    "path-info-cache-size",
    "priority",
    "read-only",
    "real",
    "root",
    "state",
    "store",
    "system-features",
    "trusted",
    "want-mass-query",
];

/// How [`open`] opens a store. Each option applies to the kinds of stores that have it. Parameters
/// of the URI take precedence.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct OpenOptions {
    #[cfg(feature = "local-fs")]
    read_only: bool,
    store_dir: Option<StoreDir>,
    #[cfg(feature = "binary-cache")]
    create: bool,
    #[cfg(feature = "binary-cache")]
    trusted_keys: Vec<VerifyingKey>,
    #[cfg(feature = "binary-cache")]
    allow_unsigned: bool,
    #[cfg(feature = "binary-cache")]
    netrc_file: Option<PathBuf>,
    #[cfg(feature = "binary-cache")]
    tuning: Tuning,
    #[cfg(feature = "disk-cache")]
    disk_cache: Option<DiskCache>,
    #[cfg(feature = "daemon")]
    no_temporary_roots: bool,
    #[cfg(feature = "daemon")]
    ssh_arguments: Vec<OsString>,
}

impl OpenOptions {
    /// Opens a store for reading and writing, and requires signatures.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a local store that is not written to: it may belong to another user, or be on a file
    /// system that is read-only.
    #[cfg(feature = "local-fs")]
    #[must_use]
    pub fn with_read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets the store directory of a local or in-memory store, and of a binary cache that is
    /// created [default: `/nix/store`].
    #[must_use]
    pub fn with_store_dir(mut self, dir: StoreDir) -> Self {
        self.store_dir = Some(dir);
        self
    }

    /// Creates a binary cache that does not exist. Local stores are always created.
    #[cfg(feature = "binary-cache")]
    #[must_use]
    pub fn with_create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Sets the keys whose signatures are trusted in a binary cache.
    #[cfg(feature = "binary-cache")]
    #[must_use]
    pub fn with_trusted_keys(mut self, keys: impl IntoIterator<Item = VerifyingKey>) -> Self {
        self.trusted_keys = keys.into_iter().collect();
        self
    }

    /// Whether paths of a binary cache that no trusted key has signed are accepted.
    #[cfg(feature = "binary-cache")]
    #[must_use]
    pub fn with_allow_unsigned(mut self, allow: bool) -> Self {
        self.allow_unsigned = allow;
        self
    }

    /// Sets the file with passwords for binary caches over HTTP(S).
    #[cfg(feature = "binary-cache")]
    #[must_use]
    pub fn with_netrc_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.netrc_file = Some(file.into());
        self
    }

    /// Sets time limits and retries of binary caches.
    #[cfg(feature = "binary-cache")]
    #[must_use]
    pub fn with_tuning(mut self, tuning: Tuning) -> Self {
        self.tuning = tuning;
        self
    }

    /// Remembers answers of binary caches on other machines.
    #[cfg(feature = "disk-cache")]
    #[must_use]
    pub fn with_disk_cache(mut self, cache: DiskCache) -> Self {
        self.disk_cache = Some(cache);
        self
    }

    /// Whether a daemon's garbage collector keeps what is looked up while the store is open
    /// [default: true].
    #[cfg(feature = "daemon")]
    #[must_use]
    pub fn with_temporary_roots(mut self, keep: bool) -> Self {
        self.no_temporary_roots = !keep;
        self
    }

    /// Adds arguments of `ssh`, for daemons on other machines.
    #[cfg(feature = "daemon")]
    #[must_use]
    pub fn with_ssh_arguments<A: Into<OsString>>(
        mut self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        self.ssh_arguments = arguments.into_iter().map(Into::into).collect();
        self
    }
}

/// A store that [`open_kind`] has opened, by its kind.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum OpenedStore {
    /// `memory://name`.
    Memory(MemoryStore),
    /// An absolute path, `local`, `local?root=…`.
    #[cfg(feature = "local-fs")]
    Local(LocalStore),
    /// `file://…`, `http://…`, `https://…`, `s3://…`.
    #[cfg(feature = "binary-cache")]
    BinaryCache(BinaryCache),
    /// `daemon`, `unix://…`, `ssh-ng://…`.
    #[cfg(feature = "daemon")]
    Daemon(DaemonStore),
}

impl OpenedStore {
    /// The store, whatever its kind.
    pub fn into_store(self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => Arc::new(store),
            #[cfg(feature = "local-fs")]
            Self::Local(store) => Arc::new(store),
            #[cfg(feature = "binary-cache")]
            Self::BinaryCache(store) => Arc::new(store),
            #[cfg(feature = "daemon")]
            Self::Daemon(store) => Arc::new(store),
        }
    }
}

/// Why [`open`] failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No kind of store that was compiled in has such URIs.
    #[error("cannot open store '{uri}': unknown type; supported are {}", SUPPORTED.join(", "))]
    Unsupported {
        /// The URI.
        uri: StoreUri,
    },
    /// A parameter of the URI is unknown or has an invalid value.
    #[error("cannot use store '{uri}'")]
    Parameter {
        /// The URI.
        uri: StoreUri,
        /// The parameter, and why it is refused.
        source: BoxError,
    },
    /// The store cannot be opened.
    #[error("cannot open store '{uri}'")]
    Store {
        /// The URI.
        uri: StoreUri,
        /// Why.
        source: Box<StoreError>,
    },
}

/// The URIs that the compiled features support.
const SUPPORTED: &[&str] = &[
    #[cfg(feature = "local-fs")]
    "absolute paths",
    #[cfg(feature = "local-fs")]
    "'local'",
    #[cfg(feature = "binary-cache")]
    "'file://'",
    #[cfg(feature = "binary-cache")]
    "'http://'",
    #[cfg(feature = "binary-cache")]
    "'https://'",
    #[cfg(feature = "s3")]
    "'s3://'",
    #[cfg(feature = "daemon")]
    "'daemon'",
    #[cfg(feature = "daemon")]
    "'unix://'",
    #[cfg(feature = "daemon")]
    "'ssh-ng://'",
    "'memory://'",
];

/// Opens the store of a URI, of any kind that was compiled in.
///
/// A `memory://` URI opens a new, empty store.
///
/// ```
/// use tvix_store_api::{OpenOptions, Store, open};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = open(&"memory://scratch".parse()?, OpenOptions::new()).await?;
/// assert_eq!(store.uri().to_string(), "memory://scratch");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`OpenError`] says whether the URI or the store is to blame.
pub async fn open(uri: &StoreUri, options: OpenOptions) -> Result<Arc<dyn Store>, OpenError> {
    Ok(open_kind(uri, options).await?.into_store())
}

/// As [`open`], and says which kind of store it is: for callers that need a property of one kind,
/// such as the roots of a local store or the priority of a binary cache.
///
/// # Errors
///
/// As [`open`].
pub async fn open_kind(uri: &StoreUri, options: OpenOptions) -> Result<OpenedStore, OpenError> {
    match uri.scheme() {
        "memory" => {
            uri.expect_parameters(&[])
                .map_err(|error| parameter(uri, error))?;
            let dir = options.store_dir.unwrap_or_default();
            let store = MemoryStore::with_name(dir, uri.location());
            Ok(OpenedStore::Memory(store))
        }
        #[cfg(feature = "local-fs")]
        "local" => open_local(uri, options).await.map(OpenedStore::Local),
        #[cfg(feature = "s3")]
        "s3" => open_cache(uri, options).await,
        #[cfg(feature = "binary-cache")]
        "file" | "http" | "https" => open_cache(uri, options).await,
        #[cfg(feature = "daemon")]
        "daemon" | "unix" | "ssh-ng" => open_daemon(uri, options).await,
        _ => Err(OpenError::Unsupported { uri: uri.clone() }),
    }
}

fn parameter(uri: &StoreUri, source: impl Into<BoxError>) -> OpenError {
    OpenError::Parameter {
        uri: uri.clone(),
        source: source.into(),
    }
}

#[cfg(any(feature = "local-fs", feature = "binary-cache", feature = "daemon"))]
fn failed(uri: &StoreUri, source: StoreError) -> OpenError {
    OpenError::Store {
        uri: uri.clone(),
        source: Box::new(source),
    }
}

#[cfg(feature = "local-fs")]
async fn open_local(uri: &StoreUri, options: OpenOptions) -> Result<LocalStore, OpenError> {
    uri.expect_parameters(&LOCAL_PARAMETERS)
        .map_err(|error| parameter(uri, error))?;
    let read_only = match uri.parameter("read-only") {
        None | Some("false") => options.read_only,
        Some("true") => true,
        Some(other) => {
            let message = format!(
                "parameter 'read-only' has invalid value '{other}', expected 'true' or 'false'"
            );
            return Err(parameter(uri, message));
        }
    };
    let root: PathBuf = uri.local_root().unwrap_or_else(|| "/".into());
    let mut local = LocalStoreOptions::new(root).with_read_only(read_only);
    if let Some(dir) = options.store_dir {
        local = local.with_store_dir(dir);
    }
    if let Some(dir) = uri.parameter("store") {
        let dir = StoreDir::new(dir).map_err(|error| parameter(uri, error))?;
        local = local.with_store_dir(dir);
    }
    let directory = |name| uri.parameter(name).map(PathBuf::from);
    local.real_store_dir = directory("real");
    local.state_dir = directory("state");
    local.log_dir = directory("log");
    match uri.parameter("durability") {
        None | Some("relaxed") => {}
        Some("full") => local = local.with_durability(Durability::Full),
        Some(other) => {
            let message = format!("durability '{other}' is neither 'relaxed' nor 'full'");
            return Err(parameter(uri, message));
        }
    }
    let opened = LocalStore::open(local).await;
    opened.map_err(|error| failed(uri, error))
}

#[cfg(feature = "binary-cache")]
async fn open_cache(uri: &StoreUri, options: OpenOptions) -> Result<OpenedStore, OpenError> {
    let cache = BinaryCacheOptions::new(uri.clone());
    let cache = cache.map_err(|error| parameter(uri, error))?;
    let check = !options.allow_unsigned && cache.require_signatures;
    let mut cache = cache
        .with_tuning(options.tuning)
        .with_trusted_keys(options.trusted_keys)
        .with_require_signatures(check);
    if let Some(file) = options.netrc_file {
        cache = cache.with_netrc_file(file);
    }
    #[cfg(feature = "disk-cache")]
    if let Some(disk) = options.disk_cache {
        cache = cache.with_disk_cache(disk);
    }
    if options.create {
        cache = cache.with_create(options.store_dir.unwrap_or_default());
    }
    let opened = BinaryCache::open(cache).await;
    let opened = opened.map_err(|error| failed(uri, error))?;
    Ok(OpenedStore::BinaryCache(opened))
}

#[cfg(feature = "daemon")]
async fn open_daemon(uri: &StoreUri, options: OpenOptions) -> Result<OpenedStore, OpenError> {
    let daemon = DaemonOptions::new(uri.clone()).map_err(|error| parameter(uri, error))?;
    let daemon = daemon
        .with_temporary_roots(!options.no_temporary_roots)
        .with_ssh_arguments(options.ssh_arguments);
    let opened = DaemonStore::open(daemon).await;
    let opened = opened.map_err(|error| failed(uri, error))?;
    Ok(OpenedStore::Daemon(opened))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    async fn open(uri: &str, options: OpenOptions) -> Result<Arc<dyn Store>, OpenError> {
        super::open(&uri.parse().unwrap(), options).await
    }

    #[tokio::test]
    async fn each_kind_of_store_is_opened_by_its_uri() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name).display().to_string();
        assert!(place("x").ends_with("/x"));
        let mut uris = vec!["memory://name".to_owned()];
        #[cfg(feature = "local-fs")]
        uris.extend([place("root"), format!("local?root={}", place("other"))]);
        #[cfg(feature = "binary-cache")]
        uris.push(format!("file://{}", place("cache")));
        let options = OpenOptions::new().with_create(true);
        for uri in uris {
            let store = open(&uri, options.clone()).await.unwrap();
            assert_eq!(*store.uri(), uri.parse().unwrap());
            assert_eq!(*store.store_dir(), StoreDir::default());
        }
    }

    #[tokio::test]
    async fn uris_that_cannot_be_opened_say_why() {
        let opened = open("gopher://x", OpenOptions::new()).await;
        assert!(matches!(opened, Err(OpenError::Unsupported { .. })));
        let opened = open("memory://x?root=/", OpenOptions::new()).await;
        assert!(matches!(opened, Err(OpenError::Parameter { .. })));
        #[cfg(feature = "local-fs")]
        for uri in [
            "local?read-only=maybe",
            "local?durability=some",
            "local?x=y",
        ] {
            let opened = open(uri, OpenOptions::new()).await;
            assert!(matches!(opened, Err(OpenError::Parameter { .. })), "{uri}");
        }
        #[cfg(feature = "binary-cache")]
        {
            let opened = open("file:///nowhere/at/all", OpenOptions::new()).await;
            assert!(matches!(opened, Err(OpenError::Store { .. })));
        }
        #[cfg(feature = "daemon")]
        {
            let opened = open("unix:///nowhere/at/all", OpenOptions::new()).await;
            assert!(matches!(opened, Err(OpenError::Store { .. })));
            for uri in [
                "unix:///socket?x=y",
                "unix://socket",
                "ssh-ng://-o",
                "daemon?compress=true",
            ] {
                let opened = open(uri, OpenOptions::new()).await;
                assert!(matches!(opened, Err(OpenError::Parameter { .. })), "{uri}");
            }
        }
    }
}
