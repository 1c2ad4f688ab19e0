//! A client and its settings.

use std::time::Duration;

use tvix_worker_protocol::{Trust, Verbosity, Version};

/// A client, as operations see it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Client {
    /// Whether the client may do what changes the store for others.
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
        }
    }
}
