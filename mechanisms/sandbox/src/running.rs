//! The handle on a running process: log, end, limits.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::mpsc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};

use super::cgroup::Group;
use super::error::EngineError;
use super::janitor::{Chore, Janitor};
use super::process::Process;
use super::spawner::{Job, Started};
use super::spec::Limits;
use super::sys::Exit;
use super::usage::Usage;
use super::{disk, from_errno};

/// How much of the log is read at once.
const CHUNK: usize = 16 * 1024;

/// The most a pipe can hold (its size can be raised to this), and therefore the most that a
/// process can have written before it died.
const PIPE_LIMIT: usize = 1 << 20;

/// An event of a running process.
#[derive(Debug)]
pub enum Event {
    /// Output of the process. Standard output and standard error are one pipe.
    Log(Bytes),
    /// The process and all its descendants are dead. The last event.
    Ended(Ending),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// It exited with this code.
    Exited(i32),
    /// A signal, not ours, ended it.
    Signalled(i32),
    /// [`Running::kill`] ended it.
    Killed,
    /// It ran longer than [`Limits::wall_time`].
    TimedOut(Duration),
    /// It wrote nothing for longer than [`Limits::silence`].
    Silent(Duration),
    /// It wrote more than [`Limits::log_bytes`].
    TooMuchLog(u64),
    /// Its files took more than [`Limits::disk`].
    TooMuchDisk(u64),
    /// It and its descendants wanted more than [`Limits::memory`].
    OutOfMemory(u64),
}

impl Ending {
    /// Whether the process exited with code 0.
    pub fn is_success(self) -> bool {
        self == Ending::Exited(0)
    }
}

/// A process started by [`Engine::spawn`](super::Engine::spawn).
///
/// Dropping it kills the process and all its descendants. A thread of the engine then reaps the
/// process (and waits for no other child of the program), and drops the value that was passed to
/// [`Engine::spawn_holding`](super::Engine::spawn_holding).
pub struct Running {
    process: Option<AsyncFd<Process>>,
    janitor: Janitor,
    /// Keeps the spawner threads: the kernel kills the process when its thread ends.
    _spawners: mpsc::Sender<Job>,
    log: Option<pipe::Receiver>,
    buffer: BytesMut,
    limits: Limits,
    logged: u64,
    wall: Option<Pin<Box<Sleep>>>,
    silence: Option<Pin<Box<Sleep>>>,
    disk: Option<DiskWatch>,
    usage: Option<Usage>,
    /// Why we killed it.
    cause: Option<Ending>,
    /// Set when the process has been reaped.
    ending: Option<Ending>,
    drained: usize,
}

impl Running {
    pub(super) fn new(
        started: Started,
        limits: Limits,
        counted: Vec<PathBuf>,
        janitor: Janitor,
        spawners: mpsc::Sender<Job>,
    ) -> Result<Self, EngineError> {
        // Errors from here on drop the process, which ends it.
        let log = pipe::Receiver::from_owned_fd(started.log)
            .map_err(EngineError::setup("watching the log"))?;
        let process = started.process.claim();
        // SAFETY: a `Process` owns its descriptor, never replaces it, and always returns that one.
        let registered = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
        let process = match registered {
            Ok(process) => process,
            Err(error) => {
                let (process, source) = error.into_parts();
                janitor.give(Chore::End(process));
                return Err(EngineError::setup("watching the process")(source));
            }
        };
        let timer =
            |limit: Option<Duration>| limit.map(|limit| Box::pin(tokio::time::sleep(limit)));
        Ok(Running {
            process: Some(process),
            janitor,
            _spawners: spawners,
            log: Some(log),
            buffer: BytesMut::new(),
            wall: timer(limits.wall_time),
            silence: timer(limits.silence),
            disk: limits.disk.map(|limit| DiskWatch::start(counted, limit)),
            usage: None,
            limits,
            logged: 0,
            cause: None,
            ending: None,
            drained: 0,
        })
    }

    /// The process id in the namespace of the embedding program.
    pub fn pid(&self) -> Option<i32> {
        self.process
            .as_ref()
            .map(|process| process.get_ref().pid.as_raw_nonzero().get())
    }

    /// Kills the process and all its descendants. [`Running::next`] still reports the rest of the
    /// log and the end.
    pub fn kill(&mut self) {
        self.end(Ending::Killed);
    }

    /// Waits for the next event. After [`Event::Ended`] it returns the same event again.
    ///
    /// Cancel safe: dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// When the process cannot be waited for, which happens if the embedding program reaps
    /// children it did not start. The process is dead or will be killed.
    pub async fn next(&mut self) -> Result<Event, EngineError> {
        loop {
            if let Some(ending) = self.ending {
                return Ok(match self.drain() {
                    Some(bytes) => Event::Log(bytes),
                    None => Event::Ended(ending),
                });
            }
            // Reading first keeps the log in front of the end that it explains.
            let (log, process) = (&self.log, &self.process);
            let happened = tokio::select! {
                biased;
                ready = log_readable(log) => Happened::Readable(ready),
                exited = has_exited(process) => Happened::Exited(exited),
                () = elapsed(&mut self.wall) => Happened::WallTime,
                () = elapsed(&mut self.silence) => Happened::Silence,
                () = too_large(&mut self.disk) => Happened::Disk,
            };
            match happened {
                Happened::Readable(Ok(_)) => {
                    if let Some(bytes) = self.read() {
                        self.account(bytes.len());
                        return Ok(Event::Log(bytes));
                    }
                }
                // Nothing more will come from it; the end still will.
                Happened::Readable(Err(_)) => self.log = None,
                Happened::Exited(Ok(status)) => self.reaped(status),
                Happened::Exited(Err(source)) => {
                    return Err(EngineError::setup("waiting for the process")(source));
                }
                Happened::Disk => {
                    self.disk = None;
                    self.end(Ending::TooMuchDisk(self.limits.disk.unwrap_or_default()));
                }
                Happened::WallTime => {
                    self.wall = None;
                    self.end(Ending::TimedOut(self.limits.wall_time.unwrap_or_default()));
                }
                Happened::Silence => {
                    self.silence = None;
                    self.end(Ending::Silent(self.limits.silence.unwrap_or_default()));
                }
            }
        }
    }

    /// Resources used by the process, once it has ended.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Waits for the end and returns it with the whole log, which is kept in memory.
    pub async fn output(mut self) -> Result<(Ending, Vec<u8>), EngineError> {
        let mut log = Vec::new();
        loop {
            match self.next().await? {
                Event::Log(bytes) => log.extend_from_slice(&bytes),
                Event::Ended(ending) => return Ok((ending, log)),
            }
        }
    }

    fn end(&mut self, cause: Ending) {
        if let Some(process) = &self.process
            && self.cause.is_none()
        {
            self.cause = Some(cause);
            process.get_ref().kill();
        }
    }

    fn account(&mut self, bytes: usize) {
        self.logged += bytes as u64;
        if let Some(limit) = self.limits.log_bytes
            && self.logged > limit
        {
            self.end(Ending::TooMuchLog(limit));
            // It may write gigabytes until it is dead.
            self.log = None;
        }
        if let (Some(timer), Some(limit)) = (&mut self.silence, self.limits.silence) {
            timer.as_mut().reset(Instant::now() + limit);
        }
    }

    fn reaped(&mut self, exit: Exit) {
        let group = self.process.as_ref();
        let group = group.and_then(|process| process.get_ref().held.group.as_ref());
        // If a group has no limit, one above it may have.
        let limit = self.limits.memory;
        let limit = limit.filter(|_| group.is_some_and(Group::ran_out));
        self.usage = Some(usage(&exit.usage, group.and_then(Group::peak)));
        // Releases what was held for the process: it is dead.
        self.process = None;
        self.disk = None;
        let natural = match (exit.code, limit) {
            (Ok(0), _) => Ending::Exited(0),
            (_, Some(limit)) => Ending::OutOfMemory(limit),
            (Ok(code), None) => Ending::Exited(code),
            (Err(signal), None) => Ending::Signalled(signal),
        };
        self.ending = Some(match (self.cause, natural) {
            // It was quicker than our signal.
            (Some(Ending::Killed), Ending::Exited(_)) | (None, _) => natural,
            (Some(cause), _) => cause,
        });
    }

    /// Reads available bytes without waiting.
    fn read(&mut self) -> Option<Bytes> {
        let log = self.log.as_ref()?;
        self.buffer.reserve(CHUNK);
        match log.try_read_buf(&mut self.buffer) {
            Ok(0) => {
                self.log = None;
                None
            }
            Ok(_) => Some(self.buffer.split().freeze()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) => {
                self.log = None;
                None
            }
        }
    }

    /// Reads the rest of the log of the dead process. Waiting for the end of the pipe instead would
    /// hang if its descriptor had been passed to a process outside the sandbox.
    fn drain(&mut self) -> Option<Bytes> {
        if self.drained >= PIPE_LIMIT {
            self.log = None;
        }
        // Readiness is cached by the runtime, and the pipe may be fuller than the cache knows.
        let bytes = self.read().or_else(|| self.read_directly())?;
        self.drained += bytes.len();
        Some(bytes)
    }

    fn read_directly(&mut self) -> Option<Bytes> {
        let log = self.log.as_ref()?;
        let mut chunk = vec![0; CHUNK];
        match rustix::io::read(log, &mut chunk) {
            Ok(length) if length > 0 => {
                chunk.truncate(length);
                Some(chunk.into())
            }
            _ => {
                self.log = None;
                None
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            self.janitor.give(Chore::End(process.into_inner()));
        }
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running")
            .field("pid", &self.pid())
            .field("ending", &self.ending)
            .finish_non_exhaustive()
    }
}

enum Happened {
    Readable(io::Result<Ready>),
    Exited(io::Result<Exit>),
    Disk,
    WallTime,
    Silence,
}

async fn log_readable(log: &Option<pipe::Receiver>) -> io::Result<Ready> {
    match log {
        Some(log) => log.ready(Interest::READABLE).await,
        None => std::future::pending().await,
    }
}

async fn has_exited(process: &Option<AsyncFd<Process>>) -> io::Result<Exit> {
    let Some(process) = process else {
        return std::future::pending().await;
    };
    loop {
        let mut ready = process.readable().await?;
        match process.get_ref().reap(false).map_err(from_errno)? {
            Some(status) => return Ok(status),
            None => ready.clear_ready(),
        }
    }
}

/// Measures the disk usage periodically, on a thread that may block.
struct DiskWatch {
    directories: Vec<PathBuf>,
    limit: u64,
    state: Watching,
}

enum Watching {
    Pausing(Pin<Box<Sleep>>),
    Looking(JoinHandle<u64>),
}

/// The pause before the next measurement.
const DISK_PAUSE: Duration = Duration::from_millis(250);

impl DiskWatch {
    fn start(directories: Vec<PathBuf>, limit: u64) -> Self {
        DiskWatch {
            directories,
            limit,
            state: Watching::pause(),
        }
    }
}

impl Watching {
    fn pause() -> Self {
        Watching::Pausing(Box::pin(tokio::time::sleep(DISK_PAUSE)))
    }
}

/// Returns once the limit is exceeded. Cancel safe.
async fn too_large(watch: &mut Option<DiskWatch>) {
    let Some(watch) = watch else {
        return std::future::pending().await;
    };
    loop {
        watch.state = match &mut watch.state {
            Watching::Pausing(timer) => {
                timer.as_mut().await;
                let (directories, limit) = (watch.directories.clone(), watch.limit);
                Watching::Looking(tokio::task::spawn_blocking(move || {
                    disk::used(&directories, limit)
                }))
            }
            Watching::Looking(looking) => match looking.await {
                Ok(used) if used > watch.limit => return,
                _ => Watching::pause(),
            },
        };
    }
}

fn usage(usage: &libc::rusage, peak: Option<u64>) -> Usage {
    let time = |time: libc::timeval| {
        let micros = u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000;
        Duration::from_micros(micros + u64::try_from(time.tv_usec).unwrap_or(0))
    };
    let largest = u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024;
    Usage {
        user: time(usage.ru_utime),
        system: time(usage.ru_stime),
        peak_memory: peak.unwrap_or(largest),
    }
}

async fn elapsed(timer: &mut Option<Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.as_mut().await,
        None => std::future::pending().await,
    }
}
