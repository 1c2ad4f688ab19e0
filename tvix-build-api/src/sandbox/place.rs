//! The directory that builds write to, and its engine.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tempfile::TempDir;

use tvix_sandbox::{Engine, EngineError, EngineOptions};

/// An engine that is created on first use or in advance. Its directory may be known only later.
#[derive(Debug)]
pub(super) struct Place {
    site: Arc<Site>,
    /// The preparing thread, from its start until it is joined.
    ahead: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Site {
    /// `None` for a temporary directory.
    scratch: Option<PathBuf>,
    first_id: u32,
    working: Mutex<Option<Working>>,
    /// The engine is no longer needed.
    given_up: AtomicBool,
}

#[derive(Debug)]
struct Working {
    engine: Engine,
    /// Dropped after the engine.
    _temporary: Option<TempDir>,
}

impl Place {
    pub fn new(scratch: Option<PathBuf>, first_id: u32) -> Self {
        Self {
            site: Arc::new(Site {
                scratch,
                first_id,
                working: Mutex::default(),
                given_up: AtomicBool::new(false),
            }),
            ahead: Mutex::default(),
        }
    }

    /// The configured directory.
    #[cfg(feature = "local-fs")]
    pub fn scratch(&self) -> Option<&std::path::Path> {
        self.site.scratch.as_deref()
    }

    /// The engine. Blocks while it is being created.
    pub fn engine(&self) -> Result<Engine, EngineError> {
        let mut working = self.site.lock();
        self.site.engine(&mut working)
    }

    /// Creates the engine on a thread of its own, and runs `prepare` with it, which prepares the
    /// resources of the first build. Callers of [`engine`](Self::engine) wait for the end of
    /// `prepare`. Errors are ignored: builds encounter and report them.
    pub fn make_ready(
        &self,
        prepare: impl FnOnce(&Engine) -> Result<(), EngineError> + Send + 'static,
    ) {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if ahead.is_some() {
            return;
        }
        let site = self.site.clone();
        let thread = std::thread::Builder::new().name("sandbox-ahead".into());
        let thread = thread.spawn(move || {
            let mut working = site.lock();
            if site.given_up.load(Ordering::Relaxed) {
                return;
            }
            let Ok(engine) = site.engine(&mut working) else {
                return;
            };
            if !site.given_up.load(Ordering::Relaxed) {
                let _ = prepare(&engine);
            }
        });
        *ahead = thread.ok();
    }
}

impl Drop for Place {
    /// Joins the thread, which ends soon. The prepared resources are removed with the engine, which
    /// must happen before the program exits.
    fn drop(&mut self) {
        self.site.given_up.store(true, Ordering::Relaxed);
        let ahead = self
            .ahead
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = ahead {
            let _ = thread.join();
        }
    }
}

impl Site {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Working>> {
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn engine(&self, working: &mut Option<Working>) -> Result<Engine, EngineError> {
        if let Some(working) = working {
            return Ok(working.engine.clone());
        }
        let (directory, temporary) = match &self.scratch {
            Some(directory) => (directory.clone(), None),
            None => {
                let made = TempDir::with_prefix("tvix-builds-");
                let made = made.map_err(|source| EngineError::Setup {
                    step: "creating a temporary directory".into(),
                    source,
                })?;
                (made.path().to_owned(), Some(made))
            }
        };
        let mut options = EngineOptions::new(directory);
        options.first_id = self.first_id;
        let engine = Engine::new(options)?;
        *working = Some(Working {
            engine: engine.clone(),
            _temporary: temporary,
        });
        Ok(engine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn the_first_build_finds_what_was_made_ahead() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::new(Some(directory.path().to_owned()), 1 << 30);
        let (begun, begins) = mpsc::channel();
        place.make_ready(move |_| {
            begun.send(()).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
            begun.send(()).unwrap();
            Ok(())
        });
        begins.recv().unwrap();
        place.engine().unwrap();
        // The call waited for `prepare`.
        begins.try_recv().unwrap();
    }

    #[test]
    fn nothing_stays_of_what_nobody_needed() {
        for wait in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            let place = Place::new(Some(directory.path().to_owned()), 1 << 30);
            let (begun, begins) = mpsc::channel();
            place.make_ready(move |engine| {
                let _ = begun.send(());
                engine.scratch().map(drop)
            });
            if wait {
                begins.recv().unwrap();
            }
            drop(place);
            let left = std::fs::read_dir(directory.path()).unwrap().count();
            assert_eq!(left, 0, "{wait}");
            // The thread has ended, and its resources are dropped.
            assert!(begins.recv().is_err());
        }
    }
}
