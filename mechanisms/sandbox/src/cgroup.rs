//! A control group for a process and all its descendants, which limits their memory together.
//!
//! There is one only where that can be had: in the hierarchy of version 2 if the caller's group has
//! handed the memory controller on to groups below it, else in version 1's hierarchy of that
//! controller. Both take a group that the caller may make groups in: root's nearly always is, that of an
//! ordinary user only if it was delegated to him.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Where control groups for memory can be made.
#[derive(Debug, Clone)]
pub(super) struct Groups {
    parent: PathBuf,
    version: Version,
}

impl Groups {
    /// Finds a place by looking at the caller's own groups. None if there is none, or it is not
    /// writable.
    pub(super) fn find() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let groups = [Version::Two, Version::One].into_iter();
        groups
            .filter_map(|version| {
                let parent = place(version, &own, &mounts)?;
                Some(Groups { parent, version })
            })
            .find(Groups::works)
    }

    fn works(&self) -> bool {
        let delegated = match self.version {
            Version::One => true,
            Version::Two => fs::read_to_string(self.parent.join("cgroup.subtree_control"))
                .is_ok_and(|list| list.split_whitespace().any(|name| name == "memory")),
        };
        delegated && rustix::fs::access(&self.parent, rustix::fs::Access::WRITE_OK).is_ok()
    }

    /// Makes a group that may use so many bytes, or is only there to be counted.
    pub(super) fn make(&self, memory: Option<u64>) -> io::Result<Group> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tvix-{}-{number}", std::process::id());
        let path = self.parent.join(name);
        fs::create_dir(&path)?;
        let group = Group {
            path,
            version: self.version,
        };
        let Some(text) = memory.map(|memory| memory.to_string()) else {
            return Ok(group);
        };
        match self.version {
            Version::One => {
                group.write("memory.limit_in_bytes", &text)?;
                // Where swap is accounted for; else there is no such file.
                let _ = group.write("memory.memsw.limit_in_bytes", &text);
            }
            Version::Two => {
                group.write("memory.max", &text)?;
                let _ = group.write("memory.swap.max", "0");
                // All die together, and not one that a script then goes on without.
                group.write("memory.oom.group", "1")?;
            }
        }
        Ok(group)
    }
}

/// The directory of the group that this process is in.
fn place(version: Version, own: &str, mounts: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let matches = match version {
            Version::One => controllers.split(',').any(|name| name == "memory"),
            Version::Two => controllers.is_empty(),
        };
        matches.then_some(path)
    })?;
    mounts.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut kind = file_system.split(' ');
        let (kind, options) = (kind.next()?, kind.nth(1)?);
        let matches = match version {
            Version::One => kind == "cgroup" && options.split(',').any(|name| name == "memory"),
            Version::Two => kind == "cgroup2",
        };
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        matches.then(|| Path::new(point).join(below))
    })
}

/// A group, removed when this is dropped: all processes in it are to be dead by then.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
    version: Version,
}

impl Group {
    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        fs::write(self.path.join(file), text)
    }

    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.path.join(file)).ok()
    }

    /// Puts a process into it, and what it starts from then on.
    pub(super) fn add(&self, pid: rustix::process::Pid) -> io::Result<()> {
        self.write("cgroup.procs", &pid.as_raw_nonzero().to_string())
    }

    /// The most bytes that were in use at once.
    pub(super) fn peak(&self) -> Option<u64> {
        let file = match self.version {
            Version::One => "memory.max_usage_in_bytes",
            Version::Two => "memory.peak",
        };
        self.read(file)?.trim().parse().ok()
    }

    /// Whether something was killed because there was not enough.
    pub(super) fn ran_out(&self) -> bool {
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let text = self.read(file).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.is_some_and(|count| count.trim() != "0")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel may take a moment to notice that the last process is gone.
        for _ in 0..50 {
            match fs::remove_dir(&self.path) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found() {
        let mounts = "30 1 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      31 1 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      32 1 0:28 /slice /inner rw - cgroup2 cgroup2 rw\n";
        let own = "4:memory:/some/group\n0::/slice/unit\n";
        assert_eq!(
            place(Version::One, own, mounts),
            Some("/sys/fs/cgroup/memory/some/group".into())
        );
        assert_eq!(
            place(Version::Two, own, mounts),
            Some("/sys/fs/cgroup/unified/slice/unit".into())
        );
        assert_eq!(place(Version::One, "0::/slice\n", mounts), None);
    }
}
