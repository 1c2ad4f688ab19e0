//! How much room a process's files take.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};

/// What an entry takes at least: else there could be any number of empty files.
const ENTRY: u64 = 4096;

/// No directory is looked into that lies deeper; its own entry counts.
const DEPTH: usize = 256;

/// The bytes that these directories and all in them take, up to about `enough`: nothing is looked at
/// beyond that. Files change meanwhile, and what cannot be looked at is left out. A file with several
/// names counts for each.
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
