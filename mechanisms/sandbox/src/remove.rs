//! Removing what a builder left behind.
//!
//! The content is hostile: it may be nested a hundred thousand levels deep, lie in directories
//! without permissions, or be marked as immutable. Nothing follows a symbolic link, no path is looked up twice,
//! and neither stack nor descriptors grow with the depth.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, IFlags, Mode, OFlags};
use rustix::io::Errno;

/// Directories deeper than this are moved up before they are emptied.
const DEPTH_LIMIT: usize = 64;

const OPEN: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::RDONLY);

/// Removes every entry of a directory for which `keep` does not say otherwise.
pub(super) fn remove_contents(
    directory: BorrowedFd<'_>,
    mut keep: impl FnMut(&CStr, FileType) -> bool,
) -> Result<(), Errno> {
    let mut moved = 0;
    loop {
        for (name, kind) in entries(directory)? {
            if !keep(&name, kind) {
                remove_entry(directory, directory, &name, kind, &mut moved)?;
            }
        }
        if moved == 0 {
            return Ok(());
        }
        // Once more, for what was moved up from below the limit.
        moved = 0;
    }
}

fn entries(directory: BorrowedFd<'_>) -> Result<Vec<(CString, FileType)>, Errno> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            found.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(found)
}

fn remove_entry(
    top: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    name: &CStr,
    kind: FileType,
    moved: &mut u64,
) -> Result<(), Errno> {
    if kind != FileType::Directory {
        match unlink(parent, name, AtFlags::empty()) {
            // A file system that does not tell kinds.
            Err(Errno::ISDIR) => {}
            result => return result,
        }
    }
    // Depth-first with an explicit stack.
    let mut stack = vec![Level::open(parent, name)?];
    loop {
        let depth = stack.len();
        let Some(level) = stack.last_mut() else {
            return Ok(());
        };
        let Some((name, kind)) = level.left.pop() else {
            if let Some(empty) = stack.pop() {
                let above = stack.last().map_or(parent, |above| above.directory.as_fd());
                unlink(above, &empty.name, AtFlags::REMOVEDIR)?;
            }
            continue;
        };
        if kind != FileType::Directory {
            match unlink(level.directory.as_fd(), &name, AtFlags::empty()) {
                Err(Errno::ISDIR) => {}
                Err(errno) => return Err(errno),
                Ok(()) => continue,
            }
        }
        let below = Level::open(level.directory.as_fd(), &name)?;
        if depth < DEPTH_LIMIT {
            stack.push(below);
        } else {
            move_up(level.directory.as_fd(), &name, top, moved)?;
        }
    }
}

/// Removes an entry, even one that is marked as immutable if this process may change that.
fn unlink(parent: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, flags) {
        Err(Errno::PERM) if unlock_entry(parent, name) => rustix::fs::unlinkat(parent, name, flags),
        result => result,
    }
}

/// Clears the flags that keep a file or directory from being changed; whether there were any.
pub(super) fn unlock(file: BorrowedFd<'_>) -> bool {
    let locked = IFlags::IMMUTABLE | IFlags::APPEND;
    match rustix::fs::ioctl_getflags(file) {
        Ok(flags) if flags.intersects(locked) => {
            rustix::fs::ioctl_setflags(file, flags.difference(locked)).is_ok()
        }
        // Many file systems have no flags.
        _ => false,
    }
}

/// The same for a directory and one of its entries.
fn unlock_entry(parent: BorrowedFd<'_>, name: &CStr) -> bool {
    let above = unlock(parent);
    let kind = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .map(|stat| FileType::from_raw_mode(stat.st_mode));
    // Others have no flags, and opening a device may do anything.
    if !matches!(kind, Ok(FileType::RegularFile | FileType::Directory)) {
        return above;
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(parent, name, flags, Mode::empty());
    opened.is_ok_and(|file| unlock(file.as_fd())) || above
}

/// A directory on the way down.
struct Level {
    directory: OwnedFd,
    /// Its name in the level above.
    name: CString,
    /// What is still to be removed from it.
    left: Vec<(CString, FileType)>,
}

impl Level {
    fn open(parent: BorrowedFd<'_>, name: &CStr) -> Result<Self, Errno> {
        let directory = open_directory(parent, name)?;
        let left = entries(directory.as_fd())?;
        Ok(Level {
            directory,
            name: name.to_owned(),
            left,
        })
    }
}

/// Opens a directory for removal, giving its owner the permissions that this takes.
fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let owner_all = Mode::RWXU;
    let open = || rustix::fs::openat(parent, name, OPEN, Mode::empty());
    let directory = match open() {
        Err(Errno::ACCESS) => {
            // Nobody else can change this tree any more, and `chmodat` on a symbolic link put
            // here earlier would only be refused: the kind was read from the directory itself.
            let handle = rustix::fs::openat(
                parent,
                name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
            rustix::fs::chmod(path, owner_all)?;
            open()?
        }
        result => result?,
    };
    let mode = rustix::fs::fstat(&directory)?.st_mode;
    if mode & owner_all.bits() != owner_all.bits() {
        match rustix::fs::fchmod(&directory, owner_all) {
            Err(Errno::PERM) if unlock(directory.as_fd()) => {
                rustix::fs::fchmod(&directory, owner_all)?;
            }
            result => result?,
        }
    }
    Ok(directory)
}

fn move_up(
    from: BorrowedFd<'_>,
    name: &CStr,
    top: BorrowedFd<'_>,
    moved: &mut u64,
) -> Result<(), Errno> {
    loop {
        *moved += 1;
        let aside = format!(".removing-{moved}");
        // Without replacing: the name may be the builder's.
        match rustix::fs::renameat_with(
            from,
            name,
            top,
            aside.as_str(),
            rustix::fs::RenameFlags::NOREPLACE,
        ) {
            Err(Errno::EXIST) => {}
            Err(Errno::PERM) if unlock_entry(from, name) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn removes_all_but_what_is_kept_and_follows_no_link() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("canary"), "x").unwrap();
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("a/b/c")).unwrap();
        fs::write(tree.path().join("a/b/file"), "x").unwrap();
        symlink(outside.path(), tree.path().join("a/link")).unwrap();
        symlink(outside.path(), tree.path().join("link")).unwrap();
        fs::create_dir(tree.path().join("kept")).unwrap();
        fs::set_permissions(tree.path().join("a/b"), fs::Permissions::from_mode(0o0)).unwrap();

        let directory = File::open(tree.path()).unwrap();
        remove_contents(directory.as_fd(), |name, _| name == c"kept").unwrap();
        let left: Vec<_> = fs::read_dir(tree.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["kept"]);
        assert!(outside.path().join("canary").exists());
    }

    fn unlock_for_certain(file: &File) {
        let flags = rustix::fs::ioctl_getflags(file).unwrap();
        let locked = IFlags::IMMUTABLE | IFlags::APPEND;
        rustix::fs::ioctl_setflags(file, flags.difference(locked)).unwrap();
    }

    /// Fails without `unlock`. Only root can mark files so.
    #[test]
    fn immutable_and_append_only_files_are_removed() {
        let tree = tempfile::tempdir().unwrap();
        let mark = |name: &str, flags| {
            let file = File::open(tree.path().join(name)).unwrap();
            let before = rustix::fs::ioctl_getflags(&file)?;
            rustix::fs::ioctl_setflags(&file, before | flags)
        };
        fs::create_dir_all(tree.path().join("a/b/c")).unwrap();
        fs::create_dir(tree.path().join("empty")).unwrap();
        for file in ["a/file", "a/b/log", "top"] {
            fs::write(tree.path().join(file), "x").unwrap();
        }
        fs::set_permissions(tree.path().join("a/b"), fs::Permissions::from_mode(0o0)).unwrap();
        if let Err(error) = mark("top", IFlags::IMMUTABLE) {
            eprintln!("SKIPPED: this user, or this file system, cannot mark files: {error}");
            return;
        }
        mark("a/file", IFlags::APPEND).unwrap();
        mark("a/b/log", IFlags::APPEND | IFlags::IMMUTABLE).unwrap();
        mark("a/b/c", IFlags::IMMUTABLE).unwrap();
        mark("a/b", IFlags::IMMUTABLE).unwrap();
        mark("a", IFlags::APPEND).unwrap();
        mark("empty", IFlags::IMMUTABLE).unwrap();
        let directory = File::open(tree.path()).unwrap();
        let removed = remove_contents(directory.as_fd(), |_, _| false);
        let left = fs::read_dir(tree.path()).unwrap().count();
        // Else they would stay.
        for name in ["top", "a", "a/file", "a/b", "a/b/c", "a/b/log", "empty"] {
            if tree.path().join(name).exists() {
                let file = File::open(tree.path().join(name)).unwrap();
                unlock_for_certain(&file);
            }
        }
        assert_eq!((removed, left), (Ok(()), 0));
    }

    /// CVE-2025-46415: a directory becomes a link while it is removed. Fails without `NOFOLLOW` in
    /// [`OPEN`].
    #[test]
    fn what_becomes_a_link_meanwhile_is_not_followed() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let outside = tempfile::tempdir().unwrap();
        let canary = outside.path().join("canary");
        fs::write(&canary, "x").unwrap();
        let set_mode = |mode| fs::set_permissions(&outside, fs::Permissions::from_mode(mode));
        // What is removed is made writable first.
        set_mode(0o500).unwrap();
        let tree = tempfile::tempdir().unwrap();
        let (victim, link) = (tree.path().join("top/victim"), tree.path().join("link"));
        symlink(outside.path(), &link).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                let here = rustix::fs::CWD;
                while !done.load(Ordering::Relaxed) {
                    let _ = rustix::fs::renameat_with(here, &victim, here, &link, exchange);
                }
            });
            for _ in 0..1000 {
                let _ = fs::create_dir_all(&victim);
                let _ = fs::write(victim.join("file"), "x");
                let directory = File::open(tree.path().join("top")).unwrap();
                // It may find the one or the other gone.
                let _ = remove_contents(directory.as_fd(), |_, _| false);
                if fs::symlink_metadata(&link).is_err() {
                    let _ = symlink(outside.path(), &link);
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        // Between reading a directory and opening what is in it, which is when it counts.
        let _ = fs::remove_file(tree.path().join("late"));
        symlink(outside.path(), tree.path().join("late")).unwrap();
        let parent = File::open(tree.path()).unwrap();
        assert!(open_directory(parent.as_fd(), c"late").is_err());
        assert_eq!(fs::read_to_string(&canary).unwrap(), "x");
        let mode = fs::metadata(outside.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o500);
        set_mode(0o700).unwrap();
    }

    #[test]
    fn depth_is_no_problem() {
        let tree = tempfile::tempdir().unwrap();
        let mut directory: OwnedFd = File::open(tree.path()).unwrap().into();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&directory, "d", Mode::RWXU).unwrap();
            directory = rustix::fs::openat(&directory, "d", OPEN, Mode::empty()).unwrap();
        }
        let top = File::open(tree.path()).unwrap();
        remove_contents(top.as_fd(), |_, _| false).unwrap();
        assert_eq!(fs::read_dir(tree.path()).unwrap().count(), 0);
    }
}
