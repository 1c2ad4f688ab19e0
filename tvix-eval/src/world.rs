//! What an evaluation knows of the world outside.

use std::cell::{OnceCell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use nix_compat::derivation::OutputName;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::builtins::derivation::Derivations;
use crate::fetch::{FetchRequest, Fetched, Fetcher};
use crate::fiber::Fibers;
use crate::files::{FileKind, Files};
use crate::host::Host;
use crate::interp::Interp;
use crate::limits::Limits;
use crate::native::Native;
use crate::text::regex::Regex;
use crate::valid_paths::ValidPaths;
use crate::value::{NixString, Ref};

/// What an evaluation may see and where the store is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// Where store paths are.
    pub store_dir: StoreDir,
    /// Where store paths are found on this file system, if not at [`Settings::store_dir`]: the
    /// store's root, below which `store_dir` is looked up.
    pub store_root: Option<PathBuf>,
    /// `builtins.currentSystem`.
    pub system: String,
    /// Entries of the search path: prefix, perhaps empty, and path or URL.
    pub search_path: Vec<(String, String)>,
    /// Whether the environment, the time, the search path and all files are hidden, but for what
    /// evaluation itself has copied, fetched or had built; and nothing is fetched that is not
    /// named by its hash or commit.
    pub pure: bool,
    /// If not `None`, only these folders, the search path, and what evaluation has copied, fetched
    /// or had built may be read; the environment is hidden, and only what `allowed_uris` allows is
    /// fetched.
    pub allowed_paths: Option<Vec<PathBuf>>,
    /// With `allowed_paths`: what may be fetched, as URIs or prefixes of them.
    pub allowed_uris: Vec<String>,
    /// Whether nothing is to be added to the store: `builtins.storePath` then takes paths that are
    /// not valid.
    pub read_only: bool,
    /// Whether expressions may need something to be built.
    pub import_from_derivation: bool,
    /// `~`.
    pub home: Option<PathBuf>,
    /// `builtins.currentTime`, in seconds since 1970.
    pub time: i64,
    /// Whether `traceVerbose` traces.
    pub trace_verbose: bool,
    /// Whether `warn` is an error.
    pub abort_on_warn: bool,
    /// Whether errors tell all that was being evaluated, with every call of a function. Calls in
    /// tail position take memory then.
    pub show_trace: bool,
    /// What the evaluation may use.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        let since_1970 = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            store_dir: StoreDir::default(),
            store_root: None,
            system: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            search_path: Vec::new(),
            pure: false,
            allowed_paths: None,
            allowed_uris: Vec::new(),
            read_only: true,
            import_from_derivation: true,
            home: std::env::home_dir(),
            time: since_1970.as_secs() as i64,
            trace_verbose: false,
            abort_on_warn: false,
            show_trace: false,
            limits: Limits::default(),
        }
    }
}

/// An imported file, and its path.
type Imported<'h> = (Ref<'h>, &'h [u8]);

/// What an evaluation knows of the world outside.
pub struct World<'h> {
    pub(crate) settings: Settings,
    pub(crate) files: Rc<dyn Files>,
    pub(crate) host: Rc<dyn Host>,
    pub(crate) fibers: Fibers,
    /// Builtins of the embedder.
    pub(crate) natives: &'h [Native],
    /// Files that were imported and their paths, by these and by what they were imported as.
    pub(crate) imports: RefCell<FxHashMap<&'h [u8], Imported<'h>>>,
    /// Imported files whose paths lead through links.
    pub(crate) behind_links: RefCell<FxHashSet<&'h [u8]>>,
    /// Paths that were copied to the store.
    pub(crate) copied: RefCell<FxHashMap<&'h [u8], &'h NixString<'h>>>,
    /// Derivations that were instantiated.
    pub(crate) derivations: Derivations,
    /// Where store paths that were built are read, if it is elsewhere.
    pub(crate) realised: RefCell<FxHashMap<String, PathBuf>>,
    /// Outputs that were built for this evaluation, and their store paths.
    pub(crate) outputs: RefCell<FxHashMap<(StorePath, OutputName), String>>,
    /// Where store paths were copied from.
    pub(crate) copied_from: RefCell<FxHashMap<Vec<u8>, Vec<u8>>>,
    /// What is not in store objects, though it is where they were copied from.
    pub(crate) left_out: RefCell<FxHashMap<Vec<u8>, FxHashSet<Vec<u8>>>>,
    /// Sources that the host was told of.
    pub(crate) offered: RefCell<FxHashSet<StorePath>>,
    /// Looks up other paths of the store.
    pub(crate) valid_paths: Option<Arc<dyn ValidPaths>>,
    /// What store paths refer to.
    pub(crate) references: RefCell<FxHashMap<StorePath, SortedSet<StorePath>>>,
    /// What `toFile` made.
    pub(crate) texts: RefCell<FxHashMap<StorePath, &'h [u8]>>,
    /// Regular expressions that were compiled.
    pub(crate) regexes: RefCell<FxHashMap<&'h [u8], Rc<Regex>>>,
    /// Who fetches what is not here.
    pub(crate) fetcher: Option<Arc<dyn Fetcher>>,
    /// What was fetched, so that one evaluation sees it once.
    pub(crate) fetched: RefCell<FxHashMap<FetchRequest, Rc<Fetched>>>,
    /// Folders that may be read beside the store.
    pub(crate) allowed: OnceCell<Vec<Vec<u8>>>,
    /// Store objects that may be read, as paths, when not all may be.
    pub(crate) allowed_objects: RefCell<FxHashSet<Vec<u8>>>,
    /// Where entries of the search path are, if they are anywhere.
    pub(crate) looked_up: RefCell<FxHashMap<Vec<u8>, Option<Vec<u8>>>>,
    /// Directories and links that were looked at.
    pub(crate) kinds: RefCell<FxHashMap<Box<[u8]>, FileKind>>,
}

impl<'h> World<'h> {
    /// A world.
    pub fn new(mut settings: Settings, files: Rc<dyn Files>, host: Rc<dyn Host>) -> Self {
        if settings.pure {
            settings.search_path.clear();
        }
        Self {
            settings,
            files,
            host,
            fibers: Fibers::default(),
            natives: &[],
            imports: RefCell::default(),
            behind_links: RefCell::default(),
            copied: RefCell::default(),
            derivations: Derivations::default(),
            realised: RefCell::default(),
            outputs: RefCell::default(),
            copied_from: RefCell::default(),
            left_out: RefCell::default(),
            offered: RefCell::default(),
            valid_paths: None,
            references: RefCell::default(),
            texts: RefCell::default(),
            regexes: RefCell::default(),
            fetcher: None,
            fetched: RefCell::default(),
            allowed: OnceCell::new(),
            allowed_objects: RefCell::default(),
            looked_up: RefCell::default(),
            kinds: RefCell::default(),
        }
    }

    /// With builtins of the embedder. They replace those of the same name.
    #[must_use]
    pub fn with_natives(mut self, natives: &'h [Native]) -> Self {
        self.natives = natives;
        self
    }

    /// Looks up paths of the store that evaluation did not make itself.
    #[must_use]
    pub fn with_valid_paths(mut self, valid_paths: Arc<dyn ValidPaths>) -> Self {
        self.valid_paths = Some(valid_paths);
        self
    }

    #[inline]
    pub(crate) fn has_waiters(&self) -> bool {
        self.fibers.has_waiters()
    }

    pub(crate) fn wake(&self, cell: Ref<'h>) {
        self.fibers.wake(cell);
    }

    pub(crate) fn park(&self, interp: &Interp<'h>, cell: Ref<'h>, owner: u32) -> bool {
        self.fibers.park(interp, cell, owner)
    }
}
