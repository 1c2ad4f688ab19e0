//! A started process, and the thread that sees dropped ones to their end.

use std::any::Any;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, mpsc};
use std::thread::ThreadId;

use rustix::process::{Pid, Signal};

use super::cgroup::Group;
use super::directory::EngineDirectory;
use super::netns::NetLease;
use super::scratch::{Slot, Slots};
use super::sys::{self, Errno, Exit};

/// What must stay as it is until the process is dead, and is dropped then.
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
    /// Whether the process is the first of a PID namespace, whose end is the end of all in it.
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

/// Work for the janitor.
pub(super) enum Chore {
    /// Kill, reap, then let go of what was held.
    End(Process),
    /// Empty a scratch directory and make it available again.
    Clean(Slot, Arc<Slots>),
    /// Say when everything before is done.
    Report(mpsc::Sender<()>),
}

/// Hands chores to the janitor's thread.
#[derive(Clone)]
pub(super) struct Janitor {
    chores: mpsc::Sender<Chore>,
    thread: ThreadId,
}

impl Janitor {
    /// Starts the thread. It ends when the last handle is gone and all chores are done.
    pub(super) fn start() -> std::io::Result<Self> {
        let (chores, inbox) = mpsc::channel();
        let handle = std::thread::Builder::new()
            .name("sandbox-janitor".into())
            .spawn(move || {
                for chore in inbox {
                    match chore {
                        Chore::End(process) => {
                            process.kill();
                            // Failing means that there is nothing left to reap.
                            let _ = process.reap(true);
                            drop(process.held);
                        }
                        Chore::Clean(slot, slots) => slots.clean(slot),
                        Chore::Report(done) => {
                            let _ = done.send(());
                        }
                    }
                }
            })?;
        Ok(Janitor {
            chores,
            thread: handle.thread().id(),
        })
    }

    /// Waits until all chores given so far are done.
    pub(super) fn finish(&self) {
        // What was held for a process can own the engine, and is dropped on the janitor's thread.
        if std::thread::current().id() == self.thread {
            return;
        }
        let (done, wait) = mpsc::channel();
        self.give(Chore::Report(done));
        let _ = wait.recv();
    }

    pub(super) fn give(&self, chore: Chore) {
        // The thread is gone only if it panicked: then it is done here rather than not at all.
        if let Err(mpsc::SendError(Chore::End(process))) = self.chores.send(chore) {
            process.kill();
            let _ = process.reap(true);
        }
    }
}
