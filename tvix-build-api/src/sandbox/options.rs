//! Options of a sandbox builder.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::SandboxPath;
use super::builtin::FetchFiles;
use crate::BuilderProfile;

/// Options of a [`SandboxBuilder`](super::SandboxBuilder).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SandboxOptions {
    /// The display name, for events and errors.
    pub name: String,
    /// The supported systems.
    pub systems: BTreeSet<String>,
    /// The supported features, for `requiredSystemFeatures`.
    pub features: BTreeSet<String>,
    /// The maximum number of concurrent builds.
    pub max_jobs: usize,
    /// Paths of the host that are visible in every build.
    pub sandbox_paths: Vec<SandboxPath>,
    /// Whether builds are isolated from the files and the network of the host (false for
    /// `--no-sandbox`). Builds have a sandbox nevertheless, as in Nix, unless their inputs are in a
    /// [local store](super::SandboxBuilder::with_local_store) whose files are at their store paths.
    /// Without a sandbox, concurrent builds of the same derivation can disturb each other.
    pub sandbox: bool,
    /// Whether derivations with `__noChroot` are built as if [`sandbox`](Self::sandbox) were false.
    /// Otherwise they are refused.
    pub relaxed: bool,
    /// The directory that keeps the build directories of failed builds; `None` to remove them. It
    /// must be on the file system that builds write to. The last line of the log names the kept
    /// directory.
    pub keep_failed: Option<PathBuf>,
    /// CA bundle (PEM) used by `builtin:fetchurl` to verify TLS servers. With `None`, `https` URLs
    /// fail.
    pub ca_file: Option<PathBuf>,
    /// Credentials per host for `builtin:fetchurl`, in `.netrc` format. The file may be missing.
    pub netrc_file: Option<PathBuf>,
    /// Time limits and retries of `builtin:fetchurl`.
    #[cfg(feature = "builtins")]
    pub transfer: tvix_http::TransferSettings,
    /// Maximum number of processes and threads of a build. `None` for this and the next two limits
    /// means no limit.
    pub max_processes: Option<u64>,
    /// Memory limit of a build in bytes: of all its processes together if the machine supports
    /// control groups for builds, otherwise of each process.
    pub max_memory: Option<u64>,
    /// Disk space limit of a build in bytes, outputs included. Usage is measured periodically.
    pub max_disk: Option<u64>,
    /// Whether builds run in a control group, if possible, even without
    /// [`max_memory`](Self::max_memory). The reported memory usage is then that of all their
    /// processes together. Costs half a millisecond.
    pub count_memory: bool,
    /// The directory that builds write to; created if it is missing. With `None`, it is in the
    /// state directory of the local store that the builder [knows](super::SandboxBuilder::with_local_store),
    /// so that outputs are renamed into the store; without such a store, it is a temporary
    /// directory.
    pub scratch: Option<PathBuf>,
    /// The first host user id for builds, when running as root.
    pub first_id: u32,
    /// Whether a thread prepares the resources of the first build in advance, for builders that are
    /// likely to build. Without it, the first build takes a few milliseconds longer.
    pub ahead: bool,
}

impl SandboxOptions {
    /// A builder for this machine's systems, with the [detected](crate::detected_features) features
    /// and no paths of the host.
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
            first_id: tvix_sandbox::DEFAULT_FIRST_ID,
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
    pub fn with_max_jobs(mut self, max_jobs: usize) -> Self {
        self.max_jobs = max_jobs;
        self
    }

    /// Adds to [`sandbox_paths`](Self::sandbox_paths).
    #[must_use]
    pub fn with_sandbox_paths(mut self, paths: impl IntoIterator<Item = SandboxPath>) -> Self {
        self.sandbox_paths.extend(paths);
        self
    }

    /// Adds one path to [`sandbox_paths`](Self::sandbox_paths).
    #[must_use]
    pub fn with_sandbox_path(mut self, path: SandboxPath) -> Self {
        self.sandbox_paths.push(path);
        self
    }

    /// Sets [`scratch`](Self::scratch).
    #[must_use]
    pub fn with_scratch(mut self, directory: impl Into<PathBuf>) -> Self {
        self.scratch = Some(directory.into());
        self
    }

    /// Sets [`sandbox`](Self::sandbox).
    #[must_use]
    pub fn with_sandbox(mut self, sandbox: bool) -> Self {
        self.sandbox = sandbox;
        self
    }

    /// Sets [`relaxed`](Self::relaxed).
    #[must_use]
    pub fn with_relaxed(mut self, relaxed: bool) -> Self {
        self.relaxed = relaxed;
        self
    }

    /// Sets [`ahead`](Self::ahead).
    #[must_use]
    pub fn with_ahead(mut self, ahead: bool) -> Self {
        self.ahead = ahead;
        self
    }

    /// Sets [`ca_file`](Self::ca_file). The default is the file in `NIX_SSL_CERT_FILE` or
    /// `SSL_CERT_FILE`, or else the system's.
    #[must_use]
    pub fn with_ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(file.into());
        self
    }

    /// Sets [`netrc_file`](Self::netrc_file).
    #[must_use]
    pub fn with_netrc_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.netrc_file = Some(file.into());
        self
    }

    /// Sets [`transfer`](Self::transfer).
    #[cfg(feature = "builtins")]
    #[must_use]
    pub fn with_transfer(mut self, transfer: tvix_http::TransferSettings) -> Self {
        self.transfer = transfer;
        self
    }

    /// Sets [`keep_failed`](Self::keep_failed).
    #[must_use]
    pub fn with_keep_failed(mut self, directory: impl Into<PathBuf>) -> Self {
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
        BuilderProfile::new(&self.name, crate::this_system(), self.max_jobs)
            .with_systems(self.systems.clone())
            .with_features(self.features.clone())
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
