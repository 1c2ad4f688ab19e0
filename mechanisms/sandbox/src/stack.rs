//! The stack of children that share memory with the program.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use libc::{c_int, c_void};
use rustix::process::Pid;

use super::child::{self, Context};

/// The stack that children run on until they execute their program.
pub(super) struct Stack {
    base: *mut c_void,
}

const STACK_SIZE: usize = 256 * 1024;
const GUARD_SIZE: usize = 64 * 1024;

impl Stack {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: a fresh anonymous mapping that concerns no existing memory.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                STACK_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = Stack { base };
        // SAFETY: the range lies inside the mapping just made, which nothing uses yet.
        if unsafe { libc::mprotect(base, GUARD_SIZE, libc::PROT_NONE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stack)
    }

    /// Starts a child on this stack, which shares memory with this process.
    ///
    /// The caller keeps `context` in place, and does not use the stack again, until the error
    /// pipe has been closed by the child.
    pub(super) fn clone_child(
        &mut self,
        context: &Context<'_>,
        namespaces: c_int,
    ) -> io::Result<(Pid, OwnedFd)> {
        let mut pidfd: c_int = -1;
        // SAFETY: the stack is ours alone and large enough, its top aligned to a page; `enter`
        // does only what is allowed in a process that shares memory with a running program;
        // `pidfd` is where `CLONE_PIDFD` stores the descriptor.
        let pid = unsafe {
            libc::clone(
                child::enter,
                self.base.byte_add(STACK_SIZE),
                libc::CLONE_VM | libc::CLONE_PIDFD | libc::SIGCHLD | namespaces,
                std::ptr::from_ref(context).cast_mut().cast::<c_void>(),
                &raw mut pidfd,
            )
        };
        // `from_raw` wants no negative number.
        let Some(pid) = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw) else {
            return Err(io::Error::last_os_error());
        };
        // SAFETY: the kernel has just created this descriptor for us.
        Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this size, and no child runs on it: `spawn`
        // does not return before its child has left it.
        unsafe { libc::munmap(self.base, STACK_SIZE) };
    }
}
