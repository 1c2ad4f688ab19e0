//! Disk usage of a process's files.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};

/// Minimum size counted per entry; without it the number of empty files would be unlimited.
const ENTRY: u64 = 4096;

/// Deeper directories are counted as one entry each and not read.
const DEPTH: usize = 256;

/// Size in bytes of these directories with all their entries. The walk stops at about `enough`.
/// Files may change meanwhile; unreadable ones are skipped. A file with several hard links counts
/// once per link.
pub(super) fn used(directories: &[PathBuf], enough: u64) -> u64 {
    let mut used = 0;
    for directory in directories {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(top) = rustix::fs::openat(CWD, directory, flags, Mode::empty()) else {
            continue;
        };
        walk(top, enough, &mut used);
    }
    used
}

fn walk(top: OwnedFd, enough: u64, used: &mut u64) {
    let mut stack: Vec<Dir> = Dir::new(top).into_iter().collect();
    loop {
        let depth = stack.len();
        let Some(directory) = stack.last_mut() else {
            return;
        };
        if *used > enough {
            return;
        }
        let Some(Ok(entry)) = directory.read() else {
            stack.pop();
            continue;
        };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let Ok(parent) = directory.fd() else {
            continue;
        };
        let Ok(stat) = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        *used += (stat.st_blocks as u64 * 512).max(ENTRY);
        if FileType::from_raw_mode(stat.st_mode).is_dir() && depth < DEPTH {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = rustix::fs::openat(parent.as_fd(), name, flags, Mode::empty());
            stack.extend(below.and_then(Dir::new));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_by_their_blocks_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("large"), vec![1; 1 << 20]).unwrap();
        std::os::unix::fs::symlink(outside.path(), directory.path().join("link")).unwrap();
        std::fs::create_dir_all(directory.path().join("a/b")).unwrap();
        std::fs::write(directory.path().join("a/b/file"), vec![1; 100_000]).unwrap();
        let used = used(&[directory.path().to_owned()], u64::MAX);
        assert!((100_000..200_000).contains(&used), "{used}");
    }
}
