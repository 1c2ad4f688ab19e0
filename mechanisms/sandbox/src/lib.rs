//! Starting processes in Linux namespaces.
//!
//! [`Engine::spawn`] turns a [`SandboxSpec`] into a [`Running`] process that is the first of its
//! own PID namespace and sees only what the specification names. There is no helper program and
//! no daemon, and it works for root and for ordinary users alike.
//!
//! A sandbox costs little more than the `execve` in it, because what is the same for many
//! builds is prepared once: the root directory, the directories a build writes to
//! ([`Scratch`]), the system call filter, and, for root, the network namespace. The child shares
//! the program's memory until it executes, so the program's size does not matter.
//!
//! # Processes
//!
//! A process dies with all its descendants when it ends, when its [`Running`] is dropped, or when
//! the embedding program dies, be it by `SIGKILL`. Only its own processes are waited for.
//!
//! Until a started process has executed its program it shares memory with the embedding program;
//! the program must not `fork` and then modify the engine from the copy.

#![cfg(target_os = "linux")]

mod cgroup;
mod child;
mod directory;
mod disk;
mod error;
mod host_sockets;
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
pub use lines::LineBuffer;
pub use running::{Ending, Event, Running};
pub use scratch::Scratch;
pub use spec::{
    Access, HostIds, Isolation, Limits, Mount, Network, SANDBOX_GID, SANDBOX_UID, SandboxSpec,
};
pub use usage::Usage;

use cgroup::Groups;
use directory::EngineDirectory;
use plan::{Plan, Privileges};
use process::Janitor;
use scratch::Slots;
use spawner::{Job, Shared, Spawn, Started};
use template::Templates;

/// The first of the host users that builders run as when the engine runs as root. The range is
/// far from what accounts and containers use; Nix's `auto-allocate-uids` starts at the same place.
pub const DEFAULT_FIRST_ID: u32 = 872_415_232;

/// How an [`Engine`] works.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Where builds write, best on the file system of the store that takes the outputs: moving
    /// them there is then a rename. The engine makes a private directory in it, and removes those
    /// that earlier engines left when they were killed.
    pub scratch: PathBuf,
    /// How many processes may be in the making at the same time.
    pub spawners: usize,
    /// The first host user for builders, when running as root.
    pub first_id: u32,
}

impl EngineOptions {
    /// The defaults, with this scratch directory.
    pub fn new(scratch: impl Into<PathBuf>) -> Self {
        EngineOptions {
            scratch: scratch.into(),
            spawners: std::thread::available_parallelism().map_or(1, |count| count.get().min(8)),
            first_id: DEFAULT_FIRST_ID,
        }
    }
}

/// Starts processes in sandboxes. Cheap to clone; the clones are one engine.
///
/// Dropping the last clone waits for the clean-up after processes that have ended. Processes that
/// still run are not affected.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    jobs: mpsc::Sender<Job>,
    /// For the thread whose children get sockets of the host, once there is one.
    network_jobs: Mutex<Option<mpsc::Sender<Job>>>,
    janitor: Janitor,
    templates: Templates,
    slots: Arc<Slots>,
    directory: Arc<EngineDirectory>,
    privileges: Privileges,
    shared: Arc<Shared>,
}

impl Engine {
    /// Makes an engine. Whether the machine can sandbox is found out by the first
    /// [`Engine::spawn`] of a sandbox, or by [`Engine::probe`].
    ///
    /// # Errors
    ///
    /// When the scratch directory cannot be used or threads cannot be started.
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

    /// Finds out whether this machine can sandbox, by trying.
    ///
    /// # Errors
    ///
    /// [`EngineError::Unavailable`] says what is missing and what to do about it.
    pub fn probe(&self) -> Result<(), EngineError> {
        let proven = &self.inner.shared.proven;
        if !proven.load(Ordering::Relaxed) {
            probe::sandbox(self.inner.privileges.obstacle)?;
            proven.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Makes what the first process of a kind would have to wait for: the root for the mounts of
    /// `spec`, and a network namespace if it is to have one of its own. The latter goes on after
    /// the return. Blocks shortly.
    ///
    /// # Errors
    ///
    /// As [`Engine::spawn`], as far as they show so early.
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

    /// Directories for a build.
    ///
    /// # Errors
    ///
    /// When they cannot be created.
    pub fn scratch(&self) -> Result<Scratch, EngineError> {
        self.inner.slots.take(&self.inner.janitor)
    }

    /// Starts a process; returns once it executes its program.
    ///
    /// Dropping the future ends the process if it has been started already. Must be called on a
    /// tokio runtime with I/O and time enabled.
    ///
    /// # Errors
    ///
    /// [`EngineError::Unavailable`] when the machine cannot sandbox (there is no fallback),
    /// [`EngineError::InvalidSpec`] and [`EngineError::Execute`] when the caller asked for
    /// something impossible, [`EngineError::Setup`] for trouble on this machine.
    pub async fn spawn(&self, spec: SandboxSpec) -> Result<Running, EngineError> {
        self.spawn_holding(spec, ()).await
    }

    /// Like [`Engine::spawn`], and drops `held` only when the process is dead.
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

    /// The part of [`Engine::spawn_holding`] that looks at the host's files, for callers who are
    /// on a thread that may block anyway. Dropping what it returns ends the process.
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

/// A process on its way, as [`Engine::start`] returns it. Dropping it ends the process.
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
        // A program that ends now would otherwise leave its last scratch directories behind, also of
        // what was just being started.
        self.shared.under_way.finish();
        self.janitor.finish();
        // What ended processes held is for the janitor, too.
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
