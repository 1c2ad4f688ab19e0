//! A started process.

use std::any::Any;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::process::{Pid, Signal};

use super::cgroup::Group;
use super::directory::EngineDirectory;
use super::netns::NetLease;
use super::sys::{self, Errno, Exit};

/// Resources that must live until the process is dead.
pub(super) struct Held {
    pub(super) group: Option<Group>,
    pub(super) _network: Option<NetLease>,
    pub(super) _caller: Box<dyn Any + Send + Sync>,
    /// The process's root lies in it.
    pub(super) _directory: Arc<EngineDirectory>,
}

/// A child that has not been reaped.
pub(super) struct Process {
    pub(super) pidfd: OwnedFd,
    pub(super) pid: Pid,
    /// Whether the process is the first of a PID namespace: all processes of the namespace end with it.
    pub(super) owns_namespace: bool,
    pub(super) held: Held,
}

impl Process {
    /// Kills the process and, as far as it can be told, its descendants.
    pub(super) fn kill(&self) {
        if !self.owns_namespace {
            kill_session(self.pid);
        }
        // It fails only if the process is dead already.
        let _ = rustix::process::pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL);
    }

    /// Reaps the process if it has ended. `block` waits for that.
    ///
    /// `Err(ECHILD)` means that the embedding program has waited for a child that was not its own.
    pub(super) fn reap(&self, block: bool) -> Result<Option<Exit>, Errno> {
        let pidfd = self.pidfd.as_raw_fd();
        let mut options = libc::WEXITED;
        if !block {
            options |= libc::WNOHANG;
        }
        if !self.owns_namespace {
            // While the dead process is not reaped its number cannot be given away, so this is
            // the moment to kill what it left behind.
            if sys::wait(pidfd, options | libc::WNOWAIT)?.is_none() {
                return Ok(None);
            }
            kill_session(self.pid);
        }
        sys::wait(pidfd, options)
    }
}

impl AsRawFd for Process {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

/// Kills the process group and every process of the session that `leader` started.
///
/// Descendants that started a session of their own escape: without a PID namespace the kernel
/// keeps no record of them.
fn kill_session(leader: Pid) {
    let _ = rustix::process::kill_process_group(leader, Signal::KILL);
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return;
    };
    for entry in processes.flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        if pid != leader && sys::session_of(pid) == Some(leader) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}
