//! Limits of builds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// When to give up on a build. `None` is never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildLimits {
    /// The longest that it may run (`timeout`).
    pub wall_time: Option<Duration>,
    /// The longest that it may write nothing to its log (`max-silent-time`).
    pub silence: Option<Duration>,
    /// The most bytes that it may write to its log (`max-log-size`).
    pub log_bytes: Option<u64>,
}
