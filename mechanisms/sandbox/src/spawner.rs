//! The threads that start processes.
//!
//! A builder inherits the state of the thread that clones it, so everything that all builders share
//! is set up once per thread: the system call filter, an empty list of supplementary groups, an empty
//! session keyring, blocked signals. The threads live as long as the engine, because the kernel kills a builder
//! (`PR_SET_PDEATHSIG`) when the *thread* that started it ends, which threads of an
//! asynchronous runtime may do at any time.

use std::any::Any;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use tokio::sync::oneshot;

use super::cgroup::Groups;
use super::child::{self, Context};
use super::directory::EngineDirectory;
use super::error::EngineError;
use super::janitor::{Chore, Janitor};
use super::netns::NetPool;
use super::plan::{IdMap, NetPlan, Plan};
use super::process::{Held, Process};
use super::stack::Stack;
use super::sys::Errno;
use super::under_way::{Ticket, UnderWay, this_thread_spawns};
use super::{host_sockets, keyring, probe, seccomp, sys};

/// A started process with the read end of its log.
pub(super) struct Started {
    pub(super) process: Unclaimed,
    pub(super) log: OwnedFd,
}

/// A process that goes to the janitor unless it is claimed: the caller may have stopped waiting.
pub(super) struct Unclaimed {
    process: Option<Process>,
    janitor: Janitor,
}

impl Unclaimed {
    pub(super) fn claim(mut self) -> Process {
        self.process.take().expect("claimed once, by value")
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            self.janitor.give(Chore::End(process));
        }
    }
}

/// Work for a spawner.
pub(super) enum Job {
    /// Start a process.
    Spawn(Box<Spawn>),
    /// Make a network namespace ahead of need.
    Network,
}

/// A request to start a process.
pub(super) struct Spawn {
    pub(super) plan: Plan,
    pub(super) held: Box<dyn Any + Send + Sync>,
    pub(super) directory: Arc<EngineDirectory>,
    pub(super) reply: oneshot::Sender<Result<Started, EngineError>>,
    /// The last field: the other fields must have reached the janitor when it is dropped.
    pub(super) ticket: Ticket,
}

/// State shared by the threads.
pub(super) struct Shared {
    pub(super) root: bool,
    pub(super) network: Arc<NetPool>,
    /// Where control groups can be made, if they can.
    pub(super) groups: Option<Groups>,
    pub(super) janitor: Janitor,
    pub(super) under_way: Arc<UnderWay>,
    /// Whether a sandbox has been created on this machine.
    pub(super) proven: AtomicBool,
}

/// Starts the threads; they end when the sender is dropped.
pub(super) fn start(count: usize, shared: &Arc<Shared>) -> Result<mpsc::Sender<Job>, EngineError> {
    let (jobs, inbox) = mpsc::channel::<Job>();
    let inbox = Arc::new(Mutex::new(inbox));
    let (ready, started) = mpsc::channel();
    for _ in 0..count {
        let inbox = inbox.clone();
        let shared = shared.clone();
        let ready = ready.clone();
        std::thread::Builder::new()
            .name("sandbox-spawner".into())
            .spawn(move || match Spawner::new(shared) {
                Ok(spawner) => {
                    let _ = ready.send(Ok(()));
                    drop(ready);
                    spawner.work(&inbox);
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            })
            .map_err(EngineError::setup("starting a spawner thread"))?;
    }
    drop(ready);
    for _ in 0..count {
        started.recv().map_err(|_| EngineError::Stopped)??;
    }
    Ok(jobs)
}

/// Starts the one thread for builders that get sockets of the host, and the one that makes these.
pub(super) fn start_with_host_sockets(
    shared: &Arc<Shared>,
) -> Result<mpsc::Sender<Job>, EngineError> {
    let (jobs, inbox) = mpsc::channel::<Job>();
    let (ready, started) = mpsc::channel();
    let (shared, root) = (shared.clone(), shared.root);
    let prepared = move || {
        let spawner = Spawner::new(shared)?;
        let listener =
            host_sockets::install_on_this_thread().map_err(|errno| EngineError::Unavailable {
                missing:
                    "builds with network are not possible, as system calls cannot be answered \
                          (seccomp)"
                        .into(),
                advice: "it takes Linux 5.14, and a container whose own manager answers none; or \
                         build without a sandbox (--no-sandbox)"
                    .into(),
                source: io::Error::from_raw_os_error(errno),
            })?;
        Ok((spawner, listener))
    };
    let step = "starting a spawner thread";
    std::thread::Builder::new()
        .name("sandbox-spawner".into())
        .spawn(move || match prepared() {
            Ok((spawner, listener)) => {
                let _ = ready.send(Ok(listener));
                spawner.work(&Mutex::new(inbox));
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        })
        .map_err(EngineError::setup(step))?;
    let listener = started.recv().map_err(|_| EngineError::Stopped)??;
    // Not started by that thread, whose filter it would have, and its namespace.
    std::thread::Builder::new()
        .name("sandbox-sockets".into())
        .spawn(move || host_sockets::answer(&listener, root))
        .map_err(EngineError::setup(step))?;
    Ok(jobs)
}

struct Spawner {
    shared: Arc<Shared>,
    stack: Stack,
    null: OwnedFd,
    host_network: Option<File>,
    in_host_network: bool,
}

impl Spawner {
    /// Prepares the calling thread. Nothing done here reaches the program's other threads.
    fn new(shared: Arc<Shared>) -> Result<Self, EngineError> {
        let errno = |step: &'static str| {
            move |errno: Errno| EngineError::setup(step)(io::Error::from_raw_os_error(errno))
        };
        sys::block_signals();
        if shared.root {
            sys::clear_thread_groups().map_err(errno("dropping supplementary groups"))?;
        }
        // Builders cannot use any keyring, as the filter says; the kernel may on their behalf. A
        // user's quota of keys can be used up, and some containers refuse the call.
        let _ = keyring::new_session_keyring();
        seccomp::install_on_this_thread().map_err(errno("installing the system call filter"))?;
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(EngineError::setup("opening /dev/null"))?;
        let host_network = if shared.root {
            let file = File::open("/proc/thread-self/ns/net")
                .map_err(EngineError::setup("opening the host's network namespace"))?;
            Some(file)
        } else {
            None
        };
        Ok(Spawner {
            shared,
            stack: Stack::new().map_err(EngineError::setup("allocating a stack"))?,
            null: above_standard(null)?,
            host_network,
            in_host_network: true,
        })
    }

    fn work(mut self, inbox: &Mutex<mpsc::Receiver<Job>>) {
        this_thread_spawns();
        loop {
            let job = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let job = match job {
                Ok(Job::Spawn(job)) => job,
                Ok(Job::Network) => {
                    self.in_host_network = false;
                    // If there cannot be any, the process that needs one says so.
                    let _ = self.shared.network.make_ready();
                    continue;
                }
                Err(_) => return,
            };
            if job.reply.is_closed() {
                continue;
            }
            let Spawn {
                plan,
                held,
                directory,
                reply,
                ticket,
            } = *job;
            let sandboxed = plan.sandboxed;
            let result = self
                .spawn(&plan, held, directory)
                .map_err(|error| self.blame_machine(sandboxed, error))
                .inspect(|_| {
                    if sandboxed {
                        self.shared.proven.store(true, Ordering::Relaxed);
                    }
                });
            // Nobody waiting drops the process, which ends it.
            let _ = reply.send(result);
            drop(ticket);
        }
    }

    /// If no sandbox has been created yet, the machine may not allow any: then the missing feature is
    /// a better error than the failed step.
    fn blame_machine(&self, sandboxed: bool, error: EngineError) -> EngineError {
        let unproven = sandboxed && !self.shared.proven.load(Ordering::Relaxed);
        match error {
            EngineError::Setup { .. } if unproven => probe::sandbox(None)
                .and_then(|()| probe::proc_is_uncovered())
                .err()
                .unwrap_or(error),
            error => error,
        }
    }

    fn spawn(
        &mut self,
        plan: &Plan,
        held: Box<dyn Any + Send + Sync>,
        directory: Arc<EngineDirectory>,
    ) -> Result<Started, EngineError> {
        let network = match plan.network {
            NetPlan::FromPool => {
                self.in_host_network = false;
                Some(self.shared.network.enter()?)
            }
            NetPlan::Host | NetPlan::Fresh => {
                self.enter_host_network()?;
                None
            }
        };
        let group = match self.shared.groups.as_ref().filter(|_| plan.grouped) {
            Some(groups) => {
                let made = groups.make(plan.memory);
                Some(made.map_err(EngineError::setup("making a control group"))?)
            }
            None => None,
        };
        let held = Held {
            group,
            _network: network,
            _caller: held,
            _directory: directory,
        };

        let pipe = || {
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
                .map_err(EngineError::setup("creating a pipe"))
        };
        let (log, log_writer) = pipe()?;
        let (errors, errors_writer) = pipe()?;
        rustix::io::ioctl_fionbio(&log, true).map_err(EngineError::setup("preparing the log"))?;
        if let Some(ids) = plan.log_owner {
            // Else `echo > /dev/stderr`, which opens the pipe anew, would be refused.
            std::os::unix::fs::fchown(&log_writer, Some(ids.uid), Some(ids.gid))
                .map_err(EngineError::setup("preparing the log"))?;
        }
        let log_writer = above_standard(log_writer)?;
        let errors_writer = above_standard(errors_writer)?;

        let context = Context {
            plan,
            stdin: self.null.as_raw_fd(),
            log: log_writer.as_raw_fd(),
            errors: errors_writer.as_raw_fd(),
            identity: AtomicU32::new(child::IDENTITY_PENDING),
        };
        let dumpable = Dumpable::preserve();
        let (pid, pidfd) = self
            .stack
            .clone_child(&context, plan.namespaces)
            .map_err(EngineError::setup("creating namespaces"))?;
        drop(log_writer);
        drop(errors_writer);

        let grouped = match &held.group {
            Some(group) => group
                .add(pid)
                .map_err(EngineError::setup("entering a control group")),
            None => Ok(()),
        };
        let mapped = grouped.and_then(|()| match plan.id_map {
            Some(map) => write_id_map(pid, map),
            None => Ok(()),
        });
        let verdict = match mapped {
            Ok(()) => child::IDENTITY_READY,
            Err(_) => child::IDENTITY_FAILED,
        };
        context.identity.store(verdict, Ordering::Release);
        sys::futex_wake(&context.identity);

        // The pipe closes when the child has executed its program or is gone. Until then it uses
        // our memory, so there is no way out of this function before.
        let mut report = Vec::with_capacity(8);
        let read = File::from(errors).read_to_end(&mut report);
        drop(dumpable);

        let process = Unclaimed {
            process: Some(Process {
                pidfd,
                pid,
                owns_namespace: plan.namespaces & libc::CLONE_NEWPID != 0,
                held,
            }),
            janitor: self.shared.janitor.clone(),
        };
        read.map_err(EngineError::setup("waiting for the sandbox"))?;
        // A child that failed early is gone before its users are mapped: its own word first.
        if let Ok(report) = report.try_into() {
            return Err(explain(plan, report));
        }
        mapped?;
        Ok(Started { process, log })
    }

    fn enter_host_network(&mut self) -> Result<(), EngineError> {
        if let (false, Some(host)) = (self.in_host_network, &self.host_network) {
            sys::set_namespace(host.as_raw_fd(), libc::CLONE_NEWNET).map_err(|errno| {
                EngineError::setup("returning to the host's network namespace")(
                    io::Error::from_raw_os_error(errno),
                )
            })?;
            self.in_host_network = true;
        }
        Ok(())
    }
}

fn explain(plan: &Plan, report: child::Report) -> EngineError {
    let (step, errno) = child::decode(report);
    let source = io::Error::from_raw_os_error(errno);
    if step == child::EXEC {
        use std::os::unix::ffi::OsStrExt;
        let program = PathBuf::from(std::ffi::OsStr::from_bytes(plan.program.to_bytes()));
        return EngineError::Execute { program, source };
    }
    let step = plan
        .steps
        .get(step as usize)
        .map_or_else(|| format!("step {step}"), ToString::to_string);
    EngineError::Setup { step, source }
}

/// Moves a descriptor out of the way of 0, 1 and 2, which the child overwrites.
fn above_standard(fd: OwnedFd) -> Result<OwnedFd, EngineError> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(&fd, 3).map_err(EngineError::setup("duplicating a descriptor"))
}

fn write_id_map(pid: Pid, map: IdMap) -> Result<(), EngineError> {
    let write = |name: &str, text: &str| {
        let path = format!("/proc/{}/{name}", pid.as_raw_nonzero());
        let result = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::io::write(&file, text.as_bytes()));
        result.map(drop).map_err(EngineError::setup(format!(
            "mapping users ({text} to {path})"
        )))
    };
    // The kernel's condition for letting an ordinary user map a group. No builder needs it, so root's
    // have to do without as well, as in Nix.
    write("setgroups", "deny")?;
    write(
        "gid_map",
        &format!("{} {} 1", map.inside.gid, map.outside.gid),
    )?;
    write(
        "uid_map",
        &format!("{} {} 1", map.inside.uid, map.outside.uid),
    )
}

/// Keeps the program's "dumpable" attribute as it was.
///
/// It belongs to the memory, not to the process: when a child that shares ours changes its user,
/// the kernel clears it for both, and the program could no longer be traced or dump core.
struct Dumpable;

/// How many children share our memory, and the attribute before the first did.
static DUMPABLE: Mutex<(u32, bool)> = Mutex::new((0, false));

impl Dumpable {
    fn preserve() -> Self {
        let mut state = DUMPABLE.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 == 0 {
            state.1 = sys::prctl(libc::PR_GET_DUMPABLE, 0) == Ok(1);
        }
        state.0 += 1;
        Dumpable
    }
}

impl Drop for Dumpable {
    fn drop(&mut self) {
        let mut state = DUMPABLE.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 -= 1;
        if state.0 == 0 && state.1 {
            // It can only fail for values other than 0 and 1.
            let _ = sys::prctl(libc::PR_SET_DUMPABLE, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::probe::Privileges;
    use crate::spec::{HostIds, Isolation, SandboxSpec};
    use crate::template::Templates;

    const KILLED: &str = "TVIX_TEST_KILLED_PARENT";

    /// Starts a child, and is killed before the users are mapped that it waits for.
    fn be_killed() -> ! {
        let directory = std::env::temp_dir();
        let spec = SandboxSpec {
            isolation: Isolation::None,
            ..SandboxSpec::new("/bin/true")
        };
        let privileges = Privileges {
            root: false,
            pid_namespace: true,
            groups: false,
            caller: HostIds {
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
            },
            obstacle: None,
        };
        let plan = Plan::new(&spec, &Templates::new(directory), privileges).unwrap();
        let (errors, errors_writer) = io::pipe().unwrap();
        let null = File::open("/dev/null").unwrap();
        let context = Context {
            plan: &plan,
            stdin: null.as_raw_fd(),
            log: null.as_raw_fd(),
            errors: errors_writer.as_raw_fd(),
            identity: AtomicU32::new(child::IDENTITY_PENDING),
        };
        let mut stack = Stack::new().unwrap();
        let (pid, _pidfd) = stack.clone_child(&context, plan.namespaces).unwrap();
        println!("\nchild {}", pid.as_raw_nonzero());
        // It waits by then, or finds out later that nobody is there.
        std::thread::sleep(Duration::from_millis(100));
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        drop(errors);
        unreachable!("killed")
    }

    /// Fails without `DieWithParent` before `AwaitIdentity`.
    #[test]
    fn who_waits_for_a_parent_that_is_killed_ends() {
        if std::env::var_os(KILLED).is_some() {
            be_killed();
        }
        let name = "spawner::tests::who_waits_for_a_parent_that_is_killed_ends";
        let mut parent = Command::new(std::env::current_exe().unwrap());
        let output = parent
            .args(["--exact", name, "--nocapture"])
            .env(KILLED, "1");
        // Its end closes the pipes, or the child has them still.
        let output = output.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let child = text.lines().find_map(|line| line.strip_prefix("child "));
        let child = Pid::from_raw(child.unwrap().parse().unwrap()).unwrap();
        let begun = Instant::now();
        while rustix::process::test_kill_process(child).is_ok() {
            if begun.elapsed() > Duration::from_secs(20) {
                let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
                panic!("it is there still");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
