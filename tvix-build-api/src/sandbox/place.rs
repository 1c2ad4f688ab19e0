//! Where builds write, and the engine that works there.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

use super::engine::{Engine, EngineError, EngineOptions};

/// An engine that is made when it is first needed: where it is to work may be known only then.
#[derive(Debug)]
pub(super) struct Place {
    /// `None`: in a temporary directory of its own.
    scratch: Option<PathBuf>,
    first_id: u32,
    working: Mutex<Option<Working>>,
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
            scratch,
            first_id,
            working: Mutex::default(),
        }
    }

    /// The directory that was asked for.
    #[cfg(feature = "local-fs")]
    pub fn scratch(&self) -> Option<&std::path::Path> {
        self.scratch.as_deref()
    }

    /// The engine. Blocks when it has to be made.
    pub fn engine(&self) -> Result<Engine, EngineError> {
        let mut working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(working) = &*working {
            return Ok(working.engine.clone());
        }
        let (directory, temporary) = match &self.scratch {
            Some(directory) => (directory.clone(), None),
            None => {
                let made = TempDir::with_prefix("tvix-builds-");
                let made = made.map_err(EngineError::setup("making a temporary directory"))?;
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
