//! Detecting the sandboxing features of the machine.

use std::ffi::c_int;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use super::error::EngineError;
use super::from_errno;
use super::spec::HostIds;
use super::sys;

/// Number of host users that an engine may use.
const ID_COUNT: u64 = 65_536;

/// A property of the caller that makes sandboxes impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// `/proc` is not there.
    NoProc,
    /// `/proc` shows the processes of another PID namespace: the numbers in it are not those that
    /// this process knows its children by.
    ForeignProc,
    /// The caller is the host's root, without the capabilities that it takes to run builders as
    /// other users. As root they could write to `/proc/sys`.
    PowerlessRoot,
}

impl Obstacle {
    /// Looks for one.
    fn find(uid: u32, root: bool) -> Option<Self> {
        let Ok(own) = fs::read_link("/proc/self") else {
            // Of a foreign one, too, in which this process does not appear.
            return Some(match fs::symlink_metadata("/proc/self").is_ok() {
                true => Obstacle::ForeignProc,
                false => Obstacle::NoProc,
            });
        };
        if own.to_str() != Some(&std::process::id().to_string()) {
            return Some(Obstacle::ForeignProc);
        }
        // Settings of the kernel belong to the host's root, who is somebody else in most user
        // namespaces.
        let host_root = fs::metadata("/proc/sys/kernel").is_ok_and(|kernel| kernel.uid() == uid);
        (host_root && !root).then_some(Obstacle::PowerlessRoot)
    }

    fn error(self) -> EngineError {
        let (missing, advice) = match self {
            Obstacle::NoProc => (
                "there is no /proc file system",
                "mount one: mount -t proc proc /proc",
            ),
            Obstacle::ForeignProc => (
                "/proc is that of another PID namespace",
                "mount one of this namespace: mount -t proc proc /proc, or unshare --mount-proc",
            ),
            Obstacle::PowerlessRoot => (
                "this program runs as root without the capabilities to run builders as other users",
                "give it CAP_SETUID, CAP_SETGID and CAP_SYS_ADMIN, or run it as an ordinary user, or \
                 build without a sandbox (--no-sandbox)",
            ),
        };
        let errno = match self {
            Obstacle::NoProc => libc::ENOENT,
            Obstacle::ForeignProc => libc::ESRCH,
            Obstacle::PowerlessRoot => libc::EPERM,
        };
        EngineError::Unavailable {
            missing: missing.into(),
            advice: advice.into(),
            source: from_errno(errno),
        }
    }
}

/// Capabilities of the engine on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Privileges {
    /// Whether users of the host can be chosen freely, and namespaces made outside a user
    /// namespace.
    pub(super) root: bool,
    /// Whether a process without sandbox can at least have a PID namespace.
    pub(super) pid_namespace: bool,
    /// Whether there are control groups for memory.
    pub(super) groups: bool,
    pub(super) caller: HostIds,
    /// The obstacle to sandboxing, if one is known already.
    pub(super) obstacle: Option<Obstacle>,
}

/// The privileges of the caller.
pub(super) fn privileges(first_id: u32, groups: bool) -> Privileges {
    let caller = HostIds {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    };
    let root = caller.uid == 0 && has_root_capabilities() && maps(first_id);
    Privileges {
        root,
        pid_namespace: root || try_namespaces(libc::CLONE_NEWUSER | libc::CLONE_NEWPID).is_ok(),
        groups,
        caller,
        obstacle: Obstacle::find(caller.uid, root),
    }
}

fn has_root_capabilities() -> bool {
    const SETGID: u32 = 6;
    const SETUID: u32 = 7;
    const SYS_ADMIN: u32 = 21;
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    [SETGID, SETUID, SYS_ADMIN]
        .into_iter()
        .all(|capability| effective & (1 << capability) != 0)
}

/// Whether the user namespace we are in knows the users that builders are to run as. Root in a
/// container often has few users, and is then treated as an ordinary user.
fn maps(first_id: u32) -> bool {
    let first = u64::from(first_id);
    let covers = |file: &str| {
        fs::read_to_string(file)
            .unwrap_or_default()
            .lines()
            .any(|line| {
                let mut fields = line.split_whitespace().map(str::parse::<u64>);
                match (fields.next(), fields.next(), fields.next()) {
                    (Some(Ok(inside)), Some(_), Some(Ok(count))) => {
                        inside <= first && first + ID_COUNT <= inside + count
                    }
                    _ => false,
                }
            })
    };
    covers("/proc/self/uid_map") && covers("/proc/self/gid_map")
}

/// Creates every namespace of a sandbox once. If all succeed, the result is `obstacle`.
pub(super) fn sandbox(obstacle: Option<Obstacle>) -> Result<(), EngineError> {
    let kinds = [
        (libc::CLONE_NEWUSER, "user namespaces"),
        (libc::CLONE_NEWNS, "mount namespaces"),
        (libc::CLONE_NEWPID, "PID namespaces"),
        (libc::CLONE_NEWIPC, "IPC namespaces"),
        (libc::CLONE_NEWUTS, "UTS namespaces"),
        (libc::CLONE_NEWNET, "network namespaces"),
    ];
    // All at once is the common case; one after the other tells which is missing.
    let all = kinds.iter().fold(0, |all, (kind, _)| all | kind);
    if try_namespaces(all).is_ok() {
        return obstacle.map_or(Ok(()), |obstacle| Err(obstacle.error()));
    }
    let mut wanted = 0;
    for (kind, name) in kinds {
        wanted |= kind;
        if let Err(source) = try_namespaces(wanted) {
            return Err(EngineError::Unavailable {
                missing: format!("{name} are refused: {source}"),
                advice: match source.raw_os_error() {
                    // It is not the kind that is refused.
                    Some(libc::EAGAIN) => "raise the limit of processes (ulimit -u)".into(),
                    _ => advice(kind),
                },
                source,
            });
        }
    }
    Ok(())
}

/// Reports mounts over parts of `/proc`: with them, the kernel refuses an ordinary user a new `/proc` in a
/// sandbox.
pub(super) fn proc_is_uncovered() -> Result<(), EngineError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let covered = covered_below_proc(&mounts);
    if covered.is_empty() {
        return Ok(());
    }
    Err(EngineError::Unavailable {
        missing: format!("other mounts cover parts of /proc: {}", covered.join(", ")),
        advice: "in a container, allow an unmasked /proc, or build as root or without a sandbox \
                 (--no-sandbox)"
            .into(),
        source: from_errno(libc::EPERM),
    })
}

/// Mount points below `/proc` in the text of a `mountinfo` file. `binfmt_misc` is mounted on a directory that is
/// always empty, and covers nothing.
fn covered_below_proc(mounts: &str) -> Vec<&str> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let below = points.filter(|point| point.starts_with("/proc/"));
    below
        .filter(|point| *point != "/proc/sys/fs/binfmt_misc")
        .collect()
}

/// Remedies if a kind of namespace is refused.
fn advice(kind: c_int) -> String {
    let setting = |name: &str| {
        fs::read_to_string(format!("/proc/sys/{name}"))
            .ok()
            .map(|value| value.trim().to_owned())
    };
    let limit = match kind {
        libc::CLONE_NEWUSER => "user/max_user_namespaces",
        libc::CLONE_NEWNS => "user/max_mnt_namespaces",
        libc::CLONE_NEWPID => "user/max_pid_namespaces",
        libc::CLONE_NEWIPC => "user/max_ipc_namespaces",
        libc::CLONE_NEWUTS => "user/max_uts_namespaces",
        _ => "user/max_net_namespaces",
    };
    let mut causes = Vec::new();
    if setting(limit).as_deref() == Some("0") {
        causes.push(format!(
            "set the sysctl {} above 0",
            limit.replace('/', ".")
        ));
    }
    if kind == libc::CLONE_NEWUSER {
        if setting("kernel/unprivileged_userns_clone").as_deref() == Some("0") {
            causes.push("set the sysctl kernel.unprivileged_userns_clone to 1".into());
        }
        if setting("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
            causes.push(
                "give this program an AppArmor profile that allows userns, or set the sysctl \
                 kernel.apparmor_restrict_unprivileged_userns to 0"
                    .into(),
            );
        }
        if causes.is_empty() {
            causes.push("in a chroot or a container, allow it to create user namespaces".into());
        }
    }
    causes.push("or build without a sandbox (--no-sandbox)".into());
    causes.join(", ")
}

/// Starts a child with these namespaces that exits at once.
fn try_namespaces(namespaces: c_int) -> io::Result<()> {
    sys::with_child(namespaces).map_err(from_errno)
}
