//! Access to processes of the host and of other builds, with every system call that takes a process
//! id. Needs `cc`.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

use tvix_sandbox::{Access, Ending, Event, HostIds, Mount};

use crate::support::{Fixture, compile, finish};

/// Prints the error of each call on each of the given processes, or 0 on success; and whether it
/// can trace a child of its own.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
static void say(const char *what, long result) {
    printf("%s %d\n", what, result < 0 ? errno : 0);
    fflush(stdout);
}
int main(int count, char **words) {
    static char bytes[8];
    static void *head; static size_t length;
    struct iovec local = { bytes, 8 }, remote = { bytes, 8 };
    struct rlimit none = { 0, 0 };
    cpu_set_t first;
    CPU_ZERO(&first); CPU_SET(0, &first);
    for (int i = 1; i < count; i++) {
        pid_t pid = atoi(words[i]);
        say("seize", ptrace(PTRACE_SEIZE, pid, 0, 0));
        say("attach", ptrace(PTRACE_ATTACH, pid, 0, 0));
        say("read", process_vm_readv(pid, &local, 1, &remote, 1, 0));
        say("write", process_vm_writev(pid, &local, 1, &remote, 1, 0));
        say("robust list", syscall(SYS_get_robust_list, pid, &head, &length));
        say("kill", kill(pid, SIGTERM));
        say("tgkill", syscall(SYS_tgkill, pid, pid, SIGTERM));
        say("pidfd", syscall(434, pid, 0));
        say("limits", syscall(SYS_prlimit64, pid, RLIMIT_NOFILE, &none, 0));
        say("priority", setpriority(PRIO_PROCESS, pid, 19));
        say("processors", sched_setaffinity(pid, sizeof first, &first));
        say("session", getsid(pid));
    }
    pid_t own = fork();
    if (own == 0) {
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        raise(SIGSTOP);
        _exit(0);
    }
    int status = 0;
    waitpid(own, &status, 0);
    printf("own %d\n", WIFSTOPPED(status) && ptrace(PTRACE_CONT, own, 0, 0) == 0);
    return 0;
}
"#;

/// A process of the host, of the user that builds run as.
struct Victim(Child);

impl Victim {
    fn new(ids: Option<HostIds>) -> Self {
        let mut command = Command::new("sleep");
        command.arg("1000").current_dir("/");
        if let Some(ids) = ids {
            command.uid(ids.uid).gid(ids.gid);
        }
        Self(command.spawn().unwrap())
    }

    /// The tracer, limits and priority of the process.
    fn state(&self) -> String {
        let read = |file| std::fs::read_to_string(format!("/proc/{}/{file}", self.0.id())).unwrap();
        let status = read("status");
        let kept =
            |line: &&str| line.starts_with("TracerPid:") || line.starts_with("Cpus_allowed:");
        let lines: Vec<_> = status.lines().filter(kept).collect();
        let stat = read("stat");
        let nice = stat.split_whitespace().nth(18).unwrap();
        format!("{lines:?} {nice} {}", read("limits"))
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Without `CLONE_NEWPID` the victim receives signals. Without `CLONE_NEWUSER` as well, it is
/// traced.
#[tokio::test]
async fn no_process_outside_can_be_traced_or_changed() {
    let fixture = Fixture::new();
    let program = compile(fixture.directory.path(), "trace", PROGRAM);
    let (other, other_scratch) = fixture.shell("echo up; sleep 1000");
    let (mut spec, scratch) = fixture.shell("");
    let mut victim = Victim::new(scratch.host_ids());
    let mut other = fixture
        .engine
        .spawn_holding(other, other_scratch)
        .await
        .unwrap();
    assert!(matches!(other.next().await.unwrap(), Event::Log(_)));
    let before = victim.state();
    let other_pid = other.pid().unwrap().to_string();
    let victims = [victim.0.id().to_string(), other_pid];
    spec.program = "/trace".into();
    spec.args = std::iter::once("trace".into())
        .chain(victims.iter().map(Into::into))
        .collect();
    spec.mounts
        .push(Mount::bind(program, "/trace", Access::ReadOnly));
    let running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
    let (ending, log) = finish(running).await;
    assert_eq!(ending, Ending::Exited(0), "{log}");
    let lines: Vec<_> = log.lines().collect();
    let (own, others) = lines.split_last().unwrap();
    assert_eq!(*own, "own 1", "{log}");
    assert_eq!(others.len(), 12 * victims.len(), "{log}");
    let missing = format!(" {}", libc::ESRCH);
    for line in others {
        assert!(line.ends_with(&missing), "{log}");
    }
    assert!(victim.0.try_wait().unwrap().is_none());
    assert_eq!(victim.state(), before);
    // The process sleeps or is about to: nothing has stopped or killed it.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", victims[1])).unwrap();
    let state = stat.split_whitespace().nth(2).unwrap();
    assert!(matches!(state, "S" | "D" | "R"), "{stat}");
    other.kill();
}
