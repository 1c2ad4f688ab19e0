//! The conformance suite of [`Store`]: tests a back end against every rule of the contract. One
//! call runs all cases, so that none can be left out.
//!
//! ```
//! use nix_compat::store_path::StoreDir;
//! use tvix_store_api::MemoryStore;
//! use tvix_store_api::conformance::{Capabilities, run_all};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let new_store = || async { MemoryStore::new(StoreDir::default()) };
//! let capabilities = Capabilities::default().with_realisations(true).with_registration(true);
//! run_all(new_store, capabilities).await.assert_all();
//! # }
//! ```

mod atomicity;
mod batches;
mod blocking;
mod concurrency;
mod contents;
mod fixtures;
mod reading_many;
mod realisations;
mod refusal;
#[cfg(unix)]
mod trees;
mod validity;

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};

pub use blocking::Polls;
use tvix_conformance::{CaseResult, Failure, ensure};
pub use tvix_conformance::{Outcome, Report};

use crate::Store;

/// Time limit of a case. No case should take nearly as long: a back end that hangs is reported as
/// failed.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// The optional capabilities of a back end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// It remembers realisations.
    pub realisations: bool,
    /// It keeps the fields that are meaningful only in one store: the registration time, and
    /// whether the path was built there. Binary caches do not, because other stores copy from them.
    pub registration: bool,
    /// It keeps files on this file system: [`Store::on_disk`] returns paths.
    pub on_disk: bool,
    /// It refuses `.drv` files that are not derivations with the right paths, as Nix does.
    pub checks_derivations: bool,
}

impl Capabilities {
    /// Sets [`realisations`](Self::realisations).
    #[must_use]
    pub fn with_realisations(mut self, realisations: bool) -> Self {
        self.realisations = realisations;
        self
    }

    /// Sets [`registration`](Self::registration).
    #[must_use]
    pub fn with_registration(mut self, registration: bool) -> Self {
        self.registration = registration;
        self
    }

    /// Sets [`on_disk`](Self::on_disk).
    #[must_use]
    pub fn with_on_disk(mut self, on_disk: bool) -> Self {
        self.on_disk = on_disk;
        self
    }

    /// Sets [`checks_derivations`](Self::checks_derivations).
    #[must_use]
    pub fn with_checks_derivations(mut self, checks_derivations: bool) -> Self {
        self.checks_derivations = checks_derivations;
        self
    }
}

/// Runs all cases one by one, each on a store of its own from `factory`.
///
/// A store need not be empty: all paths that are used are new. A case fails if it panics or takes
/// two minutes. Needs a tokio runtime with time enabled.
pub async fn run_all<S, F>(factory: impl Fn() -> F, capabilities: Capabilities) -> Report
where
    S: Store + 'static,
    F: Future<Output = S>,
{
    let mut report = Report::default();
    for case in all_cases() {
        let store: Arc<dyn Store> = Arc::new(factory().await);
        let context = Context {
            store,
            capabilities,
        };
        report.run(case.name, TIME_LIMIT, (case.run)(context)).await;
    }
    report
}

/// The names of all cases, in the order of execution.
pub fn case_names() -> impl Iterator<Item = &'static str> {
    all_cases().map(|case| case.name)
}

/// The arguments of a case.
struct Context {
    store: Arc<dyn Store>,
    capabilities: Capabilities,
}

struct Case {
    name: &'static str,
    run: fn(Context) -> BoxFuture<'static, CaseResult>,
}

fn all_cases() -> impl Iterator<Item = &'static Case> {
    [
        validity::CASES,
        contents::CASES,
        refusal::CASES,
        atomicity::CASES,
        batches::CASES,
        reading_many::CASES,
        concurrency::CASES,
        blocking::CASES,
        realisations::CASES,
        #[cfg(unix)]
        trees::CASES,
    ]
    .into_iter()
    .flatten()
}

/// The table of a module's cases, each an async function of a [`Context`].
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub(super) const CASES: &[super::Case] = &[
            $(super::Case {
                name: stringify!($name),
                run: |context| super::boxed($name(context)),
            }),*
        ];
    };
}

use cases;

fn boxed(
    case: impl Future<Output = CaseResult> + Send + 'static,
) -> BoxFuture<'static, CaseResult> {
    case.boxed()
}
