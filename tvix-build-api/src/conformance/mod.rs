//! The conformance suite of [`Builder`]: tests a back end against every rule of the contract. One
//! call runs all cases, so that none can be left out.
//!
//! A back end provides a [`Subject`] for each case: itself, a store that it knows, and a function
//! that creates derivations with the actions of a [`Script`].
//!
//! ```
//! use std::sync::Arc;
//!
//! use tvix_build_api::conformance::{Capabilities, Subject, run_all};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let capabilities = Capabilities::default().with_floating(true);
//! run_all(|| async { Subject::in_memory() }, capabilities)
//!     .await
//!     .assert_all();
//! # }
//! ```

mod cancellation;
mod delivery;
mod failure;
mod fixtures;
mod isolation;
mod outputs;
mod script;
mod subject;

use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};

pub use script::{Script, Step, Text};
pub use subject::Subject;
use tvix_conformance::{CaseResult, Failure, ensure};
pub use tvix_conformance::{Outcome, Report};

#[cfg(doc)]
use crate::Builder;

/// Time limit of a case. No case should take nearly as long: a back end that hangs is reported as
/// failed.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// The optional capabilities of a back end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// It builds floating content-addressed derivations.
    pub floating: bool,
    /// It enforces the limits on the size of the log and on the time without log output.
    pub log_limits: bool,
}

impl Capabilities {
    /// Sets [`floating`](Self::floating).
    #[must_use]
    pub fn with_floating(mut self, floating: bool) -> Self {
        self.floating = floating;
        self
    }

    /// Sets [`log_limits`](Self::log_limits).
    #[must_use]
    pub fn with_log_limits(mut self, log_limits: bool) -> Self {
        self.log_limits = log_limits;
        self
    }
}

/// Runs all cases one by one, each on a subject of its own from `factory`.
///
/// A case fails if it panics or takes a minute. Needs a tokio runtime with time enabled, and with
/// everything else that the back end needs.
pub async fn run_all<F>(factory: impl Fn() -> F, capabilities: Capabilities) -> Report
where
    F: Future<Output = Subject>,
{
    let mut report = Report::default();
    for case in all_cases() {
        if !(case.applies)(capabilities) {
            report.skip(case.name);
            continue;
        }
        let subject = factory().await;
        report.run(case.name, TIME_LIMIT, (case.run)(subject)).await;
    }
    report
}

/// The names of all cases, in the order of execution.
pub fn case_names() -> impl Iterator<Item = &'static str> {
    all_cases().map(|case| case.name)
}

struct Case {
    name: &'static str,
    applies: fn(Capabilities) -> bool,
    run: fn(Subject) -> BoxFuture<'static, CaseResult>,
}

fn all_cases() -> impl Iterator<Item = &'static Case> {
    [
        outputs::CASES,
        delivery::CASES,
        isolation::CASES,
        failure::CASES,
        cancellation::CASES,
    ]
    .into_iter()
    .flatten()
}

/// The table of a module's cases, each an async function of a [`Subject`], with the capabilities
/// that it requires.
macro_rules! cases {
    ($($name:ident $(if $capability:ident)?),* $(,)?) => {
        pub(super) const CASES: &[super::Case] = &[
            $(super::Case {
                name: stringify!($name),
                applies: |_capabilities| true $(&& _capabilities.$capability)?,
                run: |subject| super::boxed($name(subject)),
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
