//! A sandbox builder with a local store, for tests.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;

use nix_compat::derivation::{DerivationBuilder, Instantiated};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StoreDir;
use tvix_build_api::sandbox::{SandboxBuilder, SandboxOptions, SandboxPath};
use tvix_build_api::{
    BuildContext, BuildFailure, BuildOutcome, BuildRequest, BuildSuccess, Builder as _,
    BuilderError, this_system,
};
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};
use tvix_store_api::{Store as _, StoreExt as _};

use crate::common::{Directory, busybox};

/// A sandbox builder with a local store.
pub struct Fixture {
    pub builder: SandboxBuilder,
    pub store: LocalStore,
    pub directory: Directory,
}

impl Fixture {
    pub fn new() -> Self {
        Self::with("/nix/store", |options| {
            options.with_sandbox_paths([SandboxPath::new(busybox(), "/bin/sh")])
        })
    }

    pub fn with(dir: &str, change: impl FnOnce(SandboxOptions) -> SandboxOptions) -> Self {
        let directory = Directory::new();
        Self::at(directory, dir, change)
    }

    pub fn at(
        directory: Directory,
        dir: &str,
        change: impl FnOnce(SandboxOptions) -> SandboxOptions,
    ) -> Self {
        let options = LocalStoreOptions::new(directory.path().join("root"))
            .with_store_dir(StoreDir::new(dir).unwrap());
        let store = LocalStore::open_blocking(options).unwrap();
        let options = change(SandboxOptions::new("test"));
        let builder = SandboxBuilder::new(options).unwrap();
        Self {
            builder: builder.with_local_store(&store),
            store,
            directory,
        }
    }

    pub fn derivation(&self, script: &str) -> Instantiated {
        self.instantiate(shell(script))
    }

    pub fn instantiate(&self, builder: DerivationBuilder) -> Instantiated {
        builder.instantiate(self.store.store_dir()).unwrap()
    }

    pub async fn build(
        &self,
        made: &Instantiated,
        inputs: &[Arc<PathInfo>],
    ) -> Result<BuildOutcome, BuilderError> {
        let mut request = BuildRequest::new(made.path.clone(), made.derivation.clone());
        request.store = Some(self.store.uri().clone());
        request.inputs = inputs.to_vec();
        let context = BuildContext::new(Arc::new(self.store.clone()));
        self.builder.build(request, context).await
    }

    pub async fn fail(&self, made: &Instantiated) -> BuildFailure {
        match self.build(made, &[]).await.unwrap() {
            BuildOutcome::Failure(failure) => failure,
            outcome => panic!("{outcome:?}"),
        }
    }

    pub async fn succeed(&self, made: &Instantiated) -> BuildSuccess {
        match self.build(made, &[]).await.unwrap() {
            BuildOutcome::Success(success) => success,
            outcome => panic!("{outcome:?}"),
        }
    }

    pub async fn succeeded_once(&self, script: &str) -> Instantiated {
        let made = self.derivation(script);
        self.succeed(&made).await;
        made
    }

    /// The file of the output `out`.
    pub fn output(&self, made: &Instantiated) -> PathBuf {
        self.store.real_path(&made.output_path("out").unwrap())
    }

    pub async fn input(&self, text: &str) -> Arc<PathInfo> {
        let name = "input".parse().unwrap();
        let path = self.store.add_text(name, text.as_bytes(), [].into()).await;
        self.store.require(&path.unwrap()).await.unwrap()
    }
}

pub fn shell(script: &str) -> DerivationBuilder {
    DerivationBuilder::new("test", this_system(), "/bin/sh").args(["-e", "-c", script])
}
