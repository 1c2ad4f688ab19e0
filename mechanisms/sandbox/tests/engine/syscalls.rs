//! System calls that shell programs do not make. Tested by a C program; it needs `cc`.

use tvix_sandbox::{Access, Ending, Mount};

use crate::support::{Fixture, compile, finish};

/// Prints the error of each call, or 0 on success.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static char file[] = "file", other[] = "other", dir[] = "dir", here[] = ".", name[] = "user.a", params[256];
/* Flags of files in their three forms, verity, encryption and its keys, subvolumes. */
static unsigned requests[] = { 0x40086602, 0x40046602, 0x401c5820, 0x40806685, 0x800c6613, 0xc0506617, 0xc0406618,
    0x5000940e, 0x50009418, 0x50009401, 0x50009417, 0x4008941a, 0x4020bc10, 0 };
static long long how[3] = { O_CREAT | O_WRONLY, 04755, 0 };
static void say(const char *what, long result) {
    printf("%s %d\n", what, result < 0 ? errno : 0);
    fflush(stdout);
}
#ifdef __x86_64__
static void say32(const char *what, long number, long a, long b, long c, long d) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(0L) : "memory");
    printf("%s32 %ld\n", what, result < 0 ? -result : 0);
    fflush(stdout);
}
#endif
int main(void) {
    int fd = open(file, O_CREAT | O_WRONLY, 0644);
    char c = 'x';
    say("TIOCSTI", syscall(SYS_ioctl, 0, 0x5412UL, &c));
    say("TIOCSTI high", syscall(SYS_ioctl, 0, 0x500005412UL, &c));
    say("TIOCLINUX", syscall(SYS_ioctl, 0, 0x541CUL, &c));
    say("TIOCLINUX high", syscall(SYS_ioctl, 0, 0x50000541CUL, &c));
    say("io_uring_setup", syscall(425, 4, params));
    say("io_uring_enter", syscall(426, -1, 0, 0, 0, 0));
    say("io_uring_register", syscall(427, -1, 0, 0, 0));
    say("fchmod", syscall(SYS_fchmod, fd, 02755));
    say("fchmod high", syscall(SYS_fchmod, fd, 0x500000000UL | 04755));
    say("fchmodat", syscall(SYS_fchmodat, AT_FDCWD, file, 04755));
    say("fchmodat2", syscall(452, AT_FDCWD, file, 04755, 0));
    say("openat", syscall(SYS_openat, AT_FDCWD, other, O_CREAT | O_WRONLY, 04755));
    say("O_TMPFILE", syscall(SYS_openat, AT_FDCWD, here, O_TMPFILE | O_WRONLY, 04755));
    say("openat2", syscall(437, AT_FDCWD, other, how, sizeof how));
    say("mknodat", syscall(SYS_mknodat, AT_FDCWD, other, S_IFREG | 04755, 0));
#ifdef __x86_64__
    say("chmod", syscall(SYS_chmod, file, 06755));
    say("open", syscall(SYS_open, other, O_CREAT | O_WRONLY, 04755));
    say("creat", syscall(SYS_creat, other, 04755));
    say("mknod", syscall(SYS_mknod, other, S_IFREG | 04755, 0));
#endif
    say("character", mknod(other, S_IFCHR | 0644, 0x103));
    say("block", mknod(other, S_IFBLK | 0644, 0x800));
    say("setxattr", syscall(SYS_setxattr, file, "user.a", "b", 1, 0));
    say("lsetxattr", syscall(SYS_lsetxattr, file, "user.a", "b", 1, 0));
    say("fsetxattr", syscall(SYS_fsetxattr, fd, "user.a", "b", 1, 0));
    say("ACL", syscall(SYS_setxattr, file, "system.posix_acl_access", "b", 1, 0));
    say("setxattrat", syscall(463, AT_FDCWD, file, 0, "user.a", params, 16));
    say("setgroups", syscall(SYS_setgroups, 0, 0));
    say("file_setattr", syscall(469, AT_FDCWD, file, params, 24, 0));
    for (int i = 0; requests[i]; i++) {
        char what[64];
        sprintf(what, "ioctl %x", requests[i]);
        say(what, syscall(SYS_ioctl, fd, (unsigned long)requests[i], params));
        sprintf(what, "ioctl %x high", requests[i]);
        say(what, syscall(SYS_ioctl, fd, 0x500000000UL | requests[i], params));
    }
#ifdef __x86_64__
    if (fork() == 0) {
        long m = 04755, create = O_CREAT | O_WRONLY, f = (long)file, o = (long)other, p = (long)params, n = (long)name;
        say32("chmod", 15, f, m, 0, 0);
        say32("fchmod", 94, fd, m, 0, 0);
        say32("fchmodat", 306, AT_FDCWD, f, m, 0);
        say32("fchmodat2", 452, AT_FDCWD, f, m, 0);
        say32("open", 5, o, create, m, 0);
        say32("openat", 295, AT_FDCWD, o, create, m);
        say32("openat2", 437, AT_FDCWD, o, (long)how, sizeof how);
        say32("creat", 8, o, m, 0, 0);
        say32("mknod", 14, o, S_IFREG | m, 0, 0);
        say32("mknodat", 297, AT_FDCWD, o, S_IFREG | m, 0);
        say32("setxattr", 226, f, n, p, 1);
        say32("lsetxattr", 227, f, n, p, 1);
        say32("fsetxattr", 228, fd, n, p, 1);
        say32("setxattrat", 463, AT_FDCWD, f, 0, n);
        say32("ioctl", 54, 0, 0x5412, p, 0);
        say32("file_setattr", 469, AT_FDCWD, f, p, 24);
        for (int i = 0; requests[i]; i++) {
            char what[64];
            sprintf(what, "ioctl %x", requests[i]);
            say32(what, 54, fd, requests[i], p, 0);
        }
        say32("io_uring_setup", 425, 4, p, 0, 0);
        say32("io_uring_enter", 426, -1, 0, 0, 0);
        say32("io_uring_register", 427, -1, 0, 0, 0);
        _exit(0);
    }
    wait(0);
    /* The third interface, of 64-bit registers and 32-bit pointers. */
    say("x32", syscall(0x40000000 | SYS_chmod, file, 04755));
#endif
    struct stat st;
    say("mkdir", mkdir(dir, 06777));
    stat(dir, &st);
    printf("directory %o\n", st.st_mode & 07000);
    stat(file, &st);
    printf("mode %o\n", st.st_mode & 07777);
    printf("other %d\n", access(other, F_OK));
    return 0;
}
"#;

/// CVE-2017-5226, CVE-2019-10063, set-user-ID files in all ways, io_uring, extended attributes,
/// file flags. Without its line in the table in `seccomp.rs`, each call returns another error or
/// succeeds, except for devices, modes of directories and `setgroups`, which the kernel refuses
/// too.
#[tokio::test]
async fn what_the_filter_refuses() {
    let fixture = Fixture::new();
    let program = compile(fixture.directory.path(), "calls", PROGRAM);
    let (mut spec, scratch) = fixture.shell("exec /calls");
    spec.mounts
        .push(Mount::bind(program, "/calls", Access::ReadOnly));
    let running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
    let (ending, log) = finish(running).await;
    assert_eq!(ending, Ending::Exited(0), "{log}");
    let modes = [
        "chmod",
        "fchmod",
        "fchmodat",
        "fchmodat2",
        "open",
        "openat",
        "creat",
        "mknod",
        "mknodat",
    ];
    let attributes = ["setxattr", "lsetxattr", "fsetxattr", "setxattrat"];
    let missing = [
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "openat2",
        "file_setattr",
    ];
    let requests = [
        "40086602", "40046602", "401c5820", "40806685", "800c6613", "c0506617", "c0406618",
        "5000940e", "50009418", "50009401", "50009417", "4008941a", "4020bc10",
    ];
    let requests = requests.map(|request| format!("ioctl {request}"));
    let high = requests.each_ref().map(|request| format!("{request} high"));
    let requests = requests.each_ref().map(String::as_str);
    let high = high.each_ref().map(String::as_str);
    let terminal = ["TIOCSTI", "TIOCSTI high", "TIOCLINUX", "TIOCLINUX high"];
    let others = [
        "fchmod high",
        "O_TMPFILE",
        "character",
        "block",
        "setgroups",
    ];
    let (eperm, enosys, enotsup) = (libc::EPERM, libc::ENOSYS, libc::ENOTSUP);
    let mut expected: Vec<(String, i32)> = Vec::new();
    let mut called = |suffix: &str, calls: &[&str], error: i32| {
        expected.extend(calls.iter().map(|call| (format!("{call}{suffix}"), error)));
    };
    called("", &terminal, eperm);
    called("", &missing, enosys);
    called("", &others, eperm);
    called("", &attributes, enotsup);
    called("", &["ACL"], enotsup);
    called("", &requests, enotsup);
    called("", &high, enotsup);
    // The kernel creates no directory with such a mode, and a refused call has created nothing.
    called("", &["mkdir", "directory"], 0);
    called("", &["mode"], 644);
    called("", &["other"], -1);
    match cfg!(target_arch = "x86_64") {
        true => called("", &modes, eperm),
        false => called(
            "",
            &["fchmod", "fchmodat", "fchmodat2", "openat", "mknodat"],
            eperm,
        ),
    }
    if cfg!(target_arch = "x86_64") {
        called("", &["x32"], enosys);
        // Not every kernel has the old interface.
        if !log.contains(&format!("chmod32 {enosys}\n")) {
            called("32", &modes, eperm);
            called("32", &attributes, enotsup);
            called("32", &requests, enotsup);
            called("32", &["ioctl"], eperm);
            called("32", &missing, enosys);
        }
    }
    for (call, error) in expected {
        let line = format!("{call} {error}");
        assert!(
            log.lines().any(|found| found == line),
            "no '{line}' in:\n{log}"
        );
    }
}
