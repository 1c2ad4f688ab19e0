//! The socket for announcing roots to a running collector: `<state>/gc-socket/socket`.
//!
//! The protocol is that of Nix since 2.4, as observed between its programs. A client writes a store
//! path and a newline. The collector replies with the byte `1` once the path can no longer be
//! deleted, or has been deleted completely. A connection may carry any number of such exchanges.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

const DIRECTORY: &str = "gc-socket";
const SOCKET: &str = "socket";

/// The collector's reply when a root is safe.
pub(in crate::local_fs) const ACKNOWLEDGED: u8 = b'1';

/// Connects to the collector that holds the lock.
///
/// # Errors
///
/// `ConnectionRefused` and `NotFound` mean that the collector has ended or has just started.
pub(in crate::local_fs) fn connect(state: &Path) -> io::Result<UnixStream> {
    let directory = File::open(state.join(DIRECTORY))?;
    UnixStream::connect(short(&directory, SOCKET))
}

/// Ensures that the socket file exists, even with no listener. While a collector runs, Nix 2.8
/// fails if the file is missing, but retries if the connection is refused.
pub(in crate::local_fs) fn prepare(state: &Path) -> io::Result<()> {
    let directory = open_directory(state)?;
    match UnixListener::bind(short(&directory, SOCKET)) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        bound => bound.map(drop),
    }
}

/// Listens on the socket. The caller holds the lock exclusively. The socket file exists at every
/// moment.
pub(in crate::local_fs) fn listen(state: &Path) -> io::Result<UnixListener> {
    let directory = open_directory(state)?;
    let name = format!("{SOCKET}.tmp-{}", std::process::id());
    let temporary = short(&directory, &name);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    // Every user that may build may announce roots.
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o666))?;
    fs::rename(&temporary, short(&directory, SOCKET))?;
    Ok(listener)
}

fn open_directory(state: &Path) -> io::Result<File> {
    let path = state.join(DIRECTORY);
    fs::create_dir_all(&path)?;
    File::open(path)
}

/// A name short enough for a socket address (108 bytes), regardless of the location of the store.
fn short(directory: &File, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()).into()
}
