//! Nix's built-in builders: `builtin:fetchurl`, `builtin:unpack-channel` and `builtin:buildenv`.
//!
//! They do what derivations ask for, and talk to servers, so they run where any builder runs: in a
//! process of their own, in a sandbox, as nobody. There is no program to execute for that but the
//! one that is running: it is mounted into the sandbox with the libraries that it has loaded, and
//! started there under a name of its own, by which [`entry`] recognises it before `main` begins.
//! A copy made by `fork` would not do: other threads may hold any lock at that moment, and neither
//! a TLS library nor an allocator may be used after it.

mod buildenv;
mod entry;
mod fetchurl;
mod http;
mod task;
mod unpack_channel;

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::translate::Translation;
use task::Task;
use tvix_http::TransferSettings;
use tvix_sandbox::{Access, Isolation, Mount, SandboxSpec, Scratch};

/// The builders that there are.
const NAMES: [&str; 3] = [
    "builtin:fetchurl",
    "builtin:unpack-channel",
    "builtin:buildenv",
];

/// Where certificate authorities are found in the sandbox.
const CA_FILE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Variables that name a proxy, of which Nix's own fetcher takes notice.
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

/// What runs in place of a builder program.
#[derive(Debug)]
pub(super) struct Builtin {
    task: Task,
    /// The running program.
    program: PathBuf,
    /// The libraries that it needs to run.
    libraries: Vec<PathBuf>,
    environment: Vec<(&'static str, std::ffi::OsString)>,
    ca: Option<PathBuf>,
}

impl Builtin {
    /// The built-in builder that `translation` asks for, if it asks for one.
    ///
    /// # Errors
    ///
    /// A message if there is none of that name, or none can be run by this program.
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

    /// Those of the libraries that are in the store, as they would be if Nix made this program:
    /// they come into the sandbox as inputs do.
    pub fn store_paths(&self, store: &Path) -> Vec<PathBuf> {
        let below = self.libraries.iter().filter_map(|library| {
            let rest = library.strip_prefix(store).ok()?;
            Some(store.join(rest.components().next()?))
        });
        below.collect()
    }

    /// Has `spec` run it. Blocks.
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
                // Before what is mounted on them, after what they are mounted on.
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
        // Nothing of the derivation: what the dynamic linker would heed must not come from there.
        spec.env = environment;
        spec.args = vec![entry::NAME.into(), task.into_os_string()];
        spec.program = program;
        let mut task = self.task;
        task.ca_file = ca;
        write_private(scratch, &task)
    }
}

/// Whether something is there in the sandbox already.
fn covers(mount: &Mount, path: &Path) -> bool {
    matches!(mount, Mount::Bind { target, .. } if path.starts_with(target))
}

/// Not in the build directory, which may be kept: there may be passwords in it.
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
