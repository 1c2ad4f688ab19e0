//! Processes that are being started: requested from the spawners, but not yet delivered to the caller
//! or to the janitor.

use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The number of processes that are being started.
#[derive(Default)]
pub(super) struct UnderWay {
    count: Mutex<usize>,
    none: Condvar,
}

/// Counts as one process that is being started, until it is dropped.
pub(super) struct Ticket(Arc<UnderWay>);

thread_local! {
    static IS_SPAWNER: Cell<bool> = const { Cell::new(false) };
}

/// Marks the calling thread as a spawner, which never waits for itself.
pub(super) fn this_thread_spawns() {
    IS_SPAWNER.set(true);
}

impl UnderWay {
    pub(super) fn ticket(self: &Arc<Self>) -> Ticket {
        *self.lock() += 1;
        Ticket(self.clone())
    }

    /// Waits until each has been delivered to its caller, or to the janitor if the caller is gone.
    pub(super) fn finish(&self) {
        // What was held for a process can own the engine, and is dropped here if it fails.
        if IS_SPAWNER.get() {
            return;
        }
        let waited = self.none.wait_while(self.lock(), |count| *count > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        *self.0.lock() -= 1;
        self.0.none.notify_all();
    }
}
