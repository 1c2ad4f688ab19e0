//! Nix's built-in builders: `builtin:fetchurl`, `builtin:unpack-channel` and `builtin:buildenv`.
//!
//! Built-in builders execute the instructions of derivations and talk to servers, so they are
//! isolated like any builder: in a process of their own, in a sandbox, as an unprivileged user. The
//! only executable available for that is the running program. It is mounted into the sandbox
//! together with its loaded libraries, and started there under a special name, by which [`init`]
//! recognises it. A plain `fork` is not enough: at that moment other threads may hold any lock, so a
//! child could use neither a TLS library nor an allocator.

mod buildenv;
mod entry;
mod fetchurl;
mod http;
mod run;
mod task;
mod unpack_channel;

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::translate::Translation;
pub use entry::init;
use task::Task;
use tvix_http::TransferSettings;
use tvix_sandbox::{Access, Isolation, Mount, SandboxSpec, Scratch};

/// The names of the built-in builders.
const NAMES: [&str; 3] = [
    "builtin:fetchurl",
    "builtin:unpack-channel",
    "builtin:buildenv",
];

/// The location of the CA bundle in the sandbox.
const CA_FILE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The proxy variables that Nix's fetcher supports.
const PROXIES: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// Files and settings of the host that `builtin:fetchurl` uses.
#[derive(Debug, Clone, Default)]
pub(super) struct FetchFiles {
    /// CA bundle used to verify TLS servers.
    pub ca: Option<PathBuf>,
    /// The user's netrc file.
    pub netrc: Option<PathBuf>,
    /// Time limits and retries.
    pub transfer: TransferSettings,
}

/// A built-in builder, with the files to execute it.
#[derive(Debug)]
pub(super) struct Builtin {
    task: Task,
    /// The running program.
    program: PathBuf,
    /// The shared libraries of the program.
    libraries: Vec<PathBuf>,
    environment: Vec<(&'static str, std::ffi::OsString)>,
    ca: Option<PathBuf>,
}

impl Builtin {
    /// The built-in builder of `translation`, if it names one.
    ///
    /// # Errors
    ///
    /// A message if there is no builder of that name, or if this program cannot run built-in
    /// builders.
    pub fn of(translation: &Translation, files: &FetchFiles) -> Result<Option<Self>, String> {
        let builder = translation.program.to_string();
        if !builder.starts_with("builtin:") {
            return Ok(None);
        }
        if !NAMES.contains(&builder.as_str()) {
            return Err(format!("there is no built-in builder '{builder}'"));
        }
        if !entry::is_in_program() {
            return Err(format!(
                "the built-in builder '{builder}' needs the library to be a part of the program, \
                 and it was loaded by it"
            ));
        }
        if !entry::is_initialised() {
            return Err(format!(
                "cannot run the built-in builder '{builder}': this program does not call \
                 tvix_build_api::sandbox::init() at the start of its main function"
            ));
        }
        let fetches = builder == "builtin:fetchurl";
        let program = std::env::current_exe()
            .map_err(|error| format!("the running program cannot be found: {error}"))?;
        let netrc = files.netrc.as_ref().filter(|_| fetches);
        let netrc = match netrc.map(std::fs::read_to_string).transpose() {
            Ok(netrc) => netrc,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(format!("the netrc file cannot be read: {error}")),
        };
        let proxies = PROXIES.into_iter().filter(|_| fetches);
        let own = |name| Some((name, std::env::var_os(name)?));
        Ok(Some(Self {
            task: Task::new(builder, translation, netrc, &files.transfer),
            program,
            libraries: entry::libraries(),
            environment: proxies.filter_map(own).collect(),
            ca: files.ca.clone().filter(|_| fetches),
        }))
    }

    /// The libraries that are in the store, as in a program that was built by Nix: they are mounted
    /// into the sandbox like inputs.
    pub fn store_paths(&self, store: &Path) -> Vec<PathBuf> {
        let below = self.libraries.iter().filter_map(|library| {
            let rest = library.strip_prefix(store).ok()?;
            Some(store.join(rest.components().next()?))
        });
        below.collect()
    }

    /// Makes `spec` run the built-in builder. Blocks.
    pub fn start(self, spec: &mut SandboxSpec, scratch: &Scratch, store: &Path) -> io::Result<()> {
        let (program, task) = match spec.isolation {
            Isolation::Sandbox => {
                let program = Path::new("/").join(entry::NAME);
                let bind = |from: &Path, to: &Path| Mount::bind(from, to, Access::ReadOnly);
                let visible = |path: &Path| spec.mounts.iter().any(|mount| covers(mount, path));
                let missing = self.libraries.iter();
                let missing = missing.filter(|path| !path.starts_with(store) && !visible(path));
                let mut mounts: Vec<_> = missing.map(|path| bind(path, path)).collect();
                mounts.push(bind(&self.program, &program));
                if let Some(ca) = self.ca.as_ref().filter(|_| !visible(Path::new(CA_FILE))) {
                    mounts.push(bind(&ca.canonicalize()?, Path::new(CA_FILE)));
                }
                // Mounts are ordered: parents first.
                spec.mounts.extend(mounts);
                (program, PathBuf::from("/tmp").join(task::FILE))
            }
            Isolation::None => {
                let program = scratch.tmp_dir().join(entry::NAME);
                std::os::unix::fs::symlink(&self.program, &program)?;
                (program, scratch.tmp_dir().join(task::FILE))
            }
        };
        let directories = self.libraries.iter().filter_map(|library| library.parent());
        let mut directories: Vec<_> = directories.collect();
        directories.dedup();
        let path = std::env::join_paths(directories).map_err(io::Error::other)?;
        let mut environment = vec![("LD_LIBRARY_PATH".into(), path)];
        let own = self.environment.into_iter();
        environment.extend(own.map(|(name, value)| (name.into(), value)));
        let ca = match spec.isolation {
            Isolation::Sandbox => self.ca.map(|_| PathBuf::from(CA_FILE)),
            Isolation::None => self.ca,
        };
        // Without the derivation's environment, which could contain variables for the dynamic
        // linker.
        spec.env = environment;
        spec.args = vec![entry::NAME.into(), task.into_os_string()];
        spec.program = program;
        let mut task = self.task;
        task.ca_file = ca;
        write_private(scratch, &task)
    }
}

/// Whether a mount of the sandbox covers the path.
fn covers(mount: &Mount, path: &Path) -> bool {
    matches!(mount, Mount::Bind { target, .. } if path.starts_with(target))
}

/// Outside the build directory, which may be kept: the task may contain passwords.
fn write_private(scratch: &Scratch, task: &Task) -> io::Result<()> {
    let path = scratch.tmp_dir().join(task::FILE);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(&serde_json::to_vec(task)?)?;
    scratch.give_to_builder(&path)
}
