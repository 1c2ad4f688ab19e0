//! Roots: what keeps paths from being collected.

mod add;
mod links;
mod processes;

use std::path::{Path, PathBuf};

use nix_compat::store_path::{StoreDir, StorePath};

use super::{Inner, LocalStore, temp_roots};
use crate::StoreError;
use crate::blocking::blocking;

/// A valid path that is not collected, with all that it needs, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Root {
    /// The path.
    pub path: StorePath,
    /// What says so.
    pub source: RootSource,
}

/// What makes a path a root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RootSource {
    /// A link or a file in `gcroots` or `profiles`.
    Direct(PathBuf),
    /// A link anywhere, which a link in `gcroots` leads to.
    Indirect {
        /// The link to the path.
        link: PathBuf,
        /// The link to that link.
        registered: PathBuf,
    },
    /// A process that runs uses something of it.
    Process {
        /// Its number.
        pid: u32,
        /// What of it, as in `exe`, `cwd`, `fd/3`, `maps`, `environ`.
        what: String,
    },
    /// The kernel runs something of it.
    Kernel(PathBuf),
    /// A process has said that it relies on it.
    Temporary {
        /// Its number.
        pid: u32,
    },
}

impl std::fmt::Display for RootSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Direct(path) | Self::Kernel(path) => write!(f, "{}", path.display()),
            Self::Indirect { link, .. } => write!(f, "{}", link.display()),
            Self::Process { pid, what } => write!(f, "/proc/{pid}/{what}"),
            Self::Temporary { pid } => write!(f, "{{temp:{pid}}}"),
        }
    }
}

/// Where the paths of a store are named: logically, and where its files are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    pub dir: &'a StoreDir,
    pub store: &'a Path,
    pub state: &'a Path,
}

impl Places<'_> {
    /// The store path that something is or is in, whether named logically or by its file.
    fn containing(&self, target: &[u8]) -> Option<StorePath> {
        use std::os::unix::ffi::OsStrExt as _;
        if let Ok((path, _)) = self.dir.parse_below(target) {
            return Some(path);
        }
        let store = self.store.as_os_str().as_bytes();
        let base = target.strip_prefix(store)?.strip_prefix(b"/")?;
        let base = base.split(|byte| *byte == b'/').next()?;
        StorePath::from_base_name(base).ok()
    }
}

impl LocalStore {
    /// All roots, in order: links and files in `gcroots` and `profiles`, links that are registered
    /// there, running processes, and temporary roots. Nothing is changed. What cannot be read
    /// because it belongs to somebody else is left out.
    ///
    /// # Errors
    ///
    /// [`StoreError::Backend`].
    pub async fn roots(&self) -> Result<Vec<Root>, StoreError> {
        let inner = self.0.clone();
        blocking(&self.0.uri, move || {
            let temporary = inner.temporary_roots(false)?;
            let mut roots = inner.permanent_roots(false)?;
            for (pid, text) in temporary {
                if let Ok(path) = inner.store_dir.parse(&text) {
                    let source = RootSource::Temporary { pid };
                    roots.push(Root { path, source });
                }
            }
            let paths: Vec<StorePath> = roots.iter().map(|root| root.path.clone()).collect();
            let valid = inner.database.valid_paths(&paths)?;
            roots.retain(|root| valid.contains(&root.path));
            roots.sort();
            roots.dedup();
            Ok(roots)
        })
        .await
    }
}

impl Inner {
    fn places(&self) -> Places<'_> {
        Places {
            dir: &self.store_dir,
            store: &self.layout.store,
            state: &self.layout.state,
        }
    }

    /// All but temporary ones, whether they are valid or not. `tidy` removes registered links that
    /// lead nowhere any more, as only who has the lock of collectors may.
    pub(super) fn permanent_roots(&self, tidy: bool) -> Result<Vec<Root>, StoreError> {
        let failed = |action: &str, error| self.layout.failed(action.to_owned(), error);
        let places = self.places();
        let mut roots = links::find(&places, tidy)
            .map_err(|error| failed("looking for roots in 'gcroots' and 'profiles'", error))?;
        processes::find(&places, &mut roots);
        Ok(roots)
    }

    /// What processes have written down. `tidy` as above.
    pub(super) fn temporary_roots(&self, tidy: bool) -> Result<Vec<(u32, Vec<u8>)>, StoreError> {
        let read = temp_roots::read_all(&self.layout.state, tidy);
        read.map_err(|error| {
            let action = "reading temporary roots in 'temproots'".to_owned();
            self.layout.failed(action, error)
        })
    }
}
