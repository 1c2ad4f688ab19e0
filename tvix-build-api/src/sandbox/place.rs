//! Where builds write, and the engine that works there.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tempfile::TempDir;

use tvix_sandbox::{Engine, EngineError, EngineOptions};

/// An engine that is made when it is first needed, or ahead of need: where it is to work may be
/// known only then.
#[derive(Debug)]
pub(super) struct Place {
    site: Arc<Site>,
    /// What makes things ready, from when it was started until it is waited for.
    ahead: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Site {
    /// `None`: in a temporary directory of its own.
    scratch: Option<PathBuf>,
    first_id: u32,
    working: Mutex<Option<Working>>,
    /// Nobody will need the engine any more.
    given_up: AtomicBool,
}

#[derive(Debug)]
struct Working {
    engine: Engine,
    /// Removed after the engine.
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

    /// The directory that was asked for.
    #[cfg(feature = "local-fs")]
    pub fn scratch(&self) -> Option<&std::path::Path> {
        self.site.scratch.as_deref()
    }

    /// The engine. Blocks when it has to be made, or is being made.
    pub fn engine(&self) -> Result<Engine, EngineError> {
        let mut working = self.site.lock();
        self.site.engine(&mut working)
    }

    /// Makes the engine on a thread of its own, and has `prepare` do with it what the first build
    /// would have to wait for. Whoever asks for the engine meanwhile gets it after that. Trouble
    /// is left for builds to meet again, and to tell.
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
    /// Waits for the thread, which notices soon: what it has made is removed with the engine, and
    /// that has to happen while the program still runs.
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
                    step: "making a temporary directory".into(),
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
        // It waited for the rest.
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
            // The thread has ended: what it held is gone.
            assert!(begins.recv().is_err());
        }
    }
}
