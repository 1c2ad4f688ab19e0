//! Remote machines as builders: `--builders` and the setting `builders`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix_compat::machines::{self, Item, Machine};
use nix_compat::store_path::StoreDir;
use tvix_build_api::daemon::{DaemonBuilder, DaemonBuilderOptions};
use tvix_build_api::{BuilderProfile, this_system};
use tvix_store_api::daemon::DaemonOptions;
use tvix_store_api::{BoxError, StoreUri};

use crate::args::BuildingArgs;
use crate::error::CliError;
use crate::output::say;
use crate::stores;

/// Depth at which files include each other without end.
const DEEPEST: usize = 32;

/// The builders on remote machines. A machine that cannot be used causes a warning; whether it is
/// reachable shows when it is to build.
pub fn remote(args: &BuildingArgs, dir: &StoreDir) -> Result<Vec<Arc<DaemonBuilder>>, CliError> {
    let text = args.builders.clone().unwrap_or_else(usual);
    let mut found = Vec::new();
    read(&text, None, 0, &mut found)?;
    let system = args.system.as_deref().unwrap_or(this_system());
    let mut builders = Vec::new();
    for machine in found.into_iter().filter(|machine| machine.max_jobs > 0) {
        let name = machine.uri.clone();
        match builder(machine, system, args.builders_use_substitutes, dir) {
            Ok(builder) => builders.push(Arc::new(builder)),
            Err(error) => say!("warning: cannot build on '{name}': {error}"),
        }
    }
    Ok(builders)
}

/// The default of the setting.
fn usual() -> String {
    let directory = std::env::var_os("NIX_CONF_DIR").filter(|it| !it.is_empty());
    let directory = directory.map_or_else(|| PathBuf::from("/etc/nix"), PathBuf::from);
    format!("@{}", directory.join("machines").display())
}

/// Reads machines, with those of files that the text includes. Files that do not exist are passed over,
/// as in Nix.
fn read(
    text: &str,
    file: Option<&Path>,
    depth: usize,
    found: &mut Vec<Machine>,
) -> Result<(), CliError> {
    let place = || file.map_or("--builders".to_owned(), |file| file.display().to_string());
    for entry in machines::parse(text) {
        let entry = entry.map_err(|source| CliError::Machines {
            place: place(),
            source,
        })?;
        match entry.item {
            Item::Machine(machine) => found.push(machine),
            Item::Include(path) if depth < DEEPEST => {
                let path = Path::new(path);
                match std::fs::read(path) {
                    Ok(text) => {
                        let text = String::from_utf8_lossy(&text);
                        read(&text, Some(path), depth + 1, found)?;
                    }
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(source) => {
                        return Err(CliError::File {
                            action: "read the machines of",
                            file: path.to_owned(),
                            source,
                        });
                    }
                }
            }
            _ => {
                return Err(CliError::Option {
                    what: place(),
                    message: format!("more than {DEEPEST} files include each other"),
                });
            }
        }
    }
    Ok(())
}

fn builder(
    machine: Machine,
    system: &str,
    use_substitutes: bool,
    dir: &StoreDir,
) -> Result<DaemonBuilder, BoxError> {
    let name = without_parameters(&machine.uri).to_owned();
    let daemon = DaemonOptions::new(daemon_uri(&machine)?)?;
    let daemon = daemon.with_ssh_arguments(stores::ssh_arguments());
    if daemon.store_dir() != dir {
        let other = daemon.store_dir();
        return Err(format!("its store directory is '{other}', not '{dir}'").into());
    }
    let jobs = usize::try_from(machine.max_jobs).unwrap_or(usize::MAX);
    let systems = machine
        .systems
        .unwrap_or_else(|| [system.to_owned()].into());
    let profile = BuilderProfile::new(name, system, jobs)
        .with_systems(systems)
        .with_features(machine.features)
        .with_mandatory_features(machine.mandatory_features)
        .with_speed_factor(machine.speed_factor);
    let options = DaemonBuilderOptions::new(daemon, profile);
    let options = options.with_use_substitutes(use_substitutes);
    Ok(DaemonBuilder::new(options))
}

/// The URI of the daemon of a machine. `ssh://` is the way of Nix before its daemon was reachable by SSH:
/// every machine that has the one program has the other.
fn daemon_uri(machine: &Machine) -> Result<StoreUri, BoxError> {
    let (place, parameters) = match machine.uri.split_once('?') {
        Some((place, parameters)) => (place, parameters),
        None => (machine.uri.as_str(), ""),
    };
    let mut parameters: Vec<String> = parameters
        .split('&')
        .filter(|it| !it.is_empty())
        .map(str::to_owned)
        .collect();
    let place = match place.strip_prefix("ssh://") {
        Some(host) => {
            for parameter in &mut parameters {
                if parameter.starts_with("remote-program=") && parameter.ends_with("nix-store") {
                    parameter.truncate(parameter.len() - "store".len());
                    parameter.push_str("daemon");
                }
            }
            format!("ssh-ng://{host}")
        }
        None => place.to_owned(),
    };
    if place.starts_with("ssh-ng://") {
        let key = machine.ssh_key.as_ref().map(|key| ("ssh-key", key));
        let host_key = machine.host_key.as_ref();
        let host_key = host_key.map(|key| ("base64-ssh-public-host-key", key));
        for (name, value) in key.into_iter().chain(host_key) {
            parameters.push(format!("{name}={}", escaped(value)));
        }
    }
    let uri = match parameters.is_empty() {
        true => place,
        false => format!("{place}?{}", parameters.join("&")),
    };
    Ok(uri.parse()?)
}

fn without_parameters(uri: &str) -> &str {
    uri.split('?').next().unwrap_or(uri)
}

/// A value of a parameter of a URI.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'%' | b'&' | b'+' | b'#' | b'=' | b' ' => escaped.push_str(&format!("%{byte:02X}")),
            byte => escaped.push(char::from(byte)),
        }
    }
    escaped
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn uri(line: &str) -> String {
        let entry = machines::parse(line).next().unwrap().unwrap();
        let Item::Machine(machine) = entry.item else {
            panic!("{line}")
        };
        daemon_uri(&machine).unwrap().to_string()
    }

    #[test]
    fn uris_of_daemons() {
        for (line, expected) in [
            ("host", "ssh-ng://host"),
            ("ssh://me@host:22", "ssh-ng://me@host:22"),
            (
                "ssh://host?remote-program=/opt/bin/nix-store",
                "ssh-ng://host?remote-program=/opt/bin/nix-daemon",
            ),
            ("ssh-ng://host - /key", "ssh-ng://host?ssh-key=/key"),
            ("unix:///socket?root=/r - /key", "unix:///socket?root=/r"),
            ("daemon", "daemon"),
        ] {
            assert_eq!(uri(line), expected);
        }
    }

    #[test]
    fn files_include_others() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("machines");
        let place = file.display();
        std::fs::write(&file, format!("a\n@{place}.more\n@{place}.gone\n")).unwrap();
        std::fs::write(directory.path().join("machines.more"), "b - - 0;c\n").unwrap();
        let mut found = Vec::new();
        read(&format!("@{place};d"), None, 0, &mut found).unwrap();
        let uris: Vec<_> = found.iter().map(|it| it.uri.as_str()).collect();
        assert_eq!(uris, ["ssh://a", "ssh://b", "ssh://c", "ssh://d"]);
        std::fs::write(&file, format!("@{place}")).unwrap();
        assert!(read(&format!("@{place}"), None, 0, &mut found).is_err());
        std::fs::write(&file, "x\ny - - many\n").unwrap();
        let error = read(&format!("@{place}"), None, 0, &mut found).unwrap_err();
        assert_eq!(error.to_string(), format!("invalid machines in '{place}'"));
    }
}
