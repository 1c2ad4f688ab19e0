//! Packs a tree of the file system.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::error::NarError;
use super::writer::Writer;
use super::{BUFFER_SIZE, MAX_TARGET_LEN};

/// Writes the archive of the tree at `path` to `writer`.
///
/// `path` may be a file, a directory or a symlink; symlinks are archived, never followed, the
/// last component of `path` included. A file is executable if its owner may execute it.
///
/// The tree must not change meanwhile: a file that grows, shrinks, vanishes or becomes
/// something else is an error, but one that is overwritten in place with as many bytes is not
/// noticed.
///
/// # Errors
///
/// [`NarError::File`] if a file cannot be read, [`NarError::UnsupportedType`] for sockets,
/// fifos and devices, [`NarError::Changed`], each with the file's path;
/// [`NarError::Unwritable`] if the tree is deeper than [`MAX_DEPTH`](super::MAX_DEPTH);
/// [`NarError::Io`] if `writer` fails. What has been written is then worthless.
pub fn dump_path(path: &Path, writer: impl Write) -> Result<(), NarError> {
    let mut writer = Writer::new(writer);
    dump_node(path, &mut writer)?;
    writer.finish()?;
    Ok(())
}

/// Writes the tree at `path` as the next node of an archive under way: for archives that are
/// put together from several trees, or from parts of one.
///
/// Otherwise as [`dump_path`].
pub fn dump_node<W: Write>(path: &Path, writer: &mut Writer<W>) -> Result<(), NarError> {
    let name = CString::new(path.as_os_str().as_bytes())
        .map_err(|error| NarError::file("open", path, io::Error::from(error)))?;
    let mut dumper = Dumper {
        writer,
        buffer: vec![0; BUFFER_SIZE],
        target: Vec::new(),
        path: path.as_os_str().as_bytes().to_vec(),
    };
    dumper.node(CWD, &name, FileType::Unknown)
}

struct Dumper<'a, W> {
    writer: &'a mut Writer<W>,
    buffer: Vec<u8>,
    /// Reused for symlink targets.
    target: Vec<u8>,
    /// The path of the current node, for messages only: files are opened relative to their
    /// directory.
    path: Vec<u8>,
}

/// The entries of one directory.
#[derive(Default)]
struct Listing {
    /// The names, each with its NUL, one after the other.
    names: Vec<u8>,
    /// Where each name lies, NUL included, and what the file is, as far as the directory says.
    entries: Vec<(usize, usize, FileType)>,
}

impl Listing {
    fn read(directory: &mut Dir) -> Result<Self, Errno> {
        let mut listing = Self::default();
        while let Some(entry) = directory.read() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let start = listing.names.len();
            listing.names.extend_from_slice(name.to_bytes_with_nul());
            let end = listing.names.len();
            listing.entries.push((start, end, entry.file_type()));
        }
        let names = &listing.names;
        // NUL is less than any byte of a name, so it does not disturb the order.
        listing
            .entries
            .sort_unstable_by(|a, b| names[a.0..a.1].cmp(&names[b.0..b.1]));
        Ok(listing)
    }
}

impl<W: Write> Dumper<'_, W> {
    /// Writes the node called `name` in `parent`. Recurses once for each directory level, of
    /// which the writer allows [`MAX_DEPTH`](super::MAX_DEPTH).
    fn node(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        kind: FileType,
    ) -> Result<(), NarError> {
        let kind = match kind {
            // Not every file system says; and the root's kind nobody has said.
            FileType::Unknown => {
                let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| self.error("stat", error))?;
                FileType::from_raw_mode(stat.st_mode)
            }
            known => known,
        };
        match kind {
            FileType::RegularFile => self.regular(parent, name),
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let fd = self.open(parent, name, flags)?;
                self.directory(fd)
            }
            FileType::Symlink => self.symlink(parent, name),
            FileType::Socket => Err(self.unsupported("socket")),
            FileType::Fifo => Err(self.unsupported("fifo")),
            FileType::CharacterDevice => Err(self.unsupported("character device")),
            FileType::BlockDevice => Err(self.unsupported("block device")),
            FileType::Unknown => Err(self.unsupported("file of unknown type")),
        }
    }

    fn directory(&mut self, fd: OwnedFd) -> Result<(), NarError> {
        self.writer.directory_start()?;
        let mut directory = Dir::new(fd).map_err(|error| self.error("list", error))?;
        let listing = Listing::read(&mut directory).map_err(|error| self.error("list", error))?;
        let fd = directory.fd().map_err(|error| self.error("list", error))?;
        let path_len = self.path.len();
        for (start, end, kind) in listing.entries {
            let with_nul = &listing.names[start..end];
            let Ok(name) = CStr::from_bytes_with_nul(with_nul) else {
                continue; // cannot be: it was a C string when it was stored
            };
            self.path.push(b'/');
            self.path.extend_from_slice(name.to_bytes());
            self.writer.entry(name.to_bytes())?;
            self.node(fd.as_fd(), name, kind)?;
            self.path.truncate(path_len);
        }
        self.writer.directory_end()
    }

    fn regular(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), NarError> {
        // Non-blocking, should a fifo have taken the file's place; it is found out below.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = self.open(parent, name, flags)?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| self.error("stat", error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(self.changed());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.writer.regular_start(stat.st_mode & 0o100 != 0, size)?;
        let mut file = File::from(fd);
        let mut remaining = size;
        loop {
            // One byte more than is missing: a file that has grown is noticed, and the read
            // that comes short at the end of the file is the last one.
            let want = usize::try_from(remaining)
                .unwrap_or(usize::MAX)
                .saturating_add(1)
                .min(self.buffer.len());
            let len = match file.read(&mut self.buffer[..want]) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.error("read", error)),
            };
            if len as u64 > remaining || (len == 0 && remaining > 0) {
                return Err(self.changed());
            }
            remaining -= len as u64;
            self.writer.contents(&self.buffer[..len])?;
            if remaining == 0 && len < want {
                return self.writer.regular_end();
            }
        }
    }

    fn symlink(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), NarError> {
        let mut target = std::mem::take(&mut self.target);
        target.clear();
        target.reserve(MAX_TARGET_LEN + 1);
        let target = rustix::fs::readlinkat(parent, name, target)
            .map_err(|error| self.error("read symlink", error))?;
        self.writer.symlink(target.to_bytes())?;
        self.target = target.into_bytes();
        Ok(())
    }

    fn open(
        &self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        flags: OFlags,
    ) -> Result<OwnedFd, NarError> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Ok(fd) => Ok(fd),
            // It was a file or a directory when it was listed.
            Err(Errno::LOOP | Errno::NOTDIR) => Err(self.changed()),
            Err(error) => Err(self.error("open", error)),
        }
    }

    fn current(&self) -> PathBuf {
        std::ffi::OsString::from_vec(self.path.clone()).into()
    }

    fn error(&self, action: &'static str, source: impl Into<io::Error>) -> NarError {
        NarError::file(action, &self.current(), source)
    }

    fn unsupported(&self, kind: &'static str) -> NarError {
        NarError::UnsupportedType {
            path: self.current(),
            kind,
        }
    }

    fn changed(&self) -> NarError {
        NarError::Changed {
            path: self.current(),
        }
    }
}
