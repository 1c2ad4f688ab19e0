//! The store that is meant where none is named: `auto`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use rustix::fs::{Access, access};
use tvix_store_api::StoreUri;

use crate::error::CliError;
use crate::home;
use crate::output::say;

/// Where Nix keeps the state of the system's store.
const STATE: &str = "/nix/var/nix";

/// Conditions for the default store.
#[derive(Debug, Clone)]
struct Machine {
    /// The state directory of the system's store exists.
    exists: bool,
    /// The user can write to the system's store, or is root, and it is created.
    writable: bool,
    /// The socket of the system's daemon exists.
    daemon: bool,
}

/// The kind of store that `auto` stands for, as in Nix (manual, "Store URL format").
#[derive(Debug, PartialEq, Eq)]
enum Auto {
    System,
    Daemon,
    Own,
}

impl Machine {
    fn look() -> Self {
        let state = Path::new(STATE);
        let database = state.join("db");
        Self {
            exists: state.exists(),
            writable: match database.exists() {
                true => access(&database, Access::READ_OK | Access::WRITE_OK).is_ok(),
                false => rustix::process::geteuid().is_root(),
            },
            daemon: socket().exists(),
        }
    }

    fn auto(&self) -> Auto {
        match self {
            Self { writable: true, .. } => Auto::System,
            Self { daemon: true, .. } => Auto::Daemon,
            _ => Auto::Own,
        }
    }
}

/// The socket of the system's daemon, which may be elsewhere as for Nix.
fn socket() -> PathBuf {
    let place = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    place("NIX_DAEMON_SOCKET_PATH").map_or_else(
        || Path::new(STATE).join("daemon-socket/socket"),
        PathBuf::from,
    )
}

/// The store of a command: the one that is named, or NIX_REMOTE, with `auto` and `daemon` replaced by their meaning.
/// The first time that a store of the user's own is meant, says so.
pub fn resolve(uri: Option<StoreUri>) -> Result<StoreUri, CliError> {
    let uri = match uri {
        Some(uri) => Some(uri),
        None => from_environment()?,
    };
    Ok(match uri {
        Some(uri) if uri.scheme() == "daemon" => at_socket(uri),
        Some(uri) if uri.scheme() != "auto" => uri,
        _ => {
            let machine = Machine::look();
            match machine.auto() {
                Auto::System => StoreUri::local("/"),
                Auto::Daemon => at_socket("daemon".parse().map_err(CliError::store_uri)?),
                Auto::Own => {
                    let root = own_root();
                    tell_once(&machine, &root);
                    StoreUri::local(root)
                }
            }
        }
    })
}

/// `daemon` at another socket, if the environment names one.
fn at_socket(uri: StoreUri) -> StoreUri {
    if std::env::var_os("NIX_DAEMON_SOCKET_PATH").is_none_or(|place| place.is_empty()) {
        return uri;
    }
    let parameters = uri.to_string();
    let parameters = parameters.strip_prefix("daemon").unwrap_or_default();
    let place = format!("unix://{}{parameters}", socket().display());
    place.parse().unwrap_or(uri)
}

fn from_environment() -> Result<Option<StoreUri>, CliError> {
    match std::env::var("NIX_REMOTE") {
        Ok(uri) if !uri.is_empty() => {
            let uri = uri.parse();
            uri.map(Some).map_err(CliError::store_uri)
        }
        _ => Ok(None),
    }
}

/// Whether a store is the one of this user that stands in for the system's.
pub fn is_own(uri: &StoreUri) -> bool {
    uri.local_root() == Some(own_root())
}

/// The system's store, if this user can read it: a substituter for a store of the user's own.
pub fn system_store() -> Option<StoreUri> {
    let database = Path::new(STATE).join("db/db.sqlite");
    access(&database, Access::READ_OK)
        .is_ok()
        .then(|| StoreUri::local("/"))
}

/// The root of the user's own store, as in Nix.
fn own_root() -> PathBuf {
    directory_of_user("XDG_DATA_HOME", ".local/share").join("nix/root")
}

/// A directory of the XDG Base Directory Specification.
pub fn directory_of_user(variable: &str, below_home: &str) -> PathBuf {
    let given = std::env::var_os(variable).map(PathBuf::from);
    // Relative ones are to be ignored, says the specification.
    let given = given.filter(|directory| directory.is_absolute());
    given.unwrap_or_else(|| {
        home::directory()
            .unwrap_or_else(std::env::temp_dir)
            .join(below_home)
    })
}

/// Says which store is used and why, unless a file remembers that this was said.
fn tell_once(machine: &Machine, root: &Path) {
    static TELL: Once = Once::new();
    TELL.call_once(|| tell(machine, root));
}

fn tell(machine: &Machine, root: &Path) {
    let said = directory_of_user("XDG_STATE_HOME", ".local/state").join("tvix/told-own-store");
    if fs::read_to_string(&said).is_ok_and(|known| Path::new(known.trim_end()) == root) {
        return;
    }
    let reason = match machine.exists {
        true => format!("'{STATE}' is not writable and no daemon is running"),
        false => format!("'{STATE}' does not exist"),
    };
    say!(
        "warning: {reason}, so '{}' is used as the store; this is said once",
        root.display()
    );
    // If it cannot be remembered, it is said again.
    let _ = said
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(&said, format!("{}\n", root.display())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_what_the_user_can_write_to() {
        let machine = |writable, daemon| Machine {
            exists: true,
            writable,
            daemon,
        };
        assert_eq!(machine(true, true).auto(), Auto::System);
        assert_eq!(machine(true, false).auto(), Auto::System);
        assert_eq!(machine(false, true).auto(), Auto::Daemon);
        assert_eq!(machine(false, false).auto(), Auto::Own);
    }
}
