//! A daemon on a socket in a temporary directory.

use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tvix_daemon::local::{LocalSettings, LocalStores};
use tvix_daemon::{Access, Backend, Daemon, DaemonOptions, Stores, bind};
use tvix_store_api::MemoryStore;
use tvix_store_api::daemon::{DaemonOptions as ClientOptions, DaemonStore};
use tvix_store_api::local_fs::LocalStoreOptions;
use tvix_test_support::directory::make_writable;

pub struct World {
    pub directory: TempDir,
    rooted: bool,
    pub shutdown: CancellationToken,
    _serving: AbortOnDropHandle<()>,
}

impl World {
    /// In front of a local store. This process is trusted.
    pub async fn local() -> Self {
        Self::local_with(|options| options).await
    }

    pub async fn local_with(set: impl FnOnce(DaemonOptions) -> DaemonOptions) -> Self {
        let directory = TempDir::new().unwrap();
        let store = LocalStoreOptions::new(directory.path().join("root"));
        let stores = LocalStores::open(store, LocalSettings::default())
            .await
            .unwrap();
        Self::start(directory, Arc::new(stores), set, true)
    }

    pub fn memory(store: MemoryStore, set: impl FnOnce(DaemonOptions) -> DaemonOptions) -> Self {
        let stores = Backend::new(Arc::new(store));
        Self::start(TempDir::new().unwrap(), Arc::new(stores), set, false)
    }

    fn start(
        directory: TempDir,
        stores: Arc<dyn Stores>,
        set: impl FnOnce(DaemonOptions) -> DaemonOptions,
        rooted: bool,
    ) -> Self {
        let trusted = Access::default().with_trusted(["*"]);
        let options = set(DaemonOptions::default().with_access(trusted));
        let daemon = Daemon::new(stores, options);
        let listener = bind(&directory.path().join("var/socket")).unwrap();
        let shutdown = CancellationToken::new();
        let until = shutdown.clone();
        let serving = tokio::spawn(async move { daemon.listen(listener, until).await });
        Self {
            directory,
            rooted,
            shutdown,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("var/socket")
    }

    pub async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).await.unwrap()
    }

    /// A client.
    pub async fn open(&self) -> DaemonStore {
        let mut uri = format!("unix://{}", self.socket().display());
        if self.rooted {
            uri = format!(
                "{uri}?root={}",
                self.directory.path().join("root").display()
            );
        }
        let options = ClientOptions::new(uri.parse().unwrap()).unwrap();
        DaemonStore::open(options).await.unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        make_writable(self.directory.path());
    }
}
