//! System calls that are safe to make between `clone` and `execve`.
//!
//! Everything here is one raw system call: no allocation, no lock, no thread-local state except
//! `errno`, which nothing else on the spawner thread uses while a child shares its memory.

use std::ffi::CStr;

use libc::{c_char, c_int, c_long, c_void};
use rustix::process::Pid;

/// An `errno` value.
pub(super) type Errno = c_int;

/// Turns the return value of a raw system call into a result.
fn check(ret: c_long) -> Result<c_long, Errno> {
    if ret < 0 {
        // SAFETY: `__errno_location` has no preconditions and returns a valid pointer.
        Err(unsafe { *libc::__errno_location() })
    } else {
        Ok(ret)
    }
}

/// Calls `libc::syscall` with the arguments widened as the kernel expects them.
macro_rules! raw {
    ($nr:expr $(, $arg:expr)* $(,)?) => {
        check(libc::syscall($nr $(, $arg)*))
    };
}

/// `mount(2)`.
pub(super) fn mount(
    source: Option<&CStr>,
    target: &CStr,
    fstype: Option<&CStr>,
    flags: libc::c_ulong,
    data: Option<&CStr>,
) -> Result<(), Errno> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: every pointer is null or to a NUL-terminated string that outlives the call.
    unsafe {
        raw!(
            libc::SYS_mount,
            pointer(source),
            target.as_ptr(),
            pointer(fstype),
            flags,
            pointer(data)
        )
    }
    .map(drop)
}

/// `mount_setattr(2)`: changes attributes of one mount, or of the tree below it.
pub(super) fn mount_setattr(
    target: &CStr,
    recursive: bool,
    set: u64,
    clear: u64,
) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: set,
        attr_clr: clear,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `target` is NUL-terminated and `attr` is a valid struct of the size passed.
    unsafe {
        raw!(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            target.as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>()
        )
    }
    .map(drop)
}

/// Makes the current directory the root and drops the old root out of the namespace.
pub(super) fn pivot_here() -> Result<(), Errno> {
    let here = c".".as_ptr();
    // SAFETY: `here` is a NUL-terminated literal.
    unsafe {
        raw!(libc::SYS_pivot_root, here, here)?;
        raw!(libc::SYS_umount2, here, libc::MNT_DETACH)?;
    }
    Ok(())
}

/// `chdir(2)`.
pub(super) fn chdir(path: &CStr) -> Result<(), Errno> {
    // SAFETY: `path` is NUL-terminated.
    unsafe { raw!(libc::SYS_chdir, path.as_ptr()) }.map(drop)
}

/// Sets real, effective and saved group and user of this task.
pub(super) fn set_ids(uid: u32, gid: u32) -> Result<(), Errno> {
    // SAFETY: plain integers.
    unsafe {
        raw!(libc::SYS_setresgid, gid, gid, gid)?;
        raw!(libc::SYS_setresuid, uid, uid, uid)?;
    }
    Ok(())
}

/// Drops the supplementary groups of the calling thread alone (`setgroups` of libc would change
/// every thread of the process).
pub(super) fn clear_thread_groups() -> Result<(), Errno> {
    // SAFETY: a list of length zero may be null.
    unsafe { raw!(libc::SYS_setgroups, 0usize, std::ptr::null::<u32>()) }.map(drop)
}

/// Sets host and domain name of the UTS namespace.
pub(super) fn set_hostname(name: &CStr) -> Result<(), Errno> {
    // Nix leaves the domain name at this literal, and builds can see it.
    let domain = c"(none)";
    // SAFETY: pointers and lengths describe the strings' bytes.
    unsafe {
        raw!(libc::SYS_sethostname, name.as_ptr(), name.to_bytes().len())?;
        raw!(
            libc::SYS_setdomainname,
            domain.as_ptr(),
            domain.to_bytes().len()
        )?;
    }
    Ok(())
}

/// Brings the loopback interface of the current network namespace up.
pub(super) fn loopback_up() -> Result<(), Errno> {
    #[repr(C)]
    struct InterfaceFlags {
        name: [u8; libc::IFNAMSIZ],
        flags: libc::c_short,
        // The kernel copies a whole `struct ifreq`, of which the flags are the head.
        rest: [u8; 22],
    }
    let mut request = InterfaceFlags {
        name: [0; libc::IFNAMSIZ],
        flags: (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short,
        rest: [0; 22],
    };
    request.name[0] = b'l';
    request.name[1] = b'o';
    // SAFETY: the request is at least as large as `struct ifreq` and outlives the call.
    unsafe {
        // Of any family, and one of the Internet's may be of another namespace (`host_sockets`).
        let socket = raw!(
            libc::SYS_socket,
            libc::AF_UNIX,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            0
        )?;
        let result = raw!(
            libc::SYS_ioctl,
            socket,
            libc::SIOCSIFFLAGS,
            &raw mut request
        );
        raw!(libc::SYS_close, socket)?;
        result.map(drop)
    }
}

/// `socket(2)`.
pub(super) fn socket(family: c_int, kind: c_int, protocol: c_int) -> Result<c_int, Errno> {
    // SAFETY: plain integers.
    unsafe { raw!(libc::SYS_socket, family, kind, protocol) }.map(|fd| fd as c_int)
}

/// Sets the user, and its group of the same number, as whom the calling thread makes files and
/// sockets. The call reports no failure, and cannot fail for root.
pub(super) fn set_thread_fs_user(id: u32) {
    // SAFETY: plain integers; only this thread is concerned.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, id);
        libc::syscall(libc::SYS_setfsuid, id);
    }
}

/// Starts a session without controlling terminal.
pub(super) fn new_session() -> Result<(), Errno> {
    // SAFETY: no arguments.
    unsafe { raw!(libc::SYS_setsid) }.map(drop)
}

/// `getsid(2)`; none for kernel threads, whose session has the number 0.
pub(super) fn session_of(process: Pid) -> Option<Pid> {
    // SAFETY: a plain integer.
    let session = unsafe { raw!(libc::SYS_getsid, process.as_raw_nonzero().get()) };
    Pid::from_raw(session.ok()?.try_into().ok()?)
}

/// `prctl(2)` with plain integers.
pub(super) fn prctl(option: c_int, value: libc::c_ulong) -> Result<c_long, Errno> {
    // SAFETY: the options used here take integers, no pointers.
    unsafe { raw!(libc::SYS_prctl, option, value, 0usize, 0usize, 0usize) }
}

/// Empties the capability sets of this task.
///
/// The bounding set stays: it limits what `execve` can add, which `no_new_privs` forbids
/// altogether, and each of its 41 members would cost a microsecond to drop.
pub(super) fn drop_capabilities() -> Result<(), Errno> {
    // `_LINUX_CAPABILITY_VERSION_3`, this task; two words of three sets.
    let header: [u32; 2] = [0x2008_0522, 0];
    let sets = [0u32; 6];
    // SAFETY: header and data have the layout that version 3 prescribes.
    unsafe { raw!(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) }.map(drop)
}

/// Sets a resource limit, soft and hard.
pub(super) fn set_limit(resource: c_int, value: u64) -> Result<(), Errno> {
    let limit = [value, value];
    // SAFETY: `limit` has the layout of `struct rlimit64`.
    unsafe {
        raw!(
            libc::SYS_prlimit64,
            0,
            resource,
            limit.as_ptr(),
            std::ptr::null::<u64>()
        )
    }
    .map(drop)
}

/// Disables core dumps as Nix does: a program may raise the soft limit again, up to the hard limit
/// of the caller if that cannot be lifted.
pub(super) fn disable_core_dumps() -> Result<(), Errno> {
    let resource = libc::RLIMIT_CORE as c_int;
    let set = |limit: [u64; 2]| {
        // SAFETY: `limit` has the layout of `struct rlimit64`.
        unsafe {
            raw!(
                libc::SYS_prlimit64,
                0,
                resource,
                limit.as_ptr(),
                std::ptr::null::<u64>()
            )
        }
        .map(drop)
    };
    if set([0, u64::MAX]).is_ok() {
        return Ok(());
    }
    let mut current = [0u64; 2];
    // SAFETY: `current` has the layout of `struct rlimit64`, which the kernel writes.
    unsafe {
        raw!(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::null::<u64>(),
            current.as_mut_ptr()
        )
    }?;
    set([0, current[1]])
}

/// Writes a setting of the kernel.
pub(super) fn write_setting(path: &CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: `path` is NUL-terminated; pointer and length describe the slice; the descriptor is
    // ours alone.
    unsafe {
        let fd = raw!(
            libc::SYS_openat,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::O_WRONLY | libc::O_CLOEXEC,
            0
        )?;
        let written = raw!(libc::SYS_write, fd, value.as_ptr(), value.len());
        raw!(libc::SYS_close, fd)?;
        written.map(drop)
    }
}

/// `personality(2)`.
pub(super) fn personality(persona: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: a plain integer.
    unsafe { raw!(libc::SYS_personality, persona) }.map(drop)
}

/// `umask(2)`.
pub(super) fn umask(mask: libc::mode_t) {
    // SAFETY: a plain integer; the call cannot fail.
    let _ = unsafe { raw!(libc::SYS_umask, mask) };
}

/// Resets every signal to its default action and unblocks all.
///
/// The Rust runtime ignores `SIGPIPE`, and what is ignored stays ignored over `execve`.
pub(super) fn reset_signals() -> Result<(), Errno> {
    // The kernel's `struct sigaction`, all zero: default action, no flags, empty mask.
    let default = [0u64; 4];
    let empty_mask = 0u64;
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        // SAFETY: `default` is at least as large as the kernel's struct; the mask is 8 bytes.
        unsafe {
            raw!(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null::<u64>(),
                8usize
            )?;
        }
    }
    // SAFETY: the mask is 8 bytes, as said.
    unsafe {
        raw!(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const empty_mask,
            std::ptr::null::<u64>(),
            8usize
        )
    }
    .map(drop)
}

/// Blocks every signal for the calling thread.
pub(super) fn block_signals() {
    let full_mask = u64::MAX;
    // SAFETY: the mask is 8 bytes, as said; the call cannot fail with valid arguments.
    let _ = unsafe {
        raw!(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const full_mask,
            std::ptr::null::<u64>(),
            8usize
        )
    };
}

/// `dup3(2)` without flags: the copy survives `execve`.
pub(super) fn dup_onto(from: c_int, onto: c_int) -> Result<(), Errno> {
    // SAFETY: plain integers; the numbers overwritten are 0, 1 and 2 of this child alone.
    unsafe { raw!(libc::SYS_dup3, from, onto, 0) }.map(drop)
}

/// Closes the descriptors from `first` to `last`, both included; none if there are none.
pub(super) fn close_range(first: c_int, last: c_int) -> Result<(), Errno> {
    if first > last {
        return Ok(());
    }
    // SAFETY: plain integers; only this child's copies of the descriptors are closed.
    unsafe { raw!(libc::SYS_close_range, first, last, 0) }.map(drop)
}

/// Whether the other end of a pipe that this end writes to has been closed.
pub(super) fn reader_is_gone(fd: c_int) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    };
    let no_wait = [0i64; 2];
    // SAFETY: one valid `pollfd`, a valid time-out, no signal mask.
    let ready = unsafe {
        raw!(
            libc::SYS_ppoll,
            &raw mut poll,
            1usize,
            no_wait.as_ptr(),
            std::ptr::null::<u64>(),
            8usize
        )
    };
    ready.is_ok_and(|count| count > 0) && poll.revents & libc::POLLERR != 0
}

/// Waits until the word no longer holds `expected`.
pub(super) fn futex_wait(word: &std::sync::atomic::AtomicU32, expected: u32) {
    // SAFETY: the word outlives the call; no time-out. Failing (the value has changed, a
    // signal) only means that the caller looks again.
    let _ = unsafe {
        raw!(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            expected,
            std::ptr::null::<c_void>()
        )
    };
}

/// Wakes the one waiter on the word.
pub(super) fn futex_wake(word: &std::sync::atomic::AtomicU32) {
    // SAFETY: the word outlives the call.
    let _ = unsafe {
        raw!(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            1
        )
    };
}

/// `execve(2)`; returns only when it fails.
///
/// # Safety
///
/// Both lists are arrays of pointers to NUL-terminated strings, ended by a null pointer.
pub(super) unsafe fn execve(
    program: &CStr,
    argv: *const *const c_char,
    envp: *const *const c_char,
) -> Errno {
    // SAFETY: the caller vouches for the lists.
    match unsafe { raw!(libc::SYS_execve, program.as_ptr(), argv, envp) } {
        Ok(_) => 0,
        Err(errno) => errno,
    }
}

/// Writes a small buffer; a failure has nowhere to be reported.
pub(super) fn write(fd: c_int, bytes: &[u8]) {
    // SAFETY: pointer and length describe the slice.
    let _ = unsafe { raw!(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) };
}

/// Ends this process at once.
pub(super) fn exit(code: c_int) -> ! {
    loop {
        // SAFETY: a plain integer; the call does not return.
        let _ = unsafe { raw!(libc::SYS_exit_group, code) };
    }
}

/// How a child ended.
pub(super) struct Exit {
    /// Its exit code, or else the signal that ended it.
    pub(super) code: Result<c_int, c_int>,
    /// What it used, and those of its descendants that were waited for.
    pub(super) usage: libc::rusage,
}

/// `waitid(2)` for a child by its descriptor. `None` if it has not ended and `options` say not to
/// wait for that.
pub(super) fn wait(pidfd: c_int, options: c_int) -> Result<Option<Exit>, Errno> {
    // SAFETY: both consist of integers, for which zero is a value.
    let (mut info, mut usage) = unsafe {
        (
            std::mem::zeroed::<libc::siginfo_t>(),
            std::mem::zeroed::<libc::rusage>(),
        )
    };
    loop {
        // SAFETY: both structs are what the system call writes, and outlive it.
        let waited = unsafe {
            raw!(
                libc::SYS_waitid,
                libc::P_PIDFD,
                pidfd,
                &raw mut info,
                options,
                &raw mut usage
            )
        };
        match waited {
            Err(libc::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => break,
        }
    }
    // SAFETY: `waitid` has filled in the fields of a child, or left zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let code = match info.si_code == libc::CLD_EXITED {
        true => Ok(status),
        false => Err(status),
    };
    Ok(Some(Exit { code, usage }))
}

/// `unshare(2)`, for the calling thread.
pub(super) fn unshare(what: c_int) -> Result<(), Errno> {
    // SAFETY: a plain integer; no flag used here affects memory or descriptors.
    unsafe { raw!(libc::SYS_unshare, what) }.map(drop)
}

/// `setns(2)`, for the calling thread.
pub(super) fn set_namespace(fd: c_int, kind: c_int) -> Result<(), Errno> {
    // SAFETY: plain integers.
    unsafe { raw!(libc::SYS_setns, fd, kind) }.map(drop)
}

/// Starts a child with new namespaces that exits at once, and waits for it.
///
/// This is a plain fork: for probing, which happens once.
pub(super) fn with_child(namespaces: c_int) -> Result<(), Errno> {
    // SAFETY: without CLONE_VM and a stack this is `fork`; the child only exits. `__WALL` and a
    // pid wait for exactly this child.
    unsafe {
        let pid = raw!(
            libc::SYS_clone,
            libc::SIGCHLD as libc::c_ulong | namespaces as libc::c_ulong,
            0usize,
            0usize,
            0usize,
            0usize
        )?;
        if pid == 0 {
            exit(0);
        }
        while let Err(errno) = raw!(
            libc::SYS_wait4,
            pid,
            std::ptr::null::<c_int>(),
            libc::__WALL,
            std::ptr::null::<c_void>()
        ) {
            if errno != libc::EINTR {
                break;
            }
        }
    }
    Ok(())
}
