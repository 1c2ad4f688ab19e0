//! The result of a run.

use std::any::Any;
use std::fmt;

/// The result of a run of the suite, by names of cases.
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
#[non_exhaustive]
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
    /// If there are failed cases. The message lists them with their reasons.
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

pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}
