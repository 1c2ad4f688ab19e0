//! Binary caches: stores of files that are accessed over HTTP(S), in a directory, or in S3.
//!
//! A cache has a `.narinfo` file for each path, and compressed NARs, in the format of `nix copy`.
//! Its contents are untrusted. A path is valid only if its narinfo has a signature of a trusted
//! key, or if the path is content-addressed. The receiver of the contents verifies them against the
//! narinfo; a mismatch is an error that names the cache
//! ([`StoreExt::copy_path`](crate::StoreExt::copy_path)). No URL in a narinfo leads out of the
//! cache, unless [`Tuning::other_hosts`] is set. No more bytes are read than announced.
//!
//! ```no_run
//! use tvix_store_api::cache::{BinaryCache, BinaryCacheOptions};
//! use tvix_store_api::{MemoryStore, Store as _, StoreExt as _};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let key = "cache.example.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=".parse()?;
//! let options = BinaryCacheOptions::new("https://cache.example.org".parse()?)?;
//! let cache = BinaryCache::open(options.with_trusted_keys([key])).await?;
//! let store = MemoryStore::new(cache.store_dir().clone());
//! let path = "00bgd045z0d4icpbc2yyz4gx48ak44la-hello".parse()?;
//! cache.copy_closure(&store, &[path]).await?;
//! # Ok(())
//! # }
//! ```

mod address;
mod bridge;
mod codec;
mod compress;
mod decode;
#[cfg(feature = "disk-cache")]
mod disk;
mod info;
mod key;
mod memo;
mod options;
mod parameters;
mod realisations;
mod remembered;
mod request;
mod transport;
mod write;

use std::collections::HashSet;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use nix_compat::narinfo::NarInfo;
use nix_compat::path_info::PathInfo;
use nix_compat::realisation::{DrvOutput, Realisation};
use nix_compat::store_path::{StoreDir, StorePath};
use tokio::sync::Semaphore;

#[cfg(feature = "disk-cache")]
pub use self::disk::DiskCache;
pub use self::info::{CacheInfo, CacheInfoError};
pub use self::options::{BinaryCacheOptions, Tuning};
pub use self::realisations::RealisationForms;

use self::decode::Origin;
use self::memo::Memo;
use self::remembered::Remembered;
use self::request::{Large, Requests};
use self::transport::TransportError;
use crate::blocking::blocking;
use crate::ext::{add_tree, many};
use crate::{BoxError, NarStream, SourceTree, Store, StoreError, StoreUri, VerifiedObject};

/// Size limit of a narinfo, in bytes. A narinfo with 10,000 references fits.
const NARINFO_LIMIT: usize = 1024 * 1024;

/// Size limit of `nix-cache-info`, in bytes.
const INFO_LIMIT: usize = 64 * 1024;

/// Compressed contents may exceed the size of the NAR by this number of bytes.
const SLACK: u64 = 1024 * 1024;

/// A binary cache. Clones are handles on the same cache.
///
/// - A path that is neither signed by a trusted key nor content-addressed is not valid:
///   [`Store::path_info`] returns [`StoreError::Untrusted`]. The content address of a NAR that
///   refers to itself must include the offsets of the self-references; a path with the form of Nix
///   2.17 to 2.34 needs a signature ([`StoreError::WeakAddress`]).
/// - The absence of a path is cached for [`Tuning::negative_ttl`], and the narinfo of an existing
///   path for good.
/// - Temporary failures are retried. A cache that still does not respond is considered down for
///   [`Tuning::down_for`], and requests fail immediately.
/// - An added path is compressed into a temporary file and uploaded; its narinfo is uploaded last.
///   The registration time and the "ultimately trusted" flag are not stored.
#[derive(Debug, Clone)]
pub struct BinaryCache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    uri: StoreUri,
    info: CacheInfo,
    options: BinaryCacheOptions,
    requests: Arc<Requests>,
    memo: Memo,
    /// Answers on disk.
    remembered: Remembered,
    /// Limits compressions of objects in memory: more threads than processors do not help.
    compressions: Arc<Semaphore>,
}

impl BinaryCache {
    /// Opens a cache and reads its `nix-cache-info`. A missing one is written if
    /// [`BinaryCacheOptions::create`] is set.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unreachable`] or [`StoreError::Backend`] if the cache does not respond, or is
    /// not a binary cache.
    pub async fn open(options: BinaryCacheOptions) -> Result<Self, StoreError> {
        let uri = options.uri.clone();
        let unusable = |source: BoxError| StoreError::Backend {
            store: uri.clone(),
            action: "open the cache".to_owned(),
            retryable: false,
            source,
        };
        if !codec::can_encode(&options.compression) {
            let message = format!("compression '{}' is not supported", options.compression);
            return Err(unusable(message.into()));
        }
        // Reads the system's certificates from files.
        let of = options.clone();
        let transport = blocking(&uri, move || Ok(transport::open(&of))).await?;
        let transport = transport.map_err(unusable)?;
        let requests = Arc::new(Requests::new(transport, options.tuning.clone()));
        let remembered = Remembered::of(&options);
        let known = remembered.info().await;
        let found = match &known {
            Some(_) => Ok(known.clone()),
            None => requests.small(info::FILE, INFO_LIMIT).await,
        };
        let failed = |error| backend(&uri, format!("read '{}'", info::FILE), error);
        let mut info = match (found.map_err(failed)?, &options.create) {
            (Some(text), _) => {
                let info = CacheInfo::parse(&String::from_utf8_lossy(&text));
                let info = info.map_err(|error| unusable(error.into()))?;
                if known.is_none() {
                    remembered.learn_info(text).await;
                }
                info
            }
            (None, Some(dir)) => {
                let info = CacheInfo::new(dir.clone(), CacheInfo::default().priority);
                let failed = |error| backend(&uri, format!("write '{}'", info::FILE), error);
                let text = info.to_string().into();
                let written = requests.put_small(info::FILE, text, write::CACHE_INFO_TYPE);
                written.await.map_err(failed)?;
                info
            }
            (None, None) => {
                // S3 does not distinguish a missing file from a forbidden one.
                let denied = match uri.scheme() {
                    "s3" => ", or access to it is denied",
                    _ => "",
                };
                let message = format!("it is no binary cache: it has no '{}'{denied}", info::FILE);
                return Err(unusable(message.into()));
            }
        };
        info.priority = options.priority.unwrap_or(info.priority);
        if let Some(value) = uri.parameter("want-mass-query") {
            let wanted = parameters::boolean("want-mass-query", value);
            info.want_mass_query = wanted.map_err(|error| unusable(error.into()))?;
        }
        Ok(Self(Arc::new(Inner {
            memo: Memo::new(options.tuning.negative_ttl),
            remembered,
            compressions: Arc::new(Semaphore::new(
                std::thread::available_parallelism().map_or(2, NonZero::get),
            )),
            uri,
            info,
            options,
            requests,
        })))
    }

    /// The self-description of the cache. [`BinaryCacheOptions::priority`] takes precedence over
    /// its priority.
    pub fn info(&self) -> &CacheInfo {
        &self.0.info
    }

    /// The narinfo of `path`, trusted or not. Cached answers are used unless they have expired.
    ///
    /// # Errors
    ///
    /// [`StoreError::BadInfo`], [`StoreError::Backend`].
    pub async fn narinfo(&self, path: &StorePath) -> Result<Option<Arc<NarInfo>>, StoreError> {
        if let Some(known) = self.0.memo.get(path) {
            return Ok(known);
        }
        match self.0.remembered.narinfo(path).await {
            Some(None) => return Ok(None),
            // What cannot be used is asked for again.
            Some(Some(text)) => {
                if let Ok(narinfo) = self.0.parse(path, &text) {
                    let known = Some(Arc::new(narinfo));
                    self.0.memo.learn(path, known.clone());
                    return Ok(known);
                }
            }
            None => {}
        }
        self.0.ask(path).await
    }

    async fn trusted(&self, path: &StorePath) -> Result<Option<Arc<NarInfo>>, StoreError> {
        match self.narinfo(path).await? {
            Some(narinfo) if !self.0.is_trusted(&narinfo.info) => Err(StoreError::Untrusted {
                store: self.0.uri.clone(),
                path: path.clone(),
            }),
            known => Ok(known),
        }
    }

    fn not_found(&self, path: &StorePath) -> StoreError {
        StoreError::NotFound {
            store: self.0.uri.clone(),
            path: path.clone(),
        }
    }

    /// The NAR of a path; `None` if there is a narinfo without its NAR.
    async fn open_nar(&self, info: &Arc<NarInfo>) -> Result<Option<NarStream>, StoreError> {
        let origin = Origin {
            store: self.0.uri.clone(),
            info: info.clone(),
        };
        let requests = self.0.requests.clone();
        // The announced file size only helps to detect the end of the file. The contents are
        // verified by the size and hash of the NAR.
        let key = self.0.requests.transport().resolve(&info.url);
        let outside = |message| TransportError::new(message, false);
        let key = key.map_err(|message| origin.transport_failed(outside(message)))?;
        let file = Large {
            key,
            size: info.file_size,
            most: info.info.nar_size.saturating_mul(2).saturating_add(SLACK),
            coded: matches!(codec::coding(&info.compression), Ok(None)),
        };
        let body = request::large(requests, file).await;
        let body = body.map_err(|error| origin.transport_failed(error))?;
        Ok(body.map(|body| {
            let nar = decode::decode(origin, body, self.0.options.tuning.decode_memory);
            match self.0.is_vouched_for(&info.info) {
                true => nar,
                false => address::vouched_for(&self.0.uri, &info.info, nar),
            }
        }))
    }

    fn without_nar(&self, info: &Arc<NarInfo>) -> StoreError {
        let origin = Origin {
            store: self.0.uri.clone(),
            info: info.clone(),
        };
        let message = format!("'{}' is not there", info.url);
        origin.transport_failed(TransportError::new(message, false))
    }
}

/// Turns an error of the transport into one of the store.
fn backend(store: &StoreUri, action: String, error: TransportError) -> StoreError {
    if error.unreachable {
        return StoreError::Unreachable {
            store: store.clone(),
            reason: error.message,
        };
    }
    StoreError::Backend {
        store: store.clone(),
        action,
        retryable: error.retryable,
        source: error.into(),
    }
}

impl Inner {
    /// Requests the narinfo of `path`, without the cached answers.
    async fn ask(&self, path: &StorePath) -> Result<Option<Arc<NarInfo>>, StoreError> {
        let key = key::narinfo(path.digest());
        let found = self.requests.small(&key, NARINFO_LIMIT).await;
        let failed = |error| backend(&self.uri, format!("query '{path}'"), error);
        let text = found.map_err(failed)?;
        let known = match &text {
            Some(text) => Some(Arc::new(self.parse(path, text)?)),
            None => None,
        };
        self.memo.learn(path, known.clone());
        self.remembered.learn(path, text).await;
        Ok(known)
    }

    fn parse(&self, path: &StorePath, text: &[u8]) -> Result<NarInfo, StoreError> {
        let bad = |source: BoxError| StoreError::BadInfo {
            store: self.uri.clone(),
            path: path.clone(),
            source,
        };
        let text = str::from_utf8(text).map_err(|error| bad(error.into()))?;
        let narinfo = NarInfo::parse(text, &self.info.store_dir);
        let narinfo = narinfo.map_err(|error| bad(error.into()))?;
        if narinfo.info.path != *path {
            let message = format!("it describes '{}' there", narinfo.info.path);
            return Err(bad(message.into()));
        }
        let file = self.requests.transport().resolve(&narinfo.url);
        file.map_err(|message| bad(message.into()))?;
        if codec::coding(&narinfo.compression).is_err() {
            let message = format!("compression '{}' is not supported", narinfo.compression);
            return Err(bad(message.into()));
        }
        Ok(narinfo)
    }

    fn is_trusted(&self, info: &PathInfo) -> bool {
        self.is_vouched_for(info) || info.is_content_addressed(&self.info.store_dir)
    }

    /// Whether a path is authenticated by something else than its content address.
    fn is_vouched_for(&self, info: &PathInfo) -> bool {
        let mut signers = info.signed_by(&self.info.store_dir, &self.options.trusted_keys);
        !self.options.require_signatures || signers.next().is_some()
    }
}

/// The info in a narinfo.
fn public(narinfo: Arc<NarInfo>) -> Arc<PathInfo> {
    Arc::new(match Arc::try_unwrap(narinfo) {
        Ok(narinfo) => narinfo.info,
        Err(shared) => shared.info.clone(),
    })
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for BinaryCache {
    fn uri(&self) -> &StoreUri {
        &self.0.uri
    }

    fn store_dir(&self) -> &StoreDir {
        &self.0.info.store_dir
    }

    async fn path_info(&self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, StoreError> {
        Ok(self.trusted(path).await?.map(public))
    }

    async fn find(&self, digest: &[u8; 20]) -> Result<Option<Arc<PathInfo>>, StoreError> {
        let key = key::narinfo(digest);
        let found = self.0.requests.small(&key, NARINFO_LIMIT).await;
        let failed = |error| backend(&self.0.uri, format!("query '{key}'"), error);
        let Some(text) = found.map_err(failed)? else {
            return Ok(None);
        };
        let bad = |message: String| StoreError::Backend {
            store: self.0.uri.clone(),
            action: format!("read '{key}'"),
            retryable: false,
            source: message.into(),
        };
        let narinfo = NarInfo::parse(&String::from_utf8_lossy(&text), self.store_dir());
        let narinfo = narinfo.map_err(|error| bad(error.to_string()))?;
        let path = narinfo.info.path.clone();
        if path.digest() != digest {
            return Err(bad(format!("it describes '{path}'")));
        }
        // Checks that the info is valid and trusted, as for any path.
        self.0
            .memo
            .learn(&path, Some(Arc::new(self.0.parse(&path, &text)?)));
        self.path_info(&path).await
    }

    /// An untrusted or malformed narinfo counts as an invalid path here.
    async fn valid_paths(&self, paths: &[StorePath]) -> Result<HashSet<StorePath>, StoreError> {
        let paths: HashSet<&StorePath> = paths.iter().collect();
        let look_up = |path: StorePath| async move {
            match self.trusted(&path).await {
                Ok(known) => Ok(known.map(|_| path)),
                Err(StoreError::Untrusted { .. } | StoreError::BadInfo { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        stream::iter(paths.into_iter().cloned().collect::<Vec<_>>())
            .map(look_up)
            .buffer_unordered(self.0.options.tuning.requests.max(1))
            .try_filter_map(|valid| async { Ok(valid) })
            .try_collect()
            .await
    }

    async fn path_infos(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<Arc<PathInfo>>>, StoreError> {
        many::path_infos(self, paths).await
    }

    async fn nar(&self, path: &StorePath) -> Result<NarStream, StoreError> {
        let narinfo = self.trusted(path).await?;
        let info = narinfo.ok_or_else(|| self.not_found(path))?;
        match self.open_nar(&info).await {
            // A narinfo that was remembered may be older than the NAR.
            Ok(None) if self.0.remembered.is_used() => {
                let asked = self.0.ask(path).await?;
                let info = match asked {
                    Some(again) if *again != *info => self.trusted(path).await?,
                    asked => asked,
                };
                let info = info.ok_or_else(|| self.not_found(path))?;
                let opened = self.open_nar(&info).await?;
                opened.ok_or_else(|| self.without_nar(&info))
            }
            opened => opened?.ok_or_else(|| self.without_nar(&info)),
        }
    }

    async fn read_many(
        &self,
        infos: Vec<Arc<PathInfo>>,
    ) -> Vec<Result<VerifiedObject, StoreError>> {
        many::read_many(self, infos).await
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

    async fn on_disk(&self, _path: &StorePath) -> Result<Option<PathBuf>, StoreError> {
        Ok(None)
    }

    async fn realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        self.read_realisation(id).await
    }

    async fn add_realisation(&self, realisation: &Realisation) -> Result<(), StoreError> {
        self.write_realisation(realisation).await
    }
}
