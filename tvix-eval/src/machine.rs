//! The memory and the address space of this process.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The memory that this process can have, in bytes: that of the machine, or of its control group.
pub(crate) fn memory() -> Option<usize> {
    static MEMORY: OnceLock<Option<usize>> = OnceLock::new();
    *MEMORY.get_or_init(|| {
        let machine = fs::read_to_string("/proc/meminfo").ok();
        let machine = machine.and_then(|text| total(&text));
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let group = limit_files(&groups, Path::new("/sys/fs/cgroup"))
            .into_iter()
            .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
            .min();
        match (machine, group) {
            (Some(machine), Some(group)) => Some(machine.min(group)),
            (machine, group) => machine.or(group),
        }
    })
}

/// The addresses that this process can still use, in bytes, if they are limited (`ulimit -v`).
pub(crate) fn addresses_left() -> Option<usize> {
    static LIMIT: OnceLock<Option<usize>> = OnceLock::new();
    let limit = (*LIMIT.get_or_init(|| {
        let limits = fs::read_to_string("/proc/self/limits").ok()?;
        address_limit(&limits)
    }))?;
    let used = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = used.split(' ').next()?.parse().ok()?;
    // Pages may be larger than that, and less is left then.
    Some(limit.saturating_sub(pages.saturating_mul(4096)))
}

/// The limit of addresses in `/proc/self/limits`, in bytes.
fn address_limit(text: &str) -> Option<usize> {
    let mut lines = text.lines();
    let values = lines.find_map(|line| line.strip_prefix("Max address space"))?;
    values.split_whitespace().next()?.parse().ok()
}

/// The size in `/proc/meminfo`.
fn total(text: &str) -> Option<usize> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// The files that may hold a limit, by the text of `/proc/self/cgroup`: of the group and of those
/// around it, in the first and second version of control groups.
fn limit_files(groups: &str, mounted: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (mounted, name) = if controllers.is_empty() {
            (mounted.to_owned(), "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            (mounted.join("memory"), "memory.limit_in_bytes")
        } else {
            continue;
        };
        let inside = Path::new(path.trim_start_matches('/'));
        files.extend(
            inside
                .ancestors()
                .map(|group| mounted.join(group).join(name)),
        );
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(
            total("MemTotal:       100 kB\nMemFree: 3 kB\n"),
            Some(102_400)
        );
        assert_eq!(total("MemFree: 3 kB\n"), None);
        assert!(memory().is_some_and(|bytes| bytes > 1 << 26));
    }

    #[test]
    fn limits_of_addresses_are_read() {
        let text = "Limit  Soft Limit  Hard Limit  Units\nMax address space         1048576  unlimited  bytes\n";
        assert_eq!(address_limit(text), Some(1 << 20));
        assert_eq!(address_limit(&text.replace("1048576", "unlimited")), None);
    }

    #[test]
    fn groups_have_files() {
        let files = |groups| limit_files(groups, Path::new("/g"));
        assert_eq!(
            files("0::/a/b\n"),
            ["/g/a/b/memory.max", "/g/a/memory.max", "/g/memory.max"].map(PathBuf::from)
        );
        assert_eq!(
            files("3:cpu:/x\n2:hugetlb,memory:/\n"),
            [PathBuf::from("/g/memory/memory.limit_in_bytes")]
        );
    }
}
