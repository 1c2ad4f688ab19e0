//! The socket of a daemon.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// The longest path of a socket (`sockaddr_un`), in bytes.
const LONGEST: usize = 107;

/// Why a daemon cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot bind to socket '{}'", path.display())]
#[non_exhaustive]
pub struct BindError {
    /// The socket.
    pub path: PathBuf,
    /// The cause.
    pub source: io::Error,
}

/// Listens on a socket that every user may connect to (mode 0666). Creates its directories, and replaces a socket
/// that is there, whose daemon has ended or loses its clients to this one, as with Nix. A path that is too long for a
/// socket is reached through its directory. Blocks, briefly.
///
/// # Errors
///
/// [`BindError`], also if something else than a socket is there.
pub fn bind(path: &Path) -> Result<UnixListener, BindError> {
    let listener = listen(path).and_then(|listener| {
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    });
    listener.map_err(|source| BindError {
        path: path.to_owned(),
        source,
    })
}

fn listen(path: &Path) -> io::Result<net::UnixListener> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(ErrorKind::InvalidInput.into());
    };
    let mut builder = fs::DirBuilder::new();
    if !directory.as_os_str().is_empty() {
        builder.recursive(true).mode(0o755).create(directory)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => {
            let message = "something that is not a socket is there";
            return Err(io::Error::new(ErrorKind::AlreadyExists, message));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = if path.as_os_str().len() <= LONGEST {
        net::UnixListener::bind(path)?
    } else {
        use std::os::fd::AsRawFd as _;
        let directory = fs::File::open(directory)?;
        let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string());
        net::UnixListener::bind(short.join(name))?
    };
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    Ok(listener)
}
