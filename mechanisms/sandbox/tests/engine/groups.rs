//! Control groups, and everything else that can be mounted in user namespaces inside a sandbox.
//! Tested by a C program that tries all ways; it needs `cc`.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tvix_sandbox::{Access, Ending, Mount};

use crate::support::{Fixture, compile, finish};

const NOBODY: u32 = 65534;

/// Prints the file systems that it could mount as root of a user namespace, together with every
/// other kind of namespace that it may create. Kills the processes that it finds in control groups,
/// except itself, and creates groups there.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static void put(const char *file, const char *text) {
    int fd = open(file, O_WRONLY);
    if (fd >= 0) { if (write(fd, text, strlen(text)) > 0 && !strncmp(file, "at/", 3)) printf("wrote %s\n", file); close(fd); }
    fflush(stdout);
}
static const char *kinds[] = { "cgroup2", "cgroup", "sysfs", "debugfs", "tracefs", "securityfs", "configfs",
    "devtmpfs", "pstore", "efivarfs", "hugetlbfs", "fusectl", "fuse", "fuseblk", "autofs", "binfmt_misc", "bpf",
    "mqueue", "proc", "devpts", "tmpfs", "ramfs", "overlay", "ext4", "xfs", "btrfs", "erofs", "squashfs", "nfs",
    "nfs4", "cifs", "9p", "virtiofs", "nsfs", "selinuxfs", "resctrl", "rpc_pipefs", "nfsd", "cpuset", 0 };
static void attack(const char *at) {
    char file[256];
    sprintf(file, "%s/inner", at); if (mkdir(file, 0755) == 0) printf("made %s\n", file);
    sprintf(file, "%s/memory.max", at); put(file, "max");
    sprintf(file, "%s/cgroup.kill", at); put(file, "1");
}
static void try(const char *how) {
    mkdir("at", 0755);
    for (int i = 0; kinds[i]; i++) {
        const char *kind = kinds[i], *options = 0;
        if (!strcmp(kind, "overlay")) { mkdir("l", 0755); mkdir("u", 0755); mkdir("w", 0755); options = "userxattr,lowerdir=l,upperdir=u,workdir=w"; }
        if (mount(kind, "at", kind, 0, options) == 0) {
            printf("mounted %s\n", kind);
            if (!strncmp(kind, "cgroup", 6)) attack("at");
            umount2("at", MNT_DETACH);
        }
        int fs = syscall(430, kind, 1); /* fsopen */
        if (fs >= 0) {
            if (options) { syscall(431, fs, 0, "userxattr", 0, 0); syscall(431, fs, 1, "lowerdir", "l", 0);
                syscall(431, fs, 1, "upperdir", "u", 0); syscall(431, fs, 1, "workdir", "w", 0); }
            if (syscall(431, fs, 6, 0, 0, 0) == 0) { /* fsconfig: create */
                int made = syscall(432, fs, 1, 0); /* fsmount */
                if (made >= 0) {
                    printf("mounted %s\n", kind);
                    if (syscall(429, made, "", -100, "at", 4) == 0) { /* move_mount */
                        if (!strncmp(kind, "cgroup", 6)) attack("at");
                        int copy = syscall(428, -100, "at", 1 | O_CLOEXEC); /* open_tree */
                        int picked = syscall(433, -100, "at", 1); /* fspick */
                        if (picked >= 0) { syscall(431, picked, 7, 0, 0, 0); close(picked); }
                        if (copy >= 0) close(copy);
                        umount2("at", MNT_DETACH);
                    }
                    close(made);
                }
            }
            close(fs);
        }
    }
    fflush(stdout);
}
static int nested(int depth) {
    int uid = getuid(), gid = getgid(), status = 0;
    char map[64];
    if (unshare(CLONE_NEWUSER) != 0) { printf("no user namespace: %d\n", errno); return 1; }
    put("/proc/self/setgroups", "deny");
    sprintf(map, "0 %d 1", uid); put("/proc/self/uid_map", map);
    sprintf(map, "0 %d 1", gid); put("/proc/self/gid_map", map);
    if (unshare(CLONE_NEWNS) != 0) { printf("no mount namespace: %d\n", errno); return 1; }
    if (unshare(0x02000000) == 0) printf("cgroup namespace\n");
    /* By the other calls as well. */
    long args[8] = { 0x02000000, 0, 0, 0, 17, 0, 0, 0 };
    long child = syscall(435, args, 64L);
    if (child == 0) { printf("cgroup namespace by clone3\n"); fflush(stdout); _exit(0); }
    if (child > 0) waitpid(child, &status, 0);
    put("/proc/sys/user/max_cgroup_namespaces", "1000");
    if (unshare(0x02000000) == 0) printf("cgroup namespace after raising the limit\n");
    unshare(CLONE_NEWNET); unshare(CLONE_NEWIPC); unshare(CLONE_NEWUTS);
    try("mount");
    if (unshare(CLONE_NEWPID) == 0) {
        fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) { try("in a PID namespace"); if (depth > 0) nested(depth - 1); fflush(stdout); _exit(0); }
        waitpid(pid, &status, 0);
    }
    return 0;
}
int main(void) { chdir("/build"); int code = nested(2); printf("tried\n"); return code; }
"#;

/// File systems that may be mounted: they are empty, in memory, or show only the namespaces that
/// the builder program has created.
const HARMLESS: [&str; 8] = [
    "tmpfs",
    "ramfs",
    "proc",
    "devpts",
    "mqueue",
    "overlay",
    "bpf",
    "binfmt_misc",
];

async fn attempts() -> String {
    let fixture = Fixture::new();
    let program = compile(fixture.directory.path(), "mounts", PROGRAM);
    let (mut spec, scratch) = fixture.shell("exec /mounts");
    spec.mounts
        .push(Mount::bind(program, "/mounts", Access::ReadOnly));
    let running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
    let (ending, log) = finish(running).await;
    assert_eq!(ending, Ending::Exited(0), "{log}");
    assert!(log.ends_with("tried\n"), "{log}");
    log
}

/// The root of a nested user namespace, at any depth, cannot mount file systems of the machine.
/// Fails without `Step::NoCgroupNamespaces`.
#[tokio::test]
async fn nested_namespaces_mount_nothing_of_the_machine() {
    let log = attempts().await;
    for line in log.lines() {
        let harmless = line
            .strip_prefix("mounted ")
            .is_some_and(|kind| HARMLESS.contains(&kind));
        assert!(harmless || line == "tried", "'{line}' in\n{log}");
    }
    // Other mounts are allowed: builds create namespaces too.
    for kind in ["tmpfs", "proc"] {
        assert!(log.contains(&format!("mounted {kind}\n")), "{log}");
    }
}

/// The part of `processes_of_a_delegated_group_survive` that builds.
#[tokio::test]
async fn in_a_delegated_group() {
    if std::env::var_os(DELEGATED).is_none() {
        return;
    }
    // Waits until this process is in the group.
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let log = attempts().await;
    println!("survived\n{log}");
}

const DELEGATED: &str = "TVIX_TEST_DELEGATED_GROUP";

/// A version 2 control group that belongs to an ordinary user.
struct Delegated(PathBuf);

impl Delegated {
    fn new() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
        let top = Path::new(mount.split(' ').nth(4)?);
        let group = Self(top.join(format!("tvix-delegated-{}", std::process::id())));
        fs::create_dir(&group.0).ok()?;
        let all = fs::read_dir(&group.0).ok()?.flatten();
        for file in all.map(|entry| entry.path()).chain([group.0.clone()]) {
            std::os::unix::fs::chown(file, Some(NOBODY), Some(NOBODY)).ok()?;
        }
        Some(group)
    }

    fn add(&self, process: &Child) {
        fs::write(self.0.join("cgroup.procs"), process.id().to_string()).unwrap();
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// If the user owns the control group (as with systemd), a builder program that could mount it
/// would kill its other processes, first of all the building program. Fails without
/// `Step::NoCgroupNamespaces`.
#[test]
fn processes_of_a_delegated_group_survive() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let Some(group) = Delegated::new() else {
        eprintln!("SKIPPED: no control groups of version 2 can be made here");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let program = directory.path().join("suite");
    let copied = Command::new("cp")
        .arg(std::env::current_exe().unwrap())
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    let as_nobody = |program: &Path| {
        let mut command = Command::new(program);
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    };
    let mut other = as_nobody(Path::new("cat")).spawn().unwrap();
    group.add(&other);
    let mut builds = as_nobody(&program)
        .args(["--exact", "groups::in_a_delegated_group", "--nocapture"])
        .env(DELEGATED, "1")
        .env("TMPDIR", directory.path())
        .spawn()
        .unwrap();
    group.add(&builds);
    builds.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let said = BufReader::new(builds.stdout.take().unwrap());
    let said: Vec<String> = said.lines().map(|line| line.unwrap()).collect();
    let (ended, alive) = (builds.wait().unwrap(), other.try_wait().unwrap().is_none());
    let left = group.0.join("inner").exists();
    let _ = other.kill();
    let _ = other.wait();
    drop(group);
    let said = said.join("\n");
    assert!(
        ended.success() && alive && !left,
        "{ended} {alive} {left}\n{said}"
    );
    assert!(
        said.contains("survived") && !said.contains("cgroup"),
        "{said}"
    );
}
