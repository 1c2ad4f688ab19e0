//! Limits of builds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The limits of a build. `None` means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BuildLimits {
    /// Maximum duration (`timeout`).
    pub wall_time: Option<Duration>,
    /// Maximum duration without log output (`max-silent-time`).
    pub silence: Option<Duration>,
    /// Maximum size of the log in bytes (`max-log-size`).
    pub log_bytes: Option<u64>,
}

impl BuildLimits {
    /// Sets the maximum duration.
    #[must_use]
    pub fn with_wall_time(mut self, wall_time: impl Into<Option<Duration>>) -> Self {
        self.wall_time = wall_time.into();
        self
    }

    /// Sets the maximum duration without log output.
    #[must_use]
    pub fn with_silence(mut self, silence: impl Into<Option<Duration>>) -> Self {
        self.silence = silence.into();
        self
    }

    /// Sets the maximum size of the log in bytes.
    #[must_use]
    pub fn with_log_bytes(mut self, log_bytes: impl Into<Option<u64>>) -> Self {
        self.log_bytes = log_bytes.into();
        self
    }
}
