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

    /// Which system or feature is not there that `derivation` requires, and what there is instead;
    /// `None` if the builder [supports](Self::supports) it.
    pub fn unsupported(&self, derivation: &Derivation) -> Option<String> {
        if let Some(system) = self.lacks_system(derivation) {
            return Some(format!(
                "it is for the system '{system}', and builder '{}' is for {} (--extra-platform names \
                 another)",
                self.name,
                quoted(&self.systems)
            ));
        }
        let feature = self.lacks_feature(derivation)?;
        Some(format!(
            "it requires the system feature '{feature}', and builder '{}' has {} (--system-feature \
             names another)",
            self.name,
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

/// The further systems that this machine can build for, as Nix detects them: the levels of the
/// x86-64 instruction set that its processor has, such as `x86_64-v3-linux`, and `i686-linux`.
pub fn further_systems() -> BTreeSet<String> {
    let mut systems = BTreeSet::new();
    if this_system() == "x86_64-linux" {
        systems.insert("i686-linux".to_owned());
        let levels = (1..=x86_64_level()).map(|level| format!("x86_64-v{level}-linux"));
        systems.extend(levels);
    }
    systems
}

/// The level of the x86-64 psABI that the processor and the kernel support.
#[cfg(target_arch = "x86_64")]
fn x86_64_level() -> u8 {
    use std::arch::is_x86_feature_detected as has;
    let second = has!("cmpxchg16b")
        && has!("popcnt")
        && has!("sse3")
        && has!("sse4.1")
        && has!("sse4.2")
        && has!("ssse3");
    let third = has!("avx")
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let fourth = has!("avx512f")
        && has!("avx512bw")
        && has!("avx512cd")
        && has!("avx512dq")
        && has!("avx512vl");
    match (second, third, fourth) {
        (false, ..) => 1,
        (true, false, _) => 2,
        (true, true, false) => 3,
        (true, true, true) => 4,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_64_level() -> u8 {
    0
}

/// The features that this machine has, as Nix detects them: `kvm` if this process can use virtual
/// machines of the kernel.
pub fn detected_features() -> BTreeSet<String> {
    let kvm = has_kvm().then(|| "kvm".to_owned());
    kvm.into_iter().collect()
}

#[cfg(all(target_os = "linux", feature = "sandbox"))]
fn has_kvm() -> bool {
    use rustix::fs::Access;
    rustix::fs::access("/dev/kvm", Access::READ_OK | Access::WRITE_OK).is_ok()
}

#[cfg(not(all(target_os = "linux", feature = "sandbox")))]
const fn has_kvm() -> bool {
    false
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

#[cfg(test)]
mod tests {
    use super::*;

    /// C++ Nix 2.34.8 on a processor of the fourth level says: `extra-platforms = i686-linux
    /// x86_64-v1-linux x86_64-v2-linux x86_64-v3-linux x86_64-v4-linux`.
    #[test]
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    fn levels_are_those_that_the_c_library_finds() {
        let systems = further_systems();
        assert!(systems.contains("i686-linux") && systems.contains("x86_64-v1-linux"));
        let loader = std::process::Command::new("/lib64/ld-linux-x86-64.so.2")
            .arg("--help")
            .output();
        let help = loader.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let Some(help) = help.ok().filter(|help| help.contains("x86-64-v2")) else {
            eprintln!("SKIPPED: there is no C library here that tells");
            return;
        };
        for level in 2..=4 {
            let supported = help
                .lines()
                .any(|line| line.contains(&format!("x86-64-v{level} (supported")));
            let found = systems.contains(&format!("x86_64-v{level}-linux"));
            assert_eq!(found, supported, "{level}: {help}");
        }
    }
}
