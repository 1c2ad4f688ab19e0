//! Moving and removing trees, relative to open directories and without following symlinks.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use tvix_tree::set_canonical_times;

/// Depth at which a removal stops recursing and moves deeper directories up.
const MAX_RECURSION: usize = 64;

/// Opens a directory without following a symlink.
pub(super) fn open_directory(
    parent: BorrowedFd<'_>,
    name: impl rustix::path::Arg,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Whether an entry `name` exists, even as a dangling symlink.
pub(super) fn exists(parent: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Moves a canonical tree to another directory of the same file system, where its name must be
/// free.
pub(super) fn move_tree(
    from: (BorrowedFd<'_>, &CStr),
    to: (BorrowedFd<'_>, &CStr),
) -> Result<(), Errno> {
    let rename = || rustix::fs::renameat_with(from.0, from.1, to.0, to.1, RenameFlags::NOREPLACE);
    match rename() {
        // A directory contains the entry `..`, so moving it requires write permission on the
        // directory itself.
        Err(Errno::ACCESS) => {
            let directory = open_directory(from.0, from.1)?;
            rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o755))?;
            rename()?;
            rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o555))?;
            set_canonical_times(&directory)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        }
        // Some file systems do not support `RENAME_NOREPLACE`.
        Err(Errno::INVAL) => {
            if exists(to.0, to.1)? {
                return Err(Errno::EXIST);
            }
            rustix::fs::renameat(from.0, from.1, to.0, to.1)
        }
        renamed => renamed,
    }
}

/// Removes the entry `name`; a missing entry is no error.
///
/// Trees of any depth can be removed: directories deeper than [`MAX_RECURSION`] levels are moved to
/// `parent` and removed from there, so that neither the stack nor file descriptors run out.
pub(super) fn remove_tree(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    Removal::new(parent).all(name, false).map(drop)
}

/// As [`remove_tree`]. Returns the freed disk space in bytes: that of files without other hard
/// links.
pub(super) fn remove_counted(parent: BorrowedFd<'_>, name: &CStr) -> Result<u64, Errno> {
    Removal::new(parent).all(name, true)
}

/// Removes the entry `name` if it is not a directory, and returns the freed disk space in bytes. A
/// missing entry is no error and frees 0 bytes.
pub(super) fn remove_file_counted(
    parent: BorrowedFd<'_>,
    name: &CStr,
) -> Result<Option<u64>, Errno> {
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(Some(0)),
        stat => stat?,
    };
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Ok(None);
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) => Ok(Some(freed(&stat))),
        Err(Errno::NOENT) => Ok(Some(0)),
        Err(error) => Err(error),
    }
}

/// Disk space that is freed by removing one link of a file.
fn freed(stat: &Stat) -> u64 {
    match stat.st_nlink {
        0 | 1 => u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
        _ => 0,
    }
}

struct Removal<'a> {
    parent: BorrowedFd<'a>,
    deep: Vec<CString>,
    counter: u64,
    freed: u64,
}

impl<'a> Removal<'a> {
    fn new(parent: BorrowedFd<'a>) -> Self {
        Self {
            parent,
            deep: Vec::new(),
            counter: 0,
            freed: 0,
        }
    }

    fn all(mut self, name: &CStr, count: bool) -> Result<u64, Errno> {
        self.remove(self.parent, name, 0, count)?;
        while let Some(name) = self.deep.pop() {
            self.remove(self.parent, &name, 0, count)?;
        }
        Ok(self.freed)
    }

    fn remove(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        depth: usize,
        count: bool,
    ) -> Result<(), Errno> {
        if count {
            let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => return Ok(()),
                stat => stat?,
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.freed += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            } else {
                self.freed += freed(&stat);
            }
        }
        // For a directory, Linux returns EISDIR and POSIX specifies EPERM.
        match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
        if depth == MAX_RECURSION {
            return self.move_up(directory, name);
        }
        let fd = match open_directory(directory, name) {
            // Only the owner, this process's user, can have removed the permissions.
            Err(Errno::ACCESS) => {
                make_accessible(directory, name)?;
                open_directory(directory, name)?
            }
            fd => fd?,
        };
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o700))?;
        let mut names = Vec::new();
        let mut listing = Dir::read_from(&fd)?;
        // The listing is read completely before any removal: POSIX does not specify the effect of
        // removals on an open listing.
        while let Some(entry) = listing.read() {
            let name = entry?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        drop(listing);
        for name in &names {
            self.remove(fd.as_fd(), name, depth + 1, count)?;
        }
        drop(fd);
        rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)
    }

    fn move_up(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        loop {
            let text = format!("tmp-removed-{}-{}", std::process::id(), self.counter);
            let new_name = CString::new(text).map_err(|_| Errno::INVAL)?;
            self.counter += 1;
            match move_tree((directory, name), (self.parent, &new_name)) {
                Err(Errno::EXIST) => {}
                Ok(()) => {
                    self.deep.push(new_name);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Disk space in bytes that removing a tree would free. Symlinks are not followed; unreadable parts
/// count as 0.
pub(super) fn measure(parent: BorrowedFd<'_>, name: &CStr) -> u64 {
    let Ok(stat) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) else {
        return 0;
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return freed(&stat);
    }
    let mut total = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    // Directories that are still to be listed. If file descriptors run out, the rest of a very wide
    // tree counts as 0.
    let Ok(root) = open_directory(parent, name) else {
        return total;
    };
    let mut todo = vec![root];
    while let Some(directory) = todo.pop() {
        let Ok(mut listing) = Dir::read_from(&directory) else {
            continue;
        };
        while let Some(Ok(entry)) = listing.read() {
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                total += freed(&stat);
            } else if let Ok(below) = open_directory(directory.as_fd(), name) {
                total += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
                todo.push(below);
            }
        }
    }
    total
}

fn make_accessible(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    use std::os::fd::AsRawFd as _;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    // A descriptor opened with `O_PATH` is changed through its entry in `/proc`.
    let by_number = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::chmod(by_number, Mode::from_raw_mode(0o700))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use rustix::fs::CWD;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        open_directory(CWD, path).unwrap()
    }

    #[test]
    fn removes_read_only_trees_and_leaves_what_symlinks_point_to() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path();
        fs::create_dir(root.join("canary")).unwrap();
        fs::write(root.join("canary/file"), "alive").unwrap();
        fs::create_dir_all(root.join("tree/sub")).unwrap();
        std::os::unix::fs::symlink(root.join("canary"), root.join("tree/sub/link")).unwrap();
        fs::write(root.join("tree/file"), "x").unwrap();
        for directory in ["tree/sub", "tree"] {
            fs::set_permissions(root.join(directory), fs::Permissions::from_mode(0o555)).unwrap();
        }
        remove_tree(open(root).as_fd(), c"tree").unwrap();
        remove_tree(open(root).as_fd(), c"tree").unwrap();
        std::os::unix::fs::symlink(root.join("canary"), root.join("link")).unwrap();
        remove_tree(open(root).as_fd(), c"link").unwrap();
        assert_eq!(
            fs::read_to_string(root.join("canary/file")).unwrap(),
            "alive"
        );
        assert_eq!(fs::read_dir(root).unwrap().count(), 1);
    }

    #[test]
    fn depth_is_not_limited_by_stack_or_descriptors() {
        let temporary = tempfile::tempdir().unwrap();
        let root = open(temporary.path());
        rustix::fs::mkdirat(&root, c"deep", Mode::RWXU).unwrap();
        let mut directory = open_directory(root.as_fd(), c"deep").unwrap();
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&directory, c"d", Mode::RWXU).unwrap();
            directory = open_directory(directory.as_fd(), c"d").unwrap();
        }
        drop(directory);
        remove_tree(root.as_fd(), c"deep").unwrap();
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }

    #[test]
    fn moving_replaces_nothing() {
        let temporary = tempfile::tempdir().unwrap();
        let root = open(temporary.path());
        fs::write(temporary.path().join("a"), "a").unwrap();
        fs::write(temporary.path().join("b"), "b").unwrap();
        let moved = move_tree((root.as_fd(), c"a"), (root.as_fd(), c"b"));
        assert_eq!(moved, Err(Errno::EXIST));
        move_tree((root.as_fd(), c"a"), (root.as_fd(), c"c")).unwrap();
        assert_eq!(fs::read(temporary.path().join("c")).unwrap(), b"a");
    }
}
