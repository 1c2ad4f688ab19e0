//! Lines between the evaluation and standard output.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix_compat::store_path::StorePath;
use tokio::sync::Notify;

use super::line::Line;

/// The most lines that wait to be printed.
const CAPACITY: usize = 1024;

/// The most lines that are printed at once.
const BATCH: usize = 256;

/// Lines that wait for their derivations to be in the store, and lines that can be printed.
#[derive(Debug)]
pub struct Lines {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Whether lines wait for their derivations.
    recording: bool,
    /// Hash parts of derivations that are in the store.
    recorded: HashSet<[u8; 20]>,
    /// Lines by the hash parts of their derivations.
    held: HashMap<[u8; 20], Vec<Line>>,
    ready: VecDeque<Line>,
    /// No further lines will come.
    ended: bool,
    /// Nobody takes lines any more.
    closed: bool,
}

impl Lines {
    /// With `recording`, lines are held until the derivations that they name are in the store.
    pub fn new(recording: bool) -> Self {
        Self {
            state: Mutex::new(State {
                recording,
                ..State::default()
            }),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` returns a value.
    async fn wait<R>(&self, mut ready: impl FnMut(&mut State) -> Option<R>) -> R {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From now on, no notification is missed.
            changed.as_mut().enable();
            let result = ready(&mut self.lock());
            match result {
                Some(result) => return result,
                None => changed.await,
            }
        }
    }

    /// Adds the line of a job with this derivation, or of an error. Returns false if nobody takes lines.
    pub async fn push(&self, line: Line, drv_path: Option<&StorePath>) -> bool {
        let mut line = Some(line);
        let pushed = self.wait(|state| {
            if state.closed {
                return Some(false);
            }
            if state.ready.len() >= CAPACITY {
                return None;
            }
            let digest = drv_path.filter(|_| state.recording).map(StorePath::digest);
            match digest.filter(|digest| !state.recorded.contains(*digest)) {
                Some(digest) => state.held.entry(*digest).or_default().extend(line.take()),
                None => state.ready.extend(line.take()),
            }
            Some(true)
        });
        let pushed = pushed.await;
        self.changed.notify_waiters();
        pushed
    }

    /// These derivations are in the store.
    pub fn recorded(&self, drv_paths: &[StorePath]) {
        let mut state = self.lock();
        for path in drv_paths {
            state.recorded.insert(*path.digest());
            let lines = state.held.remove(path.digest()).unwrap_or_default();
            state.ready.extend(lines);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// The session has ended: all lines can be printed, and no further ones will come.
    pub fn end(&self) {
        let mut state = self.lock();
        let held = std::mem::take(&mut state.held);
        state.ready.extend(held.into_values().flatten());
        state.ended = true;
        drop(state);
        self.changed.notify_waiters();
    }

    /// The next lines; `None` at the end.
    pub async fn next(&self) -> Option<Vec<Line>> {
        let next = self.wait(|state| {
            let count = state.ready.len().min(BATCH);
            match count {
                0 => state.ended.then_some(None),
                count => Some(Some(state.ready.drain(..count).collect())),
            }
        });
        let next = next.await;
        self.changed.notify_waiters();
        next
    }

    /// A guard of what takes lines: no lines are taken after it is dropped.
    pub fn close_on_drop(&self) -> Closing<'_> {
        Closing(self)
    }
}

/// See [`Lines::close_on_drop`].
pub struct Closing<'a>(&'a Lines);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use nix_compat::store_path::StoreDir;
    use tvix_eval_api::EvalError;

    use super::super::line::Format;
    use super::*;

    fn line(attr: &str) -> Line {
        let format = Format {
            dir: StoreDir::default(),
            input_drvs: false,
        };
        format.error(&EvalError::attribute_not_found(attr))
    }

    fn drv_path() -> StorePath {
        StorePath::from_base_name("00bgd045z0d4icpbc2yyz4gx48ak44la-a.drv").unwrap()
    }

    #[tokio::test]
    async fn lines_wait_for_their_derivations() {
        let lines = Lines::new(true);
        assert!(lines.push(line("held"), Some(&drv_path())).await);
        assert!(lines.next().now_or_never().is_none());
        assert!(lines.push(line("error"), None).await);
        assert_eq!(lines.next().await.unwrap().len(), 1);
        lines.recorded(&[drv_path()]);
        assert_eq!(lines.next().await.unwrap().len(), 1);
        assert!(lines.push(line("known"), Some(&drv_path())).await);
        lines.end();
        assert_eq!(lines.next().await.unwrap().len(), 1);
        assert!(lines.next().await.is_none());
    }

    #[tokio::test]
    async fn a_full_queue_waits_until_it_is_read_or_closed() {
        let lines = Lines::new(false);
        for _ in 0..CAPACITY {
            assert!(lines.push(line("a"), Some(&drv_path())).await);
        }
        assert!(lines.push(line("b"), None).now_or_never().is_none());
        assert_eq!(lines.next().await.unwrap().len(), BATCH);
        assert!(lines.push(line("c"), None).await);
        drop(lines.close_on_drop());
        assert!(!lines.push(line("d"), None).await);
    }
}
