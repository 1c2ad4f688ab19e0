//! Every case of the contract of [`Store`], to run against a back end: one call runs them all, so
//! that a back end cannot forget one.
//!
//! ```
//! use nix_compat::store_path::StoreDir;
//! use tvix_store_api::MemoryStore;
//! use tvix_store_api::conformance::{Capabilities, run_all};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let new_store = || async { MemoryStore::new(StoreDir::default()) };
//! let capabilities = Capabilities::default().realisations(true).registration(true);
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

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};

pub use blocking::Polls;

use crate::Store;

/// No case should take nearly as long: a back end that hangs is reported like one that fails.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Optional capabilities of a back end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// It remembers realisations.
    pub realisations: bool,
    /// It keeps data of its own: the time when a path was registered, and whether it was built there.
    /// Binary caches do not, as other stores take paths from them.
    pub registration: bool,
    /// It keeps files on this file system: [`Store::on_disk`] answers.
    pub on_disk: bool,
}

impl Capabilities {
    /// Sets [`realisations`](Self::realisations).
    #[must_use]
    pub fn realisations(mut self, realisations: bool) -> Self {
        self.realisations = realisations;
        self
    }

    /// Sets [`registration`](Self::registration).
    #[must_use]
    pub fn registration(mut self, registration: bool) -> Self {
        self.registration = registration;
        self
    }

    /// Sets [`on_disk`](Self::on_disk).
    #[must_use]
    pub fn on_disk(mut self, on_disk: bool) -> Self {
        self.on_disk = on_disk;
        self
    }
}

/// Runs every case, each on a store of its own from `factory`, one after the other.
///
/// A store need not be empty: every path that is used is a new one. A case that panics or takes
/// two minutes has failed. It needs a tokio runtime with time enabled.
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
        // As a task of its own, so that its panic is its own, too.
        let running = tokio::spawn((case.run)(context));
        let abort = running.abort_handle();
        let result = match tokio::time::timeout(TIME_LIMIT, running).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(Failure(panic.to_string())),
            Err(_) => {
                abort.abort();
                Err(Failure(format!("still running after {TIME_LIMIT:?}")))
            }
        };
        report.outcomes.push(Outcome {
            case: case.name,
            failure: result.err().map(|failure| failure.0),
        });
    }
    report
}

/// The names of all cases, in the order in which they run.
pub fn case_names() -> impl Iterator<Item = &'static str> {
    all_cases().map(|case| case.name)
}

/// How all cases ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "a report says nothing unless it is looked at"]
#[non_exhaustive]
pub struct Report {
    /// One for each case, in the order in which they ran.
    pub outcomes: Vec<Outcome>,
    /// The cases that need a capability that the back end does not have.
    pub skipped: Vec<&'static str>,
}

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The case's name.
    pub case: &'static str,
    /// The error of the back end; `None` if the case passed.
    pub failure: Option<String>,
}

impl Report {
    /// The cases that failed, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let outcomes = self.outcomes.iter();
        outcomes.filter_map(|outcome| Some((outcome.case, outcome.failure.as_deref()?)))
    }

    /// Panics with all failures if there is one.
    ///
    /// # Panics
    ///
    /// If a case failed.
    #[track_caller]
    pub fn assert_all(&self) {
        assert!(self.failures().next().is_none(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (failed, skipped) = (self.failures().count(), self.skipped.len());
        let cases = self.outcomes.len();
        write!(
            f,
            "{failed} of {cases} cases failed, {skipped} were skipped"
        )?;
        for (case, failure) in self.failures() {
            write!(f, "\n  {case}: {failure}")?;
        }
        Ok(())
    }
}

/// The input of a case.
struct Context {
    store: Arc<dyn Store>,
    capabilities: Capabilities,
}

/// The error of a back end.
struct Failure(String);

type CaseResult = Result<(), Failure>;

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = format!("unexpected error: {error}");
        let mut source = error.source();
        while let Some(error) = source {
            text.push_str(&format!(": {error}"));
            source = error.source();
        }
        Self(text)
    }
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

/// Fails the case unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            return Err(super::Failure(format!($($message)*)));
        }
    };
}

use {cases, ensure};

fn boxed(
    case: impl Future<Output = CaseResult> + Send + 'static,
) -> BoxFuture<'static, CaseResult> {
    case.boxed()
}
