//! The subject of a case.

use std::fmt;
use std::sync::Arc;

use nix_compat::derivation::DerivationBuilder;
use nix_compat::store_path::StoreDir;
use tvix_store_api::{MemoryStore, Store};

use super::Script;
use crate::memory::InMemoryBuilder;
use crate::{Builder, BuilderProfile, FailureKind};

type MakeDerivation = dyn Fn(&str, &Script) -> DerivationBuilder + Send + Sync;
type Leftovers = dyn Fn(&str) -> Vec<String> + Send + Sync;

/// A back end under test, and its surroundings.
#[derive(Clone)]
pub struct Subject {
    pub(super) builder: Arc<dyn Builder>,
    pub(super) store: Arc<dyn Store>,
    make_derivation: Arc<MakeDerivation>,
    leftovers: Arc<Leftovers>,
}

impl Subject {
    /// A builder, a store that it knows and can read inputs from, and a function that creates a
    /// derivation of a given name with the actions of a script.
    pub fn new(
        builder: impl Builder + 'static,
        store: Arc<dyn Store>,
        make_derivation: impl Fn(&str, &Script) -> DerivationBuilder + Send + Sync + 'static,
    ) -> Self {
        Self {
            builder: Arc::new(builder),
            store,
            make_derivation: Arc::new(make_derivation),
            leftovers: Arc::new(|_| Vec::new()),
        }
    }

    /// Sets the function that finds leftovers of a build outside the store, such as processes and
    /// files. It receives the name of a derivation, and lists the leftovers of its build.
    #[must_use]
    pub fn leftovers(
        mut self,
        leftovers: impl Fn(&str) -> Vec<String> + Send + Sync + 'static,
    ) -> Self {
        self.leftovers = Arc::new(leftovers);
        self
    }

    /// The in-memory builder, with an in-memory store.
    pub fn in_memory() -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreDir::default()));
        Self::in_memory_with(store.clone(), |builder| builder)
    }

    /// The in-memory builder, wrapped in another builder, such as one that injects faults.
    pub fn in_memory_with<B: Builder + 'static>(
        store: Arc<dyn Store>,
        wrap: impl FnOnce(InMemoryBuilder) -> B,
    ) -> Self {
        let system = "x86_64-linux";
        let builder = InMemoryBuilder::new(BuilderProfile::new("memory", system, 4))
            .with_store(store.clone())
            .with_default_async(|build| async move {
                let script = build.request().derivation.env_var("script");
                match script
                    .map(|text| text.as_slice())
                    .map(serde_json::from_slice)
                {
                    Some(Ok(script)) => Script::run_in_memory(script, build).await,
                    other => Err(FailureKind::InvalidDerivation {
                        message: format!("no script: {other:?}"),
                    }
                    .into()),
                }
            });
        Self::new(wrap(builder), store, move |name, script| {
            let text = serde_json::to_string(script).unwrap_or_default();
            DerivationBuilder::new(name, system, "/bin/sh").env("script", text)
        })
    }

    pub(super) fn derivation(&self, name: &str, script: &Script) -> DerivationBuilder {
        (self.make_derivation)(name, script)
    }

    pub(super) fn left_behind(&self, name: &str) -> Vec<String> {
        (self.leftovers)(name)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("builder", &self.builder)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}
