//! How large the NAR of a tree will be, without reading its files.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix_compat::nar::{MAX_DEPTH, NarError};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Bounds, NODE, TreeError};

/// Adds up the apparent sizes of the files of a tree, until there is more than `bounds` allow: the
/// size of its NAR, about. A directory that its owner may not read becomes readable to him.
///
/// Nobody else may change the tree meanwhile. It blocks.
///
/// # Errors
///
/// [`TreeError::TooLarge`], [`TreeError::Interrupted`]; [`NarError::File`].
pub fn measure(path: &Path, bounds: Bounds<'_>) -> Result<u64, TreeError> {
    let mut measured = Measured {
        bounds,
        size: 0,
        path: path.to_owned(),
    };
    let name = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
    let name = std::ffi::CString::new(name).map_err(|error| NarError::File {
        action: "open",
        path: path.to_owned(),
        source: error.into(),
    })?;
    measured.node(CWD, &name, 0)?;
    Ok(measured.size)
}

struct Measured<'a> {
    bounds: Bounds<'a>,
    size: u64,
    path: PathBuf,
}

impl Measured<'_> {
    fn node(&mut self, parent: BorrowedFd<'_>, name: &CStr, depth: usize) -> Result<(), TreeError> {
        if (self.bounds.interrupted)() {
            return Err(TreeError::Interrupted);
        }
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| self.error("stat", error))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let contents = match kind {
            FileType::RegularFile | FileType::Symlink => u64::try_from(stat.st_size).unwrap_or(0),
            _ => 0,
        };
        self.size = self.size.saturating_add(contents).saturating_add(NODE);
        if self.size > self.bounds.nar_size {
            return Err(TreeError::TooLarge {
                path: self.path.clone(),
                size: self.size,
            });
        }
        // What is deeper is refused when it is packed.
        if kind != FileType::Directory || depth > MAX_DEPTH {
            return Ok(());
        }
        let directory = open(parent, name).map_err(|error| self.error("open", error))?;
        let entries = Dir::read_from(&directory).map_err(|error| self.error("list", error))?;
        for entry in entries {
            let entry = entry.map_err(|error| self.error("list", error))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.path.push(name.to_string_lossy().as_ref());
            self.node(directory.as_fd(), name, depth + 1)?;
            self.path.pop();
        }
        Ok(())
    }

    fn error(&self, action: &'static str, error: Errno) -> TreeError {
        TreeError::Nar(NarError::File {
            action,
            path: self.path.clone(),
            source: io::Error::from(error),
        })
    }
}

fn open(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let readable = || rustix::fs::openat(parent, name, flags | OFlags::RDONLY, Mode::empty());
    let directory = match readable() {
        Err(Errno::ACCESS) => {
            let handle = rustix::fs::openat(parent, name, flags | OFlags::PATH, Mode::empty())?;
            let by_number = format!("/proc/self/fd/{}", handle.as_raw_fd());
            rustix::fs::chmod(by_number, Mode::RWXU)?;
            readable()?
        }
        directory => directory?,
    };
    // One that can be listed but not entered.
    let mode = rustix::fs::fstat(&directory)?.st_mode;
    if mode & 0o500 != 0o500 {
        // Who is not its owner, as root is not, does without.
        let _ = rustix::fs::fchmod(&directory, Mode::RWXU);
    }
    Ok(directory)
}
