//! Garbage-collector roots.

mod add;
mod links;
mod processes;

use std::path::{Path, PathBuf};

use nix_compat::store_path::{StoreDir, StorePath};

use super::{Inner, LocalStore, temp_roots};
use crate::StoreError;
use crate::blocking::blocking;

/// A root: a valid path that is kept together with its closure, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Root {
    /// The path.
    pub path: StorePath,
    /// The reason.
    pub source: RootSource,
}

/// The reason that a path is a root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RootSource {
    /// A link or file in `gcroots` or `profiles`.
    Direct(PathBuf),
    /// A link anywhere that is registered in `gcroots`.
    Indirect {
        /// The link to the path.
        link: PathBuf,
        /// The entry of `gcroots` that leads to the link.
        registered: PathBuf,
    },
    /// A running process uses the path.
    Process {
        /// The process id.
        pid: u32,
        /// The kind of use, such as `exe`, `cwd`, `fd/3`, `maps`, `environ`.
        what: String,
    },
    /// The kernel runs a program of the path.
    Kernel(PathBuf),
    /// A process has registered the path as a temporary root.
    Temporary {
        /// The process id.
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

/// The two directories under which store paths are named: the logical store directory, and the
/// location of the files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    pub dir: &'a StoreDir,
    pub store: &'a Path,
    pub state: &'a Path,
}

impl Places<'_> {
    /// The store path that contains `target`, by logical name or by file name.
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
    /// All roots, sorted: links and files in `gcroots` and `profiles`, registered links, running
    /// processes, and temporary roots. Changes nothing. Entries that cannot be read because they
    /// belong to another user are left out.
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

    /// All roots except temporary ones, valid or not. `tidy` removes stale registered links; the
    /// caller must hold the collector lock for that.
    pub(super) fn permanent_roots(&self, tidy: bool) -> Result<Vec<Root>, StoreError> {
        let failed = |action: &str, error| self.layout.failed(action.to_owned(), error);
        let places = self.places();
        let mut roots = links::find(&places, tidy)
            .map_err(|error| failed("find roots in 'gcroots' and 'profiles'", error))?;
        processes::find(&places, &mut roots);
        Ok(roots)
    }

    /// The temporary roots of all processes. `tidy` as above.
    pub(super) fn temporary_roots(&self, tidy: bool) -> Result<Vec<(u32, Vec<u8>)>, StoreError> {
        let read = temp_roots::read_all(&self.layout.state, tidy);
        read.map_err(|error| {
            let action = "read temporary roots in 'temproots'".to_owned();
            self.layout.failed(action, error)
        })
    }
}
