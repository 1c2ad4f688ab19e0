//! Network namespaces made ahead of need and used again.
//!
//! A network namespace takes longer to create than all other namespaces and mounts of a sandbox
//! together, and as long again to destroy. Two builds at the same time must not share one: they
//! could talk through abstract sockets. But one build after another may, as long as the earlier
//! left no trace, and nearly no build touches its loopback interface at all.
//!
//! A namespace is used again only if all processes that were in it are dead, no socket of it is
//! left open anywhere, and its loopback interface has never carried a byte: then there are no
//! connections, no ports in `TIME_WAIT`, no cached metrics. Interfaces, routes and settings
//! belong to the user namespace that created the network namespace, the host's, in which a
//! builder has no capability. For the same reason only root can do this.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::EngineError;
use super::sys;

/// More than this many idle ones are not kept.
const IDLE_LIMIT: usize = 64;

#[derive(Debug)]
struct Namespace {
    handle: OwnedFd,
    sockets: File,
    interfaces: File,
    /// What the two files said when the namespace was new.
    unused: State,
}

#[derive(Debug, PartialEq, Eq)]
struct State {
    /// The line of `/proc/net/sockstat` that counts open sockets; the others count globally.
    sockets: Vec<u8>,
    /// `/proc/net/dev`, with the bytes and packets of every interface.
    interfaces: Vec<u8>,
}

impl Namespace {
    /// Makes one and moves the calling thread into it.
    fn create() -> Result<Self, EngineError> {
        let step = "creating a network namespace";
        let errno = |errno| EngineError::setup(step)(io::Error::from_raw_os_error(errno));
        sys::unshare(libc::CLONE_NEWNET).map_err(errno)?;
        sys::loopback_up().map_err(errno)?;
        let open = |path: &str| File::open(path).map_err(EngineError::setup(step));
        let handle = open("/proc/thread-self/ns/net")?.into();
        let sockets = open("/proc/thread-self/net/sockstat")?;
        let interfaces = open("/proc/thread-self/net/dev")?;
        let unused = State::read(&sockets, &interfaces).map_err(EngineError::setup(step))?;
        Ok(Namespace {
            handle,
            sockets,
            interfaces,
            unused,
        })
    }

    fn is_unused(&self) -> bool {
        State::read(&self.sockets, &self.interfaces).is_ok_and(|state| state == self.unused)
    }
}

impl State {
    fn read(sockets: &File, interfaces: &File) -> io::Result<Self> {
        let mut state = State {
            sockets: read_at_start(sockets)?,
            interfaces: read_at_start(interfaces)?,
        };
        let line = memchr::memchr(b'\n', &state.sockets).unwrap_or(state.sockets.len());
        state.sockets.truncate(line);
        Ok(state)
    }
}

fn read_at_start(file: &File) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 1024];
    let length = file.read_at(&mut buffer, 0)?;
    buffer.truncate(length);
    Ok(buffer)
}

/// The idle namespaces of an engine.
#[derive(Debug, Default)]
pub(super) struct NetPool {
    idle: Mutex<Vec<Namespace>>,
}

impl NetPool {
    /// Makes a namespace for later, unless there is one. The calling thread is in some unused
    /// namespace afterwards. Whoever wants to enter one meanwhile waits for this one.
    pub(super) fn make_ready(&self) -> Result<(), EngineError> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.is_empty() {
            idle.push(Namespace::create()?);
        }
        Ok(())
    }

    /// Moves the calling thread into an unused namespace and hands it out.
    pub(super) fn enter(self: &Arc<Self>) -> Result<NetLease, EngineError> {
        let lease = |namespace| NetLease {
            namespace: Some(namespace),
            pool: self.clone(),
        };
        loop {
            let idle = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            let Some(namespace) = idle else {
                return Namespace::create().map(lease);
            };
            if namespace.is_unused() {
                sys::set_namespace(namespace.handle.as_raw_fd(), libc::CLONE_NEWNET).map_err(
                    |errno| {
                        EngineError::setup("entering a network namespace")(
                            io::Error::from_raw_os_error(errno),
                        )
                    },
                )?;
                return Ok(lease(namespace));
            }
        }
    }
}

/// A network namespace in use. To be dropped only when every process in it is dead.
#[derive(Debug)]
pub(super) struct NetLease {
    namespace: Option<Namespace>,
    pool: Arc<NetPool>,
}

impl Drop for NetLease {
    fn drop(&mut self) {
        let Some(namespace) = self.namespace.take() else {
            return;
        };
        let mut idle = self
            .pool
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_LIMIT {
            idle.push(namespace);
        }
    }
}
