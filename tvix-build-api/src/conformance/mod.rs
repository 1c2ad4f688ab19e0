//! Every case of the contract of [`Builder`], to run against a back end: one call runs them all,
//! so that a back end cannot forget one.
//!
//! A back end provides a [`Subject`] for each case: itself, a store that it knows, and a way to
//! make derivations that run a [`Script`].
//!
//! ```
//! use std::sync::Arc;
//!
//! use tvix_build_api::conformance::{Capabilities, Subject, run_all};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let capabilities = Capabilities::default().floating(true);
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

/// No case should take nearly as long: a back end that hangs is reported like one that fails.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Optional capabilities of a back end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// It builds content-addressed derivations.
    pub floating: bool,
    /// It ends builds that write nothing to their log for too long, or too much.
    pub log_limits: bool,
}

impl Capabilities {
    /// Sets [`floating`](Self::floating).
    #[must_use]
    pub fn floating(mut self, floating: bool) -> Self {
        self.floating = floating;
        self
    }

    /// Sets [`log_limits`](Self::log_limits).
    #[must_use]
    pub fn log_limits(mut self, log_limits: bool) -> Self {
        self.log_limits = log_limits;
        self
    }
}

/// Runs every case, each on a subject of its own from `factory`, one after the other.
///
/// A case that panics or takes a minute has failed. It needs a tokio runtime with all enabled that
/// the back end needs, and time.
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
        // As a task of its own, so that its panic is its own, too.
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

/// The names of all cases, in the order in which they run.
pub fn case_names() -> impl Iterator<Item = &'static str> {
    all_cases().map(|case| case.name)
}

/// How all cases ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "a report says nothing unless it is looked at"]
#[non_exhaustive]
pub struct Report {
    /// One for each case that applies, in the order in which they ran.
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

/// The table of a module's cases: async functions of a [`Subject`], and the capabilities they need.
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
