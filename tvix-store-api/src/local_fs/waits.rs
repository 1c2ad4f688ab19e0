//! Reporting waits for locks of other processes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Shorter waits are not reported.
const LONG: Duration = Duration::from_secs(1);

type Observer = Box<dyn Fn(&Path) + Send + Sync>;

static OBSERVER: OnceLock<Observer> = OnceLock::new();

/// Registers an observer of lock waits. It is called with the lock file once this process has
/// waited for one second for a lock of a local store that another process holds. One observer
/// serves all stores of a process; later ones are ignored. The observer must not block.
pub fn observe_lock_waits(observer: impl Fn(&Path) + Send + Sync + 'static) {
    let _ = OBSERVER.set(Box::new(observer));
}

/// A wait, which is reported if it is long. Dropping it ends the wait.
pub(super) struct Wait {
    /// The channel closes on drop.
    _over: Option<Sender<()>>,
}

impl Wait {
    /// Starts to wait for the lock `file`.
    pub fn begin(file: PathBuf) -> Self {
        let Some(observer) = OBSERVER.get() else {
            return Self { _over: None };
        };
        let (over, waiting) = channel();
        let tell = move || {
            if let Err(RecvTimeoutError::Timeout) = waiting.recv_timeout(LONG) {
                observer(&file);
            }
        };
        // Without a thread the wait is not reported.
        let thread: io::Result<_> = std::thread::Builder::new().spawn(tell);
        Self {
            _over: thread.is_ok().then_some(over),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    static TOLD: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

    #[test]
    fn long_waits_are_told_and_short_ones_are_not() {
        observe_lock_waits(|file| TOLD.lock().unwrap().push(file.to_owned()));
        let long = Wait::begin("/long".into());
        drop(Wait::begin("/short".into()));
        while TOLD.lock().unwrap().is_empty() {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(long);
        assert_eq!(*TOLD.lock().unwrap(), [PathBuf::from("/long")]);
    }
}
