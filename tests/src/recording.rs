//! Wrappers that record calls.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use nix_compat::path_info::PathInfo;
use nix_compat::realisation::{DrvOutput, Realisation};
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_build_api::{
    BuildContext, BuildOutcome, BuildRequest, Builder, BuilderError, BuilderProfile, Delivery,
};
use tvix_store_api::{
    ExpectedPath, NarStream, SourceTree, Store, StoreError, StoreUri, VerifiedObject,
};

/// A store that records look-ups and additions.
#[derive(Debug)]
pub struct RecordingStore<S> {
    inner: S,
    calls: Mutex<Vec<StoreCall>>,
}

/// A call of a [`RecordingStore`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreCall {
    /// A look-up of these paths.
    ValidPaths(Vec<StorePath>),
    /// An addition of this path.
    Add(StorePath),
}

impl<S: Store> RecordingStore<S> {
    /// Wraps `inner`.
    pub fn new(inner: S) -> Arc<Self> {
        let calls = Mutex::default();
        Arc::new(Self { inner, calls })
    }

    /// The looked-up paths, by batch.
    pub fn lookups(&self) -> Vec<Vec<StorePath>> {
        let calls = self.calls.lock().unwrap();
        let lookups = calls.iter().filter_map(|call| match call {
            StoreCall::ValidPaths(paths) => Some(paths.clone()),
            StoreCall::Add(_) => None,
        });
        lookups.collect()
    }

    /// The paths added through this store, in order.
    pub fn additions(&self) -> Vec<StorePath> {
        let calls = self.calls.lock().unwrap();
        let additions = calls.iter().filter_map(|call| match call {
            StoreCall::Add(path) => Some(path.clone()),
            StoreCall::ValidPaths(_) => None,
        });
        additions.collect()
    }

    fn record(&self, call: StoreCall) {
        self.calls.lock().unwrap().push(call);
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<S: Store> Store for RecordingStore<S> {
    fn uri(&self) -> &StoreUri {
        self.inner.uri()
    }

    fn store_dir(&self) -> &StoreDir {
        self.inner.store_dir()
    }

    async fn path_info(&self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, StoreError> {
        self.inner.path_info(path).await
    }

    async fn find(&self, digest: &[u8; 20]) -> Result<Option<Arc<PathInfo>>, StoreError> {
        self.inner.find(digest).await
    }

    async fn valid_paths(&self, paths: &[StorePath]) -> Result<HashSet<StorePath>, StoreError> {
        self.record(StoreCall::ValidPaths(paths.to_vec()));
        self.inner.valid_paths(paths).await
    }

    async fn path_infos(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<Arc<PathInfo>>>, StoreError> {
        self.inner.path_infos(paths).await
    }

    async fn nar(&self, path: &StorePath) -> Result<NarStream, StoreError> {
        self.inner.nar(path).await
    }

    async fn read_many(
        &self,
        infos: Vec<Arc<PathInfo>>,
    ) -> Vec<Result<VerifiedObject, StoreError>> {
        self.inner.read_many(infos).await
    }

    async fn add(&self, info: PathInfo, nar: NarStream) -> Result<(), StoreError> {
        self.record(StoreCall::Add(info.path.clone()));
        self.inner.add(info, nar).await
    }

    async fn add_many(&self, objects: Vec<VerifiedObject>) -> Vec<Result<(), StoreError>> {
        for object in &objects {
            self.record(StoreCall::Add(object.path().clone()));
        }
        self.inner.add_many(objects).await
    }

    async fn add_source(&self, tree: SourceTree) -> Result<StorePath, StoreError> {
        if let ExpectedPath::Path(path) = &tree.expected {
            self.record(StoreCall::Add(path.clone()));
        }
        self.inner.add_source(tree).await
    }

    async fn on_disk(&self, path: &StorePath) -> Result<Option<PathBuf>, StoreError> {
        self.inner.on_disk(path).await
    }

    async fn realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        self.inner.realisation(id).await
    }

    async fn add_realisation(&self, realisation: &Realisation) -> Result<(), StoreError> {
        self.inner.add_realisation(realisation).await
    }
}

/// A builder that records requests and deliveries of outputs.
#[derive(Debug)]
pub struct RecordingBuilder<B> {
    inner: B,
    builds: Mutex<Vec<RecordedBuild>>,
}

/// A build of a [`RecordingBuilder`].
#[derive(Debug, Clone)]
pub struct RecordedBuild {
    /// The request.
    pub request: BuildRequest,
    /// The end of the build, if it has ended.
    pub end: Option<RecordedEnd>,
}

/// The end of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordedEnd {
    /// It succeeded, and reports these paths as pushed.
    Pushed(Vec<StorePath>),
    /// It succeeded, and streams these outputs.
    Streamed(Vec<StorePath>),
    /// It failed.
    Failed,
    /// The builder returned an error.
    Error,
}

impl<B: Builder> RecordingBuilder<B> {
    /// Wraps `inner`.
    pub fn new(inner: B) -> Arc<Self> {
        let builds = Mutex::default();
        Arc::new(Self { inner, builds })
    }

    /// The builds, in the order of their requests.
    pub fn builds(&self) -> Vec<RecordedBuild> {
        self.builds.lock().unwrap().clone()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<B: Builder> Builder for RecordingBuilder<B> {
    fn profile(&self) -> &BuilderProfile {
        self.inner.profile()
    }

    async fn build(
        &self,
        request: BuildRequest,
        context: BuildContext,
    ) -> Result<BuildOutcome, BuilderError> {
        let index = {
            let mut builds = self.builds.lock().unwrap();
            let request = request.clone();
            builds.push(RecordedBuild { request, end: None });
            builds.len() - 1
        };
        let outcome = self.inner.build(request, context).await;
        self.builds.lock().unwrap()[index].end = Some(end_of(&outcome));
        outcome
    }
}

fn end_of(outcome: &Result<BuildOutcome, BuilderError>) -> RecordedEnd {
    let success = match outcome {
        Ok(BuildOutcome::Success(success)) => success,
        Ok(BuildOutcome::Failure(_)) => return RecordedEnd::Failed,
        Err(_) => return RecordedEnd::Error,
    };
    let outputs = success.delivery.outputs();
    let paths = outputs.iter().map(|(_, info)| info.path.clone()).collect();
    match success.delivery {
        Delivery::Pushed(_) => RecordedEnd::Pushed(paths),
        Delivery::Streamed(_) => RecordedEnd::Streamed(paths),
    }
}
