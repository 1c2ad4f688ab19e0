//! A client and its settings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tvix_worker_protocol::{SetOptions, Trust, Verbosity, Version};

/// A client, as operations see it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Client {
    /// Whether the client may change the store for others.
    pub trust: Trust,
    /// The version of the protocol that it speaks. Texts of errors depend on it.
    pub version: Version,
    /// Its settings.
    pub settings: ClientSettings,
}

impl Client {
    /// A client with default settings.
    pub fn new(trust: Trust) -> Self {
        Self {
            trust,
            version: Version::new(1, 38),
            settings: ClientSettings::default(),
        }
    }

    /// Sets the version of the protocol.
    #[must_use]
    pub fn with_version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// Whether the client is trusted.
    pub fn is_trusted(&self) -> bool {
        self.trust == Trust::Trusted
    }
}

/// Settings that a client sends (`SetOptions`), as far as its trust allows them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientSettings {
    /// Keeps the directories of failed builds.
    pub keep_failed: bool,
    /// Goes on after a failure.
    pub keep_going: bool,
    /// Builds paths that cannot be substituted.
    pub fallback: bool,
    /// The importance of messages that the client wants.
    pub verbosity: Verbosity,
    /// Maximum number of concurrent builds; `None` for the daemon's own.
    pub max_jobs: Option<usize>,
    /// Cores for each build, 0 for all; `None` for the daemon's own.
    pub cores: Option<usize>,
    /// Silence after which a build is ended; `None` for no limit.
    pub max_silent_time: Option<Duration>,
    /// Time after which a build is ended; `None` for no limit.
    pub timeout: Option<Duration>,
    /// Whether to use substituters.
    pub substitute: bool,
    /// Further settings that the client may set, by name; `extra-` is part of a name.
    pub others: BTreeMap<String, String>,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            keep_failed: false,
            keep_going: false,
            fallback: false,
            verbosity: Verbosity::Info,
            max_jobs: None,
            cores: None,
            max_silent_time: None,
            timeout: None,
            substitute: true,
            others: BTreeMap::new(),
        }
    }
}

/// Settings that untrusted clients may set, as in Nix (`daemon.cc`, `ClientSettings::apply`).
const HARMLESS: [&str; 6] = [
    "timeout",
    "build-timeout",
    "max-silent-time",
    "build-max-silent-time",
    "build-poll-interval",
    "connect-timeout",
];

impl ClientSettings {
    /// Settings from the message of a client, and warnings for it. `substituters` are those that an untrusted client
    /// may choose from.
    pub(crate) fn from_request(
        request: SetOptions,
        (trust, version): (Trust, Version),
        substituters: &BTreeSet<String>,
    ) -> (Self, Vec<String>) {
        // As the daemons of Nix 2.8 and 2.34.
        let talkative = version >= Version::new(1, 38);
        let seconds = |seconds: u64| Some(Duration::from_secs(seconds)).filter(|it| !it.is_zero());
        let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let mut settings = Self {
            keep_failed: request.keep_failed,
            keep_going: request.keep_going,
            fallback: request.try_fallback,
            verbosity: request.verbosity.0,
            max_jobs: Some(number(request.max_build_jobs)),
            cores: Some(number(request.build_cores)),
            max_silent_time: seconds(request.max_silent_time),
            timeout: None,
            substitute: request.use_substitutes,
            others: BTreeMap::new(),
        };
        let mut warnings = Vec::new();
        for (name, value) in request.overrides {
            let (name, mut value) = (name.to_string(), value.to_string());
            let trusted = trust == Trust::Trusted;
            match name.as_str() {
                // They are those of the client's program, not of what it asks for.
                "ssh-auth-sock" | "experimental-features" | "plugin-files" => continue,
                "builders" if value.is_empty() => {}
                name if trusted || HARMLESS.contains(&name) => {}
                "substituters" | "binary-caches" => {
                    let warn = |uri: &str| warnings.push(untrusted_substituter(uri, talkative));
                    value = allowed_substituters(&value, substituters, warn);
                }
                _ if !talkative => continue,
                name => {
                    warnings.push(format!(
                        "ignoring the client-specified setting '{name}', because it is a restricted setting and you \
                         are not a trusted user"
                    ));
                    continue;
                }
            }
            let duration = || value.trim().parse().ok().and_then(seconds);
            match name.as_str() {
                "timeout" | "build-timeout" => settings.timeout = duration(),
                "max-silent-time" | "build-max-silent-time" => {
                    settings.max_silent_time = duration();
                }
                _ => {
                    settings.others.insert(name, value);
                }
            }
        }
        (settings, warnings)
    }

    /// The value of a boolean setting that the client has set under one of `names`.
    #[cfg(any(test, feature = "local-fs"))]
    pub(crate) fn flag(&self, names: &[&str]) -> Option<bool> {
        let value = names.iter().find_map(|name| self.others.get(*name))?;
        match value.as_str() {
            "true" | "yes" | "1" => Some(true),
            "false" | "no" | "0" => Some(false),
            _ => None,
        }
    }
}

fn untrusted_substituter(uri: &str, talkative: bool) -> String {
    let advice = match talkative {
        true => {
            ", you are not a trusted user.\nRun `man nix.conf` for more information on the `substituters` \
             configuration option."
        }
        false => "",
    };
    format!("ignoring untrusted substituter '{uri}'{advice}")
}

fn allowed_substituters(
    value: &str,
    allowed: &BTreeSet<String>,
    mut warn: impl FnMut(&str),
) -> String {
    let mut kept = Vec::new();
    for uri in value.split_whitespace() {
        let with_slash = format!("{uri}/");
        if allowed.contains(uri) {
            kept.push(uri.to_owned());
        } else if allowed.contains(&with_slash) {
            kept.push(with_slash);
        } else {
            warn(uri);
        }
    }
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use tvix_worker_protocol::{Obsolete, VerbosityLevel};

    use super::*;

    fn request(overrides: &[(&str, &str)]) -> SetOptions {
        SetOptions {
            keep_failed: false,
            keep_going: true,
            try_fallback: false,
            verbosity: VerbosityLevel(Verbosity::Debug),
            max_build_jobs: 3,
            max_silent_time: 0,
            use_build_hook: Obsolete,
            verbose_build: VerbosityLevel(Verbosity::Error),
            log_type: Obsolete,
            print_build_trace: Obsolete,
            build_cores: 2,
            use_substitutes: true,
            overrides: overrides
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
        }
    }

    #[test]
    fn untrusted_clients_set_little() {
        let all = [
            ("timeout", "7"),
            ("sandbox", "false"),
            ("substituters", "https://a https://b"),
            ("experimental-features", "flakes"),
            ("builders", ""),
        ];
        let allowed = BTreeSet::from(["https://a/".to_owned()]);
        let (settings, warnings) = ClientSettings::from_request(
            request(&all),
            (Trust::NotTrusted, Version::MAX),
            &allowed,
        );
        assert_eq!(settings.timeout, Some(Duration::from_secs(7)));
        assert_eq!(settings.max_jobs, Some(3));
        assert!(settings.keep_going);
        let others: Vec<_> = settings
            .others
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(others, ["builders=", "substituters=https://a/"]);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("'sandbox'"));
        let (settings, warnings) =
            ClientSettings::from_request(request(&all), (Trust::Trusted, Version::MAX), &allowed);
        assert_eq!(settings.others.len(), 3);
        assert_eq!(settings.flag(&["sandbox"]), Some(false));
        assert!(warnings.is_empty());
    }
}
