//! How a sandbox builder works.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::builtin::FetchFiles;
use super::{SandboxPath, engine};
use crate::BuilderProfile;

/// How a [`SandboxBuilder`](super::SandboxBuilder) works.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SandboxOptions {
    /// A name for people, as in events and errors.
    pub name: String,
    /// The systems it builds for.
    pub systems: BTreeSet<String>,
    /// The features it has, for `requiredSystemFeatures`.
    pub features: BTreeSet<String>,
    /// How many builds it wants at once.
    pub max_jobs: usize,
    /// What of the host's file system is visible in every build.
    pub sandbox_paths: Vec<SandboxPath>,
    /// Whether builds are kept apart from the host (`--no-sandbox` if not): from its files and
    /// its network. Without, only one kind of store will do: one whose files are where their
    /// paths say. Nothing then keeps two builds of the same derivation at once apart.
    pub sandbox: bool,
    /// Whether derivations that ask for it (`__noChroot`) are built as if [`sandbox`](Self::sandbox)
    /// were false. Else they are refused.
    pub relaxed: bool,
    /// Where build directories of failed builds are kept, if they are: on the file system that
    /// builds write to. The last line of the log says under which name.
    pub keep_failed: Option<PathBuf>,
    /// The certificate authorities, as PEM, that vouch for the servers that `builtin:fetchurl`
    /// talks to. None: none does, and `https` URLs fail.
    pub ca_file: Option<PathBuf>,
    /// Credentials per host for `builtin:fetchurl`, in a file like `.netrc`. It may be missing.
    pub netrc_file: Option<PathBuf>,
    /// Time limits and retries of `builtin:fetchurl`.
    #[cfg(feature = "builtins")]
    pub transfer: tvix_http::TransferSettings,
    /// The most processes and threads of a build at once. `None` of these three is no limit.
    pub max_processes: Option<u64>,
    /// The most bytes of memory of a build: of all its processes together where the machine has
    /// control groups that builds can be put in, else of each of them.
    pub max_memory: Option<u64>,
    /// The most bytes on disk of a build, outputs included; looked at now and then.
    pub max_disk: Option<u64>,
    /// Whether builds get a control group, where such can be made, though [`max_memory`](Self::max_memory)
    /// is no limit: then the memory that they are said to have used is that of all their processes
    /// together. It takes half a millisecond.
    pub count_memory: bool,
    /// Where builds write; made if it is missing. `None`: in the state directory of the local
    /// store that the builder [knows](super::SandboxBuilder::knows), so that an output comes into
    /// the store by being renamed, or else in a temporary directory.
    pub scratch: Option<PathBuf>,
    /// The first host user for builders, when running as root.
    pub first_id: u32,
    /// Whether a thread makes what the first build needs while nobody waits for it yet: for
    /// builders of which it is likely that they will build. Without, the first build takes a few
    /// milliseconds longer.
    pub ahead: bool,
}

impl SandboxOptions {
    /// A builder for this machine's systems, with the features that are
    /// [detected](crate::detected_features), whose builds see nothing of the host.
    pub fn new(name: impl Into<String>) -> Self {
        let mut systems = crate::further_systems();
        systems.insert(crate::this_system().to_owned());
        Self {
            name: name.into(),
            systems,
            features: crate::detected_features(),
            max_jobs: std::thread::available_parallelism().map_or(1, usize::from),
            sandbox_paths: Vec::new(),
            sandbox: true,
            relaxed: false,
            keep_failed: None,
            ca_file: usual_ca_file(),
            netrc_file: None,
            #[cfg(feature = "builtins")]
            transfer: tvix_http::TransferSettings::default(),
            max_processes: None,
            max_memory: None,
            max_disk: None,
            count_memory: false,
            scratch: None,
            first_id: engine::DEFAULT_FIRST_ID,
            ahead: true,
        }
    }

    /// Sets [`systems`](Self::systems).
    #[must_use]
    pub fn systems<S: Into<String>>(mut self, systems: impl IntoIterator<Item = S>) -> Self {
        self.systems = systems.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`features`](Self::features).
    #[must_use]
    pub fn features<S: Into<String>>(mut self, features: impl IntoIterator<Item = S>) -> Self {
        self.features = features.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`max_jobs`](Self::max_jobs).
    #[must_use]
    pub fn max_jobs(mut self, max_jobs: usize) -> Self {
        self.max_jobs = max_jobs;
        self
    }

    /// Adds to [`sandbox_paths`](Self::sandbox_paths).
    #[must_use]
    pub fn sandbox_paths(mut self, paths: impl IntoIterator<Item = SandboxPath>) -> Self {
        self.sandbox_paths.extend(paths);
        self
    }

    /// Adds one to [`sandbox_paths`](Self::sandbox_paths).
    #[must_use]
    pub fn sandbox_path(mut self, path: SandboxPath) -> Self {
        self.sandbox_paths.push(path);
        self
    }

    /// Sets [`scratch`](Self::scratch).
    #[must_use]
    pub fn scratch(mut self, directory: impl Into<PathBuf>) -> Self {
        self.scratch = Some(directory.into());
        self
    }

    /// Sets [`sandbox`](Self::sandbox).
    #[must_use]
    pub fn sandbox(mut self, sandbox: bool) -> Self {
        self.sandbox = sandbox;
        self
    }

    /// Sets [`relaxed`](Self::relaxed).
    #[must_use]
    pub fn relaxed(mut self, relaxed: bool) -> Self {
        self.relaxed = relaxed;
        self
    }

    /// Sets [`ahead`](Self::ahead).
    #[must_use]
    pub fn ahead(mut self, ahead: bool) -> Self {
        self.ahead = ahead;
        self
    }

    /// Sets [`ca_file`](Self::ca_file). Without, it is the one that `NIX_SSL_CERT_FILE` or
    /// `SSL_CERT_FILE` names, or else the system's.
    #[must_use]
    pub fn ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(file.into());
        self
    }

    /// Sets [`netrc_file`](Self::netrc_file).
    #[must_use]
    pub fn netrc_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.netrc_file = Some(file.into());
        self
    }

    /// Sets [`transfer`](Self::transfer).
    #[cfg(feature = "builtins")]
    #[must_use]
    pub fn transfer(mut self, transfer: tvix_http::TransferSettings) -> Self {
        self.transfer = transfer;
        self
    }

    /// Sets [`keep_failed`](Self::keep_failed).
    #[must_use]
    pub fn keep_failed(mut self, directory: impl Into<PathBuf>) -> Self {
        self.keep_failed = Some(directory.into());
        self
    }

    pub(super) fn fetch_files(&self) -> FetchFiles {
        FetchFiles {
            ca: self.ca_file.clone(),
            netrc: self.netrc_file.clone(),
            #[cfg(feature = "builtins")]
            transfer: self.transfer.clone(),
        }
    }

    pub(super) fn profile(&self) -> BuilderProfile {
        BuilderProfile {
            name: self.name.clone(),
            systems: self.systems.clone(),
            features: self.features.clone(),
            max_jobs: self.max_jobs.max(1),
        }
    }
}

/// The certificate authorities of this machine.
#[cfg(feature = "builtins")]
fn usual_ca_file() -> Option<PathBuf> {
    tvix_http::client::roots_file()
}

/// Nothing is fetched without built-in builders.
#[cfg(not(feature = "builtins"))]
fn usual_ca_file() -> Option<PathBuf> {
    None
}
