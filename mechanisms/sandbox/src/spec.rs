//! What to run and what it sees: the input of the engine.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The user a builder runs as, inside the sandbox.
pub const SANDBOX_UID: u32 = 1000;
/// The group a builder runs as, inside the sandbox.
pub const SANDBOX_GID: u32 = 100;

/// A process to start, and the world it is to see.
#[derive(Debug, Clone)]
pub struct SandboxSpec {
    /// The program, as a path inside the sandbox.
    pub program: PathBuf,
    /// The argument vector, `argv[0]` included.
    pub args: Vec<OsString>,
    /// The whole environment: nothing is inherited and nothing added.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory, inside the sandbox.
    pub cwd: PathBuf,
    /// How far the process is kept apart.
    pub isolation: Isolation,
    /// What is visible, in order: a mount may lie inside an earlier one. Ignored unless
    /// [`Isolation::Sandbox`].
    pub mounts: Vec<Mount>,
    /// The network the process sees. Ignored unless [`Isolation::Sandbox`].
    pub network: Network,
    /// The user and group on the host, for an engine that runs as root: take it from
    /// [`Scratch::host_ids`](super::Scratch::host_ids). `None` means those of the caller.
    pub host_ids: Option<HostIds>,
    /// Whether the process sees itself on a 32-bit machine (`uname -m`), as `i686-linux`
    /// derivations on `x86_64` do.
    pub linux32: bool,
    /// When to end it.
    pub limits: Limits,
    /// The directories of the host that count for [`Limits::disk`]: take them from
    /// [`Scratch::directories`](super::Scratch::directories).
    pub counted: Vec<PathBuf>,
    /// Whether it gets a control group, where such can be made, though no limit of memory takes one:
    /// then the memory that it is said to have used is that of all its processes together.
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
}

/// How far a process is kept apart from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// User, mount, PID, IPC, UTS and (see [`Network`]) network namespaces of its own.
    Sandbox,
    /// The host's file system and network. Only what is needed to end the process with all its
    /// descendants is set up: a PID namespace where the machine allows it, else a session.
    None,
}

/// The network of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// A loopback interface that leads nowhere else.
    None,
    /// The host's addresses and whatever it reaches, by TCP and UDP. Unix sockets with abstract
    /// names, of the host or of other sandboxes, are still not there: through them descriptors
    /// could get in and out.
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

/// Something visible inside the sandbox. Every target is an absolute path inside.
///
/// Targets that lie in no other mount are created by the engine. A target inside a
/// [`Mount::Bind`] must exist in that bind's source.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mount {
    /// A file or directory of the host, with whatever is mounted below it.
    Bind {
        /// Where it is on the host.
        source: PathBuf,
        /// Where it appears.
        target: PathBuf,
        /// Whether it may be written to, file modes permitting.
        access: Access,
        /// Whether a missing source is left out instead of being an error.
        optional: bool,
    },
    /// A symbolic link.
    Symlink {
        /// Where the link is.
        target: PathBuf,
        /// What it points to.
        to: PathBuf,
    },
    /// A small read-only file, such as `/etc/passwd`.
    File {
        /// Where it appears.
        target: PathBuf,
        /// What is in it.
        contents: Vec<u8>,
    },
    /// An empty directory in memory, writable, mode 1777.
    Tmpfs {
        /// Where it appears.
        target: PathBuf,
        /// The kernel's `size=` option: bytes with a suffix, or a percentage of memory.
        size: String,
    },
    /// A device of the host, under its own path in `/dev`. Who may use it is the host's affair.
    Device {
        /// Where it is, there and here.
        path: PathBuf,
    },
    /// `/dev` with the devices that a builder may count on, `/dev/pts` and `/dev/shm`.
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

    /// A written file.
    pub fn file(target: impl Into<PathBuf>, contents: impl Into<Vec<u8>>) -> Self {
        Mount::File {
            target: target.into(),
            contents: contents.into(),
        }
    }
}

/// Whether a bind mount may be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It may not.
    ReadOnly,
    /// It may, as far as file modes allow.
    ReadWrite,
}

/// When a process is ended before it ends by itself. `None` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Time since the start.
    pub wall_time: Option<Duration>,
    /// Time since it last wrote to its log.
    pub silence: Option<Duration>,
    /// Bytes of log.
    pub log_bytes: Option<u64>,
    /// Processes and threads at once; one more cannot be started. Only of a sandbox.
    pub processes: Option<u64>,
    /// Bytes of memory, its own and that of files in memory, of all processes together where
    /// control groups can be made; else of address space, of each process by itself.
    pub memory: Option<u64>,
    /// Bytes on disk in [`SandboxSpec::counted`], looked at four times a second. No file can be larger.
    /// Files that no longer have a name are not seen.
    pub disk: Option<u64>,
}
