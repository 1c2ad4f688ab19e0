//! Where a daemon is, and how it is used.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use nix_compat::store_path::StoreDir;
use tvix_worker_protocol::Limits;

use crate::{BoxError, StoreUri};

/// The socket of the system's daemon.
const SYSTEM_SOCKET: &str = "/nix/var/nix/daemon-socket/socket";

/// Parameters of all daemons. Of the parameters that Nix has for any store, those that say how it
/// serves as a substituter are without effect here.
const COMMON: [&str; 7] = [
    "max-connection-age",
    "max-connections",
    "path-info-cache-size",
    "priority",
    "store",
    "system-features",
    "want-mass-query",
];

const LOCAL: [&str; 1] = ["root"];

const SSH: [&str; 4] = ["compress", "remote-program", "remote-store", "ssh-key"];

/// Settings of a [`DaemonStore`](super::DaemonStore).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DaemonOptions {
    pub(super) uri: StoreUri,
    pub(super) address: Address,
    pub(super) store_dir: StoreDir,
    pub(super) root: Option<PathBuf>,
    pub(super) connections: usize,
    pub(super) attempts: u32,
    pub(super) first_pause: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) temporary_roots: bool,
    pub(super) limits: Limits,
}

/// How a daemon is reached.
#[derive(Debug, Clone)]
pub(super) enum Address {
    Socket(PathBuf),
    Program {
        program: OsString,
        arguments: Vec<OsString>,
    },
}

impl DaemonOptions {
    /// The daemon of a URI:
    ///
    /// - `daemon`: the system's daemon.
    /// - `unix:///path/to/socket`: another one on this machine. With `root`, its files are below
    ///   that directory.
    /// - `ssh-ng://[user@]host[:port]`: a daemon that `ssh` starts on another machine, with
    ///   `remote-store` (the store that it serves), `remote-program` [default: `nix-daemon`],
    ///   `ssh-key` (a file) and `compress`.
    ///
    /// All have `store` (the store directory) and `max-connections`.
    ///
    /// # Errors
    ///
    /// If the URI is another one, or a parameter is unknown or invalid.
    pub fn new(uri: StoreUri) -> Result<Self, BoxError> {
        let (address, known) = match uri.scheme() {
            "daemon" => (Address::Socket(SYSTEM_SOCKET.into()), &LOCAL[..]),
            "unix" if uri.location().starts_with('/') => {
                (Address::Socket(uri.location().into()), &LOCAL[..])
            }
            "unix" if uri.location().is_empty() => {
                (Address::Socket(SYSTEM_SOCKET.into()), &LOCAL[..])
            }
            "unix" => return Err("the path of the socket is not absolute".into()),
            "ssh-ng" => (ssh(&uri)?, &SSH[..]),
            scheme => return Err(format!("'{scheme}' is not the scheme of a daemon").into()),
        };
        for (name, _) in uri.parameters() {
            if !COMMON.contains(&name) && !known.contains(&name) {
                return Err(uri.unknown_parameter(name).into());
            }
        }
        let store_dir = match uri.parameter("store") {
            Some(dir) => StoreDir::new(dir)?,
            None => StoreDir::default(),
        };
        // Another machine's processes are not for us to multiply.
        let mut connections = match address {
            Address::Socket(_) => 8,
            Address::Program { .. } => 4,
        };
        if let Some(text) = uri.parameter("max-connections") {
            connections = text
                .parse()
                .ok()
                .filter(|number| *number > 0)
                .ok_or_else(|| format!("max-connections '{text}' is not a positive number"))?;
        }
        let root = match &address {
            Address::Socket(_) => Some(uri.parameter("root").unwrap_or("/").into()),
            Address::Program { .. } => None,
        };
        Ok(Self {
            uri,
            address,
            store_dir,
            root,
            connections,
            attempts: 3,
            first_pause: Duration::from_millis(50),
            connect_timeout: Duration::from_secs(60),
            temporary_roots: true,
            limits: Limits::default(),
        })
    }

    /// The URI of the daemon.
    pub fn uri(&self) -> &StoreUri {
        &self.uri
    }

    /// The store directory of the daemon.
    pub fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    /// Sets the maximum number of connections for requests. As many again may read NARs, as many may
    /// receive NARs, and one holds temporary roots. [default: 8; 4 over SSH]
    #[must_use]
    pub fn with_connections(mut self, connections: usize) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// Sets how often a request that changes nothing is tried when connections fail [default: 3].
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Sets how long a connection may take until the daemon is ready [default: one minute].
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Whether paths that are found valid or added are temporary roots of the garbage collector
    /// while the store is open [default: true].
    #[must_use]
    pub fn with_temporary_roots(mut self, keep: bool) -> Self {
        self.temporary_roots = keep;
        self
    }

    /// Sets the limits of what the daemon may send.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the program that is run in place of `ssh`, with the same arguments. Without effect for
    /// sockets.
    #[must_use]
    pub fn with_ssh_program(mut self, ssh: impl Into<OsString>) -> Self {
        if let Address::Program { program, .. } = &mut self.address {
            *program = ssh.into();
        }
        self
    }

    /// Adds arguments of `ssh`, such as those of `NIX_SSHOPTS`. Without effect for sockets.
    #[must_use]
    pub fn with_ssh_arguments<A: Into<OsString>>(
        mut self,
        more: impl IntoIterator<Item = A>,
    ) -> Self {
        if let Address::Program { arguments, .. } = &mut self.address {
            arguments.splice(0..0, more.into_iter().map(Into::into));
        }
        self
    }
}

/// The command line of `ssh`.
fn ssh(uri: &StoreUri) -> Result<Address, BoxError> {
    let authority = uri.location();
    let (user, place) = match authority.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, authority),
    };
    // `[::1]:22`, `host:22`.
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("the address has no ']'")?;
            (
                host,
                rest.strip_prefix(':')
                    .or(Some("").filter(|_| !rest.is_empty())),
            )
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    // ssh would take it for an option.
    for (what, text) in [("host", Some(host)), ("user", user)] {
        if text.is_some_and(|text| text.is_empty() || text.starts_with('-') || text.contains('/')) {
            return Err(format!("the name of the {what} in '{authority}' is invalid").into());
        }
    }
    let mut arguments: Vec<OsString> = vec!["-x".into()];
    if let Some(key) = uri.parameter("ssh-key") {
        arguments.extend(["-i".into(), key.into()]);
    }
    match uri.parameter("compress") {
        None | Some("false") => {}
        Some("true") => arguments.push("-C".into()),
        Some(other) => {
            return Err(format!("compress '{other}' is neither 'true' nor 'false'").into());
        }
    }
    if let Some(port) = port {
        let port: u16 = port
            .parse()
            .map_err(|_| format!("'{port}' is not a port"))?;
        arguments.push(format!("-p{port}").into());
    }
    let destination = match user {
        Some(user) => format!("{user}@{host}"),
        None => host.to_owned(),
    };
    arguments.extend([destination.into(), "--".into()]);
    let program = uri.parameter("remote-program").unwrap_or("nix-daemon");
    // ssh joins its arguments, and the user's shell on the other side splits them.
    arguments.extend(program.split_whitespace().map(|word| quoted(word).into()));
    arguments.push("--stdio".into());
    if let Some(store) = uri.parameter("remote-store") {
        arguments.extend(["--store".into(), quoted(store).into()]);
    }
    let program = "ssh".into();
    Ok(Address::Program { program, arguments })
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn options(uri: &str) -> Result<DaemonOptions, BoxError> {
        DaemonOptions::new(uri.parse().unwrap())
    }

    fn arguments(uri: &str) -> Vec<String> {
        match options(uri).unwrap().address {
            Address::Program { arguments, .. } => arguments
                .into_iter()
                .map(|it| it.into_string().unwrap())
                .collect(),
            Address::Socket(_) => panic!("{uri} is a socket"),
        }
    }

    #[test]
    fn command_lines_of_ssh() {
        assert_eq!(
            arguments("ssh-ng://host"),
            ["-x", "host", "--", "nix-daemon", "--stdio"]
        );
        assert_eq!(
            arguments(
                "ssh-ng://me@host:22?compress=true&ssh-key=/k&remote-store=/a b&remote-program=nix daemon"
            ),
            [
                "-x", "-i", "/k", "-C", "-p22", "me@host", "--", "nix", "daemon", "--stdio",
                "--store", "'/a b'",
            ]
        );
        assert_eq!(arguments("ssh-ng://[::1]:22")[1..3], ["-p22", "::1"]);
        for bad in [
            "ssh-ng://",
            "ssh-ng://-oProxyCommand=x",
            "ssh-ng://-u@host",
            "ssh-ng://@host",
            "ssh-ng://host/path",
            "ssh-ng://host:x",
            "ssh-ng://[::1",
            "ssh-ng://host?compress=maybe",
            "ssh-ng://host?root=/x",
        ] {
            assert!(options(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sockets() {
        for (uri, socket, root) in [
            ("daemon", SYSTEM_SOCKET, "/"),
            ("unix://", SYSTEM_SOCKET, "/"),
            ("unix:///some/socket?root=/r", "/some/socket", "/r"),
        ] {
            let options = options(uri).unwrap();
            assert!(
                matches!(options.address, Address::Socket(it) if it == *socket),
                "{uri}"
            );
            assert_eq!(options.root.unwrap(), *root);
        }
        for bad in [
            "unix://relative",
            "daemon?x=y",
            "daemon?max-connections=0",
            "local",
        ] {
            assert!(options(bad).is_err(), "{bad}");
        }
        assert_eq!(options("daemon?max-connections=3").unwrap().connections, 3);
    }
}
