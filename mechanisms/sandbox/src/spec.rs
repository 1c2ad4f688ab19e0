//! The input of the engine: a program and its environment.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The user id of the process inside the sandbox.
pub const SANDBOX_UID: u32 = 1000;
/// The group id of the process inside the sandbox.
pub const SANDBOX_GID: u32 = 100;

/// A process to start: program, environment, visible files, network, limits.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SandboxSpec {
    /// The program, as a path inside the sandbox.
    pub program: PathBuf,
    /// The argument vector, `argv[0]` included.
    pub args: Vec<OsString>,
    /// The whole environment. Nothing is inherited or added.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory, inside the sandbox.
    pub cwd: PathBuf,
    /// Whether the process is sandboxed.
    pub isolation: Isolation,
    /// The visible files, in order: a mount may lie inside an earlier one. Only used with
    /// [`Isolation::Sandbox`].
    pub mounts: Vec<Mount>,
    /// The network of the process. Only used with [`Isolation::Sandbox`].
    pub network: Network,
    /// The user and group on the host, for an engine that runs as root; take them from
    /// [`Scratch::host_ids`](super::Scratch::host_ids). `None`: those of the caller.
    pub host_ids: Option<HostIds>,
    /// Whether `uname -m` reports a 32-bit machine, as `i686` programs on `x86_64` expect.
    pub linux32: bool,
    /// Limits of the process.
    pub limits: Limits,
    /// The directories of the host that count towards [`Limits::disk`]; take them from
    /// [`Scratch::directories`](super::Scratch::directories).
    pub counted: Vec<PathBuf>,
    /// Whether the process gets a control group (where possible) even without a memory limit, so that
    /// [`Usage::peak_memory`](super::Usage::peak_memory) covers all its processes together.
    pub grouped: bool,
}

impl SandboxSpec {
    /// A sandboxed process with an empty environment, in `/`, that sees `/proc` and `/dev`.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        SandboxSpec {
            args: vec![program.clone().into_os_string()],
            program,
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            isolation: Isolation::Sandbox,
            mounts: vec![Mount::Proc, Mount::Dev],
            network: Network::None,
            host_ids: None,
            linux32: false,
            limits: Limits::default(),
            counted: Vec::new(),
            grouped: false,
        }
    }

    /// Sets the argument vector, `argv[0]` included.
    #[must_use]
    pub fn with_args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the whole environment.
    #[must_use]
    pub fn with_env(mut self, env: Vec<(OsString, OsString)>) -> Self {
        self.env = env;
        self
    }

    /// Sets the working directory, inside the sandbox.
    #[must_use]
    pub fn with_cwd(mut self, cwd: impl Into<PathBuf>) -> Self {
        self.cwd = cwd.into();
        self
    }

    /// Sets whether the process is sandboxed.
    #[must_use]
    pub fn with_isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// Sets the visible files.
    #[must_use]
    pub fn with_mounts(mut self, mounts: Vec<Mount>) -> Self {
        self.mounts = mounts;
        self
    }

    /// Sets the network of the process.
    #[must_use]
    pub fn with_network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// Sets the user and group on the host.
    #[must_use]
    pub fn with_host_ids(mut self, host_ids: impl Into<Option<HostIds>>) -> Self {
        self.host_ids = host_ids.into();
        self
    }

    /// Sets whether `uname -m` reports a 32-bit machine.
    #[must_use]
    pub fn with_linux32(mut self, linux32: bool) -> Self {
        self.linux32 = linux32;
        self
    }

    /// Sets the limits of the process.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the directories that count towards [`Limits::disk`].
    #[must_use]
    pub fn with_counted(mut self, counted: Vec<PathBuf>) -> Self {
        self.counted = counted;
        self
    }

    /// Sets whether the process gets a control group even without a memory limit.
    #[must_use]
    pub fn with_grouped(mut self, grouped: bool) -> Self {
        self.grouped = grouped;
        self
    }
}

/// The isolation of a process from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// User, mount, PID, IPC, UTS and (see [`Network`]) network namespaces of its own.
    Sandbox,
    /// None: the process uses the host's file system and network. To end it with all its descendants
    /// it gets a PID namespace where the machine allows one, else a session.
    None,
}

/// The network of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Network {
    /// Only a loopback interface.
    None,
    /// TCP and UDP with the host's addresses and routes. Abstract Unix sockets of the host and of
    /// other sandboxes stay invisible: they could pass descriptors in and out.
    Host,
}

/// A user and a group on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostIds {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// A file or directory visible inside the sandbox. Every target is an absolute path inside.
///
/// The engine creates targets that lie in no other mount. A target inside a [`Mount::Bind`] must
/// exist in the source of that bind mount.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mount {
    /// A file or directory of the host, including mounts below it.
    Bind {
        /// The path on the host.
        source: PathBuf,
        /// The path inside the sandbox.
        target: PathBuf,
        /// Whether it is writable, file modes permitting.
        access: Access,
        /// Whether a missing source is skipped instead of being an error.
        optional: bool,
    },
    /// A symbolic link.
    Symlink {
        /// The path of the link.
        target: PathBuf,
        /// The text of the link.
        to: PathBuf,
    },
    /// A small read-only file, such as `/etc/passwd`.
    File {
        /// The path inside the sandbox.
        target: PathBuf,
        /// The contents.
        contents: Vec<u8>,
    },
    /// An empty directory in memory, writable, mode 1777.
    Tmpfs {
        /// The path inside the sandbox.
        target: PathBuf,
        /// The kernel's `size=` option: bytes with a suffix, or a percentage of memory.
        size: String,
    },
    /// A device of the host, under the same path in `/dev`, with the permissions of the host.
    Device {
        /// The path, on the host and inside.
        path: PathBuf,
    },
    /// `/dev` with the usual devices (`null`, `zero`, `random`, ...), `/dev/pts` and `/dev/shm`.
    Dev,
    /// `/proc`, of the sandbox's own PID namespace.
    Proc,
}

impl Mount {
    /// A bind mount that must exist.
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<PathBuf>, access: Access) -> Self {
        Mount::Bind {
            source: source.into(),
            target: target.into(),
            access,
            optional: false,
        }
    }

    /// A small file with these contents.
    pub fn file(target: impl Into<PathBuf>, contents: impl Into<Vec<u8>>) -> Self {
        Mount::File {
            target: target.into(),
            contents: contents.into(),
        }
    }
}

/// Access to a bind mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    ReadOnly,
    /// Read and write, file modes permitting.
    ReadWrite,
}

/// Limits of a process. A process that exceeds one is killed. `None`: no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Maximum run time.
    pub wall_time: Option<Duration>,
    /// Maximum time without output.
    pub silence: Option<Duration>,
    /// Maximum size of the log, in bytes.
    pub log_bytes: Option<u64>,
    /// Maximum number of processes and threads of a sandbox; starting one more fails.
    pub processes: Option<u64>,
    /// Maximum memory in bytes. With control groups: of all processes together, files in memory
    /// included. Without: the address space of each process.
    pub memory: Option<u64>,
    /// Maximum disk usage of [`SandboxSpec::counted`] in bytes, measured four times a second, and the
    /// maximum size of a file. Deleted files that are still open are not counted.
    pub disk: Option<u64>,
}

impl Limits {
    /// Sets the maximum run time.
    #[must_use]
    pub fn with_wall_time(mut self, wall_time: impl Into<Option<Duration>>) -> Self {
        self.wall_time = wall_time.into();
        self
    }

    /// Sets the maximum time without output.
    #[must_use]
    pub fn with_silence(mut self, silence: impl Into<Option<Duration>>) -> Self {
        self.silence = silence.into();
        self
    }

    /// Sets the maximum size of the log, in bytes.
    #[must_use]
    pub fn with_log_bytes(mut self, log_bytes: impl Into<Option<u64>>) -> Self {
        self.log_bytes = log_bytes.into();
        self
    }

    /// Sets the maximum number of processes and threads.
    #[must_use]
    pub fn with_processes(mut self, processes: impl Into<Option<u64>>) -> Self {
        self.processes = processes.into();
        self
    }

    /// Sets the maximum memory in bytes.
    #[must_use]
    pub fn with_memory(mut self, memory: impl Into<Option<u64>>) -> Self {
        self.memory = memory.into();
        self
    }

    /// Sets the maximum disk usage in bytes.
    #[must_use]
    pub fn with_disk(mut self, disk: impl Into<Option<u64>>) -> Self {
        self.disk = disk.into();
        self
    }
}
