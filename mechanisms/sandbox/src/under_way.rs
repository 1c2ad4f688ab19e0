//! What was handed to the spawners, and is not yet with whoever asked for it or with the janitor.

use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// How many processes were asked for that nobody has got yet.
#[derive(Default)]
pub(super) struct UnderWay {
    count: Mutex<usize>,
    none: Condvar,
}

/// One of these, until it is dropped.
pub(super) struct Ticket(Arc<UnderWay>);

thread_local! {
    static IS_SPAWNER: Cell<bool> = const { Cell::new(false) };
}

/// Says that the calling thread is a spawner, which never waits for itself.
pub(super) fn this_thread_spawns() {
    IS_SPAWNER.set(true);
}

impl UnderWay {
    pub(super) fn ticket(self: &Arc<Self>) -> Ticket {
        *self.lock() += 1;
        Ticket(self.clone())
    }

    /// Waits until each has been handed over, or to the janitor if nobody wants it any more.
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
