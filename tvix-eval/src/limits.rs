//! Limits and cancellation of evaluations.

use std::time::Duration;

use crate::machine;

pub use crate::counting::CountingAllocator;

/// Maximum nesting depth of calls, as in C++ Nix.
pub const MAX_CALL_DEPTH: u32 = 10_000;

/// The limits of an evaluation. An evaluation ends with [`ErrorKind::Limit`](crate::error::ErrorKind::Limit) or
/// [`ErrorKind::Depth`](crate::error::ErrorKind::Depth) soon after it exceeds one; `tryEval` does not catch these errors.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Maximum duration, including the time in which it waits for builds (default: none).
    pub time: Option<Duration>,
    /// Maximum memory of evaluation in bytes: its heap, string contexts and derivations, and with a
    /// [`CountingAllocator`] also what builtins allocate while they run (default: three quarters of
    /// the memory of this machine, or of its control group).
    pub memory: Option<usize>,
    /// Maximum size of a string, list or set in bytes, including the memory allocated for it
    /// (default: 256 MiB). Values that double in a loop exceed this limit long before the limit of
    /// the heap.
    pub value: Option<usize>,
    /// Maximum nesting depth of calls (default: 10,000).
    pub depth: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: None,
            memory: default_memory(),
            value: Some(256 << 20),
            depth: MAX_CALL_DEPTH,
        }
    }
}

impl Limits {
    /// Sets the maximum duration.
    #[must_use]
    pub fn with_time(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }

    /// Sets the maximum memory of evaluation in bytes.
    #[must_use]
    pub fn with_memory(mut self, bytes: usize) -> Self {
        self.memory = Some(bytes);
        self
    }

    pub(crate) fn is_default_memory(&self) -> bool {
        self.memory.is_some() && self.memory == default_memory()
    }

    /// Sets the maximum size of a value in bytes.
    #[must_use]
    pub fn with_value(mut self, bytes: usize) -> Self {
        self.value = Some(bytes);
        self
    }

    /// Sets the maximum nesting depth of calls.
    #[must_use]
    pub fn with_depth(mut self, calls: u32) -> Self {
        self.depth = calls;
        self
    }
}

/// Three quarters of the memory that there is, if it is known.
fn default_memory() -> Option<usize> {
    machine::memory().map(|bytes| bytes / 4 * 3)
}
