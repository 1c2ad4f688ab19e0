//! A Nix daemon as a store: the worker protocol over a socket, or over `ssh`.
//!
//! ```no_run
//! use tvix_store_api::StoreExt as _;
//! use tvix_store_api::daemon::{DaemonOptions, DaemonStore};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let store = DaemonStore::open(DaemonOptions::new("daemon".parse()?)?).await?;
//! let path = "00bgd045z0d4icpbc2yyz4gx48ak44la-hello".parse()?;
//! println!("{:?}", store.require(&path).await?);
//! # Ok(())
//! # }
//! ```

mod calls;
mod connection;
mod options;
mod pool;
mod read;
mod roots;
mod upkeep;
mod write;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use nix_compat::path_info::PathInfo;
use nix_compat::realisation::{DrvKey, DrvOutput, Realisation};
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_worker_protocol::{
    Call, Feature, QueryPathFromHashPart, QueryPathInfo, QueryRealisation, QueryValidPaths,
    RegisterDrvOutput, RemoteError, Session, Trust, Version,
};

pub use self::calls::DaemonConnection;
pub use self::connection::CallError;
pub use self::options::DaemonOptions;
pub use self::upkeep::{Collected, CollectionAction, DaemonRoot};

use self::pool::{Pool, Pooled, Purpose};
use self::roots::Roots;
use crate::blocking::blocking;
use crate::ext::add_tree;
use crate::{NarStream, SourceTree, Store, StoreError, StoreUri, VerifiedObject};

/// Paths in one request.
const BATCH: usize = 4096;

/// Batches that are asked for at the same time.
const LOOK_UPS: usize = 4;

/// Infos that are asked for on one connection, one request after the other without a pause.
const INFOS: usize = 512;

/// A store that a Nix daemon serves. Clones are handles on the same connections.
///
/// - Daemons of Nix 2.8 (protocol 1.34) and later are supported.
/// - Connections are opened when they are needed, and again after failures. Requests that change
///   nothing are then tried again.
/// - Paths that are found valid or added are temporary roots of the daemon's garbage collector while
///   a handle exists.
/// - Contents are verified before their last byte is sent, so that an addition fails with the errors
///   of [`Store::add`]. A daemon that does not trust the client refuses paths without a trusted
///   signature ([`StoreError::Untrusted`]).
/// - Daemons refuse `.drv` files that are not derivations.
/// - Realisations need the daemon's experimental feature `ca-derivations`; without it none is kept.
///   They are known by the hash of derivations up to Nix 2.34, and by their path since 2.35.
#[derive(Debug, Clone)]
pub struct DaemonStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: Arc<Pool>,
    roots: Roots,
    daemon: DaemonInfo,
    /// Whether the daemon is known to keep no realisations.
    no_realisations: AtomicBool,
}

/// What a daemon says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DaemonInfo {
    /// The version of its program, such as `2.34.8`.
    pub version: String,
    /// The negotiated version of the protocol.
    pub protocol: Version,
    /// Whether it trusts this client; `None` if it does not say, as before Nix 2.15.
    pub trusted: Option<bool>,
    by_path: bool,
}

impl DaemonInfo {
    fn of(session: &Session) -> Self {
        let features = session.context.features();
        Self {
            version: session.daemon_version.to_string(),
            protocol: session.context.version(),
            trusted: session.trust.map(|trust| trust == Trust::Trusted),
            by_path: features.contains(Feature::RealisationWithPath),
        }
    }
}

impl DaemonStore {
    /// Connects to a daemon.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unreachable`] if there is none, [`StoreError::Backend`] if it refuses the
    /// connection or speaks another protocol.
    pub async fn open(options: DaemonOptions) -> Result<Self, StoreError> {
        let uri = options.uri.clone();
        let pool = Arc::new(Pool::new(options));
        let first = pool.acquire(Purpose::Request).await;
        let first = first.map_err(|error| store_error(&uri, "open it".into(), error))?;
        let daemon = DaemonInfo::of(&first.session);
        drop(first);
        Ok(Self(Arc::new(Inner {
            pool,
            roots: Roots::default(),
            daemon,
            no_realisations: AtomicBool::new(false),
        })))
    }

    /// What the daemon said about itself when it was opened.
    pub fn daemon(&self) -> &DaemonInfo {
        &self.0.daemon
    }

    fn not_found(&self, path: &StorePath) -> StoreError {
        StoreError::NotFound {
            store: self.uri().clone(),
            path: path.clone(),
        }
    }

    fn failed(&self, action: impl Into<String>, error: CallError) -> StoreError {
        store_error(self.uri(), action.into(), error)
    }

    /// Makes a request that changes nothing; again if connections fail.
    async fn query<C: Call + Sync>(&self, call: &C) -> Result<C::Answer, CallError> {
        debug_assert!(C::OPERATION.is_query());
        let mut attempt = 1;
        loop {
            let asked = match self.acquire().await {
                Ok(mut connection) => connection.call(call).await,
                Err(error) => Err(error),
            };
            match asked {
                Err(error) if self.again(&error, &mut attempt).await => {}
                asked => return asked,
            }
        }
    }

    /// Makes many requests that change nothing on one connection.
    async fn query_all<C: Call + Sync>(
        &self,
        calls: &[C],
    ) -> Result<Vec<Result<C::Answer, RemoteError>>, CallError> {
        debug_assert!(C::OPERATION.is_query());
        let mut attempt = 1;
        loop {
            let asked = match self.acquire().await {
                Ok(mut connection) => connection.call_all(calls).await,
                Err(error) => Err(error),
            };
            match asked {
                Err(error) if self.again(&error, &mut attempt).await => {}
                asked => return asked,
            }
        }
    }

    async fn acquire(&self) -> Result<Pooled, CallError> {
        self.0.pool.acquire(Purpose::Request).await
    }

    /// Whether to try again after an error: after a failure of the connection, and a pause.
    async fn again(&self, error: &CallError, attempt: &mut u32) -> bool {
        let options = self.0.pool.options();
        let (CallError::Io(_) | CallError::Connect(_)) = error else {
            return false;
        };
        if *attempt >= options.attempts {
            return false;
        }
        tokio::time::sleep(options.first_pause * *attempt).await;
        *attempt += 1;
        true
    }

    /// The valid ones among paths, which need not be roots.
    async fn valid(&self, paths: &[StorePath]) -> Result<HashSet<StorePath>, CallError> {
        let batches = paths.chunks(BATCH).map(|batch| QueryValidPaths {
            paths: batch.to_vec(),
            substitute: false,
        });
        let batches: Vec<_> = batches.collect();
        let mut answers = stream::iter(batches)
            .map(|batch| async move { self.query(&batch).await })
            .buffer_unordered(LOOK_UPS);
        let mut valid = HashSet::new();
        while let Some(answer) = answers.try_next().await? {
            valid.extend(answer);
        }
        Ok(valid)
    }

    /// Makes valid paths roots. Returns those that are not valid any more.
    async fn keep(&self, paths: Vec<StorePath>) -> Result<HashSet<StorePath>, CallError> {
        let options = self.0.pool.options();
        if !options.temporary_roots {
            return Ok(HashSet::new());
        }
        let mut attempt = 1;
        loop {
            match self.0.roots.keep(options, paths.clone()).await {
                Err(error) if self.again(&error, &mut attempt).await => {}
                kept => return kept,
            }
        }
    }

    /// The infos of paths, asked for on one connection. Valid ones become roots.
    async fn infos(&self, paths: &[StorePath]) -> Result<Vec<Option<Arc<PathInfo>>>, CallError> {
        let options = self.0.pool.options();
        let keep = options.temporary_roots && !paths.iter().all(|path| self.0.roots.holds(path));
        let answers = match keep {
            true => {
                let mut attempt = 1;
                loop {
                    match self.0.roots.infos(options, paths).await {
                        Err(error) if self.again(&error, &mut attempt).await => {}
                        answers => break answers?,
                    }
                }
            }
            false => {
                let calls = paths.iter().cloned().map(|path| QueryPathInfo { path });
                self.query_all(&calls.collect::<Vec<_>>()).await?
            }
        };
        let mut infos = Vec::with_capacity(paths.len());
        for (path, answer) in paths.iter().zip(answers) {
            infos.push(answer?.0.map(|info| Arc::new(info.of(path.clone()))));
        }
        Ok(infos)
    }

    /// Whether the daemon may know realisations of this kind.
    fn knows(&self, id: &DrvOutput) -> bool {
        matches!(id.drv, DrvKey::Path(_)) == self.0.daemon.by_path
            && !self.0.no_realisations.load(Ordering::Relaxed)
    }

    /// Makes a request about realisations; `None` if the daemon keeps none.
    async fn about_realisations<C: Call + Sync>(
        &self,
        call: &C,
    ) -> Result<Option<C::Answer>, CallError> {
        // Makes sure that the daemon is there, and the connection a good one.
        let (paths, substitute) = (Vec::new(), false);
        self.query(&QueryValidPaths { paths, substitute }).await?;
        let asked = match self.acquire().await {
            Ok(mut connection) => connection.call(call).await,
            Err(error) => Err(error),
        };
        let none = match &asked {
            Ok(_) => false,
            Err(CallError::Remote(error)) => {
                let message = error.message.to_string();
                message.contains("experimental") && message.contains("ca-derivations")
            }
            // Nix 2.8 aborts without the feature.
            Err(CallError::Io(error)) => {
                error.kind() == std::io::ErrorKind::UnexpectedEof
                    && self.0.daemon.protocol < Version::new(1, 35)
            }
            Err(_) => false,
        };
        if none {
            self.0.no_realisations.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        asked.map(Some)
    }
}

fn store_error(uri: &StoreUri, action: String, error: CallError) -> StoreError {
    match error {
        CallError::Connect(error) => StoreError::Unreachable {
            store: uri.clone(),
            reason: error.to_string(),
        },
        error => StoreError::Backend {
            store: uri.clone(),
            action,
            retryable: matches!(error, CallError::Io(_)),
            source: match error {
                CallError::Remote(error) => error.into(),
                CallError::Io(error) | CallError::Connect(error) => error.into(),
                CallError::Protocol(error) => error.into(),
                CallError::Handshake(error) => error.into(),
            },
        },
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for DaemonStore {
    fn uri(&self) -> &StoreUri {
        &self.0.pool.options().uri
    }

    fn store_dir(&self) -> &StoreDir {
        &self.0.pool.options().store_dir
    }

    async fn path_info(&self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, StoreError> {
        let infos = self.infos(std::slice::from_ref(path)).await;
        let infos = infos.map_err(|error| self.failed(format!("query '{path}'"), error))?;
        Ok(infos.into_iter().next().flatten())
    }

    async fn find(&self, digest: &[u8; 20]) -> Result<Option<Arc<PathInfo>>, StoreError> {
        let hash_part = nix_compat::nixbase32::encode(digest);
        let digest = *digest;
        let found = self.query(&QueryPathFromHashPart { digest }).await;
        match found.map_err(|error| self.failed(format!("query '{hash_part}'"), error))? {
            Some(path) if *path.digest() == digest => self.path_info(&path).await,
            Some(path) => Err(StoreError::BadInfo {
                store: self.uri().clone(),
                source: format!("it was found by the hash part '{hash_part}'").into(),
                path,
            }),
            None => Ok(None),
        }
    }

    async fn valid_paths(&self, paths: &[StorePath]) -> Result<HashSet<StorePath>, StoreError> {
        let failed = |error| self.failed("query paths", error);
        if paths.is_empty() {
            return Ok(HashSet::new());
        }
        let mut valid = self.valid(paths).await.map_err(failed)?;
        for batch in valid.iter().cloned().collect::<Vec<_>>().chunks(BATCH) {
            for gone in self.keep(batch.to_vec()).await.map_err(failed)? {
                valid.remove(&gone);
            }
        }
        Ok(valid)
    }

    async fn path_infos(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<Arc<PathInfo>>>, StoreError> {
        let batches: Vec<_> = paths.chunks(INFOS).map(<[_]>::to_vec).collect();
        let infos: Vec<Vec<_>> = stream::iter(batches)
            .map(|batch| async move { self.infos(&batch).await })
            .buffered(LOOK_UPS)
            .try_collect()
            .await
            .map_err(|error| self.failed("query paths", error))?;
        Ok(infos.into_iter().flatten().collect())
    }

    async fn nar(&self, path: &StorePath) -> Result<NarStream, StoreError> {
        self.read(path).await
    }

    async fn read_many(
        &self,
        infos: Vec<Arc<PathInfo>>,
    ) -> Vec<Result<VerifiedObject, StoreError>> {
        self.read_objects(infos).await
    }

    async fn add(&self, info: PathInfo, nar: NarStream) -> Result<(), StoreError> {
        self.add_nar(info, nar).await
    }

    async fn add_many(&self, objects: Vec<VerifiedObject>) -> Vec<Result<(), StoreError>> {
        self.add_objects(objects).await
    }

    async fn add_source(&self, tree: SourceTree) -> Result<StorePath, StoreError> {
        add_tree(self, tree).await
    }

    async fn on_disk(&self, path: &StorePath) -> Result<Option<PathBuf>, StoreError> {
        let Some(root) = &self.0.pool.options().root else {
            return Ok(None);
        };
        if self.path_info(path).await?.is_none() {
            return Ok(None);
        }
        let logical = self.store_dir().absolute(path);
        let place = root.join(logical.strip_prefix("/").unwrap_or(&logical));
        // The daemon's files need not be visible here.
        blocking(self.uri(), move || {
            Ok(place.symlink_metadata().is_ok().then_some(place))
        })
        .await
    }

    async fn realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        if !self.knows(id) {
            return Ok(None);
        }
        let call = QueryRealisation { id: id.clone() };
        let found = self.about_realisations(&call).await;
        let found = found.map_err(|error| self.failed(format!("query '{id}'"), error))?;
        let found = found.and_then(|found| found.0);
        Ok(found.map(|realised| realised.of(id.clone())))
    }

    async fn add_realisation(&self, realisation: &Realisation) -> Result<(), StoreError> {
        let path = &realisation.out_path;
        if self.path_info(path).await?.is_none() {
            return Err(self.not_found(path));
        }
        let id = &realisation.id;
        if !self.knows(id) || self.realisation(id).await?.is_some() {
            return Ok(());
        }
        if !self.knows(id) {
            return Ok(());
        }
        let realisation = realisation.clone();
        let added = self
            .about_realisations(&RegisterDrvOutput { realisation })
            .await;
        let failed = |error| self.failed(format!("add the realisation of '{id}'"), error);
        added.map(drop).map_err(failed)
    }
}
