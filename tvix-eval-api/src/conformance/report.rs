//! The result of a run.

use std::any::Any;
use std::fmt;

/// The result of a run of the suite, by names of cases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "a report says nothing unless it is looked at"]
pub struct Report {
    /// Cases that passed.
    pub passed: Vec<&'static str>,
    /// Cases that were skipped because the evaluator lacks a capability.
    pub skipped: Vec<&'static str>,
    /// Cases that failed.
    pub failed: Vec<Failure>,
}

/// A case that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Name of the case.
    pub case: &'static str,
    /// The reason.
    pub reason: String,
}

impl Report {
    /// Whether all cases passed or were skipped.
    pub fn is_ok(&self) -> bool {
        self.failed.is_empty()
    }

    /// Panics if a case failed.
    ///
    /// # Panics
    ///
    /// If there are failed cases. The message lists them with their reasons.
    #[track_caller]
    pub fn assert_all(&self) {
        assert!(self.is_ok(), "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (passed, skipped) = (self.passed.len(), self.skipped.len());
        let failed = self.failed.len();
        write!(f, "{passed} passed, {skipped} skipped, {failed} failed")?;
        for Failure { case, reason } in &self.failed {
            write!(f, "\n  {case}: {reason}")?;
        }
        Ok(())
    }
}

pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}
