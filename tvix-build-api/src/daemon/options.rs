//! Settings of a [`DaemonBuilder`](super::DaemonBuilder).

use std::collections::HashMap;
use std::sync::Arc;

use tvix_store_api::daemon::DaemonOptions;
use tvix_store_api::{Store, StoreUri};

use crate::BuilderProfile;

/// Settings of a [`DaemonBuilder`](super::DaemonBuilder).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DaemonBuilderOptions {
    /// The daemon.
    pub daemon: DaemonOptions,
    /// The systems, features and capacity of its machine, which a daemon does not tell.
    pub profile: BuilderProfile,
    /// Whether the daemon substitutes inputs that it lacks (`builders-use-substitutes`). The others are
    /// sent to it.
    pub use_substitutes: bool,
    /// Stores that outputs are pushed to, beside the daemon's own.
    pub(super) stores: HashMap<StoreUri, Arc<dyn Store>>,
}

impl DaemonBuilderOptions {
    /// A builder on `daemon`, whose machine has this profile. It is [remote](BuilderProfile::remote).
    pub fn new(daemon: DaemonOptions, profile: BuilderProfile) -> Self {
        Self {
            daemon,
            profile: profile.with_remote(true),
            use_substitutes: false,
            stores: HashMap::new(),
        }
    }

    /// Sets whether the daemon substitutes inputs that it lacks [default: false].
    #[must_use]
    pub fn with_use_substitutes(mut self, use_substitutes: bool) -> Self {
        self.use_substitutes = use_substitutes;
        self
    }

    /// Pushes outputs to `store` when a request names it.
    #[must_use]
    pub fn with_store(mut self, store: Arc<dyn Store>) -> Self {
        self.stores.insert(store.uri().clone(), store);
        self
    }
}
