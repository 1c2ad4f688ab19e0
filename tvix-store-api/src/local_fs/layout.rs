//! The directories of a local store, as Nix lays them out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::options::LocalStoreOptions;
use super::waits::Wait;
use crate::{BoxError, StoreError, StoreUri};

/// The supported version of the database schema, that of Nix 2.
pub(super) const SCHEMA_VERSION: u32 = 10;

/// The version of the tables of realisations.
const REALISATIONS_VERSION: u32 = 3;

/// The directories of a store.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub uri: StoreUri,
    /// `<root>/nix/store`.
    pub store: PathBuf,
    /// `<root>/nix/var/nix`.
    pub state: PathBuf,
    /// `<root>/nix/var/log/nix`.
    pub log: PathBuf,
}

/// A shared lock on the schema, held as long as the store is open. A process that changes the
/// schema waits for it.
#[derive(Debug)]
pub(super) struct SchemaLock {
    _file: File,
}

impl Layout {
    /// The directories of the store with these options, whose root has the absolute path `root`.
    pub fn new(options: &LocalStoreOptions, root: &Path) -> Self {
        let usual = |given: &Option<PathBuf>, below: &str| {
            given.clone().unwrap_or_else(|| root.join(below))
        };
        let mut uri = StoreUri::local(root);
        for (name, given) in [
            ("real", &options.real_store_dir),
            ("state", &options.state_dir),
        ] {
            if let Some(given) = given {
                uri = uri.with_parameter(name, given.to_string_lossy());
            }
        }
        let state = usual(&options.state_dir, "nix/var/nix");
        let beside_state = || state.parent().unwrap_or(&state).join("log/nix");
        Self {
            uri,
            store: usual(&options.real_store_dir, "nix/store"),
            log: options.log_dir.clone().unwrap_or_else(beside_state),
            state,
        }
    }

    pub fn database(&self) -> PathBuf {
        self.state.join("db/db.sqlite")
    }

    /// Creates missing directories and locks the schema. Calls `initialise` for a new store, which
    /// includes the tables of realisations, and `add_realisations` for an old store without them.
    pub fn prepare(
        &self,
        initialise: impl FnOnce() -> Result<(), StoreError>,
        add_realisations: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<SchemaLock, StoreError> {
        self.make_directories()?;
        let lock = self.open_lock()?;
        // Usually the store is initialised, and a shared lock is enough.
        self.lock(&lock, FlockOperation::LockShared)?;
        if self.schema_version()?.is_none() {
            self.lock(&lock, FlockOperation::LockExclusive)?;
            if self.schema_version()?.is_none() {
                initialise()?;
                self.write_version(&self.realisations_file(), REALISATIONS_VERSION)?;
                // Written last: it marks the store as initialised.
                self.write_version(&self.schema_file(), SCHEMA_VERSION)?;
            }
            self.lock(&lock, FlockOperation::LockShared)?;
        }
        self.check_schema_version()?;
        // A Nix that supports realisations would add the tables itself, and wait for the end of
        // this process to do so. If the store is in use at this moment, adding them is postponed.
        let realisations = self.realisations_file();
        if !realisations.exists() {
            let exclusive = FlockOperation::NonBlockingLockExclusive;
            if rustix::fs::flock(&lock, exclusive).is_ok() && !realisations.exists() {
                add_realisations()?;
                self.write_version(&realisations, REALISATIONS_VERSION)?;
            }
            // The attempt may have released the lock.
            self.lock(&lock, FlockOperation::LockShared)?;
            self.check_schema_version()?;
        }
        Ok(SchemaLock { _file: lock })
    }

    /// Waits for a store that another process is creating: briefly for its directories to appear,
    /// and for some seconds until it is complete once they exist. Blocks.
    pub fn wait_until_made(&self) {
        const PAUSE: Duration = Duration::from_millis(25);
        for pauses in 0..200 {
            let begun = pauses < 40 || self.state.exists();
            if !begun || self.schema_file().exists() {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Checks that the store has the supported schema version.
    pub fn check_schema_version(&self) -> Result<(), StoreError> {
        let path = self.schema_file();
        let error = match self.schema_version()? {
            Some(SCHEMA_VERSION) => return Ok(()),
            Some(newer) if newer > SCHEMA_VERSION => SchemaVersionError::Newer(newer),
            Some(older) => SchemaVersionError::Older(older),
            None => SchemaVersionError::Missing,
        };
        Err(self.failed(format!("read '{}'", path.display()), error))
    }

    fn make_directories(&self) -> Result<(), StoreError> {
        let state = |name: &str| self.state.join(name);
        let gcroots = state("gcroots");
        let new_roots = !gcroots.exists();
        for directory in [
            self.store.join(".links"),
            state("db"),
            state("profiles/per-user"),
            state("temproots"),
            gcroots.join("per-user"),
        ] {
            // Not writable by others, regardless of the umask.
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&directory)
                .map_err(|error| self.failed(creating(&directory), error))?;
        }
        // Nix creates this link only together with `gcroots`, and needs it to find profiles.
        if new_roots {
            let link = gcroots.join("profiles");
            match std::os::unix::fs::symlink(state("profiles"), &link) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(self.failed(creating(&link), error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn open_lock(&self) -> Result<File, StoreError> {
        let path = self.state.join("db/big-lock");
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| self.failed(creating(&path), error))
    }

    fn lock(&self, file: &File, operation: FlockOperation) -> Result<(), StoreError> {
        let _wait = Wait::begin(self.state.join("db/big-lock"));
        loop {
            match rustix::fs::flock(file, operation) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(()) => return Ok(()),
                Err(error) => {
                    let path = self.state.join("db/big-lock");
                    let action = format!("lock '{}'", path.display());
                    return Err(self.failed(action, io::Error::from(error)));
                }
            }
        }
    }

    fn schema_file(&self) -> PathBuf {
        self.state.join("db/schema")
    }

    fn realisations_file(&self) -> PathBuf {
        self.state.join("db/ca-schema")
    }

    /// `None` if the store is not initialised.
    fn schema_version(&self) -> Result<Option<u32>, StoreError> {
        let path = self.schema_file();
        let reading = || format!("read '{}'", path.display());
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| self.failed(reading(), error))?,
        };
        let version = text.trim().parse();
        Ok(Some(version.map_err(
            |error: std::num::ParseIntError| self.failed(reading(), error),
        )?))
    }

    fn write_version(&self, path: &Path, version: u32) -> Result<(), StoreError> {
        let temporary = path.with_extension("new");
        // Written and renamed, so that no reader sees half a number.
        File::create(&temporary)
            .and_then(|mut file| {
                file.write_all(version.to_string().as_bytes())?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&temporary, path))
            .map_err(|error| self.failed(creating(path), error))
    }

    /// An error of this store that a retry does not solve.
    pub fn failed(&self, action: String, source: impl Into<BoxError>) -> StoreError {
        StoreError::Backend {
            store: self.uri.clone(),
            action,
            retryable: false,
            source: source.into(),
        }
    }
}

fn creating(path: &Path) -> String {
    format!("create '{}'", path.display())
}

/// The reason that an existing store cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum SchemaVersionError {
    #[error("schema version {0} is newer than {SCHEMA_VERSION}, which this program supports")]
    Newer(u32),
    #[error(
        "schema version {0} is older than {SCHEMA_VERSION}: opening the store with Nix upgrades it"
    )]
    Older(u32),
    #[error("there is no store")]
    Missing,
}
