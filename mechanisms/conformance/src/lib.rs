//! Runs the cases of a conformance suite and reports how they ended.
//!
//! A *suite* tests an implementation of a trait against the rules of the trait's contract. It
//! consists of cases, which are async functions with a name. A back end may lack optional
//! capabilities; cases that need them are skipped, and the report says so.
//!
//! ```
//! use std::time::Duration;
//! use tvix_conformance::{CaseResult, Failure, Report};
//!
//! async fn parses_numbers() -> CaseResult {
//!     let number: u8 = "7".parse()?;
//!     if number != 7 {
//!         return Err(Failure::new(format!("'7' is {number}")));
//!     }
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let mut report = Report::default();
//! report.run("parses_numbers", Duration::from_secs(60), parses_numbers()).await;
//! report.skip("parses_fractions");
//! report.assert_all();
//! assert_eq!(report.to_string(), "0 of 1 cases failed, 1 were skipped");
//! # }
//! ```

#![forbid(unsafe_code)]

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;

/// How the cases of a suite ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "a report says nothing unless it is looked at"]
#[non_exhaustive]
pub struct Report {
    /// One outcome for each case that ran, in the order of execution.
    pub outcomes: Vec<Outcome>,
    /// The cases that need a capability that the back end does not have.
    pub skipped: Vec<&'static str>,
}

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// The case's name.
    pub case: &'static str,
    /// The violation of the contract; `None` if the case passed.
    pub failure: Option<String>,
}

impl Report {
    /// Runs a case and adds its outcome. A case that panics, or that takes longer than
    /// `time_limit`, has failed.
    ///
    /// Needs a tokio runtime with time enabled. If the future is dropped, the case is dropped and
    /// has no outcome.
    pub async fn run(
        &mut self,
        case: &'static str,
        time_limit: Duration,
        run: impl Future<Output = CaseResult>,
    ) {
        let run = AssertUnwindSafe(run).catch_unwind();
        let result = match tokio::time::timeout(time_limit, run).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(Failure(format!("panicked: {}", panic_message(&*panic)))),
            Err(_) => Err(Failure(format!("still running after {time_limit:?}"))),
        };
        self.outcomes.push(Outcome {
            case,
            failure: result.err().map(|failure| failure.0),
        });
    }

    /// Notes that a case was skipped, as the back end lacks a capability.
    pub fn skip(&mut self, case: &'static str) {
        self.skipped.push(case);
    }

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

/// The number of failed and skipped cases, then a line for each failure.
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

/// A violation of the contract. Any error can be converted into one, with its sources.
pub struct Failure(String);

/// The result of a case.
pub type CaseResult = Result<(), Failure>;

impl Failure {
    /// A violation, described by a message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// The description.
    pub fn message(&self) -> &str {
        &self.0
    }
}

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

/// Fails the case unless the condition holds: `ensure!(condition, "message {}", …)`.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)*) => {
        if !$condition {
            return Err($crate::Failure::new(format!($($message)*)));
        }
    };
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        return text;
    }
    match panic.downcast_ref::<String>() {
        Some(text) => text,
        None => "without a message",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_way_to_fail_is_reported() {
        let limit = Duration::from_secs(5);
        let mut report = Report::default();
        report.run("passes", limit, async { Ok(()) }).await;
        let wrong = async {
            ensure!(1 > 2, "one is {}", "less");
            Ok(())
        };
        report.run("wrong", limit, wrong).await;
        let unreadable = async {
            "x".parse::<u8>()?;
            Ok(())
        };
        report.run("unreadable", limit, unreadable).await;
        report
            .run("panics", limit, async { panic!("no {}", "way") })
            .await;
        report.run("hangs", limit, std::future::pending()).await;
        report.skip("left_out");
        assert_eq!(
            report.to_string(),
            "4 of 5 cases failed, 1 were skipped\n  \
             wrong: one is less\n  \
             unreadable: unexpected error: invalid digit found in string\n  \
             panics: panicked: no way\n  \
             hangs: still running after 5s"
        );
        let failed = std::panic::catch_unwind(|| report.assert_all());
        assert!(failed.is_err());
    }
}
