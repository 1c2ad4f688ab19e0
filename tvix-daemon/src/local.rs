//! Local stores behind a daemon: each connection has a session of its own.

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use nix_compat::nar;
use nix_compat::nixbase32;
use nix_compat::nixhash::{HashAlgo, NixHash, NixHasher};
use nix_compat::signature::Signature;
use nix_compat::store_path::{StoreDir, StorePath};
use tokio::sync::Mutex;
use tvix_store_api::local_fs::{
    Damage, DamagedPath, GcAction, GcOptions, LocalStore, LocalStoreOptions, OptimiseOptions,
    RootSource, VerifyOptions,
};
use tvix_store_api::{Store, StoreError};
use tvix_worker_protocol::{CollectGarbage, GcAction as WireAction, GcPaths};

use crate::backend::{Backend, Collection, Lease, Maintenance, RootLink, Stores};
use crate::builds::Builds;
use crate::client::ClientSettings;
use crate::failure::describe;
use crate::log::Log;

/// Makes builds in a store. Called once for each store that is opened.
pub type MakeBuilds = Arc<dyn Fn(LocalStore) -> Result<Builds, StoreError> + Send + Sync>;

/// Sessions of a local store. A store that was deleted and made anew serves the next connection.
pub struct LocalStores {
    options: LocalStoreOptions,
    settings: LocalSettings,
    substituters: Vec<Arc<dyn Store>>,
    make_builds: Option<MakeBuilds>,
    opened: Mutex<Option<Opened>>,
}

/// Settings of a daemon with a local store. The defaults are Nix's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalSettings {
    /// Whether a garbage collection keeps the outputs of live derivations.
    pub keep_outputs: bool,
    /// Whether a garbage collection keeps the derivers of live paths.
    pub keep_derivations: bool,
}

impl Default for LocalSettings {
    fn default() -> Self {
        Self {
            keep_outputs: false,
            keep_derivations: true,
        }
    }
}

impl LocalSettings {
    /// Sets [`keep_outputs`](Self::keep_outputs).
    #[must_use]
    pub fn with_keep_outputs(mut self, keep: bool) -> Self {
        self.keep_outputs = keep;
        self
    }

    /// Sets [`keep_derivations`](Self::keep_derivations).
    #[must_use]
    pub fn with_keep_derivations(mut self, keep: bool) -> Self {
        self.keep_derivations = keep;
        self
    }
}

#[derive(Debug, Clone)]
struct Opened {
    store: LocalStore,
    builds: Option<Lease>,
}

impl LocalStores {
    /// Opens the store now, so that errors are found, and again if it has been replaced.
    ///
    /// # Errors
    ///
    /// Those of [`LocalStore::open`].
    pub async fn open(
        options: LocalStoreOptions,
        settings: LocalSettings,
    ) -> Result<Self, StoreError> {
        let stores = Self {
            options,
            settings,
            substituters: Vec::new(),
            make_builds: None,
            opened: Mutex::default(),
        };
        stores.current().await?;
        Ok(stores)
    }

    /// Sets the stores that are queried for missing paths.
    #[must_use]
    pub fn with_substituters(
        mut self,
        substituters: impl IntoIterator<Item = Arc<dyn Store>>,
    ) -> Self {
        self.substituters = substituters.into_iter().collect();
        self
    }

    /// Sets how builds are made. Paths that they find or add stay temporary roots until no connection that has built
    /// something is left.
    #[must_use]
    pub fn with_builds(mut self, make: MakeBuilds) -> Self {
        self.make_builds = Some(make);
        self.opened = Mutex::default();
        self
    }

    async fn current(&self) -> Result<Opened, StoreError> {
        let mut opened = self.opened.lock().await;
        if let Some(known) = &*opened
            && known.store.is_current().await
        {
            return Ok(known.clone());
        }
        let store = LocalStore::open(self.options.clone()).await?;
        let builds = match &self.make_builds {
            Some(make) => Some(lease(make, &store)?),
            None => None,
        };
        Ok(opened.insert(Opened { store, builds }).clone())
    }
}

/// Builds in a handle of their own, whose temporary roots end with the last connection that builds.
fn lease(make: &MakeBuilds, store: &LocalStore) -> Result<Lease, StoreError> {
    let store = store.session().with_held_lookups();
    let builds = make(store.clone())?;
    let users = Arc::new(());
    let begin = move || {
        let guard = Building {
            users: Some(users.clone()),
            store: store.clone(),
        };
        Box::new(guard) as Box<dyn Any + Send + Sync>
    };
    Ok(Lease::with_begin(builds, begin))
}

/// A connection that has built something.
struct Building {
    /// `None` during drop.
    users: Option<Arc<()>>,
    store: LocalStore,
}

impl Drop for Building {
    fn drop(&mut self) {
        // One is that of the lease.
        let is_last = self
            .users
            .take()
            .is_some_and(|users| Arc::strong_count(&users) <= 2);
        if is_last && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let store = self.store.clone();
            runtime.spawn(async move { store.release().await });
        }
    }
}

impl fmt::Debug for LocalStores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalStores")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Stores for LocalStores {
    fn store_dir(&self) -> &StoreDir {
        &self.options.store_dir
    }

    async fn open(&self) -> Result<Backend, StoreError> {
        let opened = self.current().await?;
        let store = opened.store.session();
        let local = Local {
            store: store.clone(),
            settings: self.settings.clone(),
        };
        let mut backend = Backend::new(Arc::new(store))
            .with_maintenance(Arc::new(local))
            .with_substituters(self.substituters.iter().cloned());
        backend.builds = opened.builds;
        Ok(backend)
    }
}

/// A session of a local store.
#[derive(Debug)]
struct Local {
    store: LocalStore,
    settings: LocalSettings,
}

impl Local {
    /// The text for a path with other contents than registered, or with none that can be read.
    async fn described(&self, damaged: &DamagedPath) -> String {
        let path = self.store.store_dir().display(&damaged.path);
        let hashes = match &damaged.damage {
            Damage::Contents(StoreError::HashMismatch {
                expected, actual, ..
            }) => Some((expected.clone(), actual.clone())),
            // It was read as far as its size only.
            Damage::Contents(_) => self.hashes(&damaged.path).await,
            _ => None,
        };
        match hashes {
            Some((expected, actual)) => format!(
                "path '{path}' was modified! expected hash '{}', got '{}'",
                expected.base32(),
                actual.base32()
            ),
            None => format!("path '{path}': {}", describe(&damaged.damage)),
        }
    }

    /// The registered hash of a path, and that of its contents.
    async fn hashes(&self, path: &StorePath) -> Option<(NixHash, NixHash)> {
        let info = self.store.path_info(path).await.ok()??;
        let mut nar = self.store.nar(path).await.ok()?;
        let mut hasher = NixHasher::new(HashAlgo::Sha256);
        while let Some(chunk) = nar.next().await {
            hasher.update(&chunk.ok()?);
        }
        Some((info.nix_hash(), hasher.finish()))
    }
}

/// The hash of a file in `.links`, as its name should be.
async fn link_hash(file: PathBuf) -> String {
    let hash = move || -> std::io::Result<NixHash> {
        use std::os::unix::fs::PermissionsExt as _;
        let mut opened = std::fs::File::open(&file)?;
        let metadata = opened.metadata()?;
        let executable = metadata.permissions().mode() & 0o100 != 0;
        let mut writer = nar::Writer::new(Hashing(NixHasher::new(HashAlgo::Sha256)));
        let written = writer.regular_from(executable, metadata.len(), &mut opened);
        written.map_err(std::io::Error::other)?;
        let hashing = writer.finish().map_err(std::io::Error::other)?;
        Ok(hashing.0.finish())
    };
    match tokio::task::spawn_blocking(hash).await {
        Ok(Ok(hash)) => nixbase32::encode(hash.digest_bytes()),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    }
}

/// Hashes what is written.
struct Hashing(NixHasher);

impl std::io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Maintenance for Local {
    async fn hold(&self, path: &StorePath) -> Result<(), StoreError> {
        self.store.hold(vec![path.clone()]).await
    }

    async fn referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(self.store.referrers(path).await?.into_iter().collect())
    }

    async fn derivers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(self.store.derivers(path).await?.into_iter().collect())
    }

    async fn all_valid_paths(&self) -> Result<BTreeSet<StorePath>, StoreError> {
        Ok(self.store.all_valid_paths().await?.into_iter().collect())
    }

    async fn roots(&self) -> Result<Vec<RootLink>, StoreError> {
        // Links that stand for others, which are listed themselves.
        let mirrored = self.store.state_dir().join("gcroots/tvix");
        let roots = self.store.roots().await?.into_iter();
        let roots = roots.filter_map(|root| {
            let (link, is_process) = match &root.source {
                RootSource::Direct(link) if link.starts_with(&mirrored) => return None,
                RootSource::Direct(link) | RootSource::Indirect { link, .. } => {
                    (link.as_os_str().as_bytes().to_vec(), false)
                }
                other => (other.to_string().into_bytes(), true),
            };
            Some(RootLink::new(root.path, link, is_process))
        });
        Ok(roots.collect())
    }

    async fn add_indirect_root(&self, link: &Path) -> Result<(), StoreError> {
        self.store.register_root(link).await
    }

    async fn add_permanent_root(&self, path: &StorePath, link: &Path) -> Result<(), StoreError> {
        self.store.add_root(link, path).await
    }

    async fn collect_garbage(
        &self,
        request: CollectGarbage,
        settings: &ClientSettings,
        log: &Log,
    ) -> Result<Collection, StoreError> {
        let keep_outputs = settings.flag(&["keep-outputs", "gc-keep-outputs"]);
        let keep_derivations = settings.flag(&["keep-derivations", "gc-keep-derivations"]);
        let mut options = GcOptions::default()
            .with_keep_outputs(keep_outputs.unwrap_or(self.settings.keep_outputs))
            .with_keep_derivations(keep_derivations.unwrap_or(self.settings.keep_derivations))
            .with_action(match request.action {
                WireAction::ReturnLive => GcAction::ListLive,
                WireAction::ReturnDead => GcAction::ListDead,
                WireAction::DeleteDead | WireAction::DeleteSpecific => GcAction::Delete,
            });
        // Clients send the largest number of either kind for no limit.
        options.max_freed = Some(request.max_freed).filter(|bytes| *bytes < i64::MAX as u64);
        let mut named = Vec::new();
        if let GcPaths::Specific { paths, .. } = request.paths {
            named = paths.into_iter().collect();
            options = options.with_only(named.clone());
        }
        let deletes = options.action == GcAction::Delete;
        log.info("finding garbage collector roots...").await;
        if request.action != WireAction::DeleteSpecific && request.max_freed > 0 {
            let what = match deletes {
                true => "deleting garbage...",
                false => "determining live/dead paths...",
            };
            log.info(what).await;
        }
        let report = self.store.collect_garbage(options).await?;
        let mut names: Vec<String> = report.paths.iter().map(ToString::to_string).collect();
        names.extend(report.strays);
        if report.alive.is_empty() {
            // Those that are not there count as deleted, as in Nix.
            let gone: Vec<String> = named.iter().map(ToString::to_string).collect();
            names.extend(
                gone.into_iter()
                    .filter(|name| !names.contains(name))
                    .collect::<Vec<_>>(),
            );
        }
        if deletes && report.alive.is_empty() {
            let dir = self.store.store_dir();
            for name in &names {
                log.info(format!("deleting '{dir}/{name}'")).await;
            }
            log.info("deleting unused links...").await;
            log.info(log.savings(report.link_savings)).await;
        }
        for failure in &report.failures {
            log.error(format!("error: {}", describe(failure))).await;
        }
        Ok(Collection::new(names, report.bytes_freed, report.alive))
    }

    async fn verify(
        &self,
        check_contents: bool,
        repair: Option<Arc<dyn Store>>,
        log: &Log,
    ) -> Result<bool, StoreError> {
        log.info("reading the Nix store...").await;
        log.info("checking path existence...").await;
        let mut options = VerifyOptions::default()
            .with_contents(check_contents)
            .with_forget_missing(true);
        options.repair_from = repair;
        let report = self.store.verify_all(options).await?;
        let dir = self.store.store_dir();
        let is_missing = |damaged: &&DamagedPath| matches!(damaged.damage, Damage::Missing);
        for damaged in report.damaged.iter().filter(is_missing) {
            let path = dir.display(&damaged.path);
            let what = match damaged.forgotten {
                true => "removing from database...",
                false => "but it still has valid referrers!",
            };
            log.error(format!("path '{path}' disappeared, {what}"))
                .await;
        }
        if check_contents {
            log.info("checking link hashes...").await;
            for link in &report.bad_links {
                let expected = link.file_name().unwrap_or_default().to_string_lossy();
                let actual = link_hash(link.clone()).await;
                log.error(format!(
                    "link '{}' was modified! expected hash '{expected}', got '{actual}'",
                    link.display()
                ))
                .await;
            }
            log.info("checking store hashes...").await;
        }
        for damaged in report.damaged.iter().filter(|damaged| !is_missing(damaged)) {
            log.error(self.described(damaged).await).await;
        }
        for damaged in &report.damaged {
            if let Some(Err(error)) = &damaged.repaired {
                let path = dir.display(&damaged.path);
                log.warning(format!("cannot repair '{path}': {}", describe(error)))
                    .await;
            }
        }
        Ok(!report.is_intact())
    }

    async fn optimise(&self, log: &Log) -> Result<(), StoreError> {
        let report = self.store.optimise(OptimiseOptions::default()).await?;
        log.info(format!(
            "{} freed by hard-linking {} files",
            log.size(i64::try_from(report.bytes_freed).unwrap_or(i64::MAX)),
            report.shared
        ))
        .await;
        Ok(())
    }

    async fn add_signatures(
        &self,
        path: &StorePath,
        signatures: Vec<Signature>,
    ) -> Result<(), StoreError> {
        self.store.add_signatures(path, signatures).await
    }

    async fn repair(&self, path: &StorePath, from: &dyn Store) -> Result<(), StoreError> {
        self.store.repair(path, from).await
    }

    async fn new_log(&self, drv: &StorePath) -> Result<Option<PathBuf>, StoreError> {
        let name = drv.to_string();
        let (directory, file) = name.split_at(2);
        let directory = self.store.log_dir().join("drvs").join(directory);
        let place = directory.join(file);
        let compressed = directory.join(format!("{file}.bz2"));
        if tokio::fs::try_exists(&place).await.unwrap_or(false)
            || tokio::fs::try_exists(&compressed).await.unwrap_or(false)
        {
            return Ok(None);
        }
        let created = tokio::fs::create_dir_all(&directory).await;
        created.map_err(|error| StoreError::Backend {
            store: self.store.uri().clone(),
            action: format!("create '{}'", directory.display()),
            retryable: false,
            source: error.into(),
        })?;
        Ok(Some(place))
    }
}
