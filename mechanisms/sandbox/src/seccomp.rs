//! The system call filter of builders.
//!
//! Refused are what would let an output carry more than contents and an executable bit
//! (set-user-ID and set-group-ID modes, extended attributes, file flags), kernel interfaces that go
//! around such a filter (`io_uring`) or around the missing terminal (`TIOCSTI`), and kernel keyrings,
//! which know no namespace of their own.
//!
//! The kernel compiles a filter anew for each thread it is installed on, which costs more than
//! all mounts of a sandbox together. It is therefore installed once, on the spawner threads,
//! and every builder inherits it.

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO, sock_filter, sock_fprog,
};

use super::sys::Errno;

/// Offsets in `struct seccomp_data`.
pub(super) const OFFSET_NR: u32 = 0;
pub(super) const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

const SET_ID_BITS: u32 = 0o6000;
/// `O_CREAT`, and the bit of `O_TMPFILE` that is not `O_DIRECTORY`.
const CREATES: u32 = 0o100 | 0o20000000;

/// What happens to a system call.
#[derive(Clone, Copy)]
enum Rule {
    /// It fails with this error.
    Refuse(i32),
    /// It fails when the mode in this argument has a set-ID bit.
    Mode(u32),
    /// The same, when the flags in the first argument say that a file may be created.
    ModeIfCreating(u32, u32),
    /// `ioctl`: refused for the requests in [`REQUESTS`].
    Ioctl,
}

use Rule::{Ioctl, Mode, ModeIfCreating, Refuse};

/// One system call interface: its audit number and what it calls the refused calls.
struct Abi {
    arch: u32,
    rules: &'static [(u32, Rule)],
    /// System call numbers from here on belong to a further interface (x32), and are refused.
    limit: Option<u32>,
}

/// System calls with the same number in every interface.
const COMMON: &[(u32, Rule)] = &[
    (425, Refuse(libc::ENOSYS)), // io_uring_setup
    (426, Refuse(libc::ENOSYS)), // io_uring_enter
    (427, Refuse(libc::ENOSYS)), // io_uring_register
    // Its mode is in memory, where no filter looks, and may be 04755. All that use it can do without,
    // as Linux before 5.6 does not have it.
    (437, Refuse(libc::ENOSYS)),  // openat2
    (452, Mode(2)),               // fchmodat2
    (463, Refuse(libc::ENOTSUP)), // setxattrat
    (469, Refuse(libc::ENOSYS)),  // file_setattr
];

/// Requests of `ioctl` that are refused, in the forms of 64-bit and of 32-bit programs.
///
/// File flags outlive the build in its output, and some keep files from being removed. So do
/// subvolumes, which their owner can make read-only. Keys of encrypted directories are in a keyring
/// of the file system that all its users share.
const REQUESTS: &[(u32, i32)] = &[
    (libc::TIOCSTI as u32, libc::EPERM),
    (libc::TIOCLINUX as u32, libc::EPERM),
    (0x4008_6602, libc::ENOTSUP), // FS_IOC_SETFLAGS
    (0x4004_6602, libc::ENOTSUP), // FS_IOC32_SETFLAGS
    (0x401c_5820, libc::ENOTSUP), // FS_IOC_FSSETXATTR
    (0x4080_6685, libc::ENOTSUP), // FS_IOC_ENABLE_VERITY
    (0x800c_6613, libc::ENOTSUP), // FS_IOC_SET_ENCRYPTION_POLICY
    (0xc050_6617, libc::ENOTSUP), // FS_IOC_ADD_ENCRYPTION_KEY
    (0xc040_6618, libc::ENOTSUP), // FS_IOC_REMOVE_ENCRYPTION_KEY
    (0x5000_940e, libc::ENOTSUP), // BTRFS_IOC_SUBVOL_CREATE
    (0x5000_9418, libc::ENOTSUP), // BTRFS_IOC_SUBVOL_CREATE_V2
    (0x5000_9401, libc::ENOTSUP), // BTRFS_IOC_SNAP_CREATE
    (0x5000_9417, libc::ENOTSUP), // BTRFS_IOC_SNAP_CREATE_V2
    (0x4008_941a, libc::ENOTSUP), // BTRFS_IOC_SUBVOL_SETFLAGS
    (0x4020_bc10, libc::ENOTSUP), // BCH_IOCTL_SUBVOLUME_CREATE
];

#[cfg(target_arch = "x86_64")]
const ABIS: &[Abi] = &[
    Abi {
        arch: 0xc000_003e,
        limit: Some(0x4000_0000),
        rules: &[
            (90, Mode(1)),                // chmod
            (91, Mode(1)),                // fchmod
            (268, Mode(2)),               // fchmodat
            (2, ModeIfCreating(1, 2)),    // open
            (257, ModeIfCreating(2, 3)),  // openat
            (85, Mode(1)),                // creat
            (133, Mode(1)),               // mknod
            (259, Mode(2)),               // mknodat
            (188, Refuse(libc::ENOTSUP)), // setxattr
            (189, Refuse(libc::ENOTSUP)), // lsetxattr
            (190, Refuse(libc::ENOTSUP)), // fsetxattr
            (248, Refuse(libc::ENOSYS)),  // add_key
            (249, Refuse(libc::ENOSYS)),  // request_key
            (250, Refuse(libc::ENOSYS)),  // keyctl
            (16, Ioctl),
        ],
    },
    Abi {
        arch: 0x4000_0003,
        limit: None,
        rules: &[
            (15, Mode(1)),                // chmod
            (94, Mode(1)),                // fchmod
            (306, Mode(2)),               // fchmodat
            (5, ModeIfCreating(1, 2)),    // open
            (295, ModeIfCreating(2, 3)),  // openat
            (8, Mode(1)),                 // creat
            (14, Mode(1)),                // mknod
            (297, Mode(2)),               // mknodat
            (226, Refuse(libc::ENOTSUP)), // setxattr
            (227, Refuse(libc::ENOTSUP)), // lsetxattr
            (228, Refuse(libc::ENOTSUP)), // fsetxattr
            (286, Refuse(libc::ENOSYS)),  // add_key
            (287, Refuse(libc::ENOSYS)),  // request_key
            (288, Refuse(libc::ENOSYS)),  // keyctl
            (54, Ioctl),
        ],
    },
];

/// The interface that new architectures share.
#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
const GENERIC_RULES: &[(u32, Rule)] = &[
    (52, Mode(1)),               // fchmod
    (53, Mode(2)),               // fchmodat
    (56, ModeIfCreating(2, 3)),  // openat
    (33, Mode(2)),               // mknodat
    (5, Refuse(libc::ENOTSUP)),  // setxattr
    (6, Refuse(libc::ENOTSUP)),  // lsetxattr
    (7, Refuse(libc::ENOTSUP)),  // fsetxattr
    (217, Refuse(libc::ENOSYS)), // add_key
    (218, Refuse(libc::ENOSYS)), // request_key
    (219, Refuse(libc::ENOSYS)), // keyctl
    (29, Ioctl),
];

#[cfg(target_arch = "aarch64")]
const ABIS: &[Abi] = &[
    Abi {
        arch: 0xc000_00b7,
        limit: None,
        rules: GENERIC_RULES,
    },
    Abi {
        arch: 0x4000_0028,
        limit: None,
        rules: &[
            (15, Mode(1)),                // chmod
            (94, Mode(1)),                // fchmod
            (333, Mode(2)),               // fchmodat
            (5, ModeIfCreating(1, 2)),    // open
            (322, ModeIfCreating(2, 3)),  // openat
            (8, Mode(1)),                 // creat
            (14, Mode(1)),                // mknod
            (324, Mode(2)),               // mknodat
            (226, Refuse(libc::ENOTSUP)), // setxattr
            (227, Refuse(libc::ENOTSUP)), // lsetxattr
            (228, Refuse(libc::ENOTSUP)), // fsetxattr
            (309, Refuse(libc::ENOSYS)),  // add_key
            (310, Refuse(libc::ENOSYS)),  // request_key
            (311, Refuse(libc::ENOSYS)),  // keyctl
            (54, Ioctl),
        ],
    },
];

#[cfg(target_arch = "riscv64")]
const ABIS: &[Abi] = &[Abi {
    arch: 0xc000_00f3,
    limit: None,
    rules: GENERIC_RULES,
}];

#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
compile_error!(
    "the sandbox has no system call table for this architecture: build without the feature `sandbox`"
);

pub(super) fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

pub(super) fn jump(test: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: (BPF_JMP | test | BPF_K) as u16,
        jt,
        jf,
        k,
    }
}

fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

/// Loads the low half of an argument. Modes, flags and ioctl requests are 32 bits wide for the
/// kernel too, so ignoring the high half is what makes the check tight.
pub(super) fn load_argument(index: u32) -> sock_filter {
    let low_half = if cfg!(target_endian = "big") { 4 } else { 0 };
    load(OFFSET_ARGS + 8 * index + low_half)
}

fn allow() -> sock_filter {
    statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
}

fn fail(errno: i32) -> sock_filter {
    statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | errno as u32)
}

/// What is done once the number has matched. Always ends in a return.
fn body(rule: Rule) -> Vec<sock_filter> {
    match rule {
        Refuse(errno) => vec![fail(errno)],
        Mode(mode) => vec![
            load_argument(mode),
            jump(BPF_JSET, SET_ID_BITS, 0, 1),
            fail(libc::EPERM),
            allow(),
        ],
        ModeIfCreating(flags, mode) => vec![
            load_argument(flags),
            jump(BPF_JSET, CREATES, 0, 3),
            load_argument(mode),
            jump(BPF_JSET, SET_ID_BITS, 0, 1),
            fail(libc::EPERM),
            allow(),
        ],
        Ioctl => {
            let mut code = vec![load_argument(1)];
            for (request, errno) in REQUESTS {
                code.extend([jump(BPF_JEQ, *request, 0, 1), fail(*errno)]);
            }
            code.push(allow());
            code
        }
    }
}

/// The whole filter.
pub(super) fn program() -> Vec<sock_filter> {
    let mut code = Vec::new();
    for abi in ABIS {
        let mut section = vec![load(OFFSET_NR)];
        if let Some(limit) = abi.limit {
            section.push(jump(libc::BPF_JGE, limit, 0, 1));
            section.push(fail(libc::ENOSYS));
        }
        for (number, rule) in abi.rules.iter().chain(COMMON) {
            let body = body(*rule);
            section.push(jump(BPF_JEQ, *number, 0, body.len() as u8));
            section.extend(body);
        }
        section.push(allow());
        // Sections are shorter than the 255 instructions that a conditional jump spans.
        code.push(load(OFFSET_ARCH));
        code.push(jump(BPF_JEQ, abi.arch, 0, section.len() as u8));
        code.extend(section);
    }
    code.push(fail(libc::ENOSYS));
    code
}

/// Installs the filter, and `no_new_privs`, on the calling thread.
pub(super) fn install_on_this_thread() -> Result<(), Errno> {
    super::sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    install(&mut program(), 0).map(drop)
}

/// Installs a filter on the calling thread, which has `no_new_privs`. Returns what the kernel does:
/// the number of a descriptor if `flags` ask for one.
pub(super) fn install(code: &mut [sock_filter], flags: libc::c_ulong) -> Result<i64, Errno> {
    let filter = sock_fprog {
        len: code.len() as u16,
        filter: code.as_mut_ptr(),
    };
    // SAFETY: `filter` describes `code`, which the kernel copies.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const filter,
        )
    };
    if ret >= 0 {
        Ok(ret)
    } else {
        // SAFETY: as in `sys::check`.
        Err(unsafe { *libc::__errno_location() })
    }
}

/// That no jump of a filter leads out of it.
#[cfg(test)]
pub(super) fn expect_jumps_inside(code: &[sock_filter]) {
    for (at, instruction) in code.iter().enumerate() {
        if u32::from(instruction.code) & 7 == BPF_JMP {
            let farthest = instruction.jt.max(instruction.jf) as usize;
            assert!(at + 1 + farthest < code.len(), "instruction {at}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_stay_inside_the_program() {
        expect_jumps_inside(&program());
    }

    #[test]
    fn sections_fit_a_conditional_jump() {
        for abi in ABIS {
            let length: usize = abi
                .rules
                .iter()
                .chain(COMMON)
                .map(|(_, rule)| body(*rule).len() + 1)
                .sum();
            assert!(length + 4 < 255);
        }
    }
}
