//! Trees on the file system on their way into a store: canonical metadata, NAR hash and
//! references in one pass.
//!
//! A builder calls [`canonicalise`] on each output while nothing else can reach it any more,
//! looks at what it learns (is the hash of a fixed output right, are all references allowed?),
//! and then registers the tree where it is, or streams it to a store elsewhere.

#![cfg(unix)]

mod attributes;
mod canonical;
mod copy;
mod dump;
mod error;
mod hash;
mod measure;
mod restore;

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::nar::{BUFFER_SIZE, NarError};
use nix_compat::nixhash::{HashAlgo, NixHash, NixHasher};
use nix_compat::refscan::ReferenceScanner;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use thiserror::Error;

use canonical::Walk;
pub use dump::{dump_node, dump_path};
pub use hash::{hash_path, hash_path_while};
pub use measure::measure;
pub use restore::{RestoreOptions, Unpacker, restore, restore_node};

/// The bytes that a node takes in a NAR beside its name and its contents, about.
const NODE: u64 = 128;

/// What a pass over a tree has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeScan {
    /// SHA-256 of its NAR.
    pub nar_hash: [u8; 32],
    /// Bytes of its NAR.
    pub nar_size: u64,
    /// Which of the candidates it refers to.
    pub references: SortedSet<StorePath>,
}

/// Why a tree cannot become a store object.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TreeError {
    /// A file cannot be read or changed, or is of a kind that no store holds.
    #[error(transparent)]
    Nar(#[from] NarError),
    /// A file belongs to somebody else: it was not made by the build, but linked into its output.
    #[error("'{}' belongs to user {owner}, not to {expected} as the rest of the tree", path.display())]
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// Its user id.
        owner: u32,
        /// What it should be.
        expected: u32,
    },
    /// [`Bounds::interrupted`] has ended the pass.
    #[error("interrupted")]
    Interrupted,
    /// The tree has a larger NAR than [`Bounds::nar_size`] allows. The file was not read.
    #[error("with '{}' it has {size} bytes or more", path.display())]
    TooLarge {
        /// The file that is too much.
        path: PathBuf,
        /// The size of the NAR up to the end of that file, about.
        size: u64,
    },
}

/// What may end a pass over a tree early.
#[derive(Clone, Copy)]
pub struct Bounds<'a> {
    /// Asked before each chunk of a file and each entry of a directory: true ends the pass.
    pub interrupted: &'a dyn Fn() -> bool,
    /// The largest NAR, in bytes. Sparse files count with their full size, as in the NAR, and are
    /// not read if they are too large.
    pub nar_size: u64,
}

impl Default for Bounds<'_> {
    /// No bounds.
    fn default() -> Self {
        Bounds {
            interrupted: &|| false,
            nar_size: u64::MAX,
        }
    }
}

impl std::fmt::Debug for Bounds<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bounds")
            .field("nar_size", &self.nar_size)
            .finish_non_exhaustive()
    }
}

/// A writer that fails once it is interrupted: it ends whatever writes to it.
pub struct Interruptible<'a, W> {
    writer: W,
    interrupted: &'a dyn Fn() -> bool,
}

impl<'a, W> Interruptible<'a, W> {
    /// Asks `interrupted` before each write.
    pub fn new(writer: W, interrupted: &'a dyn Fn() -> bool) -> Self {
        Self {
            writer,
            interrupted,
        }
    }

    /// The writer inside.
    pub fn into_inner(self) -> W {
        self.writer
    }
}

impl<W: Write> Write for Interruptible<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        unless(self.interrupted)?;
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl<W: std::fmt::Debug> std::fmt::Debug for Interruptible<'_, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Interruptible").field(&self.writer).finish()
    }
}

/// Not [`io::ErrorKind::Interrupted`], after which writers try again.
fn unless(interrupted: &dyn Fn() -> bool) -> io::Result<()> {
    match interrupted() {
        true => Err(io::Error::other(TreeError::Interrupted)),
        false => Ok(()),
    }
}

/// Gives the tree at `path` the metadata of a store object, and meanwhile hashes it as NAR and
/// finds which of `candidates` it refers to (put the path that it will have among them, to find
/// references to itself).
///
/// Afterwards files have mode 0444 or 0555, directories 0555, no set-user-ID bit, no extended
/// attributes but the machine's own labels and no flags such as "immutable"; everything belongs to this process's user and was modified at second 1 of 1970.
/// A file with several hard links is replaced by a copy that only this tree's links share:
/// whoever holds a link elsewhere cannot change the store object.
///
/// Nobody else may change the tree meanwhile. It blocks: call it on a thread for that. `owner`
/// is the user that all files must belong to.
///
/// # Errors
///
/// [`NarError::UnsupportedType`] for sockets, fifos and devices, [`TreeError::ForeignOwner`],
/// [`NarError::File`], each with the file's path. The tree is then neither what it was nor
/// canonical.
pub fn canonicalise<'a>(
    path: &Path,
    owner: u32,
    candidates: impl IntoIterator<Item = &'a StorePath>,
) -> Result<TreeScan, TreeError> {
    canonicalise_within(path, owner, candidates, Bounds::default())
}

/// As [`canonicalise`], of which `bounds` may make an end.
///
/// # Errors
///
/// As [`canonicalise`]; [`TreeError::Interrupted`], [`TreeError::TooLarge`].
pub fn canonicalise_within<'a>(
    path: &Path,
    owner: u32,
    candidates: impl IntoIterator<Item = &'a StorePath>,
    bounds: Bounds<'_>,
) -> Result<TreeScan, TreeError> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| NarError::File {
        action: "open",
        path: path.to_owned(),
        source: error.into(),
    })?;
    let sink = ScanSink::new(candidates);
    let mut walk = Walk::new(path.as_os_str().as_bytes(), owner, sink, bounds);
    walk.node(CWD, &name)?;
    Ok(walk.writer.finish()?.finish())
}

/// Hashes the tree at `path` as NAR and finds which of `candidates` it refers to, without
/// changing anything. It blocks.
///
/// # Errors
///
/// As [`dump_path`].
pub fn scan<'a>(
    path: &Path,
    candidates: impl IntoIterator<Item = &'a StorePath>,
) -> Result<TreeScan, NarError> {
    let mut sink = ScanSink::new(candidates);
    dump_path(path, &mut sink)?;
    Ok(sink.finish())
}

/// Hashes the tree or file at `path` as a content address of this method does. It blocks.
///
/// # Errors
///
/// As [`dump_path`]; if only a single file will do and `path` is something else,
/// [`NarError::UnsupportedType`].
pub fn hash(
    path: &Path,
    method: ContentAddressMethod,
    algo: HashAlgo,
) -> Result<NixHash, NarError> {
    hash_until(path, method, algo, &|| false)
}

/// As [`hash`], until `interrupted`, which is asked before each chunk, returns true.
///
/// # Errors
///
/// As [`hash`]; [`NarError::Io`] with [`TreeError::Interrupted`].
pub fn hash_until(
    path: &Path,
    method: ContentAddressMethod,
    algo: HashAlgo,
    interrupted: &dyn Fn() -> bool,
) -> Result<NixHash, NarError> {
    if method == ContentAddressMethod::NixArchive {
        return Ok(hash_path_while(path, algo, || unless(interrupted))?.0);
    }
    let failed = |action, source| NarError::File {
        action,
        path: path.to_owned(),
        source,
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let not_a_file = |kind| NarError::UnsupportedType {
        path: path.to_owned(),
        kind,
    };
    let fd = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::LOOP) => return Err(not_a_file("symlink")),
        opened => opened.map_err(|error| failed("open", error.into()))?,
    };
    let stat = rustix::fs::fstat(&fd).map_err(|error| failed("stat", error.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_mode & 0o100 != 0 => {
            return Err(not_a_file("executable file"));
        }
        FileType::RegularFile => {}
        FileType::Directory => return Err(not_a_file("directory")),
        _ => return Err(not_a_file("special file")),
    }
    let mut file = io::BufReader::with_capacity(BUFFER_SIZE, File::from(fd));
    let mut hasher = Interruptible::new(NixHasher::new(algo), interrupted);
    match io::copy(&mut file, &mut hasher) {
        Ok(_) => Ok(hasher.into_inner().finish()),
        Err(error) if interrupted() => Err(NarError::Io(error)),
        Err(error) => Err(failed("read", error)),
    }
}

/// Hashes and scans what is written to it.
struct ScanSink {
    hasher: NixHasher,
    size: u64,
    scanner: ReferenceScanner,
}

impl ScanSink {
    fn new<'a>(candidates: impl IntoIterator<Item = &'a StorePath>) -> Self {
        Self {
            hasher: NixHasher::new(HashAlgo::Sha256),
            size: 0,
            scanner: ReferenceScanner::new(candidates),
        }
    }

    fn finish(self) -> TreeScan {
        TreeScan {
            nar_hash: match self.hasher.finish() {
                NixHash::Sha256(hash) => hash,
                _ => unreachable!("made for SHA-256"),
            },
            nar_size: self.size,
            references: self.scanner.finish(),
        }
    }
}

impl Write for ScanSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.scanner.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
