//! How a session ended.

use std::fmt;

use nix_compat::derivation::OutputName;
use nix_compat::sorted::SortedMap;
use nix_compat::store_path::StorePath;
use serde::{Deserialize, Serialize};
use tvix_build_api::{BuildFailure, Difference};
use tvix_eval_api::RootOrder;

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The end in one word.
    pub status: Status,
    /// What the user asked for, in the order of its place ([`RootReport::order`]), and where
    /// evaluation says nothing of places, in the order in which it was found.
    pub roots: Vec<RootReport>,
    /// What failed in itself, first to last.
    pub failures: Vec<Failure>,
    /// What could not be had because something that it needs failed.
    pub skipped: Vec<Skipped>,
    /// Results of checks ([`Options::check`](crate::Options::check)), in the order of the roots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckReport>,
    /// Errors of evaluation and, if that is what ended the session, of the store.
    pub errors: Vec<String>,
    /// How much was done.
    pub counts: Counts,
}

/// The end of a session in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Status {
    /// Everything that was asked for is in the store; with [`BuildPolicy::Imports`], everything
    /// was evaluated.
    ///
    /// [`BuildPolicy::Imports`]: crate::BuildPolicy::Imports
    Success,
    /// Something that was asked for does not build.
    BuildFailed,
    /// Everything that was asked for is in the store, but a rebuild differs from it or failed.
    CheckFailed,
    /// Evaluation failed, or the store or a builder did for good, or a derivation lacks something.
    Error,
    /// The caller ended it.
    Cancelled,
}

/// Something that the user asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RootReport {
    /// How the user asked for it.
    pub name: String,
    /// Its place among all that was asked for.
    #[serde(default, skip_serializing_if = "RootOrder::is_unknown")]
    pub order: RootOrder,
    /// What it is.
    pub drv_path: StorePath,
    /// Those of the outputs asked for that are in the store. All of them, unless something failed.
    pub outputs: SortedMap<OutputName, StorePath>,
    /// Whether all outputs asked for are in the store.
    pub success: bool,
}

/// A derivation that failed in itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The derivation.
    pub drv_path: StorePath,
    /// Why.
    pub cause: FailureCause,
    /// Whether anything that was asked for needs it. What nothing needs may fail without harm.
    pub needed: bool,
    /// Whether it is a fixed-output derivation, which may fail because of the network.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fixed_output: bool,
}

/// Why a derivation failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "cause",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum FailureCause {
    /// It does not build.
    Build {
        /// What the builder said.
        failure: BuildFailure,
    },
    /// No builder builds for its system with the features that it requires.
    Unsuitable {
        /// What there is no builder for.
        message: String,
    },
    /// All builders that can build it failed in themselves too often.
    Builder {
        /// What the last one said.
        message: String,
    },
    /// Inputs that were valid vanished from the store.
    InputsGone {
        /// Which, and how the build failed.
        message: String,
    },
    /// The store cannot take it or what it needs.
    Store {
        /// What the store said.
        message: String,
    },
    /// A derivation or source that it needs was never yielded and is not in the store.
    MissingInput {
        /// What is missing.
        input: StorePath,
    },
    /// It asks for an output that its input does not have.
    NoSuchOutput {
        /// The input.
        input: StorePath,
        /// The output.
        output: String,
    },
    /// It needs itself.
    Cycle {
        /// From itself to itself.
        cycle: Vec<StorePath>,
    },
    /// Its inputs are known, and still it makes no sense.
    Invalid {
        /// Why.
        message: String,
    },
}

/// A derivation that was not built because something that it needs failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Skipped {
    /// The derivation.
    pub drv_path: StorePath,
    /// The derivation that failed in the first place.
    pub root_cause: StorePath,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// The derivation.
    pub drv_path: StorePath,
    /// `None` if all outputs of the rebuild are identical to the valid ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<CheckProblem>,
}

/// Why a check did not succeed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "problem",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum CheckProblem {
    /// Outputs differ: the build is not deterministic.
    Differs {
        /// The outputs that differ.
        differences: Vec<Difference>,
    },
    /// The rebuild failed.
    Failed {
        /// Why.
        failure: BuildFailure,
        /// Whether it is a fixed-output derivation, which may fail because of the network.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        fixed_output: bool,
    },
    /// Some outputs are not valid, so there is nothing to compare with.
    NotValid {
        /// The outputs that are not valid.
        outputs: Vec<OutputName>,
    },
    /// It could not be rebuilt, for a reason other than the derivation.
    Impossible {
        /// The reason. Boxed, as it may itself be large.
        reason: Box<FailureCause>,
    },
    /// An input that the rebuild needs failed.
    Skipped {
        /// The derivation that failed in the first place.
        root_cause: StorePath,
    },
}

impl fmt::Display for CheckProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Differs { differences } => {
                f.write_str("it may not be deterministic: ")?;
                for (index, difference) in differences.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}output '{}' differs", difference.output)?;
                }
                Ok(())
            }
            Self::Failed { failure, .. } => write!(f, "it does not build again: {failure}"),
            Self::NotValid { outputs } => {
                let names: Vec<_> = outputs.iter().map(|name| format!("'{name}'")).collect();
                let names = names.join(", ");
                write!(
                    f,
                    "checking is not possible: not all outputs are valid ({names})"
                )
            }
            Self::Impossible { reason } => fmt::Display::fmt(reason, f),
            Self::Skipped { root_cause } => write!(f, "its input '{root_cause}' failed"),
        }
    }
}

/// How much was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Derivations that were instantiated.
    pub instantiated: u64,
    /// Derivations whose outputs were in the store already, of those that were looked up.
    pub found: u64,
    /// Builds that succeeded.
    pub built: u64,
    /// Paths that were fetched from substituters.
    #[serde(default)]
    pub substituted: u64,
    /// Derivations that failed in themselves.
    pub failed: u64,
    /// Derivations that were skipped because something that they need failed.
    pub skipped: u64,
    /// Builds that were cancelled.
    pub cancelled: u64,
    /// Imports from derivations.
    pub imports: u64,
    /// Local sources that were added to the store.
    pub sources_added: u64,
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Build { failure } => fmt::Display::fmt(failure, f),
            Self::Builder { message }
            | Self::Unsuitable { message }
            | Self::Invalid { message } => f.write_str(message),
            Self::Store { message } | Self::InputsGone { message } => f.write_str(message),
            Self::MissingInput { input } => {
                write!(
                    f,
                    "its input '{input}' is neither in the store nor was it yielded"
                )
            }
            Self::NoSuchOutput { input, output } => {
                write!(f, "its input '{input}' has no output '{output}'")
            }
            Self::Cycle { cycle } => {
                f.write_str("it depends on itself:")?;
                cycle.iter().try_for_each(|path| write!(f, " -> {path}"))
            }
        }
    }
}

impl Report {
    /// Whether everything that was asked for is in the store.
    pub fn is_success(&self) -> bool {
        self.status == Status::Success
    }

    /// The store paths of everything that was asked for and is there, in order.
    pub fn output_paths(&self) -> impl Iterator<Item = &StorePath> {
        self.roots.iter().flat_map(|root| root.outputs.values())
    }
}
