//! Putting the parts together.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use nix_compat::store_path::StoreDir;
use thiserror::Error;
use tvix_build_api::Builder;
use tvix_eval_api::Evaluator;
use tvix_store_api::{Store, StoreUri};

use crate::machine::MAX_BUILDERS;
use crate::options::{Decision, OnFailure, Options};
use crate::report::Failure;

/// Why a coordinator cannot be put together.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A substituter has its paths in another directory, so that none of them can be used.
    #[error("substituter '{substituter}' has paths in '{actual}', not in '{expected}'")]
    OtherStoreDir {
        /// The substituter.
        substituter: StoreUri,
        /// Its store directory.
        actual: StoreDir,
        /// The store directory of the coordinator's store.
        expected: StoreDir,
    },
    /// There are too many builders.
    #[error("cannot add builder '{builder}': there are {MAX_BUILDERS} builders already")]
    TooManyBuilders {
        /// The name of the builder.
        builder: String,
    },
}

/// Decides about a failure.
pub(super) type AskFailure = Arc<dyn Fn(Failure) -> BoxFuture<'static, Decision> + Send + Sync>;

/// An evaluator, a store and builders that work together. Cheap to clone; any number of sessions
/// may run at once.
#[derive(Clone)]
pub struct Coordinator {
    pub(super) evaluator: Arc<dyn Evaluator>,
    pub(super) store: Arc<dyn Store>,
    pub(super) substituters: Vec<(i32, Arc<dyn Store>)>,
    pub(super) builders: Vec<Arc<dyn Builder>>,
    pub(super) options: Options,
    pub(super) ask: Option<AskFailure>,
}

impl Coordinator {
    /// A coordinator without builders: it can look things up in the store, and nothing more.
    ///
    /// `store` is where everything is looked up and where outputs go; a
    /// [`TieredStore`](tvix_store_api::TieredStore) joins several.
    pub fn new(evaluator: Arc<dyn Evaluator>, store: Arc<dyn Store>) -> Self {
        Self {
            evaluator,
            store,
            substituters: Vec::new(),
            builders: Vec::new(),
            options: Options::default(),
            ask: None,
        }
    }

    /// Adds a store that outputs are fetched from, if it has them and something needs them.
    /// Substituters with a lower priority are queried first; among equals, the one that was added
    /// first. Signature policy belongs to the substituter.
    ///
    /// # Panics
    ///
    /// If its store directory is another one: see [`Coordinator::try_with_substituter`].
    #[must_use]
    #[track_caller]
    pub fn with_substituter(self, substituter: Arc<dyn Store>, priority: i32) -> Self {
        match self.try_with_substituter(substituter, priority) {
            Ok(coordinator) => coordinator,
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`Coordinator::with_substituter`].
    ///
    /// # Errors
    ///
    /// [`SetupError::OtherStoreDir`] if its store directory is not that of the coordinator's store.
    pub fn try_with_substituter(
        mut self,
        substituter: Arc<dyn Store>,
        priority: i32,
    ) -> Result<Self, SetupError> {
        if substituter.store_dir() != self.store.store_dir() {
            return Err(SetupError::OtherStoreDir {
                substituter: substituter.uri().clone(),
                actual: substituter.store_dir().clone(),
                expected: self.store.store_dir().clone(),
            });
        }
        let place = self.substituters.partition_point(|(it, _)| *it <= priority);
        self.substituters.insert(place, (priority, substituter));
        Ok(self)
    }

    /// Adds a builder. A derivation is built by the least busy builder that supports it.
    ///
    /// # Panics
    ///
    /// If there are [`MAX_BUILDERS`] already: see [`Coordinator::try_with_builder`].
    #[must_use]
    #[track_caller]
    pub fn with_builder(self, builder: Arc<dyn Builder>) -> Self {
        match self.try_with_builder(builder) {
            Ok(coordinator) => coordinator,
            Err(error) => panic!("{error}"),
        }
    }

    /// As [`Coordinator::with_builder`].
    ///
    /// # Errors
    ///
    /// [`SetupError::TooManyBuilders`] if there are [`MAX_BUILDERS`] already.
    pub fn try_with_builder(mut self, builder: Arc<dyn Builder>) -> Result<Self, SetupError> {
        if self.builders.len() == MAX_BUILDERS {
            let builder = builder.profile().name.clone();
            return Err(SetupError::TooManyBuilders { builder });
        }
        self.builders.push(builder);
        Ok(self)
    }

    /// Sets how sessions go about their work.
    #[must_use]
    pub fn with_options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Replaces the evaluator: for programs that run sessions of different evaluators with the same store and builders.
    #[must_use]
    pub fn with_evaluator(mut self, evaluator: Arc<dyn Evaluator>) -> Self {
        self.evaluator = evaluator;
        self
    }

    /// Replaces each builder by the result of `map`, for builders that wrap others.
    #[must_use]
    pub fn map_builders(
        mut self,
        mut map: impl FnMut(Arc<dyn Builder>) -> Arc<dyn Builder>,
    ) -> Self {
        self.builders = self.builders.into_iter().map(&mut map).collect();
        self
    }

    /// Removes the builders for which `keep` returns `false`.
    #[must_use]
    pub fn retain_builders(mut self, mut keep: impl FnMut(&dyn Builder) -> bool) -> Self {
        self.builders.retain(|builder| keep(&**builder));
        self
    }

    /// Removes all substituters.
    #[must_use]
    pub fn without_substituters(mut self) -> Self {
        self.substituters.clear();
        self
    }

    /// The store that outputs go to.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The substituters, in the order in which they are queried.
    pub fn substituters(&self) -> impl Iterator<Item = &Arc<dyn Store>> {
        self.substituters.iter().map(|(_, store)| store)
    }

    /// The builders, in the order in which they were added.
    pub fn builders(&self) -> &[Arc<dyn Builder>] {
        &self.builders
    }

    /// The options of sessions.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Calls `decide` for each failure of something that is needed, in place of
    /// [`Options::on_failure`]. Work that does not depend on the failure goes on meanwhile.
    #[must_use]
    pub fn on_failure<F, R>(mut self, decide: F) -> Self
    where
        F: Fn(Failure) -> R + Send + Sync + 'static,
        R: Future<Output = Decision> + Send + 'static,
    {
        self.ask = Some(Arc::new(move |failure| Box::pin(decide(failure))));
        self.options.on_failure = OnFailure::Ask;
        self
    }
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator")
            .field("evaluator", &self.evaluator)
            .field("store", &self.store)
            .field("substituters", &self.substituters)
            .field("builders", &self.builders)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
