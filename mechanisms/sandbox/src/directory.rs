//! The engine's own directory.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use super::error::EngineError;
use super::remove::{remove_contents, unlock};

const PREFIX: &str = "sandbox-";

/// A private directory for one engine, removed with it. What engines of dead processes left
/// behind is removed when the next one starts.
#[derive(Debug)]
pub(super) struct EngineDirectory {
    path: PathBuf,
    _lock: File,
}

impl EngineDirectory {
    pub(super) fn create(parent: &Path) -> Result<Self, EngineError> {
        let step = || {
            EngineError::setup::<io::Error>(format!(
                "creating a sandbox directory in {}",
                parent.display()
            ))
        };
        fs::create_dir_all(parent).map_err(step())?;
        // Builders refer to mounts by absolute paths, from another working directory.
        let parent = parent.canonicalize().map_err(step())?;
        check_ancestors(&parent)?;
        remove_stale(&parent);
        loop {
            let directory = tempfile::Builder::new()
                .prefix(PREFIX)
                .permissions(fs::Permissions::from_mode(0o700))
                .tempdir_in(&parent)
                .map_err(step())?
                .keep();
            // Another process that starts now may take the directory for a stale one, as long as
            // it is not locked. Then there is one more try.
            let lock = match File::open(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                lock => lock.map_err(step())?,
            };
            let locked = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive);
            if locked.is_ok() && directory.exists() {
                return Ok(EngineDirectory {
                    path: directory,
                    _lock: lock,
                });
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Whoever can rename an ancestor of a directory can put another in its place while root makes
/// directories there and gives them away (CVE-2025-52991). So each must belong to root or to
/// ourselves, and be writable by nobody else, unless it is sticky: then nobody else can rename what
/// is ours in it.
fn check_ancestors(directory: &Path) -> Result<(), EngineError> {
    let own = rustix::process::geteuid().as_raw();
    let own_group = rustix::process::getegid().as_raw();
    let stranger = unmapped_user();
    for ancestor in directory.ancestors() {
        let metadata = ancestor
            .symlink_metadata()
            .map_err(EngineError::setup(format!(
                "looking at {}",
                ancestor.display()
            )))?;
        let mode = metadata.mode();
        let trusted = [0, own].contains(&metadata.uid()) || Some(metadata.uid()) == stranger;
        // Many users have a group of their own, which their directories belong to.
        let group = mode & 0o020 != 0 && ![0, own_group].contains(&metadata.gid());
        let sticky = mode & 0o1000 != 0;
        let why = if !trusted {
            "belongs to another user"
        } else if (mode & 0o002 != 0 || group) && !sticky {
            "can be changed by other users"
        } else {
            continue;
        };
        return Err(EngineError::Exposed {
            directory: directory.to_owned(),
            ancestor: ancestor.to_owned(),
            why,
        });
    }
    Ok(())
}

/// As whom the files of users appear that the user namespace we are in does not know, among them
/// the root outside of it; none if it knows all.
fn unmapped_user() -> Option<u32> {
    let map = fs::read_to_string("/proc/self/uid_map").ok()?;
    let all = map.split_whitespace().eq(["0", "0", "4294967295"]);
    let overflow = fs::read_to_string("/proc/sys/kernel/overflowuid").ok()?;
    overflow.trim().parse().ok().filter(|_| !all)
}

impl Drop for EngineDirectory {
    fn drop(&mut self) {
        // A failure is for the next engine to mend.
        let _ = remove_directory(&self.path);
    }
}

fn remove_directory(path: &Path) -> io::Result<()> {
    let directory = File::open(path)?;
    remove_contents(directory.as_fd(), |_, _| false)?;
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            unlock(directory.as_fd());
            fs::remove_dir(path)
        }
        result => result,
    }
}

/// Removes the directories of engines that are no more: the lock goes with the process.
fn remove_stale(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let ours = entry.file_name().as_bytes().starts_with(PREFIX.as_bytes())
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !ours {
            continue;
        }
        let Ok(lock) = File::open(entry.path()) else {
            continue;
        };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = remove_directory(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CVE-2025-52991. Fails without `check_ancestors`.
    #[test]
    fn directories_that_others_can_change_are_refused() {
        let top = tempfile::tempdir().unwrap();
        let below = top.path().join("shared/mine");
        let shared = top.path().join("shared");
        fs::create_dir_all(&below).unwrap();
        let with_mode = |mode| {
            fs::set_permissions(&shared, fs::Permissions::from_mode(mode)).unwrap();
            EngineDirectory::create(&below).map(drop)
        };
        with_mode(0o755).unwrap();
        with_mode(0o775).unwrap();
        // As /tmp is.
        with_mode(0o1777).unwrap();
        let error = with_mode(0o777).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(&error, EngineError::Exposed { ancestor, .. } if ancestor.ends_with("shared")),
            "{text}"
        );
        if rustix::process::geteuid().is_root() {
            let chown = |uid, gid| std::os::unix::fs::chown(&shared, Some(uid), Some(gid)).unwrap();
            chown(0, 65534);
            assert!(matches!(with_mode(0o775), Err(EngineError::Exposed { .. })));
            chown(65534, 0);
            assert!(matches!(with_mode(0o755), Err(EngineError::Exposed { .. })));
            assert!(matches!(
                with_mode(0o1777),
                Err(EngineError::Exposed { .. })
            ));
        }
    }
}
