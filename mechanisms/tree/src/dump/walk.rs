//! The nodes of a tree in the order of an archive, a batch at a time, without opening files.

use std::ffi::{CStr, CString};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::file_error;

use nix_compat::nar::{MAX_DEPTH, NarError};

/// Nodes of a batch, about. Opening a file and handing a batch to another thread cost about the
/// same, so a batch has many; but what is read of it should still be in the processor's cache
/// when it is hashed.
const NODES: usize = 32;
/// Directories that a batch may have files of: each is a descriptor for as long as it is used.
const FOLDERS: usize = 8;

/// Where a node is.
#[derive(Debug)]
pub(super) struct Folder {
    /// `None` for the root of the tree, whose name is a whole path.
    fd: Option<OwnedFd>,
    /// For messages only: files are opened relative to their directory.
    path: Vec<u8>,
}

impl Folder {
    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_ref().map_or(CWD, |fd| fd.as_fd())
    }

    /// Opens a file or directory of this one, never through a symlink.
    pub(super) fn open(&self, name: &CStr, flags: OFlags) -> Result<OwnedFd, NarError> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(self.fd(), name, flags, Mode::empty()) {
            Ok(fd) => Ok(fd),
            // It was a file or a directory when it was listed.
            Err(Errno::LOOP | Errno::NOTDIR) => Err(self.changed(name)),
            Err(error) => Err(self.error("open", name, error)),
        }
    }

    /// The target of a symlink; `space` is reused for it.
    pub(super) fn read_link(&self, name: &CStr, space: Vec<u8>) -> Result<CString, NarError> {
        rustix::fs::readlinkat(self.fd(), name, space)
            .map_err(|error| self.error("read symlink", name, error))
    }

    pub(super) fn error(
        &self,
        action: &'static str,
        name: &CStr,
        source: impl Into<io::Error>,
    ) -> NarError {
        file_error(action, &self.path_of(name), source)
    }

    pub(super) fn changed(&self, name: &CStr) -> NarError {
        let path = self.path_of(name);
        NarError::Changed { path }
    }

    fn path_of(&self, name: &CStr) -> PathBuf {
        std::ffi::OsString::from_vec(self.join(name)).into()
    }

    fn join(&self, name: &CStr) -> Vec<u8> {
        let mut path = self.path.clone();
        if self.fd.is_some() {
            path.push(b'/');
        }
        path.extend_from_slice(name.to_bytes());
        path
    }
}

/// What comes next in the archive. Names are those of directory entries; the root has none.
#[derive(Debug)]
pub(super) enum Node {
    /// A directory begins.
    Enter { name: Option<Name> },
    /// The innermost directory ends.
    Leave,
    /// A file, or a symlink.
    Leaf {
        /// Which of the batch's folders it is in.
        folder: usize,
        name: Name,
        /// Whether it is an entry, and not the root.
        entry: bool,
        symlink: bool,
    },
}

/// Where a name lies in its batch, NUL included.
pub(super) type Name = Range<usize>;

/// Some nodes that follow each other.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) nodes: Vec<Node>,
    pub(super) folders: Vec<Arc<Folder>>,
    /// What comes after the nodes and cannot be archived, and why.
    pub(super) fault: Option<(Option<Name>, NarError)>,
    names: Vec<u8>,
}

impl Batch {
    pub(super) fn name(&self, name: &Name) -> &CStr {
        // Every name was a C string when it was stored.
        CStr::from_bytes_with_nul(&self.names[name.clone()]).unwrap_or_default()
    }

    pub(super) fn clear(&mut self) {
        self.nodes.clear();
        self.folders.clear();
        self.fault = None;
        self.names.clear();
    }

    fn is_full(&self) -> bool {
        self.nodes.len() >= NODES || self.folders.len() >= FOLDERS
    }

    fn keep(&mut self, name: &CStr) -> Name {
        let start = self.names.len();
        self.names.extend_from_slice(name.to_bytes_with_nul());
        start..self.names.len()
    }
}

/// A walk over a tree that is under way.
#[derive(Debug)]
pub(super) struct Walk {
    /// The root, until it has been looked at.
    root: Option<CString>,
    /// The open directories.
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    folder: Arc<Folder>,
    listing: Listing,
    next: usize,
}

/// The entries of one directory.
#[derive(Debug, Default)]
struct Listing {
    /// The names, each with its NUL, one after the other.
    names: Vec<u8>,
    /// Where each name lies, NUL included, and what the file is, as far as the directory says.
    entries: Vec<(Name, FileType)>,
}

impl Listing {
    fn read(directory: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mut listing = Self::default();
        let mut directory = Dir::read_from(directory)?;
        while let Some(entry) = directory.read() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let start = listing.names.len();
            listing.names.extend_from_slice(name.to_bytes_with_nul());
            let name = start..listing.names.len();
            listing.entries.push((name, entry.file_type()));
        }
        let names = &listing.names;
        // NUL is less than any byte of a name, so it does not disturb the order.
        listing
            .entries
            .sort_unstable_by(|a, b| names[a.0.clone()].cmp(&names[b.0.clone()]));
        Ok(listing)
    }
}

impl Walk {
    pub(super) fn new(path: &Path) -> Result<Self, NarError> {
        let name = CString::new(path.as_os_str().as_bytes())
            .map_err(|error| file_error("open", path, io::Error::from(error)))?;
        Ok(Self {
            root: Some(name),
            levels: Vec::new(),
        })
    }

    /// Puts the next nodes into `batch`, which is empty; whether there may be more. After a
    /// fault there are none.
    pub(super) fn next(&mut self, batch: &mut Batch) -> bool {
        if let Some(root) = self.root.take() {
            let parent = Arc::new(Folder {
                fd: None,
                path: Vec::new(),
            });
            match visit(batch, &parent, &root, FileType::Unknown, 0) {
                Ok(Visited::Directory(level)) => self.levels.push(level),
                Ok(Visited::Leaf | Visited::TooDeep) => return false,
                Err(error) => {
                    batch.fault = Some((None, error));
                    return false;
                }
            }
        }
        let mut depth = self.levels.len();
        while let Some(level) = self.levels.last_mut() {
            if batch.is_full() {
                return true;
            }
            let Some((name, kind)) = level.listing.entries.get(level.next) else {
                batch.nodes.push(Node::Leave);
                self.levels.pop();
                depth -= 1;
                continue;
            };
            level.next += 1;
            let name = CStr::from_bytes_with_nul(&level.listing.names[name.clone()]);
            let name = name.unwrap_or_default();
            match visit(batch, &level.folder, name, *kind, depth) {
                Ok(Visited::Leaf) => {}
                Ok(Visited::Directory(level)) => {
                    self.levels.push(level);
                    depth += 1;
                }
                // The writer refuses it: no use in going on.
                Ok(Visited::TooDeep) => break,
                Err(error) => {
                    batch.fault = Some((Some(batch.keep(name)), error));
                    break;
                }
            }
        }
        false
    }
}

enum Visited {
    Leaf,
    Directory(Level),
    TooDeep,
}

/// Puts one node into `batch`; a directory is opened and listed.
fn visit(
    batch: &mut Batch,
    parent: &Arc<Folder>,
    name: &CStr,
    kind: FileType,
    depth: usize,
) -> Result<Visited, NarError> {
    let kind = match kind {
        // Not every file system says; and the root's kind nobody has said.
        FileType::Unknown => {
            let stat = rustix::fs::statat(parent.fd(), name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| parent.error("stat", name, error))?;
            FileType::from_raw_mode(stat.st_mode)
        }
        known => known,
    };
    let entry = parent.fd.is_some();
    let unsupported = match kind {
        FileType::Directory => {
            let fd = parent.open(name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let name_in_batch = entry.then(|| batch.keep(name));
            let node = Node::Enter {
                name: name_in_batch,
            };
            if depth == MAX_DEPTH {
                batch.nodes.push(node);
                return Ok(Visited::TooDeep);
            }
            let listing = Listing::read(fd.as_fd());
            let listing = listing.map_err(|error| parent.error("list", name, error))?;
            batch.nodes.push(node);
            let path = parent.join(name);
            return Ok(Visited::Directory(Level {
                folder: Arc::new(Folder { fd: Some(fd), path }),
                listing,
                next: 0,
            }));
        }
        FileType::RegularFile | FileType::Symlink => {
            // The files of a folder follow each other, but for the directories between them.
            let folder = batch
                .folders
                .iter()
                .rposition(|it| Arc::ptr_eq(it, parent))
                .unwrap_or_else(|| {
                    batch.folders.push(parent.clone());
                    batch.folders.len() - 1
                });
            let name = batch.keep(name);
            batch.nodes.push(Node::Leaf {
                folder,
                name,
                entry,
                symlink: kind == FileType::Symlink,
            });
            return Ok(Visited::Leaf);
        }
        FileType::Socket => "socket",
        FileType::Fifo => "fifo",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Unknown => "file of unknown type",
    };
    Err(NarError::UnsupportedType {
        path: parent.path_of(name),
        kind: unsupported,
    })
}
