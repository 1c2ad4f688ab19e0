//! The behaviour of the in-memory builder for a derivation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::job::Program;

/// The configured behaviour for a derivation.
#[derive(Debug, Clone, Default)]
pub(super) struct Behaviour {
    /// The delay before the build starts.
    pub delay: Option<Duration>,
    /// The number of remaining builds that fail with a fault of the builder.
    pub trouble: Arc<AtomicU64>,
    /// The program; `None` for the default one.
    pub program: Option<Program>,
}

impl Behaviour {
    pub fn of(program: Program) -> Self {
        Self {
            program: Some(program),
            ..Self::default()
        }
    }

    /// Whether this build fails with a fault of the builder.
    pub fn takes_trouble(&self) -> bool {
        self.trouble
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
    }
}
