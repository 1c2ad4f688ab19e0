//! How the builder in memory behaves for a derivation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::job::Program;

/// What happens when a derivation is to be built.
#[derive(Debug, Clone, Default)]
pub(super) struct Behaviour {
    /// How long nothing happens.
    pub delay: Option<Duration>,
    /// How often the builder has trouble of its own.
    pub trouble: Arc<AtomicU64>,
    /// What then runs. `None`: what the default is.
    pub program: Option<Program>,
}

impl Behaviour {
    pub fn of(program: Program) -> Self {
        Self {
            program: Some(program),
            ..Self::default()
        }
    }

    /// Whether this time the builder has trouble of its own.
    pub fn takes_trouble(&self) -> bool {
        self.trouble
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
    }
}
