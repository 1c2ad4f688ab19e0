//! The host's network for builders that have a network namespace of their own.
//!
//! A builder with network must not share the host's network namespace: abstract Unix sockets have
//! names in it, and through such a socket a builder could hand a descriptor of its output to
//! another builder or to a process of the host, or be handed one (CVE-2024-27297, CVE-2025-46416).
//! Others move packets between two namespaces for that, with a program that has to be installed.
//! Here only the creation of a socket is special: a second filter lets the kernel ask us about
//! every `socket` call of the Internet's families, and we answer with a socket that was made in
//! the host's namespace. Bytes go their usual way, at their usual speed. All else, Unix sockets
//! above all, is made by the builder in its own namespace, and meets nobody there.
//!
//! What is answered is what was read, so nothing is gained by changing it meanwhile, and whatever
//! is not answered with a socket goes on in the builder's own namespace: the worst that a mistake
//! can do is a builder without network.
//!
//! One thread starts all builders with network and has this filter, one more answers. Both are
//! started with the first such builder. The kernel allows for one such filter on top of another only
//! if that does not ask as well, so inside a container whose manager answers system calls itself
//! there are no builds with network.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::{
    BPF_ABS, BPF_JEQ, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_USER_NOTIF,
    c_int, sock_filter,
};

use super::seccomp::{self, OFFSET_ARCH, OFFSET_NR, jump, load_argument, statement};
use super::sys::{self, Errno};

/// `SYS_SOCKET` of `<linux/net.h>`, the first argument of `socketcall`.
const SOCKETCALL_SOCKET: u32 = 1;

/// How sockets are made with one system call interface.
struct Abi {
    arch: u32,
    socket: u32,
    /// The number of `socketcall`, whose arguments are in memory.
    socketcall: Option<u32>,
}

const X86_32: u32 = 0x4000_0003;

#[cfg(target_arch = "x86_64")]
const ABIS: &[Abi] = &[
    Abi {
        arch: 0xc000_003e,
        socket: 41,
        socketcall: None,
    },
    Abi {
        arch: X86_32,
        socket: 359,
        socketcall: Some(102),
    },
];
#[cfg(target_arch = "aarch64")]
const ABIS: &[Abi] = &[
    Abi {
        arch: 0xc000_00b7,
        socket: 198,
        socketcall: None,
    },
    Abi {
        arch: 0x4000_0028,
        socket: 281,
        socketcall: None,
    },
];
#[cfg(target_arch = "riscv64")]
const ABIS: &[Abi] = &[Abi {
    arch: 0xc000_00f3,
    socket: 198,
    socketcall: None,
}];

/// The families that a builder gets the host's sockets of. The last tells which addresses the host
/// has, without which programs believe that there is no network.
const FAMILIES: [c_int; 3] = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

fn program() -> Vec<sock_filter> {
    let load = |offset| statement(BPF_LD | BPF_W | BPF_ABS, offset);
    let give = |verdict| statement(BPF_RET | BPF_K, verdict);
    let equals = |value, otherwise| jump(BPF_JEQ, value, 0, otherwise);
    let mut code = Vec::new();
    for abi in ABIS {
        let mut section = vec![load(OFFSET_NR)];
        if let Some(number) = abi.socketcall {
            section.extend([
                equals(number, 4),
                load_argument(0),
                equals(SOCKETCALL_SOCKET, 1),
                give(SECCOMP_RET_USER_NOTIF),
                give(SECCOMP_RET_ALLOW),
            ]);
        }
        section.push(equals(abi.socket, 2 * FAMILIES.len() as u8 + 1));
        section.push(load_argument(0));
        for family in FAMILIES {
            section.push(equals(family as u32, 1));
            section.push(give(SECCOMP_RET_USER_NOTIF));
        }
        section.push(give(SECCOMP_RET_ALLOW));
        code.push(load(OFFSET_ARCH));
        code.push(equals(abi.arch, section.len() as u8));
        code.extend(section);
    }
    // The filter of all builders refuses other interfaces.
    code.push(give(SECCOMP_RET_ALLOW));
    code
}

/// Installs the filter on the calling thread, on top of that of all builders. What it asks comes
/// to the descriptor.
pub(super) fn install_on_this_thread() -> Result<OwnedFd, Errno> {
    let mut code = program();
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // A signal then does not interrupt a call that is being answered, for it to be made again.
    let patient = listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let installed = match seccomp::install(&mut code, patient) {
        // Linux before 5.19.
        Err(libc::EINVAL) => seccomp::install(&mut code, listener),
        result => result,
    };
    // SAFETY: the kernel has just created this descriptor for us.
    installed.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as c_int) })
}

/// Answers what comes to `listener` until nobody has its filter any more. `root` says that builders
/// run as other users than the calling thread.
///
/// New sockets are in the network namespace of the calling thread, which must not have the filter.
pub(super) fn answer(listener: &OwnedFd, root: bool) {
    sys::block_signals();
    while wait(listener) {
        // SAFETY: the kernel wants zeroes, which all of these plain integers may be.
        let mut request: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the request is of the type that this ioctl writes.
        let received = unsafe { notify(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &mut request) };
        match received {
            Ok(()) => {}
            // Whoever called is dead by now.
            Err(libc::ENOENT | libc::EINTR) => continue,
            Err(_) => return,
        }
        // Failing means that the caller is dead.
        let _ = match wanted(listener, &request) {
            Some(wanted) => match make(&wanted, listener, &request, root) {
                Ok(socket) => hand_over(listener, &request, &socket, wanted.kind),
                Err(errno) => respond(listener, &request, -errno, 0),
            },
            None => {
                let on = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
                respond(listener, &request, 0, on)
            }
        };
    }
}

/// Waits for a request; says whether there is one, as opposed to the end.
fn wait(listener: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    loop {
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) => return fds[0].revents().contains(PollFlags::IN),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// The arguments of `socket`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    family: c_int,
    /// With `SOCK_CLOEXEC` and `SOCK_NONBLOCK`.
    kind: c_int,
    protocol: c_int,
}

impl Wanted {
    /// Whether the host's namespace has a socket for this. What takes privileges is not among it.
    fn is_given(&self) -> bool {
        let kind = self.kind & 0xf;
        match self.family {
            libc::AF_INET | libc::AF_INET6 => match kind {
                libc::SOCK_STREAM => {
                    [0, libc::IPPROTO_TCP, libc::IPPROTO_MPTCP].contains(&self.protocol)
                }
                libc::SOCK_DGRAM => [0, libc::IPPROTO_UDP].contains(&self.protocol),
                _ => false,
            },
            libc::AF_NETLINK => {
                [libc::SOCK_RAW, libc::SOCK_DGRAM].contains(&kind)
                    && self.protocol == libc::NETLINK_ROUTE
            }
            _ => false,
        }
    }
}

/// What a request asks for, if it is given the host's.
fn wanted(listener: &OwnedFd, request: &libc::seccomp_notif) -> Option<Wanted> {
    let data = &request.data;
    let by_memory = data.arch == X86_32 && data.nr == 102;
    let [family, kind, protocol] = if by_memory {
        let arguments = arguments_in_memory(request.pid, data.args[1])?;
        is_valid(listener, request).then_some(arguments)?
    } else {
        // The kernel looks at no more of them.
        [0, 1, 2].map(|index| data.args[index] as u32 as c_int)
    };
    let wanted = Wanted {
        family,
        kind,
        protocol,
    };
    wanted.is_given().then_some(wanted)
}

/// Whether the caller still waits, and is the process of that number.
fn is_valid(listener: &OwnedFd, request: &libc::seccomp_notif) -> bool {
    let mut id = request.id;
    // SAFETY: this ioctl reads a number of this size.
    unsafe { notify(listener, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &mut id) }.is_ok()
}

fn arguments_in_memory(pid: u32, address: u64) -> Option<[c_int; 3]> {
    let mut arguments: [c_int; 3] = [0; 3];
    let size = size_of_val(&arguments);
    let local = libc::iovec {
        iov_base: arguments.as_mut_ptr().cast(),
        iov_len: size,
    };
    let remote = libc::iovec {
        // 32-bit programs know no more of an address.
        iov_base: address as u32 as usize as *mut libc::c_void,
        iov_len: size,
    };
    // SAFETY: the local range is `arguments`; the remote one is the other process's concern.
    let read = unsafe { libc::process_vm_readv(pid as c_int, &local, 1, &remote, 1, 0) };
    (read == size as isize).then_some(arguments)
}

/// Makes a socket as if the caller had made it.
fn make(
    wanted: &Wanted,
    listener: &OwnedFd,
    request: &libc::seccomp_notif,
    root: bool,
) -> Result<OwnedFd, c_int> {
    // The user that a socket belongs to decides who may share its port.
    let owner = match root {
        true => Some(user_of(request.pid).ok_or(libc::EACCES)?),
        false => None,
    };
    if !is_valid(listener, request) {
        return Err(libc::EINTR);
    }
    if let Some(uid) = owner {
        sys::set_thread_fs_user(uid);
    }
    let made = sys::socket(
        wanted.family,
        wanted.kind | libc::SOCK_CLOEXEC,
        wanted.protocol,
    );
    if owner.is_some() {
        sys::set_thread_fs_user(0);
    }
    // SAFETY: the kernel has just created this descriptor for us.
    made.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The effective user of a process, as its status says: the owner of its directory in `/proc` is
/// root for some.
fn user_of(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_whitespace().nth(1)?.parse().ok()
}

/// Gives the caller a copy of `socket`, whose number is what its call returns.
fn hand_over(
    listener: &OwnedFd,
    request: &libc::seccomp_notif,
    socket: &OwnedFd,
    kind: c_int,
) -> Result<(), Errno> {
    let mut given = libc::seccomp_notif_addfd {
        id: request.id,
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: socket.as_raw_fd() as u32,
        newfd: 0,
        newfd_flags: (kind & libc::SOCK_CLOEXEC) as u32,
    };
    // SAFETY: this ioctl reads a struct of this type.
    let added = unsafe { notify(listener, libc::SECCOMP_IOCTL_NOTIF_ADDFD, &mut given) };
    match added {
        Ok(()) | Err(libc::ENOENT) => Ok(()),
        // It has no room for more descriptors, say.
        Err(errno) => respond(listener, request, -errno, 0),
    }
}

fn respond(
    listener: &OwnedFd,
    request: &libc::seccomp_notif,
    error: c_int,
    flags: u32,
) -> Result<(), Errno> {
    let mut response = libc::seccomp_notif_resp {
        id: request.id,
        val: 0,
        error,
        flags,
    };
    // SAFETY: this ioctl reads a struct of this type.
    unsafe { notify(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &mut response) }
}

/// # Safety
///
/// `argument` is of the type that `operation` reads or writes.
unsafe fn notify<T>(
    listener: &OwnedFd,
    operation: libc::Ioctl,
    argument: &mut T,
) -> Result<(), Errno> {
    // SAFETY: the caller vouches for the argument, and the descriptor is open.
    let result = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            operation,
            std::ptr::from_mut(argument),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_stay_inside_the_program() {
        seccomp::expect_jumps_inside(&program());
    }

    #[test]
    fn only_plain_sockets_of_the_internet_are_given() {
        let given = |family, kind, protocol| {
            let wanted = Wanted {
                family,
                kind,
                protocol,
            };
            wanted.is_given()
        };
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        assert!(given(libc::AF_INET, libc::SOCK_STREAM | flags, 0));
        assert!(given(libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP));
        assert!(given(libc::AF_NETLINK, libc::SOCK_RAW | flags, 0));
        assert!(!given(libc::AF_UNIX, libc::SOCK_STREAM, 0));
        assert!(!given(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP));
        assert!(!given(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP));
        assert!(!given(
            libc::AF_NETLINK,
            libc::SOCK_RAW,
            libc::NETLINK_KOBJECT_UEVENT
        ));
    }
}
