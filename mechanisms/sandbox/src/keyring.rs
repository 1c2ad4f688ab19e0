//! The session keyring of builders.
//!
//! Kernel keyrings know no namespaces but user namespaces, and session keyrings not even these: they
//! are inherited. The system call filter refuses all calls to do with keys; what is left are uses
//! that the kernel makes of them on behalf of a process, such as opening an encrypted file.

use super::sys::Errno;

const JOIN_SESSION_KEYRING: libc::c_long = 1;

/// Gives the calling thread a new, empty session keyring, which its children inherit.
pub(super) fn new_session_keyring() -> Result<(), Errno> {
    // SAFETY: a null name asks for an anonymous keyring.
    let keyring = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0usize) };
    match keyring {
        // SAFETY: `__errno_location` has no preconditions and returns a valid pointer.
        -1 => Err(unsafe { *libc::__errno_location() }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of the calling thread's session keyring.
    fn session_keyring() -> libc::c_long {
        const GET_KEYRING_ID: libc::c_long = 0;
        const SESSION: libc::c_long = -3;
        // SAFETY: plain integers.
        unsafe { libc::syscall(libc::SYS_keyctl, GET_KEYRING_ID, SESSION, 0usize) }
    }

    #[test]
    fn a_thread_gets_a_keyring_of_its_own() {
        let ours = session_keyring();
        let made = std::thread::spawn(|| {
            new_session_keyring().map(|()| {
                let here = session_keyring();
                let child = std::thread::spawn(session_keyring).join().unwrap();
                (here, child)
            })
        });
        match made.join().unwrap() {
            Ok((here, child)) => {
                assert!(here > 0 && here != ours);
                assert_eq!(child, here);
                assert_eq!(session_keyring(), ours);
            }
            Err(errno) => eprintln!("SKIPPED: no keyrings here (error {errno})"),
        }
    }
}
