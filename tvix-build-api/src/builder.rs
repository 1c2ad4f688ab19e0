//! The trait.

use std::collections::BTreeSet;
use std::fmt::Debug;

use async_trait::async_trait;
use bstr::BStr;
use nix_compat::derivation::Derivation;
use serde::{Deserialize, Serialize};

use crate::attributes::required_features;
use crate::{BuildContext, BuildOutcome, BuildRequest, BuilderError};

/// Builds derivations.
///
/// # Contract
///
/// - **The outcome is a value.** Whatever the derivation is to blame for is a
///   [`BuildOutcome::Failure`]; an `Err` is the builder's own trouble, and the same request may
///   succeed elsewhere or later if [`BuilderError::is_retryable`].
/// - **All or nothing.** A success holds every output of the derivation. After a failure none of
///   its outputs was pushed.
/// - **Delivery.** If the request names a store that this builder knows, outputs are pushed there
///   in an order in which references come first, are valid when `build` returns, and are
///   delivered as [`Delivery::Pushed`]. Else they come as [`Delivery::Streamed`]; their streams
///   outlive the build and may be read in any order or dropped.
/// - **Isolation.** The build sees the inputs of the request and nothing else of the store.
/// - **Cancellation.** When the token is cancelled the build ends soon with
///   [`FailureKind::Cancelled`]; when the future is dropped it ends too. Either way no process,
///   file or half-pushed output of it stays behind.
/// - **Concurrency.** `build` may be called many times at once; the builder does not queue, who
///   calls it keeps to [`BuilderProfile::max_jobs`].
/// - **Waiting.** A build that waits for something that another process does, such as a lock that it
///   holds, gives up its [slot](BuildContext::slot) meanwhile, and takes one again before it goes on.
/// - **Logs** are sent line by line, in order, all of them before `build` returns.
///
/// [`Delivery::Pushed`]: crate::Delivery::Pushed
/// [`Delivery::Streamed`]: crate::Delivery::Streamed
/// [`FailureKind::Cancelled`]: crate::FailureKind::Cancelled
/// [`BuilderError::is_retryable`]: crate::BuilderError::is_retryable
#[async_trait]
pub trait Builder: Send + Sync + Debug {
    /// What this builder can build, and how much at once. Does not change.
    fn profile(&self) -> &BuilderProfile;

    /// Builds `request`.
    async fn build(
        &self,
        request: BuildRequest,
        context: BuildContext,
    ) -> Result<BuildOutcome, BuilderError>;
}

/// What a builder can build, and how much at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuilderProfile {
    /// A name for people, as in events and errors.
    pub name: String,
    /// The systems it builds for, such as `x86_64-linux`. `builtin` derivations are for any.
    pub systems: BTreeSet<String>,
    /// The features it has, such as `kvm`, for `requiredSystemFeatures`.
    pub features: BTreeSet<String>,
    /// How many builds it wants at once, at least 1.
    pub max_jobs: usize,
}

impl BuilderProfile {
    /// A builder for one system without features that builds `max_jobs` at once.
    pub fn new(name: impl Into<String>, system: impl Into<String>, max_jobs: usize) -> Self {
        Self {
            name: name.into(),
            systems: BTreeSet::from([system.into()]),
            features: BTreeSet::new(),
            max_jobs: max_jobs.max(1),
        }
    }

    /// Whether the builder can build `derivation`: it is for one of its systems and requires no
    /// feature that is not there.
    pub fn supports(&self, derivation: &Derivation) -> bool {
        self.lacks_system(derivation).is_none() && self.lacks_feature(derivation).is_none()
    }

    /// Which system or feature is not there that `derivation` requires.
    pub(crate) fn unsupported(&self, derivation: &Derivation) -> Option<String> {
        if let Some(system) = self.lacks_system(derivation) {
            return Some(format!(
                "it is for the system '{system}', and this builder is for {}",
                quoted(&self.systems)
            ));
        }
        let feature = self.lacks_feature(derivation)?;
        Some(format!(
            "it requires the system feature '{feature}', and this builder has {}",
            quoted(&self.features)
        ))
    }

    fn lacks_system<'d>(&self, derivation: &'d Derivation) -> Option<&'d BStr> {
        let known = std::str::from_utf8(&derivation.system)
            .is_ok_and(|system| system == "builtin" || self.systems.contains(system));
        (!known).then_some(derivation.system.as_ref())
    }

    fn lacks_feature(&self, derivation: &Derivation) -> Option<String> {
        let mut required = required_features(derivation).into_iter();
        required.find(|feature| !self.features.contains(feature))
    }
}

fn quoted(words: &BTreeSet<String>) -> String {
    if words.is_empty() {
        return "none".into();
    }
    let words: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    words.join(", ")
}

/// The system of this machine, as Nix names it.
pub const fn this_system() -> &'static str {
    if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        "x86_64-linux"
    } else if cfg!(all(target_os = "linux", target_arch = "aarch64")) {
        "aarch64-linux"
    } else if cfg!(all(target_os = "macos", target_arch = "aarch64")) {
        "aarch64-darwin"
    } else if cfg!(all(target_os = "macos", target_arch = "x86_64")) {
        "x86_64-darwin"
    } else if cfg!(all(target_os = "linux", target_arch = "riscv64")) {
        "riscv64-linux"
    } else if cfg!(all(target_os = "linux", target_arch = "x86")) {
        "i686-linux"
    } else {
        "unknown"
    }
}
