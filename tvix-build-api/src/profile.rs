//! The systems, features and slots of a builder, and the requirements of derivations.

use std::collections::BTreeSet;

use bstr::{BStr, BString, ByteSlice as _};
use nix_compat::derivation::Derivation;
use serde::{Deserialize, Serialize};

/// The capabilities and capacity of a builder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BuilderProfile {
    /// The display name, for events and errors.
    pub name: String,
    /// The supported systems, such as `x86_64-linux`. Derivations for `builtin` are supported on
    /// any system.
    pub systems: BTreeSet<String>,
    /// The supported features, such as `kvm`, for `requiredSystemFeatures`.
    pub features: BTreeSet<String>,
    /// Further features that it has. It builds only derivations that require all of these.
    #[serde(default)]
    pub mandatory_features: BTreeSet<String>,
    /// The maximum number of concurrent builds, at least 1.
    pub max_jobs: usize,
    /// How fast it is, in thousandths of an ordinary machine's speed; at least 1.
    #[serde(default = "ordinary")]
    pub speed: u32,
    /// Whether inputs have to be sent to it.
    #[serde(default)]
    pub remote: bool,
}

/// The speed of an ordinary machine.
const fn ordinary() -> u32 {
    1000
}

impl BuilderProfile {
    /// The profile of a builder for one system, without features, that runs up to `max_jobs` builds
    /// concurrently.
    pub fn new(name: impl Into<String>, system: impl Into<String>, max_jobs: usize) -> Self {
        Self {
            name: name.into(),
            systems: BTreeSet::from([system.into()]),
            features: BTreeSet::new(),
            mandatory_features: BTreeSet::new(),
            max_jobs: max_jobs.max(1),
            speed: ordinary(),
            remote: false,
        }
    }

    /// Whether the builder supports the system of `derivation` and all its required features.
    pub fn supports(&self, derivation: &Derivation) -> bool {
        self.meets(&Requirements::of(derivation))
    }

    /// Whether the builder has the system and all features of `requirements`.
    pub fn meets(&self, requirements: &Requirements) -> bool {
        self.has_system(requirements.system.as_bstr())
            && self.lacks_feature(requirements).is_none()
            && self.misses_mandatory(requirements).is_none()
    }

    /// The missing system or feature that `derivation` requires, and the supported ones, as a
    /// message; `None` if the builder [supports](Self::supports) the derivation.
    pub fn unsupported(&self, derivation: &Derivation) -> Option<String> {
        self.unmet(&Requirements::of(derivation))
    }

    /// [`unsupported`](Self::unsupported) for a derivation with these requirements.
    pub fn unmet(&self, requirements: &Requirements) -> Option<String> {
        if !self.has_system(requirements.system.as_bstr()) {
            let hint = self.hint(" (--extra-platform names another)");
            return Some(format!(
                "it is for the system '{}', and builder '{}' is for {}{hint}",
                requirements.system,
                self.name,
                quoted(&self.systems)
            ));
        }
        if let Some(feature) = self.misses_mandatory(requirements) {
            return Some(format!(
                "it does not require the system feature '{feature}', and builder '{}' builds nothing \
                 else",
                self.name
            ));
        }
        let feature = self.lacks_feature(requirements)?;
        let hint = self.hint(" (--system-feature names another)");
        let mut features = self.features.clone();
        features.extend(self.mandatory_features.iter().cloned());
        Some(format!(
            "it requires the system feature '{feature}', and builder '{}' has {}{hint}",
            self.name,
            quoted(&features)
        ))
    }

    /// A remedy, if it concerns this machine.
    fn hint(&self, hint: &'static str) -> &'static str {
        match self.remote {
            true => "",
            false => hint,
        }
    }

    fn has_system(&self, system: &BStr) -> bool {
        std::str::from_utf8(system)
            .is_ok_and(|system| system == "builtin" || self.systems.contains(system))
    }

    fn lacks_feature<'r>(&self, requirements: &'r Requirements) -> Option<&'r str> {
        let mut required = requirements.features.iter().map(String::as_str);
        required.find(|feature| {
            !self.features.contains(*feature) && !self.mandatory_features.contains(*feature)
        })
    }

    fn misses_mandatory(&self, requirements: &Requirements) -> Option<&str> {
        let mut mandatory = self.mandatory_features.iter().map(String::as_str);
        mandatory.find(|feature| !requirements.requires(feature))
    }

    /// Sets the supported systems.
    #[must_use]
    pub fn with_systems(mut self, systems: BTreeSet<String>) -> Self {
        self.systems = systems;
        self
    }

    /// Sets the supported features.
    #[must_use]
    pub fn with_features(mut self, features: BTreeSet<String>) -> Self {
        self.features = features;
        self
    }

    /// Sets the features that derivations must require to be built.
    #[must_use]
    pub fn with_mandatory_features(mut self, features: BTreeSet<String>) -> Self {
        self.mandatory_features = features;
        self
    }

    /// Sets how fast the builder is, compared with an ordinary machine [default: 1].
    #[must_use]
    pub fn with_speed_factor(mut self, factor: f32) -> Self {
        // Rounded and saturating, so that any number gives a speed.
        self.speed = ((factor * 1000.0).round() as u32).max(1);
        self
    }

    /// Sets whether inputs have to be sent to the builder [default: false].
    #[must_use]
    pub fn with_remote(mut self, remote: bool) -> Self {
        self.remote = remote;
        self
    }
}

/// The requirements of a derivation on a builder. Reading them may parse structured attributes: read
/// them once, and compare them with as many profiles as there are.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Requirements {
    /// The system that it is built on.
    pub system: BString,
    /// The features that it requires (`requiredSystemFeatures`).
    pub features: Vec<String>,
    /// Whether sending it elsewhere costs more than building it (`preferLocalBuild`).
    pub prefers_local: bool,
}

impl Requirements {
    /// The requirements of `derivation`. Attributes that cannot be read require nothing; they are a
    /// failure once it is built.
    pub fn of(derivation: &Derivation) -> Self {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Required {
            #[serde(default)]
            required_system_features: Vec<String>,
            // Of any type: the features are read in any case.
            #[serde(default)]
            prefer_local_build: serde_json::Value,
        }
        let (features, prefers_local) = match derivation.env_var(STRUCTURED) {
            Some(text) => serde_json::from_slice::<Required>(text).map_or_else(
                |_| (Vec::new(), false),
                |required| {
                    let prefers_local = required.prefer_local_build == true;
                    (required.required_system_features, prefers_local)
                },
            ),
            None => {
                let text = derivation.env_var("requiredSystemFeatures");
                let words = text.into_iter().flat_map(|text| text.fields());
                let prefers = derivation.env_var("preferLocalBuild");
                (
                    words.map(|word| word.to_str_lossy().into_owned()).collect(),
                    prefers.is_some_and(|value| value == "1"),
                )
            }
        };
        Self {
            system: derivation.system.clone(),
            features,
            prefers_local,
        }
    }
}

impl Requirements {
    /// Whether `feature` is among the required ones.
    pub fn requires(&self, feature: &str) -> bool {
        self.features.iter().any(|name| name == feature)
    }
}

/// The variable that holds structured attributes.
pub(crate) const STRUCTURED: &str = "__json";

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
