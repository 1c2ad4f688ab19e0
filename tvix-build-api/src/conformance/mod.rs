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

use std::fmt;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};

pub use script::{Script, Step, Text};
pub use subject::Subject;

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
            report.skipped.push(case.name);
            continue;
        }
        let subject = factory().await;
        // Runs as a separate task, so that a panic affects only this case.
        let running = tokio::spawn((case.run)(subject));
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

/// The names of all cases, in the order of execution.
pub fn case_names() -> impl Iterator<Item = &'static str> {
    all_cases().map(|case| case.name)
}

/// The results of all cases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "a report says nothing unless it is looked at"]
#[non_exhaustive]
pub struct Report {
    /// One outcome for each applicable case, in the order of execution.
    pub outcomes: Vec<Outcome>,
    /// The cases that need a capability that the back end does not have.
    pub skipped: Vec<&'static str>,
}

/// The result of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// The case's name.
    pub case: &'static str,
    /// The violation of the contract; `None` if the case passed.
    pub failure: Option<String>,
}

impl Report {
    /// The names of the failed cases, with the violations.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let outcomes = self.outcomes.iter();
        outcomes.filter_map(|outcome| Some((outcome.case, outcome.failure.as_deref()?)))
    }

    /// Panics with all failures if there are any.
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

/// A violation of the contract.
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
