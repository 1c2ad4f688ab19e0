//! Resources that a process used.

use std::time::Duration;

/// Resources that a process and its descendants used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// Peak memory, in bytes: of all processes together if the process had a control group, else of
    /// the largest process.
    pub peak_memory: u64,
}
