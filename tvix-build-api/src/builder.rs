//! The trait [`Builder`].

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
/// - **The outcome is a value.** A fault of the derivation is a [`BuildOutcome::Failure`]. An `Err`
///   is a fault of the builder itself; if [`BuilderError::is_retryable`] returns true, the same
///   request may succeed later or on another builder.
/// - **All or nothing.** A success has every output of the derivation. After a failure, none of the
///   outputs was pushed.
/// - **Delivery.** If the request names a store that this builder knows, outputs are pushed to it,
///   references first, are valid when `build` returns, and are delivered as [`Delivery::Pushed`].
///   Otherwise they are delivered as [`Delivery::Streamed`]; the streams outlive the build and may
///   be read in any order or dropped.
/// - **Isolation.** A build sees the inputs of the request and no other path of the store.
/// - **Cancellation.** When the token is cancelled, the build ends soon with
///   [`FailureKind::Cancelled`]. Dropping the future ends the build too. In both cases no process,
///   file or partially pushed output of the build remains.
/// - **Concurrency.** `build` may be called concurrently. The builder does not queue; the caller
///   respects [`BuilderProfile::max_jobs`].
/// - **Waiting.** A build that waits for another process, such as for a lock that it holds, gives
///   up its [slot](BuildContext::slot) meanwhile, and takes one again before it continues.
/// - **Logs** are sent line by line, in order, completely before `build` returns.
///
/// [`Delivery::Pushed`]: crate::Delivery::Pushed
/// [`Delivery::Streamed`]: crate::Delivery::Streamed
/// [`FailureKind::Cancelled`]: crate::FailureKind::Cancelled
/// [`BuilderError::is_retryable`]: crate::BuilderError::is_retryable
#[async_trait]
pub trait Builder: Send + Sync + Debug {
    /// The capabilities of this builder. Constant over its lifetime.
    fn profile(&self) -> &BuilderProfile;

    /// Builds `request`.
    async fn build(
        &self,
        request: BuildRequest,
        context: BuildContext,
    ) -> Result<BuildOutcome, BuilderError>;
}

/// The capabilities and capacity of a builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuilderProfile {
    /// The display name, for events and errors.
    pub name: String,
    /// The supported systems, such as `x86_64-linux`. Derivations for `builtin` are supported on
    /// any system.
    pub systems: BTreeSet<String>,
    /// The supported features, such as `kvm`, for `requiredSystemFeatures`.
    pub features: BTreeSet<String>,
    /// The maximum number of concurrent builds, at least 1.
    pub max_jobs: usize,
}

impl BuilderProfile {
    /// The profile of a builder for one system, without features, that runs up to `max_jobs` builds
    /// concurrently.
    pub fn new(name: impl Into<String>, system: impl Into<String>, max_jobs: usize) -> Self {
        Self {
            name: name.into(),
            systems: BTreeSet::from([system.into()]),
            features: BTreeSet::new(),
            max_jobs: max_jobs.max(1),
        }
    }

    /// Whether the builder supports the system of `derivation` and all its required features.
    pub fn supports(&self, derivation: &Derivation) -> bool {
        self.lacks_system(derivation).is_none() && self.lacks_feature(derivation).is_none()
    }

    /// The missing system or feature that `derivation` requires, and the supported ones, as a
    /// message; `None` if the builder [supports](Self::supports) the derivation.
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

/// The further systems that this machine can build for, detected as by Nix: the levels of the
/// x86-64 instruction set that its processor supports, such as `x86_64-v3-linux`, and `i686-linux`.
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

/// The features of this machine, detected as by Nix: `kvm` if this process can use the kernel's
/// virtual machines.
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

/// The system of this machine, in Nix's form.
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

    /// C++ Nix 2.34.8 on a processor of level 4 reports: `extra-platforms = i686-linux
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
