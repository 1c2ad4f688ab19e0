//! The environment of an evaluation.

use std::cell::{OnceCell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use nix_compat::derivation::OutputName;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::fetch::{FetchRequest, Fetched, Fetcher};
use crate::files::{FileKind, Files};
use crate::host::Host;
use crate::text::regex::Regex;
use crate::valid_paths::ValidPaths;
use crate::value::{NixString, Ref};

pub use crate::settings::Settings;

/// The cell of an imported file, and the file's path.
type Imported<'h> = (Ref<'h>, &'h [u8]);

/// The environment of an evaluation, and its caches.
pub struct World<'h> {
    pub(crate) settings: Settings,
    pub(crate) files: Rc<dyn Files>,
    pub(crate) host: Rc<dyn Host>,
    /// Imported files and their paths, by these paths and by the paths given to `import`.
    pub(crate) imports: RefCell<FxHashMap<&'h [u8], Imported<'h>>>,
    /// Imported files with symbolic links in their paths.
    pub(crate) behind_links: RefCell<FxHashSet<&'h [u8]>>,
    /// Paths that were copied to the store.
    pub(crate) copied: RefCell<FxHashMap<&'h [u8], &'h NixString<'h>>>,
    /// Locations of built store paths that are not read from the store directory.
    pub(crate) realised: RefCell<FxHashMap<String, PathBuf>>,
    /// Outputs that were built for this evaluation, and their store paths.
    pub(crate) outputs: RefCell<FxHashMap<(StorePath, OutputName), String>>,
    /// Original locations of copied store paths.
    pub(crate) copied_from: RefCell<FxHashMap<Vec<u8>, Vec<u8>>>,
    /// For each store object, files at its original location that a filter has excluded.
    pub(crate) excluded: RefCell<FxHashMap<Vec<u8>, FxHashSet<Vec<u8>>>>,
    /// Sources that were reported to the host.
    pub(crate) offered: RefCell<FxHashSet<StorePath>>,
    /// Looks up other store paths.
    pub(crate) valid_paths: Option<Arc<dyn ValidPaths>>,
    /// References of store paths.
    pub(crate) references: RefCell<FxHashMap<StorePath, SortedSet<StorePath>>>,
    /// Texts made by `toFile`.
    pub(crate) texts: RefCell<FxHashMap<StorePath, &'h [u8]>>,
    /// Compiled regular expressions.
    pub(crate) regexes: RefCell<FxHashMap<Box<[u8]>, Rc<Regex>>>,
    /// Fetches files and trees.
    pub(crate) fetcher: Option<Arc<dyn Fetcher>>,
    /// Results of fetches, so that each is fetched at most once per evaluation.
    pub(crate) fetched: RefCell<FxHashMap<FetchRequest, Rc<Fetched>>>,
    /// Readable directories outside the store.
    pub(crate) allowed: OnceCell<Vec<Vec<u8>>>,
    /// Readable store objects, as paths, in pure and restricted mode.
    pub(crate) allowed_objects: RefCell<FxHashSet<Vec<u8>>>,
    /// Locations of search path entries; `None` for missing ones.
    pub(crate) looked_up: RefCell<FxHashMap<Vec<u8>, Option<Vec<u8>>>>,
    /// Kinds of directories, links, and imported files.
    pub(crate) kinds: RefCell<FxHashMap<Box<[u8]>, FileKind>>,
    /// Directories by paths without links.
    pub(crate) direct: RefCell<FxHashSet<Box<[u8]>>>,
}

impl<'h> World<'h> {
    /// An environment with empty caches.
    pub fn new(mut settings: Settings, files: Rc<dyn Files>, host: Rc<dyn Host>) -> Self {
        if settings.pure {
            settings.search_path.clear();
        }
        Self {
            settings,
            files,
            host,
            imports: RefCell::default(),
            behind_links: RefCell::default(),
            copied: RefCell::default(),
            realised: RefCell::default(),
            outputs: RefCell::default(),
            copied_from: RefCell::default(),
            excluded: RefCell::default(),
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
            direct: RefCell::default(),
        }
    }

    /// Sets the look-up of store paths that evaluation did not make itself.
    #[must_use]
    pub fn with_valid_paths(mut self, valid_paths: Arc<dyn ValidPaths>) -> Self {
        self.valid_paths = Some(valid_paths);
        self
    }
}
