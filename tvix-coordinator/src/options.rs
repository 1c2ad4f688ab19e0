//! How a session goes about its work.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tvix_build_api::BuildLimits;

/// Which derivations are built.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BuildPolicy {
    /// Whatever is instantiated, as soon as its inputs are valid and while evaluation still runs.
    /// When evaluation ends, what nothing needs is cancelled.
    #[default]
    Eager,
    /// Only what something that was asked for, or an import, is known to need.
    Demand,
    /// Only what an import needs. What was asked for is found, and not built.
    Imports,
}

/// What happens when a derivation that is needed fails.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnFailure {
    /// Everything ends.
    #[default]
    Stop,
    /// Whatever does not need it goes on.
    Continue,
    /// Somebody is asked, each time.
    Ask,
}

/// What somebody who was asked wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Decision {
    /// End everything.
    Stop,
    /// Go on with whatever does not need it.
    Continue,
    /// Build it once more.
    Retry,
}

/// How often and when what failed for no fault of the derivation is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
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
    /// The pause after this many failed tries.
    pub(crate) fn delay(&self, failed: u32) -> Duration {
        let factor = 1u32
            .checked_shl(failed.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.first_delay
            .saturating_mul(factor)
            .min(self.longest_delay)
    }
}

/// What happens when inputs of builds vanish from the store, as collectors of other programs may remove
/// them in spite of this process's roots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnVanished {
    /// Everything is evaluated, looked up and, where it is missing, built again, once.
    #[default]
    Restart,
    /// The builds fail, for evaluators that cannot evaluate the same again.
    Fail,
}

/// Rebuilding what was asked for (`--check` in Nix).
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
    pub fn keep(mut self, directory: impl Into<PathBuf>) -> Self {
        self.keep = Some(directory.into());
        self
    }
}

/// How a session goes about its work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// Which derivations are built.
    pub policy: BuildPolicy,
    /// What happens when one fails.
    pub on_failure: OnFailure,
    /// The most builds at once, over all builders; `None` for as many as they want.
    pub max_jobs: Option<usize>,
    /// The most paths that are fetched from substituters at once; `None` for 32.
    pub max_substitutions: Option<usize>,
    /// When to try again.
    pub retry: RetryPolicy,
    /// What happens when inputs of builds vanish.
    pub on_vanished: OnVanished,
    /// When to give up on a build.
    pub limits: BuildLimits,
    /// Cores for each build; 0 for all.
    pub cores: usize,
    /// Whether the `.drv` files of what was instantiated are added to the store. Derivations that read
    /// such files (`builtins.unsafeDiscardOutputDependency x.drvPath`) cannot be built without.
    pub record_derivations: bool,
    /// Whether each derivation that was asked for is built once more after all outputs are valid, and
    /// compared with them. Checks obey the same limits, slots and cancellation as builds. A failed
    /// check does not end the session; [`Report::checks`](crate::Report::checks) has the results.
    pub check: Option<CheckOptions>,
    /// How long builds took before, by derivation name: what takes long begins early.
    pub estimates: BTreeMap<String, Duration>,
}
