//! The in-memory builder: closures in place of builder programs.
//!
//! ```
//! use nix_compat::derivation::DerivationBuilder;
//! use nix_compat::store_path::StoreDir;
//! use std::sync::Arc;
//! use tvix_build_api::memory::{InMemoryBuilder, MemoryOutputs, Tree};
//! use tvix_build_api::{BuildContext, BuildOutcome, BuildRequest, Builder, BuilderProfile};
//! use tvix_store_api::{MemoryStore, Store};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Arc::new(MemoryStore::new(StoreDir::default()));
//! let builder = InMemoryBuilder::new(BuilderProfile::new("memory", "x86_64-linux", 4))
//!     .with_store(store.clone())
//!     .with_program("greeting", |build| {
//!         let name = &build.request().derivation.name;
//!         Ok(MemoryOutputs::out(Tree::file(format!("hello from {name}\n"))))
//!     });
//!
//! let greeting = DerivationBuilder::new("greeting", "x86_64-linux", "/bin/sh")
//!     .instantiate(store.store_dir())?;
//! let mut request = BuildRequest::new(greeting.path, greeting.derivation);
//! request.store = Some(store.uri().clone());
//! let outcome = builder.build(request, BuildContext::new(store.clone())).await?;
//! assert!(matches!(outcome, BuildOutcome::Success(_)));
//! assert_eq!((store.len(), builder.count("greeting")), (1, 1));
//! # Ok(())
//! # }
//! ```

mod behaviour;
mod finish;
mod job;
mod run;
mod tree;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nix_compat::store_path::StorePath;
use tvix_store_api::{Store, StoreUri};

use self::behaviour::Behaviour;
use self::job::Program;
pub use self::job::{MemoryBuild, MemoryFault, MemoryOutputs, MemoryResult};
pub use self::tree::Tree;
use crate::{
    BuildContext, BuildOutcome, BuildRequest, Builder, BuilderError, BuilderProfile, FailureKind,
};

/// A builder with closures in place of builder programs: for tests, for embedders that make store
/// paths without running a program, and for measuring the overhead of the code around a builder.
///
/// It keeps the whole contract of [`Builder`]: outputs are hashed, scanned for references and
/// checked like those of a real build. A closure is found by the path of the derivation
/// (`<hash>-<name>.drv`), then by its name; otherwise the default one is used, which fails the
/// build.
///
/// Of the limits of a request only the time limit is enforced; the logs of closures are not
/// limited.
///
/// Clones share all state, including the counters.
#[derive(Debug, Clone)]
pub struct InMemoryBuilder {
    profile: BuilderProfile,
    behaviours: HashMap<String, Behaviour>,
    default: Behaviour,
    stores: HashMap<StoreUri, Arc<dyn Store>>,
    counts: Option<Arc<Mutex<HashMap<StorePath, u64>>>>,
    total: Arc<AtomicU64>,
}

impl InMemoryBuilder {
    /// A builder without closures.
    pub fn new(profile: BuilderProfile) -> Self {
        Self {
            profile,
            behaviours: HashMap::new(),
            default: Behaviour::default(),
            stores: HashMap::new(),
            counts: Some(Arc::default()),
            total: Arc::default(),
        }
    }

    /// A builder that makes an empty file for every output, in less than a microsecond. It does not
    /// count builds by derivation, only the [`total`](Self::total).
    pub fn trivial(profile: BuilderProfile) -> Self {
        Self {
            counts: None,
            default: Behaviour::of(Program::Trivial),
            ..Self::new(profile)
        }
    }

    /// Builds the derivation of this name or path with the synchronous closure `program`.
    #[must_use]
    pub fn with_program(
        mut self,
        derivation: impl Into<String>,
        program: impl Fn(&MemoryBuild) -> MemoryResult + Send + Sync + 'static,
    ) -> Self {
        self.behaviour(derivation).program = Some(Program::Sync(Arc::new(program)));
        self
    }

    /// Builds the derivation of this name or path with the asynchronous closure `program`. Its
    /// future is dropped when the build is cancelled.
    #[must_use]
    pub fn with_program_async<F>(
        mut self,
        derivation: impl Into<String>,
        program: impl Fn(MemoryBuild) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = MemoryResult> + Send + 'static,
    {
        let program = move |build| -> futures::future::BoxFuture<'static, MemoryResult> {
            Box::pin(program(build))
        };
        self.behaviour(derivation).program = Some(Program::Async(Arc::new(program)));
        self
    }

    /// Builds all other derivations with `program`.
    #[must_use]
    pub fn with_default(
        mut self,
        program: impl Fn(&MemoryBuild) -> MemoryResult + Send + Sync + 'static,
    ) -> Self {
        self.default.program = Some(Program::Sync(Arc::new(program)));
        self
    }

    /// As [`with_default`](Self::with_default), with an asynchronous closure.
    #[must_use]
    pub fn with_default_async<F>(
        mut self,
        program: impl Fn(MemoryBuild) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = MemoryResult> + Send + 'static,
    {
        self.default.program = Some(Program::Async(Arc::new(move |build| {
            Box::pin(program(build))
        })));
        self
    }

    /// Builds of the derivation of this name or path fail.
    #[must_use]
    pub fn with_failure(self, derivation: impl Into<String>, kind: FailureKind) -> Self {
        self.with_program(derivation, move |_| Err(kind.clone().into()))
    }

    /// Builds of the derivation of this name or path run until they are cancelled.
    #[must_use]
    pub fn never(self, derivation: impl Into<String>) -> Self {
        self.with_program_async(derivation, |_| std::future::pending())
    }

    /// The first `times` builds of the derivation of this name or path return a retryable
    /// [`BuilderError`].
    #[must_use]
    pub fn with_error(mut self, derivation: impl Into<String>, times: u64) -> Self {
        self.behaviour(derivation).trouble = Arc::new(AtomicU64::new(times));
        self
    }

    /// Delays the builds of the derivation of this name or path.
    #[must_use]
    pub fn with_delay(mut self, derivation: impl Into<String>, delay: Duration) -> Self {
        self.behaviour(derivation).delay = Some(delay);
        self
    }

    /// Delays the builds of all derivations without a delay of their own.
    #[must_use]
    pub fn with_delay_of_all(mut self, delay: Duration) -> Self {
        self.default.delay = Some(delay);
        self
    }

    /// Pushes outputs to `store` when a request names it.
    #[must_use]
    pub fn with_store(mut self, store: Arc<dyn Store>) -> Self {
        self.stores.insert(store.uri().clone(), store);
        self
    }

    /// The number of started builds of the derivation of this name or path. 0 for builders that do
    /// not count by derivation.
    pub fn count(&self, derivation: &str) -> u64 {
        let Some(counts) = &self.counts else {
            return 0;
        };
        let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let matching = counts.iter().filter(|(path, _)| {
            path.to_string() == derivation || derivation_name(path) == derivation
        });
        matching.map(|(_, count)| count).sum()
    }

    /// The number of started builds.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    fn behaviour(&mut self, derivation: impl Into<String>) -> &mut Behaviour {
        self.behaviours.entry(derivation.into()).or_default()
    }

    /// Counts a build, and returns the number of builds of this derivation.
    fn begin(&self, path: &StorePath) -> u64 {
        let total = self.total.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(counts) = &self.counts else {
            return total;
        };
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(path.clone()).or_default();
        *count += 1;
        *count
    }
}

fn derivation_name(path: &StorePath) -> &str {
    let name = path.name().as_str();
    name.strip_suffix(".drv").unwrap_or(name)
}

#[async_trait]
impl Builder for InMemoryBuilder {
    fn profile(&self) -> &BuilderProfile {
        &self.profile
    }

    async fn build(
        &self,
        request: BuildRequest,
        context: BuildContext,
    ) -> Result<BuildOutcome, BuilderError> {
        self.run(request, context).await
    }
}
