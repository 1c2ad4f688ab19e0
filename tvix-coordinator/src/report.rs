//! How a session ended.

use std::fmt;

use nix_compat::derivation::OutputName;
use nix_compat::sorted::SortedMap;
use nix_compat::store_path::StorePath;
use serde::{Deserialize, Serialize};
use tvix_build_api::{BuildFailure, Difference};
use tvix_eval_api::{EvalErrorKind, EvalFailure, RootOrder};

use crate::component_error::ComponentError;

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Report {
    /// The end in one word.
    pub status: Status,
    /// The roots: everything that the user asked for, also if its evaluation failed or the session
    /// ended before it. They are in the order of [`RootReport::order`], and without that as they were found.
    pub roots: Vec<RootReport>,
    /// Derivations that failed in themselves, first to last.
    pub failures: Vec<Failure>,
    /// Derivations that were not built because one that they need failed.
    pub skipped: Vec<Skipped>,
    /// Results of checks ([`Options::check`](crate::Options::check)), in the order of the roots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckReport>,
    /// Errors of evaluation and, if it ended the session, of the store.
    pub errors: Vec<SessionError>,
    /// How much was done.
    pub counts: Counts,
}

/// An error that is not the failure of a derivation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum SessionError {
    /// An attribute, or all of it, could not be evaluated.
    Evaluation(EvalFailure),
    /// The store failed for good.
    Store(ComponentError),
    /// A root asks for an output that its derivation does not have.
    NoSuchOutput {
        /// The derivation.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        drv_path: StorePath,
        /// The output.
        output: String,
    },
    /// The coordinator failed.
    Bug {
        /// How.
        message: String,
    },
}

/// The end of a session in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Status {
    /// Everything that was asked for is in the store; with [`BuildPolicy::Imports`], everything
    /// was evaluated.
    ///
    /// [`BuildPolicy::Imports`]: crate::BuildPolicy::Imports
    Success,
    /// A build failed.
    BuildFailed,
    /// An expression could not be evaluated.
    EvaluationFailed,
    /// An attribute that was asked for does not exist; everything else was evaluated.
    AttributeNotFound,
    /// The store failed, as when its disk is full.
    StoreFailed,
    /// No builder is suitable, or all that are failed in themselves.
    BuilderFailed,
    /// Derivations contradict each other: an input or output is missing, or they form a cycle.
    InvalidDerivation,
    /// The coordinator failed: a bug.
    Bug,
    /// Everything that was asked for is in the store, but a rebuild differs from it or failed.
    CheckFailed,
    /// The caller cancelled it.
    Cancelled,
}

/// A root: a derivation that the user asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RootReport {
    /// How the user asked for it.
    pub name: String,
    /// Its place among all that was asked for.
    #[serde(default, skip_serializing_if = "RootOrder::is_unknown")]
    pub order: RootOrder,
    /// Its derivation; missing if it could not be evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub drv_path: Option<StorePath>,
    /// The outputs asked for that are in the store: all of them, unless something failed.
    #[cfg_attr(
        feature = "schema",
        schemars(with = "std::collections::BTreeMap<String, String>")
    )]
    pub outputs: SortedMap<OutputName, StorePath>,
    /// Whether all outputs asked for are in the store.
    pub success: bool,
    /// Why it could not be evaluated. A failure of its derivation, or of an input, is in
    /// [`Report::failures`]. Without an error and a derivation, the session ended before it was
    /// evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<EvalFailure>,
}

/// A derivation that failed in itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Failure {
    /// The derivation.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub drv_path: StorePath,
    /// Why.
    pub cause: FailureCause,
    /// Whether a root needs it. A failure that no root needs does not fail the session.
    pub needed: bool,
    /// Whether it is a fixed-output derivation, which may fail because of the network.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fixed_output: bool,
}

/// Why a derivation failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
#[non_exhaustive]
pub enum FailureCause {
    /// It does not build.
    Build {
        /// The failure.
        failure: BuildFailure,
    },
    /// No builder builds for its system with the features that it requires.
    Unsuitable {
        /// The system or feature that is missing.
        message: String,
    },
    /// All suitable builders failed in themselves too often.
    Builder {
        /// The last error.
        error: ComponentError,
    },
    /// Inputs that were valid vanished from the store.
    InputsGone {
        /// Which, and how the build failed.
        message: String,
    },
    /// The store cannot take its outputs or provide its inputs.
    Store {
        /// The error of the store.
        error: ComponentError,
    },
    /// A derivation or source that it needs was never yielded and is not in the store.
    MissingInput {
        /// The missing path.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        input: StorePath,
    },
    /// It asks for an output that its input does not have.
    NoSuchOutput {
        /// The input.
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        input: StorePath,
        /// The output.
        output: String,
    },
    /// It depends on itself.
    Cycle {
        /// From itself to itself.
        #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
        cycle: Vec<StorePath>,
    },
    /// The derivation is not valid once its inputs are known.
    Invalid {
        /// Why.
        message: String,
    },
}

/// A derivation that was not built because one that it needs failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Skipped {
    /// The derivation.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub drv_path: StorePath,
    /// The derivation that failed.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub root_cause: StorePath,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct CheckReport {
    /// The derivation.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub drv_path: StorePath,
    /// `None` if all outputs of the rebuild are identical to the valid ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<CheckProblem>,
}

/// Why a check did not succeed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(
    tag = "type",
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
        #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
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
        #[cfg_attr(feature = "schema", schemars(with = "String"))]
        root_cause: StorePath,
    },
}

impl CheckReport {
    /// The result of a check; `problem` is `None` if all outputs are identical.
    pub fn new(drv_path: StorePath, problem: Option<CheckProblem>) -> Self {
        Self { drv_path, problem }
    }
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Counts {
    /// Derivations that were instantiated.
    pub instantiated: u64,
    /// Derivations that were looked up and had their outputs in the store.
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
            Self::Unsuitable { message }
            | Self::Invalid { message }
            | Self::InputsGone { message } => f.write_str(message),
            Self::Builder { error } | Self::Store { error } => fmt::Display::fmt(error, f),
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

impl FailureCause {
    /// The status of a session that fails for this reason.
    pub fn status(&self) -> Status {
        match self {
            Self::Build { .. } => Status::BuildFailed,
            Self::Unsuitable { .. } | Self::Builder { .. } => Status::BuilderFailed,
            Self::Store { .. } | Self::InputsGone { .. } => Status::StoreFailed,
            Self::MissingInput { .. }
            | Self::NoSuchOutput { .. }
            | Self::Cycle { .. }
            | Self::Invalid { .. } => Status::InvalidDerivation,
        }
    }
}

impl SessionError {
    /// The status of a session that ends with this error.
    pub fn status(&self) -> Status {
        match self {
            Self::Evaluation(error) if error.kind == EvalErrorKind::AttributeNotFound => {
                Status::AttributeNotFound
            }
            Self::Evaluation(_) => Status::EvaluationFailed,
            Self::Store(_) => Status::StoreFailed,
            Self::NoSuchOutput { .. } => Status::InvalidDerivation,
            Self::Bug { .. } => Status::Bug,
        }
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evaluation(error) => fmt::Display::fmt(error, f),
            Self::Store(error) => fmt::Display::fmt(error, f),
            Self::NoSuchOutput { drv_path, output } => {
                write!(f, "derivation '{drv_path}' has no output '{output}'")
            }
            Self::Bug { message } => f.write_str(message),
        }
    }
}

impl Status {
    /// The status that errors give a session, if there are any: that of the store, as it ends the
    /// session, or that of the first error that is not of an attribute that does not exist.
    pub(crate) fn of_errors(errors: &[SessionError]) -> Option<Self> {
        let all = || errors.iter().map(SessionError::status);
        let store = all().find(|status| *status == Self::StoreFailed);
        let grave = || all().find(|status| *status != Self::AttributeNotFound);
        store.or_else(grave).or_else(|| all().next())
    }
}

impl RootReport {
    /// A root of which nothing is known but how the user asked for it.
    pub fn new(name: impl Into<String>, order: RootOrder) -> Self {
        Self {
            name: name.into(),
            order,
            drv_path: None,
            outputs: SortedMap::default(),
            success: false,
            error: None,
        }
    }
}

impl Failure {
    /// A failure of something that a root needs.
    pub fn new(drv_path: StorePath, cause: FailureCause) -> Self {
        Self {
            drv_path,
            cause,
            needed: true,
            fixed_output: false,
        }
    }
}

impl Skipped {
    /// A derivation that was not built because another failed.
    pub fn new(drv_path: StorePath, root_cause: StorePath) -> Self {
        Self {
            drv_path,
            root_cause,
        }
    }
}

impl Report {
    /// A report of this status, of a session in which nothing happened.
    pub fn new(status: Status) -> Self {
        Self {
            status,
            roots: Vec::new(),
            failures: Vec::new(),
            skipped: Vec::new(),
            checks: Vec::new(),
            errors: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Whether everything that was asked for is in the store.
    pub fn is_success(&self) -> bool {
        self.status == Status::Success
    }

    /// The store paths of everything that was asked for and is there, in order.
    pub fn output_paths(&self) -> impl Iterator<Item = &StorePath> {
        self.roots.iter().flat_map(|root| root.outputs.values())
    }
}
