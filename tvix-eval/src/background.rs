//! Blocking work, on threads beside the evaluation's own.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tvix_eval_api::fetch::Cancel;

/// Maximum number of threads. Fetches wait for the network, not for processors.
const MAX_WORKERS: usize = 16;

/// Blocking work. It stores its result in a place that it shares with the evaluation.
pub type Work = Box<dyn FnOnce(&Cancel) + Send>;

/// A pool of threads, which exit when there is no work. Dropping the pool discards queued work;
/// running work continues until it checks for cancellation.
#[derive(Default)]
pub(crate) struct Pool(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    workers: usize,
}

type Job = Box<dyn FnOnce() + Send>;

impl Pool {
    /// Queues work for the next free thread. `done` is called afterwards, even if the work panics.
    pub(crate) fn submit(
        &self,
        work: Work,
        cancel: Cancel,
        done: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        let job: Job = Box::new(move || {
            let _: Result<(), Box<dyn Any + Send>> =
                std::panic::catch_unwind(AssertUnwindSafe(|| work(&cancel)));
            done();
        });
        let mut state = lock(&self.0);
        if state.workers < MAX_WORKERS {
            let shared = self.0.clone();
            let thread = std::thread::Builder::new().name("nix-fetch".to_owned());
            match thread.spawn(move || run(&shared)) {
                Ok(_) => state.workers += 1,
                Err(error) if state.workers == 0 => return Err(error),
                // The existing threads will take it.
                Err(_) => {}
            }
        }
        state.queue.push_back(job);
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.0).queue.clear();
    }
}

fn run(shared: &Mutex<State>) {
    loop {
        let mut state = lock(shared);
        let Some(job) = state.queue.pop_front() else {
            state.workers -= 1;
            return;
        };
        drop(state);
        job();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn panics_are_answered_and_no_more_threads_than_allowed() {
        let pool = Pool::default();
        let (sender, receiver) = mpsc::channel();
        for number in 0..3 * MAX_WORKERS {
            let sender = sender.clone();
            let work = move |_: &Cancel| assert!(number != 1, "a test panics on purpose");
            let done = move || sender.send(number).unwrap();
            pool.submit(Box::new(work), Cancel::default(), done)
                .unwrap();
            assert!(lock(&pool.0).workers <= MAX_WORKERS);
        }
        drop(sender);
        assert_eq!(receiver.iter().count(), 3 * MAX_WORKERS);
    }
}
