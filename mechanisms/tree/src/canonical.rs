//! Canonical metadata, NAR hash and references of a tree in one pass.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix_compat::nar::{self, BUFFER_SIZE};
use nix_compat::store_path::StorePath;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::attributes::{clear_flags, remove_attributes};
use super::copy::copy_sparse;
use super::scan::ScanSink;
use super::times::CANONICAL_TIMES;
use super::{Bounds, NODE, TreeError, TreeScan};

/// Gives the tree at `path` the metadata of a store object, hashes it as NAR, and finds the
/// `candidates` that it refers to, in one pass. Include the path that the tree will have, to find
/// references to itself.
///
/// Afterwards files have mode 0444 or 0555, directories 0555, no set-user-ID bit, no extended
/// attributes except labels of the machine, and no flags such as "immutable". All files belong to the
/// user of this process and have second 1 of 1970 as modification time. A file with several hard links
/// is replaced by a copy that is linked only inside the tree, so a link elsewhere cannot be used to
/// change the store object.
///
/// No other process may change the tree meanwhile. It blocks. `owner` is the user that all files must
/// belong to.
///
/// # Errors
///
/// [`TreeError::UnsupportedType`] for sockets, fifos and devices, [`TreeError::ForeignOwner`],
/// [`TreeError::File`]. The tree is then partly canonical.
pub fn canonicalise<'a>(
    path: &Path,
    owner: u32,
    candidates: impl IntoIterator<Item = &'a StorePath>,
) -> Result<TreeScan, TreeError> {
    canonicalise_within(path, owner, candidates, Bounds::default())
}

/// Like [`canonicalise`], within `bounds`.
///
/// # Errors
///
/// Those of [`canonicalise`], [`TreeError::Interrupted`] and [`TreeError::TooLarge`].
pub fn canonicalise_within<'a>(
    path: &Path,
    owner: u32,
    candidates: impl IntoIterator<Item = &'a StorePath>,
    bounds: Bounds<'_>,
) -> Result<TreeScan, TreeError> {
    let name = CString::new(path.as_os_str().as_bytes())
        .map_err(|error| TreeError::file("open", path, error))?;
    let sink = ScanSink::new(candidates);
    let mut walk = Walk::new(path.as_os_str().as_bytes(), owner, sink, bounds);
    walk.node(CWD, &name)?;
    Ok(walk.writer.finish()?.finish())
}

/// Number of names of a directory that are read between two checks for an interruption.
const NAMES: usize = 1024;

struct Walk<'a> {
    writer: nar::Writer<ScanSink>,
    buffer: Vec<u8>,
    bounds: Bounds<'a>,
    /// Approximate size of the NAR so far, including the current file.
    packed: u64,
    /// Of the current node, for messages only: files are opened relative to their directory.
    path: Vec<u8>,
    owner: u32,
    ourselves: (u32, u32),
    /// For files with several links: the path of the copy made of each.
    copies: HashMap<(u64, u64), PathBuf>,
}

impl<'a> Walk<'a> {
    fn new(path: &[u8], owner: u32, sink: ScanSink, bounds: Bounds<'a>) -> Self {
        Walk {
            writer: nar::Writer::new(sink),
            buffer: vec![0; BUFFER_SIZE],
            bounds,
            packed: 0,
            path: path.to_vec(),
            owner,
            ourselves: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
            copies: HashMap::new(),
        }
    }

    fn check(&self) -> Result<(), TreeError> {
        match (self.bounds.interrupted)() {
            true => Err(TreeError::Interrupted),
            false => Ok(()),
        }
    }

    /// Adds the size of a node before it is read.
    fn pack(&mut self, bytes: u64) -> Result<(), TreeError> {
        self.packed = self.packed.saturating_add(bytes);
        match self.packed > self.bounds.nar_size {
            true => Err(TreeError::TooLarge {
                path: self.current(),
                size: self.packed,
            }),
            false => Ok(()),
        }
    }

    fn node(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), TreeError> {
        self.check()?;
        self.pack(NODE)?;
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
        Err(TreeError::UnsupportedType { path, kind })
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
        clear_flags(fd.as_fd());
        let mut listing = Dir::read_from(&fd).map_err(|error| self.error("list", error))?;
        let mut names: Vec<CString> = Vec::new();
        while let Some(entry) = listing.read() {
            let entry = entry.map_err(|error| self.error("list", error))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
            if names.len().is_multiple_of(NAMES) {
                self.check()?;
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
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.pack(size)?;
        let mut fd = self.open(parent, name, flags, stat)?;
        if stat.st_nlink > 1 {
            fd = self.own_copy(parent, name, fd, stat)?;
        }
        clear_flags(fd.as_fd());
        self.writer.regular_start(executable, size)?;
        let mut file = File::from(fd);
        let mut remaining = size;
        while remaining > 0 {
            self.check()?;
            let want = usize::try_from(remaining).unwrap_or(usize::MAX);
            let want = want.min(self.buffer.len());
            let len = match file.read(&mut self.buffer[..want]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(|error| self.error("read", error))?,
            };
            if len == 0 {
                let path = self.current();
                return Err(TreeError::Changed { path });
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
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let interrupted = self.bounds.interrupted;
                let copied = copy_sparse(&original, &created, size, &mut self.buffer, interrupted);
                // What is copied in part is no part of the tree.
                if !matches!(copied, Ok(true)) {
                    let _ = rustix::fs::unlinkat(parent, &temporary, AtFlags::empty());
                }
                match copied {
                    Ok(true) => {}
                    Ok(false) => return Err(TreeError::Interrupted),
                    Err(error) => return Err(self.error("copy", error)),
                }
                self.copies.insert(inode, self.current());
                created
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
        rustix::fs::utimensat(parent, name, &CANONICAL_TIMES, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| self.error("set the time of", error))
    }

    /// Sets the owner first: that clears bits of the mode, and afterwards only the new owner can change
    /// the mode.
    fn finish_node(&self, fd: BorrowedFd<'_>, mode: u32, stat: &Stat) -> Result<(), TreeError> {
        if stat.st_uid != self.ourselves.0 {
            let (uid, gid) = self.ids();
            rustix::fs::fchown(fd, uid, gid)
                .map_err(|error| self.error("change the owner of", error))?;
        }
        remove_attributes(fd).map_err(|error| self.error("remove the attributes of", error))?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))
            .map_err(|error| self.error("set the mode of", error))?;
        rustix::fs::futimens(fd, &CANONICAL_TIMES)
            .map_err(|error| self.error("set the time of", error))
    }

    fn ids(&self) -> (Option<rustix::fs::Uid>, Option<rustix::fs::Gid>) {
        (
            Some(rustix::fs::Uid::from_raw(self.ourselves.0)),
            Some(rustix::fs::Gid::from_raw(self.ourselves.1)),
        )
    }

    /// Opens the file that `stat` describes. Fails if another file has taken its place.
    fn open(
        &self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        flags: OFlags,
        stat: &Stat,
    ) -> Result<OwnedFd, TreeError> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Err(Errno::ACCESS) => {
                self.chmod_unopened(parent, name, 0o600)?;
                let opened = rustix::fs::openat(parent, name, flags, Mode::empty());
                // It may have links outside of the tree, and there it stays as it was.
                if let (Ok(fd), true) = (&opened, stat.st_nlink > 1) {
                    let before = Mode::from_raw_mode(stat.st_mode & 0o7777);
                    rustix::fs::fchmod(fd, before)
                        .map_err(|error| self.error("set the mode of", error))?;
                }
                opened
            }
            opened => opened,
        }
        .map_err(|error| self.error("open", error))?;
        let opened = rustix::fs::fstat(&fd).map_err(|error| self.error("stat", error))?;
        if (opened.st_dev, opened.st_ino) == (stat.st_dev, stat.st_ino) {
            return Ok(fd);
        }
        let path = self.current();
        Err(TreeError::Changed { path })
    }

    /// Changes the mode of a file that its owner cannot open. An `O_PATH` descriptor ensures that no
    /// symlink is followed.
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
        let chmod = || rustix::fs::chmod(&by_number, Mode::from_raw_mode(mode));
        let changed = match chmod() {
            // It may be marked as immutable.
            Err(Errno::PERM) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                if let Ok(fd) = rustix::fs::openat(parent, name, flags, Mode::empty()) {
                    clear_flags(fd.as_fd());
                }
                chmod()
            }
            changed => changed,
        };
        changed.map_err(|error| self.error("set the mode of", error))
    }

    fn current(&self) -> PathBuf {
        OsString::from_vec(self.path.clone()).into()
    }

    fn error(&self, action: &'static str, source: impl Into<io::Error>) -> TreeError {
        TreeError::File {
            action,
            path: self.current(),
            source: source.into(),
        }
    }
}
