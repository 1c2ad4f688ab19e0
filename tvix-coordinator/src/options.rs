//! Options of a session.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tvix_build_api::BuildLimits;

/// The derivations to build.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum BuildPolicy {
    /// Everything that is instantiated, as soon as its inputs are valid and while evaluation still
    /// runs. Builds that turn out not to be needed are cancelled when evaluation ends.
    #[default]
    Eager,
    /// Only the known dependencies of roots and imports.
    Demand,
    /// Only the dependencies of imports. Roots are found and not built.
    Imports,
}

/// The reaction to the failure of a needed derivation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum OnFailure {
    /// End the session.
    #[default]
    Stop,
    /// Go on with everything that does not depend on it.
    Continue,
    /// Ask the front end, each time.
    Ask,
}

/// The answer of the front end to a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Decision {
    /// End the session.
    Stop,
    /// Go on with everything that does not depend on it.
    Continue,
    /// Build it again.
    Retry,
}

/// The retries after failures of builders and stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The most tries in all, at least 1.
    pub attempts: u32,
    /// The pause before the second try. It doubles with each further one.
    pub first_delay: Duration,
    /// The longest pause.
    pub longest_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 4,
            first_delay: Duration::from_millis(200),
            longest_delay: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    /// The pause after a number of failed attempts.
    pub(crate) fn delay(&self, failed: u32) -> Duration {
        let factor = 1u32
            .checked_shl(failed.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.first_delay
            .saturating_mul(factor)
            .min(self.longest_delay)
    }

    /// Sets the most tries in all.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Sets the pause before the second try.
    #[must_use]
    pub fn with_first_delay(mut self, first_delay: Duration) -> Self {
        self.first_delay = first_delay;
        self
    }

    /// Sets the longest pause.
    #[must_use]
    pub fn with_longest_delay(mut self, longest_delay: Duration) -> Self {
        self.longest_delay = longest_delay;
        self
    }
}

/// The reaction to inputs of builds that vanish from the store, as garbage collectors of other
/// programs may remove them in spite of this process's roots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum OnVanished {
    /// Evaluate, look up and build everything again, once.
    #[default]
    Restart,
    /// Fail the builds, for evaluators that cannot evaluate the same request again.
    Fail,
}

/// Options of checks: rebuilding the roots (`--check` in Nix).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct CheckOptions {
    /// Directory that outputs are unpacked into that differ from the valid ones; `None` to discard
    /// them.
    pub keep: Option<PathBuf>,
}

impl CheckOptions {
    /// Differing outputs are unpacked into `directory`.
    #[must_use]
    pub fn with_keep(mut self, directory: impl Into<PathBuf>) -> Self {
        self.keep = Some(directory.into());
        self
    }
}

/// Options of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Options {
    /// The derivations to build.
    pub policy: BuildPolicy,
    /// The reaction to failures.
    pub on_failure: OnFailure,
    /// The most builds at once, over all builders; `None` for the sum of their own limits.
    pub max_jobs: Option<usize>,
    /// The most paths that are fetched from substituters at once; `None` for 32.
    pub max_substitutions: Option<usize>,
    /// The retries.
    pub retry: RetryPolicy,
    /// The reaction to vanished inputs.
    pub on_vanished: OnVanished,
    /// Limits of each build.
    pub limits: BuildLimits,
    /// Cores for each build; 0 for all.
    pub cores: usize,
    /// Whether the `.drv` files of instantiated derivations are added to the store. Derivations
    /// that read such files (`builtins.unsafeDiscardOutputDependency x.drvPath`) cannot be built
    /// without them.
    pub record_derivations: bool,
    /// Whether each derivation that was asked for is built once more after all outputs are valid, and
    /// compared with them. Checks obey the same limits, slots and cancellation as builds. A failed
    /// check does not end the session; [`Report::checks`](crate::Report::checks) has the results.
    pub check: Option<CheckOptions>,
    /// Durations of earlier builds, by derivation name: long builds start early.
    pub estimates: BTreeMap<String, Duration>,
}

impl Options {
    /// Sets the derivations to build.
    #[must_use]
    pub fn with_policy(mut self, policy: BuildPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the reaction to failures.
    #[must_use]
    pub fn with_on_failure(mut self, on_failure: OnFailure) -> Self {
        self.on_failure = on_failure;
        self
    }

    /// Sets the most builds at once.
    #[must_use]
    pub fn with_max_jobs(mut self, max_jobs: impl Into<Option<usize>>) -> Self {
        self.max_jobs = max_jobs.into();
        self
    }

    /// Sets the most paths that are fetched at once.
    #[must_use]
    pub fn with_max_substitutions(mut self, max_substitutions: impl Into<Option<usize>>) -> Self {
        self.max_substitutions = max_substitutions.into();
        self
    }

    /// Sets the retries.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Sets the reaction to vanished inputs.
    #[must_use]
    pub fn with_on_vanished(mut self, on_vanished: OnVanished) -> Self {
        self.on_vanished = on_vanished;
        self
    }

    /// Sets the limits of each build.
    #[must_use]
    pub fn with_limits(mut self, limits: BuildLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the cores for each build; 0 for all.
    #[must_use]
    pub fn with_cores(mut self, cores: usize) -> Self {
        self.cores = cores;
        self
    }

    /// Sets whether `.drv` files are added to the store.
    #[must_use]
    pub fn with_record_derivations(mut self, record_derivations: bool) -> Self {
        self.record_derivations = record_derivations;
        self
    }

    /// Sets whether and how roots are checked.
    #[must_use]
    pub fn with_check(mut self, check: impl Into<Option<CheckOptions>>) -> Self {
        self.check = check.into();
        self
    }

    /// Sets the durations of earlier builds, by derivation name.
    #[must_use]
    pub fn with_estimates(mut self, estimates: BTreeMap<String, Duration>) -> Self {
        self.estimates = estimates;
        self
    }
}
