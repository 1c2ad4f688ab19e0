//! Limits of builds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The limits of a build. `None` means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildLimits {
    /// Maximum duration (`timeout`).
    pub wall_time: Option<Duration>,
    /// Maximum duration without log output (`max-silent-time`).
    pub silence: Option<Duration>,
    /// Maximum size of the log in bytes (`max-log-size`).
    pub log_bytes: Option<u64>,
}
