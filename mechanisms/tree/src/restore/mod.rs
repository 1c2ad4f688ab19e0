//! Unpacking an archive.

mod behind;

use std::ffi::{CStr, CString, OsString};
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use bstr::BString;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::TreeError;
use crate::times::CANONICAL_TIMES;

use self::behind::{Behind, Filling, SMALL, Unfilled};
use nix_compat::nar::{Encoder, Event, MAX_DEPTH, NarError, Reader};

/// Settings of [`restore`]: metadata that archives do not contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RestoreOptions {
    /// Whether to set the metadata of store objects: mode 0444 for files, 0555 for executables and
    /// directories, and second 1 of 1970 as modification time, also of symlinks. Otherwise modes are
    /// 0644 and 0755, less the umask, and times are the present [default: false].
    pub canonical: bool,
}

impl RestoreOptions {
    /// Sets [`canonical`](Self::canonical).
    pub fn with_canonical(mut self, canonical: bool) -> Self {
        self.canonical = canonical;
        self
    }
}

/// Unpacks the archive in `reader`, which contains nothing else, to `dest`.
///
/// `dest` must not exist, its parent must. Nothing outside `dest` is written, even by a malicious
/// archive: every file is created by name in a directory that was created just before and is held
/// open. If unpacking fails, `dest` is removed (see [`Unpacker`]).
///
/// It does not sync to disk.
///
/// # Errors
///
/// [`TreeError::DestinationExists`]; [`NarError::Malformed`], also for input after the end of the
/// archive; [`TreeError::File`] if a file cannot be created; [`NarError::Io`] if `reader` fails.
pub fn restore(reader: impl Read, dest: &Path, options: RestoreOptions) -> Result<(), TreeError> {
    let mut reader = Reader::buffered(reader);
    let mut unpacker = Unpacker::new(dest, options)?;
    unpack(&mut reader, &mut unpacker)?;
    // Only then is `dest` safe from being removed.
    reader.finish()?;
    unpacker.finish()
}

fn unpack<R: BufRead>(reader: &mut Reader<R>, unpacker: &mut Unpacker) -> Result<(), TreeError> {
    while let Some(event) = reader.next_event()? {
        unpacker.event(event)?;
    }
    Ok(())
}

/// Unpacks an archive from [`Event`]s: of [`Parser`](nix_compat::nar::Parser), of `async::Reader`, or
/// made by the caller. It blocks on the file system.
///
/// It checks names and order, so any events are safe. All names are resolved relative to open
/// directories and without following symlinks, so another process cannot redirect it by replacing a
/// directory with a symlink, unless it can rename entries of the destination's parent.
///
/// Dropping an unpacker removes the files it has created, unless [`finish`](Self::finish) was called,
/// and ignores errors; [`abort`](Self::abort) reports them.
#[derive(Debug)]
pub struct Unpacker {
    options: RestoreOptions,
    /// The parent directory of `dest`.
    parent: OwnedFd,
    /// The last component of `dest`.
    root: CString,
    dest: PathBuf,
    /// Whether the root has been created.
    made: bool,
    directories: Vec<OwnedFd>,
    /// The name of the next node; unused at the root.
    name: CString,
    file: Option<Open>,
    behind: Behind,
    /// Checks that the events form an archive. Its output is discarded.
    checker: Encoder,
    scratch: Vec<u8>,
}

/// A file that has been created.
#[derive(Debug)]
struct Open {
    file: File,
    executable: bool,
    /// Contents of a small file so far. It is written once they are complete.
    contents: Option<Vec<u8>>,
}

impl Unpacker {
    /// Prepares to unpack to `dest`. Creates nothing yet.
    ///
    /// # Errors
    ///
    /// [`TreeError::DestinationExists`] if there is a file, even a dangling symlink;
    /// [`TreeError::File`] if `dest` has no name or its parent cannot be opened.
    pub fn new(dest: &Path, options: RestoreOptions) -> Result<Self, TreeError> {
        let invalid = || {
            let kind = io::ErrorKind::InvalidInput;
            TreeError::file("unpack to", dest, io::Error::from(kind))
        };
        // `Path` would ignore a trailing `/.`.
        let Some(Component::Normal(name)) = dest.components().next_back() else {
            return Err(invalid());
        };
        let root = CString::new(name.as_bytes()).map_err(|_| invalid())?;
        let parent_path = match dest.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::openat(CWD, parent_path, flags, Mode::empty())
            .map_err(|error| TreeError::file("open", parent_path, error))?;
        // Making it says so too, but only after a part of the archive has been read.
        match rustix::fs::statat(&parent, &root, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Ok(_) => {
                let path = dest.to_owned();
                return Err(TreeError::DestinationExists { path });
            }
            Err(error) => return Err(TreeError::file("stat", dest, error)),
        }
        Ok(Self {
            options,
            parent,
            root,
            dest: dest.to_owned(),
            made: false,
            directories: Vec::new(),
            name: CString::default(),
            file: None,
            behind: Behind::new(options.canonical),
            checker: Encoder::new(),
            scratch: Vec::new(),
        })
    }

    /// Carries out `event`.
    ///
    /// # Errors
    ///
    /// [`NarError::InvalidWrite`] if the event is not allowed at this point, [`TreeError::File`],
    /// [`TreeError::Collision`] and [`TreeError::DestinationExists`]. After an error drop or
    /// [`abort`](Self::abort) the unpacker.
    pub fn event(&mut self, event: Event<'_>) -> Result<(), TreeError> {
        let path = self.checker.path();
        let result = self.check_and_apply(event, &path);
        result.map_err(|(action, error)| match error {
            Failure::Rule(error) => error.into(),
            Failure::File(error) => self.explain(action, path, error),
            Failure::Unfilled(Unfilled {
                action,
                path,
                error,
            }) => self.explain(action, path, error),
        })
    }

    fn explain(&self, action: &'static str, path: BString, error: Errno) -> TreeError {
        if path.is_empty() && error == Errno::EXIST {
            return TreeError::DestinationExists {
                path: self.dest.clone(),
            };
        }
        let full = match path.is_empty() {
            true => self.dest.clone(),
            false => self.dest.join(OsString::from_vec(path.into())),
        };
        match error {
            Errno::EXIST => TreeError::Collision { path: full },
            error => TreeError::file(action, &full, error),
        }
    }

    /// Completes the tree, which then stays.
    ///
    /// # Errors
    ///
    /// [`NarError::InvalidWrite`] if the events were not a whole archive, [`TreeError::File`] if a file
    /// could not be written; then it is removed.
    pub fn finish(mut self) -> Result<(), TreeError> {
        self.checker.finish()?;
        let filled = self.behind.finish();
        filled.map_err(
            |Unfilled {
                 action,
                 path,
                 error,
             }| self.explain(action, path, error),
        )?;
        self.made = false;
        Ok(())
    }

    /// Removes the files created so far.
    ///
    /// # Errors
    ///
    /// [`TreeError::File`] if something cannot be removed; it is left.
    pub fn abort(mut self) -> Result<(), TreeError> {
        self.remove()
            .map_err(|error| TreeError::file("remove", &self.dest, error))
    }

    fn check_and_apply(
        &mut self,
        event: Event<'_>,
        path: &BString,
    ) -> Result<(), (&'static str, Failure)> {
        self.scratch.clear();
        let checked = match event {
            Event::Contents(bytes) => self.checker.contents(bytes.len() as u64),
            event => self.checker.event(event, &mut self.scratch),
        };
        checked.map_err(|error| ("check", Failure::Rule(error)))?;
        match event {
            Event::DirectoryStart => self.directory().map_err(|e| ("make directory", e.into())),
            Event::Entry { name } => {
                // The checker has seen that there is no NUL.
                self.name = CString::new(name.to_vec()).unwrap_or_default();
                Ok(())
            }
            Event::DirectoryEnd => self.directory_end().map_err(|e| ("set mode of", e.into())),
            Event::RegularStart { executable, size } => self
                .regular(executable, size)
                .map_err(|e| ("make", e.into())),
            Event::Contents(bytes) => self.contents(bytes).map_err(|e| ("write", e)),
            Event::RegularEnd => self.regular_end(path).map_err(|e| ("set mode of", e)),
            Event::Symlink { target } => {
                self.symlink(target).map_err(|e| ("make symlink", e.into()))
            }
            Event::End => Ok(()),
        }
    }

    /// The directory of the current node, and its name in it.
    fn place(&self) -> (BorrowedFd<'_>, &CStr) {
        match self.directories.last() {
            Some(directory) => (directory.as_fd(), &self.name),
            None => (self.parent.as_fd(), &self.root),
        }
    }

    fn directory(&mut self) -> Result<(), Errno> {
        let (parent, name) = self.place();
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(parent, name, flags, Mode::empty());
        self.made = true;
        self.directories.push(opened?);
        Ok(())
    }

    fn directory_end(&mut self) -> Result<(), Errno> {
        match self.directories.pop() {
            Some(directory) if self.options.canonical => {
                rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o555))?;
                rustix::fs::futimens(&directory, &CANONICAL_TIMES)
            }
            _ => Ok(()),
        }
    }

    fn regular(&mut self, executable: bool, size: u64) -> Result<(), Errno> {
        let (parent, name) = self.place();
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC
            | OFlags::NOCTTY;
        let mode = match (self.options.canonical, executable) {
            (true, executable) => canonical_mode(executable),
            (false, true) => 0o755,
            (false, false) => 0o644,
        };
        let fd = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(mode))?;
        self.made = true;
        self.file = Some(Open {
            file: File::from(fd),
            executable,
            contents: (size <= SMALL).then(|| Vec::with_capacity(size as usize)),
        });
        Ok(())
    }

    fn contents(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match &mut self.file {
            Some(Open {
                contents: Some(contents),
                ..
            }) => {
                contents.extend_from_slice(bytes);
                Ok(())
            }
            Some(Open { file, .. }) => file.write_all(bytes).map_err(|error| {
                let errno = Errno::from_io_error(&error);
                Failure::File(errno.unwrap_or(Errno::IO))
            }),
            None => Ok(()),
        }
    }

    fn regular_end(&mut self, path: &BString) -> Result<(), Failure> {
        let Some(Open {
            file,
            executable,
            contents,
        }) = self.file.take()
        else {
            return Ok(());
        };
        match contents {
            Some(contents) => {
                let path = path.clone();
                let filled = self.behind.fill(Filling {
                    file,
                    contents,
                    executable,
                    path,
                });
                filled.map_err(Failure::Unfilled)
            }
            None if self.options.canonical => Ok(canonicalise(&file, executable)?),
            None => Ok(()),
        }
    }

    fn symlink(&mut self, target: &[u8]) -> Result<(), Errno> {
        let (parent, name) = self.place();
        rustix::fs::symlinkat(target, parent, name)?;
        let timed = if self.options.canonical {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::utimensat(parent, name, &CANONICAL_TIMES, flags)
        } else {
            Ok(())
        };
        self.made = true;
        timed
    }

    fn remove(&mut self) -> Result<(), Errno> {
        self.file = None;
        self.behind.give_up();
        self.directories.clear();
        if !std::mem::take(&mut self.made) {
            return Ok(());
        }
        remove_tree(self.parent.as_fd(), &self.root, 0)
    }
}

impl Drop for Unpacker {
    fn drop(&mut self) {
        // Nobody is there to be told; `abort` is for those who want to be.
        let _ = self.remove();
    }
}

/// The error of an event.
enum Failure {
    Rule(NarError),
    File(Errno),
    /// Possibly of an earlier file.
    Unfilled(Unfilled),
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::File(error)
    }
}

const fn canonical_mode(executable: bool) -> u32 {
    match executable {
        true => 0o555,
        false => 0o444,
    }
}

/// Gives a file the metadata of one in a store. Mostly it has the mode from the beginning; a umask, or
/// a default list of its directory, may have changed that.
fn canonicalise(file: &File, executable: bool) -> Result<(), Errno> {
    let mode = canonical_mode(executable);
    if rustix::fs::fstat(file)?.st_mode & 0o7777 != mode {
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
    }
    rustix::fs::futimens(file, &CANONICAL_TIMES)
}

/// Removes a tree that is no deeper than archives are. Follows no symlinks.
fn remove_tree(parent: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<(), Errno> {
    // For a directory Linux says EISDIR, POSIX EPERM.
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) if depth < MAX_DEPTH => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    // A canonical directory does not let its entries be removed.
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o700))?;
    let mut directory = Dir::new(fd)?;
    // Read all before removing any: what a listing says of entries removed meanwhile is up to
    // the file system.
    let mut names = Vec::new();
    while let Some(entry) = directory.read() {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    for name in &names {
        remove_tree(directory.fd()?, name, depth + 1)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}
