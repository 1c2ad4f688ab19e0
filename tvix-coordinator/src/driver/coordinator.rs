//! Putting the parts together.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use tvix_build_api::Builder;
use tvix_eval_api::{EvalRequest, Evaluator};
use tvix_store_api::Store;

use super::session::Session;
use crate::options::{Decision, OnFailure, Options};
use crate::report::Failure;

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
    /// Substituters with a lower number are asked first; equal ones in the order in which they were
    /// added. Signature policy belongs to the store. A substituter with another store directory has
    /// no usable paths, and is ignored.
    #[must_use]
    pub fn with_substituter(mut self, substituter: Arc<dyn Store>, priority: i32) -> Self {
        if substituter.store_dir() == self.store.store_dir() {
            let place = self.substituters.partition_point(|(it, _)| *it <= priority);
            self.substituters.insert(place, (priority, substituter));
        }
        self
    }

    /// Adds a builder. Of those that can build a derivation the least busy one is used. At most 64
    /// are used.
    #[must_use]
    pub fn with_builder(mut self, builder: Arc<dyn Builder>) -> Self {
        self.builders.push(builder);
        self
    }

    /// Sets how sessions go about their work.
    #[must_use]
    pub fn with_options(mut self, options: Options) -> Self {
        self.options = options;
        self
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

    /// Starts to evaluate `request` and to build the derivations that it yields, on a task of its
    /// own.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn start(&self, request: EvalRequest) -> Session {
        Session::start(self.clone(), request)
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
