//! Telling that something is waited for that another process holds.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Waits that are shorter are not told.
const LONG: Duration = Duration::from_secs(1);

type Observer = Box<dyn Fn(&Path) + Send + Sync>;

static OBSERVER: OnceLock<Observer> = OnceLock::new();

/// Has `observer` called when this process has waited for a second for a lock of a local store that another
/// process holds, with the file whose lock that is. One observer serves all stores of a process; later
/// ones are ignored. It must not block.
pub fn observe_lock_waits(observer: impl Fn(&Path) + Send + Sync + 'static) {
    let _ = OBSERVER.set(Box::new(observer));
}

/// A wait, which is told if it lasts. Dropping it says that it is over.
pub(super) struct Wait {
    /// Hangs up when this is dropped.
    _over: Option<Sender<()>>,
}

impl Wait {
    /// Begins to wait for the lock of `file`.
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
        // Without a thread nothing is told, and all goes on.
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
