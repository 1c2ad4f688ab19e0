//! What the file system keeps of a file beside its contents and its mode.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::Mode;
use rustix::io::Errno;

/// Attributes that stay, as with Nix (`ignored-acls`): a security module or a server labels every
/// file with them, and they are the machine's.
const LABELS: [&[u8]; 3] = [b"security.selinux", b"security.csm", b"system.nfs4_acl"];

/// Removes the extended attributes of a file or directory of ours, whose mode this may change.
pub(super) fn remove_attributes(file: BorrowedFd<'_>) -> io::Result<()> {
    // Not `flistxattr` with an empty buffer, which says that there is nothing in it.
    let len = match rustix::fs::flistxattr_query(file) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(()),
        len => len?,
    };
    let mut names = vec![0u8; len];
    let len = rustix::fs::flistxattr(file, &mut names)?;
    let names = names[..len].split(|byte| *byte == 0);
    let mut names = names.filter(|name| !name.is_empty() && !LABELS.contains(name));
    let Some(first) = names.next() else {
        return Ok(());
    };
    // Who is not root can change those of files alone that can be written to.
    let mode = Mode::from_raw_mode(rustix::fs::fstat(file)?.st_mode & 0o7777);
    rustix::fs::fchmod(file, mode | Mode::RUSR | Mode::WUSR)?;
    for name in std::iter::once(first).chain(names) {
        rustix::fs::fremovexattr(file, name)?;
    }
    Ok(())
}

/// Clears the flags that a build may have set (see `chattr`), above all those that keep a file from
/// being changed. Others, such as "no copy on write", files inherit from directories of the host's.
///
/// A flag that cannot be cleared stays: if it is in the way, the next change of the file says so.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn clear_flags(file: BorrowedFd<'_>) {
    use rustix::fs::IFlags;
    let of_builds = IFlags::IMMUTABLE
        | IFlags::APPEND
        | IFlags::NODUMP
        | IFlags::SYNC
        | IFlags::DIRSYNC
        | IFlags::SECURE_REMOVAL
        | IFlags::UNRM
        | IFlags::TOPDIR;
    // Many file systems have none.
    if let Ok(flags) = rustix::fs::ioctl_getflags(file)
        && flags.intersects(of_builds)
    {
        let _ = rustix::fs::ioctl_setflags(file, flags.difference(of_builds));
    }
}

/// There are none here that a build could set.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn clear_flags(_: BorrowedFd<'_>) {}
