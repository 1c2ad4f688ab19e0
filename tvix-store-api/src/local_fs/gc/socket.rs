//! The socket by which a collector is told of roots while it collects: `<state>/gc-socket/socket`.
//!
//! Nix's protocol since 2.4, read from what its programs say to each other: a client writes a store
//! path and a newline, and the collector answers with the byte `1` once the path cannot be deleted
//! any more, or is gone for good. Any number of them may follow each other.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

const DIRECTORY: &str = "gc-socket";
const SOCKET: &str = "socket";

/// What the collector says when a root is safe.
pub(in crate::local_fs) const ACKNOWLEDGED: u8 = b'1';

/// Connects to the collector that has the lock.
///
/// # Errors
///
/// `ConnectionRefused` and `NotFound` say that it has ended, or has just begun.
pub(in crate::local_fs) fn connect(state: &Path) -> io::Result<UnixStream> {
    let directory = File::open(state.join(DIRECTORY))?;
    UnixStream::connect(short(&directory, SOCKET))
}

/// Makes sure that there is a socket, if one that nobody answers: Nix 2.8 fails if there is none
/// while there is a collector, and tries again if nobody answers.
pub(in crate::local_fs) fn prepare(state: &Path) -> io::Result<()> {
    let directory = open_directory(state)?;
    match UnixListener::bind(short(&directory, SOCKET)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        bound => bound.map(drop),
    }
}

/// Listens. Only who has the lock alone may. There is a socket at every moment.
pub(in crate::local_fs) fn listen(state: &Path) -> io::Result<UnixListener> {
    let directory = open_directory(state)?;
    let name = format!("{SOCKET}.tmp-{}", std::process::id());
    let temporary = short(&directory, &name);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    // Whoever may build may tell of roots.
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o666))?;
    fs::rename(&temporary, short(&directory, SOCKET))?;
    Ok(listener)
}

fn open_directory(state: &Path) -> io::Result<File> {
    let path = state.join(DIRECTORY);
    fs::create_dir_all(&path)?;
    File::open(path)
}

/// A name that fits into an address of a socket, which has 108 bytes, wherever the store is.
fn short(directory: &File, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()).into()
}
