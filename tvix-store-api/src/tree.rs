//! Trees on the file system on their way into a store: canonical metadata, NAR hash and
//! references in one pass.
//!
//! A builder calls [`canonicalise`] on each output while nothing else can reach it any more,
//! looks at what it learns (is the hash of a fixed output right, are all references allowed?),
//! and then registers the tree where it is, or streams it to a store elsewhere.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::nar::{self, BUFFER_SIZE, NarError};
use nix_compat::nixhash::{HashAlgo, NixHash, NixHasher};
use nix_compat::refscan::ReferenceScanner;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::StorePath;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use thiserror::Error;

use crate::verify::sha256;

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
}

/// Gives the tree at `path` the metadata of a store object, and meanwhile hashes it as NAR and
/// finds which of `candidates` it refers to (put the path that it will have among them, to find
/// references to itself).
///
/// Afterwards files have mode 0444 or 0555, directories 0555, no set-user-ID bit and no extended
/// attributes, everything belongs to this process's user and was modified at second 1 of 1970.
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
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| NarError::File {
        action: "open",
        path: path.to_owned(),
        source: error.into(),
    })?;
    let mut walk = Walk {
        writer: nar::Writer::new(ScanSink::new(candidates)),
        buffer: vec![0; BUFFER_SIZE],
        path: path.as_os_str().as_bytes().to_vec(),
        owner,
        ourselves: (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        ),
        copies: HashMap::new(),
    };
    walk.node(CWD, &name)?;
    Ok(walk.writer.finish()?.finish())
}

/// Hashes the tree at `path` as NAR and finds which of `candidates` it refers to, without
/// changing anything. It blocks.
///
/// # Errors
///
/// As [`nar::dump_path`].
pub fn scan<'a>(
    path: &Path,
    candidates: impl IntoIterator<Item = &'a StorePath>,
) -> Result<TreeScan, NarError> {
    let mut sink = ScanSink::new(candidates);
    nar::dump_path(path, &mut sink)?;
    Ok(sink.finish())
}

/// Hashes the tree or file at `path` as a content address of this method does. It blocks.
///
/// # Errors
///
/// As [`nar::dump_path`]; if only a single file will do and `path` is something else,
/// [`NarError::UnsupportedType`].
pub fn hash(
    path: &Path,
    method: ContentAddressMethod,
    algo: HashAlgo,
) -> Result<NixHash, NarError> {
    if method == ContentAddressMethod::NixArchive {
        return Ok(nar::hash_path(path, algo)?.0);
    }
    let mut hasher = NixHasher::new(algo);
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
    io::copy(&mut file, &mut hasher).map_err(|error| failed("read", error))?;
    Ok(hasher.finish())
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
            nar_hash: sha256(self.hasher),
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

struct Walk {
    writer: nar::Writer<ScanSink>,
    buffer: Vec<u8>,
    /// Of the current node, for messages only: files are opened relative to their directory.
    path: Vec<u8>,
    owner: u32,
    ourselves: (u32, u32),
    /// For files with several links: the path of the copy made of each.
    copies: HashMap<(u64, u64), PathBuf>,
}

impl Walk {
    fn node(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), TreeError> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| self.error("stat", error))?;
        // Before anything of it is opened.
        if stat.st_uid != self.owner {
            return Err(TreeError::ForeignOwner {
                path: self.current(),
                owner: stat.st_uid,
                expected: self.owner,
            });
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return self.regular(parent, name, &stat),
            FileType::Directory => return self.directory(parent, name, &stat),
            FileType::Symlink => return self.symlink(parent, name, &stat),
            FileType::Socket => "socket",
            FileType::Fifo => "fifo",
            FileType::CharacterDevice => "character device",
            FileType::BlockDevice => "block device",
            FileType::Unknown => "file of unknown type",
        };
        let path = self.current();
        Err(NarError::UnsupportedType { path, kind }.into())
    }

    fn directory(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
    ) -> Result<(), TreeError> {
        self.writer.directory_start()?;
        if stat.st_mode & 0o700 != 0o700 && self.ourselves.0 == self.owner {
            // Else we could neither list it nor replace what is in it.
            self.chmod_unopened(parent, name, 0o700)?;
        }
        let fd = self.open(parent, name, OFlags::RDONLY | OFlags::DIRECTORY, stat)?;
        let mut listing = Dir::read_from(&fd).map_err(|error| self.error("list", error))?;
        let mut names: Vec<CString> = Vec::new();
        while let Some(entry) = listing.read() {
            let entry = entry.map_err(|error| self.error("list", error))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        drop(listing);
        names.sort_unstable();
        let path_len = self.path.len();
        for name in &names {
            self.path.push(b'/');
            self.path.extend_from_slice(name.to_bytes());
            self.writer.entry(name.to_bytes())?;
            self.node(fd.as_fd(), name)?;
            self.path.truncate(path_len);
        }
        self.finish_node(fd.as_fd(), 0o555, stat)?;
        Ok(self.writer.directory_end()?)
    }

    fn regular(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
    ) -> Result<(), TreeError> {
        let executable = stat.st_mode & 0o100 != 0;
        let mode = if executable { 0o555 } else { 0o444 };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let mut fd = self.open(parent, name, flags, stat)?;
        if stat.st_nlink > 1 {
            fd = self.own_copy(parent, name, fd, stat)?;
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.writer.regular_start(executable, size)?;
        let mut file = File::from(fd);
        let mut remaining = size;
        while remaining > 0 {
            let want = usize::try_from(remaining).unwrap_or(usize::MAX);
            let want = want.min(self.buffer.len());
            let len = match file.read(&mut self.buffer[..want]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(|error| self.error("read", error))?,
            };
            if len == 0 {
                let path = self.current();
                return Err(NarError::Changed { path }.into());
            }
            remaining -= len as u64;
            self.writer.contents(&self.buffer[..len])?;
        }
        self.writer.regular_end()?;
        self.finish_node(file.as_fd(), mode, stat)
    }

    /// Replaces a file that others may have links to by a copy, which later links to the same
    /// file in this tree share.
    fn own_copy(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        original: OwnedFd,
        stat: &Stat,
    ) -> Result<OwnedFd, TreeError> {
        let inode = (stat.st_dev, stat.st_ino);
        // In the same directory, so that it is replaced in one step. Nobody else is in the tree,
        // so a name that is taken belongs to the tree itself: another one is tried.
        let temporary = self.unused_name(parent)?;
        let opened = match self.copies.get(&inode) {
            Some(copy) => {
                rustix::fs::linkat(CWD, copy, parent, &temporary, AtFlags::empty())
                    .map_err(|error| self.error("link a copy of", error))?;
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(parent, &temporary, flags, Mode::empty())
                    .map_err(|error| self.error("open", error))?
            }
            None => {
                let flags = OFlags::RDWR
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let created = rustix::fs::openat(parent, &temporary, flags, Mode::RUSR)
                    .map_err(|error| self.error("copy", error))?;
                let mut copy = File::from(created);
                io::copy(&mut File::from(original), &mut copy)
                    .and_then(|_| io::Seek::rewind(&mut copy))
                    .map_err(|error| self.error("copy", error))?;
                self.copies.insert(inode, self.current());
                OwnedFd::from(copy)
            }
        };
        rustix::fs::renameat(parent, &temporary, parent, name)
            .map_err(|error| self.error("replace", error))?;
        Ok(opened)
    }

    fn unused_name(&self, parent: BorrowedFd<'_>) -> Result<CString, TreeError> {
        for number in 0..u32::MAX {
            let name = CString::new(format!(".copy-{number}")).unwrap_or_default();
            match rustix::fs::statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => return Ok(name),
                Ok(_) => {}
                Err(error) => return Err(self.error("stat", error)),
            }
        }
        Err(self.error("copy", Errno::EXIST))
    }

    fn symlink(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
    ) -> Result<(), TreeError> {
        let target = rustix::fs::readlinkat(parent, name, Vec::new())
            .map_err(|error| self.error("read symlink", error))?;
        self.writer.symlink(target.to_bytes())?;
        if stat.st_uid != self.ourselves.0 {
            let (uid, gid) = self.ids();
            rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| self.error("change the owner of", error))?;
        }
        let times = canonical_times();
        rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| self.error("set the time of", error))
    }

    /// Owner first: changing it clears bits of the mode, and whoever is not the owner must not be
    /// able to change the mode afterwards.
    fn finish_node(&self, fd: BorrowedFd<'_>, mode: u32, stat: &Stat) -> Result<(), TreeError> {
        if stat.st_uid != self.ourselves.0 {
            let (uid, gid) = self.ids();
            rustix::fs::fchown(fd, uid, gid)
                .map_err(|error| self.error("change the owner of", error))?;
        }
        self.remove_attributes(fd)?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))
            .map_err(|error| self.error("set the mode of", error))?;
        rustix::fs::futimens(fd, &canonical_times())
            .map_err(|error| self.error("set the time of", error))
    }

    fn ids(&self) -> (Option<rustix::fs::Uid>, Option<rustix::fs::Gid>) {
        (
            Some(rustix::fs::Uid::from_raw(self.ourselves.0)),
            Some(rustix::fs::Gid::from_raw(self.ourselves.1)),
        )
    }

    fn remove_attributes(&self, fd: BorrowedFd<'_>) -> Result<(), TreeError> {
        let mut none: [u8; 0] = [];
        let len = match rustix::fs::flistxattr(fd, &mut none) {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(()),
            Ok(len) => len,
            Err(error) => return Err(self.error("list the attributes of", error)),
        };
        let mut names = vec![0u8; len];
        let len = rustix::fs::flistxattr(fd, &mut names)
            .map_err(|error| self.error("list the attributes of", error))?;
        for name in names[..len].split(|byte| *byte == 0) {
            // What a security module labels files with is the machine's, not the build's.
            if name.is_empty() || name == b"security.selinux" {
                continue;
            }
            rustix::fs::fremovexattr(fd, name)
                .map_err(|error| self.error("remove an attribute of", error))?;
        }
        Ok(())
    }

    /// Opens what was found to be `stat`, and nothing else.
    fn open(
        &self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        flags: OFlags,
        stat: &Stat,
    ) -> Result<OwnedFd, TreeError> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            // Not if it may be somebody's file too.
            Err(Errno::ACCESS) if stat.st_nlink == 1 => {
                self.chmod_unopened(parent, name, 0o600)?;
                rustix::fs::openat(parent, name, flags, Mode::empty())
            }
            opened => opened,
        }
        .map_err(|error| self.error("open", error))?;
        let opened = rustix::fs::fstat(&fd).map_err(|error| self.error("stat", error))?;
        if (opened.st_dev, opened.st_ino) == (stat.st_dev, stat.st_ino) {
            return Ok(fd);
        }
        let path = self.current();
        Err(NarError::Changed { path }.into())
    }

    /// Changes the mode of what its owner may not even open. The detour over a descriptor that
    /// only names the file keeps symlinks from being followed.
    fn chmod_unopened(
        &self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        mode: u32,
    ) -> Result<(), TreeError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name, flags, Mode::empty())
            .map_err(|error| self.error("open", error))?;
        let by_number = format!("/proc/self/fd/{}", fd.as_raw_fd());
        rustix::fs::chmod(by_number, Mode::from_raw_mode(mode))
            .map_err(|error| self.error("set the mode of", error))
    }

    fn current(&self) -> PathBuf {
        OsString::from_vec(self.path.clone()).into()
    }

    fn error(&self, action: &'static str, source: impl Into<io::Error>) -> TreeError {
        TreeError::Nar(NarError::File {
            action,
            path: self.current(),
            source: source.into(),
        })
    }
}

/// Second 1 for the modification, as everything in a store has; the access time stays.
fn canonical_times() -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        },
    }
}
