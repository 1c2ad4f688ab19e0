//! Starts processes in Linux namespaces, as root or as an ordinary user, without a daemon or a helper
//! program.
//!
//! [`Engine::spawn`] turns a [`SandboxSpec`] into a [`Running`] process. The process is the first of
//! its own PID namespace and sees only the files, network and environment that the specification
//! names. [`Running`] reports its log, its [`Ending`] and its [`Usage`].
//!
//! ```
//! use std::path::Path;
//! use tvix_sandbox::{Access, Ending, Engine, EngineOptions, Mount, SandboxSpec};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let directory = directory.path();
//! // One engine for many processes; it works below a directory of yours.
//! let engine = Engine::new(EngineOptions::new(directory))?;
//! if let Err(error) = engine.probe() {
//!     eprintln!("{error}"); // the missing feature, and how to allow it
//!     return Ok(());
//! }
//!
//! // The shell and its libraries, and nothing else of the host.
//! let mut spec = SandboxSpec::new("/bin/sh");
//! spec.args = ["sh", "-c", "echo hello > /build/greeting"].map(Into::into).to_vec();
//! for path in ["/bin", "/lib", "/lib64", "/usr"] {
//!     if Path::new(path).exists() {
//!         spec.mounts.push(Mount::bind(path, path, Access::ReadOnly));
//!     }
//! }
//!
//! // Writable directories: /build, /tmp and a store directory without inputs.
//! let mut scratch = engine.scratch()?;
//! spec.host_ids = scratch.host_ids();
//! spec.mounts.extend(scratch.mounts(Path::new("/nix/store"), &[])?);
//!
//! let running = engine.spawn(spec).await?;
//! let (ending, log) = running.output().await?;
//! assert_eq!(ending, Ending::Exited(0), "{}", String::from_utf8_lossy(&log));
//! assert_eq!(std::fs::read(scratch.build_dir().join("greeting"))?, b"hello\n");
//! # Ok(())
//! # }
//! ```
//!
//! A sandbox costs little more than the `execve` in it, because everything that processes share is
//! prepared once: the root directory, the writable directories ([`Scratch`]), the system call
//! filter, and, for root, the network namespace. The child shares the memory of the program until it
//! executes, so the size of the program does not matter.
//!
//! # Processes
//!
//! A process dies with all its descendants when it ends, when its [`Running`] is dropped, or when the
//! embedding program dies, even by `SIGKILL`. The engine waits for its own children only.
//!
//! Until a started process has executed its program it shares memory with the embedding program;
//! the program must not `fork` and then modify the engine from the copy.
//!
//! The crate is empty on systems other than Linux.

#![cfg(target_os = "linux")]

mod cgroup;
mod child;
mod directory;
mod disk;
mod error;
mod host_sockets;
mod janitor;
mod keyring;
mod lines;
mod netns;
mod plan;
mod probe;
mod process;
mod remove;
mod running;
mod scratch;
mod seccomp;
mod slots;
mod spawner;
mod spec;
mod stack;
mod sys;
mod template;
mod under_way;
mod usage;

use std::any::Any;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::oneshot;

pub use error::EngineError;
pub use lines::{Line, LineBuffer};
pub use running::{Ending, Event, Running};
pub use scratch::Scratch;
pub use spec::{
    Access, HostIds, Isolation, Limits, Mount, Network, SANDBOX_GID, SANDBOX_UID, SandboxSpec,
};
pub use usage::Usage;

// Crates whose types occur in public items.
#[doc(no_inline)]
pub use bytes;

use cgroup::Groups;
use directory::EngineDirectory;
use janitor::Janitor;
use plan::Plan;
use probe::Privileges;
use slots::Slots;
use spawner::{Job, Shared, Spawn, Started};
use template::Templates;

/// The first host user of sandboxed processes when the engine runs as root. Accounts and containers do
/// not use this range; Nix's `auto-allocate-uids` starts at the same number.
pub const DEFAULT_FIRST_ID: u32 = 872_415_232;

/// Settings of an [`Engine`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EngineOptions {
    /// The directory that processes write below. On the file system of the store, outputs can be moved
    /// there by a rename. The engine creates a private directory in it, and removes those of engines
    /// that were killed.
    pub scratch: PathBuf,
    /// Number of threads that start processes [default: the number of processors, at most 8].
    pub spawners: usize,
    /// The first host user of processes, when running as root [default: [`DEFAULT_FIRST_ID`]].
    pub first_id: u32,
}

impl EngineOptions {
    /// Default settings with this scratch directory.
    pub fn new(scratch: impl Into<PathBuf>) -> Self {
        EngineOptions {
            scratch: scratch.into(),
            spawners: std::thread::available_parallelism().map_or(1, |count| count.get().min(8)),
            first_id: DEFAULT_FIRST_ID,
        }
    }

    /// Sets the number of threads that start processes.
    #[must_use]
    pub fn with_spawners(mut self, spawners: usize) -> Self {
        self.spawners = spawners;
        self
    }

    /// Sets the first host user of processes.
    #[must_use]
    pub fn with_first_id(mut self, first_id: u32) -> Self {
        self.first_id = first_id;
        self
    }
}

/// Starts processes in sandboxes. Cheap to clone; clones share one engine.
///
/// Dropping the last clone waits for the clean-up after processes that have ended. Running processes
/// are not affected.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    jobs: mpsc::Sender<Job>,
    /// Jobs of the thread that starts processes with sockets of the host, once it exists.
    network_jobs: Mutex<Option<mpsc::Sender<Job>>>,
    janitor: Janitor,
    templates: Templates,
    slots: Arc<Slots>,
    directory: Arc<EngineDirectory>,
    privileges: Privileges,
    shared: Arc<Shared>,
}

impl Engine {
    /// Creates an engine. It does not check whether the machine allows sandboxes: the first
    /// [`Engine::spawn`] does, or [`Engine::probe`].
    ///
    /// # Errors
    ///
    /// If the scratch directory cannot be used or threads cannot be started.
    pub fn new(options: EngineOptions) -> Result<Self, EngineError> {
        let directory = Arc::new(EngineDirectory::create(&options.scratch)?);
        let subdirectory = |name: &str| {
            let path = directory.path().join(name);
            std::fs::create_dir(&path)
                .map(|()| path)
                .map_err(EngineError::setup("creating a sandbox directory"))
        };
        let roots = subdirectory("roots")?;
        let slots = subdirectory("builds")?;
        let groups = Groups::find();
        let privileges = probe::privileges(options.first_id, groups.is_some());
        let janitor = Janitor::start().map_err(EngineError::setup("starting the janitor"))?;
        let shared = Arc::new(Shared {
            root: privileges.root,
            network: Arc::default(),
            groups,
            janitor: janitor.clone(),
            under_way: Arc::default(),
            proven: AtomicBool::new(false),
        });
        Ok(Engine {
            inner: Arc::new(Inner {
                jobs: spawner::start(options.spawners.max(1), &shared)?,
                network_jobs: Mutex::default(),
                janitor,
                templates: Templates::new(roots),
                slots: Slots::new(
                    slots,
                    directory.clone(),
                    privileges.root.then_some(options.first_id),
                ),
                directory,
                privileges,
                shared,
            }),
        })
    }

    /// Checks whether this machine allows sandboxes, by creating the namespaces of one.
    ///
    /// # Errors
    ///
    /// [`EngineError::Unavailable`] names the missing feature and how to allow it.
    pub fn probe(&self) -> Result<(), EngineError> {
        let proven = &self.inner.shared.proven;
        if !proven.load(Ordering::Relaxed) {
            probe::sandbox(self.inner.privileges.obstacle)?;
            proven.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Prepares the first process of a kind in advance: the root directory for the mounts of `spec`, and
    /// its network namespace if it has one. The namespace is created in the background. Blocks
    /// briefly.
    ///
    /// # Errors
    ///
    /// A subset of those of [`Engine::spawn`].
    pub fn make_ready(&self, spec: &SandboxSpec) -> Result<(), EngineError> {
        if self.inner.privileges.root
            && spec.isolation == Isolation::Sandbox
            && spec.network == Network::None
        {
            let sent = self.inner.jobs.send(Job::Network);
            sent.map_err(|_| EngineError::Stopped)?;
        }
        Plan::new(spec, &self.inner.templates, self.inner.privileges).map(drop)
    }

    /// Writable directories for one process.
    ///
    /// # Errors
    ///
    /// If they cannot be created.
    pub fn scratch(&self) -> Result<Scratch, EngineError> {
        Scratch::new(&self.inner.slots, &self.inner.janitor)
    }

    /// Starts a process. Returns once it executes its program.
    ///
    /// Dropping the future kills the process if it has been started. Must be called on a tokio runtime
    /// with I/O and time enabled.
    ///
    /// # Errors
    ///
    /// [`EngineError::Unavailable`] if the machine does not allow sandboxes (there is no fallback);
    /// [`EngineError::InvalidSpec`] and [`EngineError::Execute`] if the specification cannot be
    /// carried out; [`EngineError::Setup`] if the machine fails.
    pub async fn spawn(&self, spec: SandboxSpec) -> Result<Running, EngineError> {
        self.spawn_holding(spec, ()).await
    }

    /// Like [`Engine::spawn`], but keeps `held` until the process is dead.
    ///
    /// # Errors
    ///
    /// As [`Engine::spawn`].
    pub async fn spawn_holding(
        &self,
        spec: SandboxSpec,
        held: impl Any + Send + Sync,
    ) -> Result<Running, EngineError> {
        self.start(spec, held)?.running().await
    }

    /// The blocking part of [`Engine::spawn_holding`], which reads files of the host, for callers on a
    /// thread that may block. Dropping the result kills the process.
    ///
    /// # Errors
    ///
    /// As [`Engine::spawn`].
    pub fn start(
        &self,
        spec: SandboxSpec,
        held: impl Any + Send + Sync,
    ) -> Result<Starting, EngineError> {
        let plan = Plan::new(&spec, &self.inner.templates, self.inner.privileges)?;
        let jobs = match plan.host_sockets {
            true => self.inner.network_jobs()?,
            false => self.inner.jobs.clone(),
        };
        let (reply, answer) = oneshot::channel();
        let job = Job::Spawn(Box::new(Spawn {
            plan,
            held: Box::new(held),
            directory: self.inner.directory.clone(),
            reply,
            ticket: self.inner.shared.under_way.ticket(),
        }));
        jobs.send(job).map_err(|_| EngineError::Stopped)?;
        Ok(Starting {
            answer,
            limits: spec.limits,
            counted: spec.counted,
            janitor: self.inner.janitor.clone(),
            spawners: jobs,
        })
    }
}

impl Inner {
    fn network_jobs(&self) -> Result<mpsc::Sender<Job>, EngineError> {
        let mut jobs = self
            .network_jobs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match &*jobs {
            Some(jobs) => Ok(jobs.clone()),
            None => Ok(jobs
                .insert(spawner::start_with_host_sockets(&self.shared)?)
                .clone()),
        }
    }
}

/// A process that is being started, returned by [`Engine::start`]. Dropping it kills the process.
#[must_use = "dropping it ends the process"]
pub struct Starting {
    answer: oneshot::Receiver<Result<Started, EngineError>>,
    limits: Limits,
    counted: Vec<PathBuf>,
    janitor: Janitor,
    spawners: mpsc::Sender<Job>,
}

impl Starting {
    /// Waits until the program executes. Must be called on a tokio runtime with I/O and time
    /// enabled.
    ///
    /// # Errors
    ///
    /// As [`Engine::spawn`].
    pub async fn running(self) -> Result<Running, EngineError> {
        let started = self.answer.await.map_err(|_| EngineError::Stopped)??;
        Running::new(
            started,
            self.limits,
            self.counted,
            self.janitor,
            self.spawners,
        )
    }
}

impl std::fmt::Debug for Starting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Starting").finish_non_exhaustive()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A program that ends now would otherwise leave its last scratch directories behind, including
        // those of processes that are being started.
        self.shared.under_way.finish();
        self.janitor.finish();
        // Dropping the resources of ended processes gives the janitor more chores.
        self.janitor.finish();
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("privileges", &self.inner.privileges)
            .finish_non_exhaustive()
    }
}

fn from_errno(errno: sys::Errno) -> io::Error {
    io::Error::from_raw_os_error(errno)
}
