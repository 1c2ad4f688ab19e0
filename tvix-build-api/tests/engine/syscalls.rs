//! System calls that no builder program of a shell makes, by a C program that does. It needs `cc`.

use std::process::Command;

use tvix_build_api::sandbox::engine::{Access, Ending, Mount};

use crate::support::{Fixture, finish};

/// Prints the error of each call, 0 if it worked.
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
static char file[] = "file", other[] = "other", third[] = "third", params[256];
static void say(const char *what, long result) {
    printf("%s %d\n", what, result < 0 ? errno : 0);
    fflush(stdout);
}
int main(void) {
    close(open(file, O_CREAT | O_WRONLY, 0644));
    char c = 'x';
    say("TIOCSTI", syscall(SYS_ioctl, 0, 0x5412UL, &c));
    say("TIOCSTI high", syscall(SYS_ioctl, 0, 0x500005412UL, &c));
    say("TIOCLINUX", syscall(SYS_ioctl, 0, 0x541CUL, &c));
    say("TIOCLINUX high", syscall(SYS_ioctl, 0, 0x50000541CUL, &c));
    say("io_uring_setup", syscall(425, 4, params));
    say("fchmodat2", syscall(452, AT_FDCWD, file, 04755, 0));
    say("open", open(other, O_CREAT | O_WRONLY, 04755));
    say("mknod", mknod(other, S_IFREG | 04755, 0));
    say("device", mknod(other, S_IFCHR | 0644, 0x103));
    say("setxattr", syscall(SYS_setxattr, file, "user.a", "b", 1, 0));
    say("setxattrat", syscall(463, AT_FDCWD, file, 0, "user.a", params, 16));
    say("setgroups", syscall(SYS_setgroups, 0, 0));
#ifdef __x86_64__
    if (fork() == 0) {
        long result;
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(15L), "b"(file), "c"(04755L) : "memory");
        printf("chmod32 %ld\n", -result);
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(5L), "b"(third), "c"(0101L), "d"(04755L) : "memory");
        printf("open32 %ld\n", -result);
        fflush(stdout);
        _exit(0);
    }
    wait(0);
#endif
    struct stat st;
    stat(file, &st);
    printf("mode %o\n", st.st_mode & 07777);
    return 0;
}
"#;

/// CVE-2017-5226, CVE-2019-10063, set-user-ID files by any way, io_uring, extended attributes. With
/// its line taken out of the table in `seccomp.rs`, each shows another error, or none; but devices and
/// `setgroups`, which the kernel refuses too.
#[tokio::test]
async fn what_the_filter_refuses() {
    let fixture = Fixture::new();
    let source = fixture.directory.path().join("calls.c");
    let program = fixture.directory.path().join("calls");
    std::fs::write(&source, PROGRAM).unwrap();
    // At addresses that fit into 32 bits.
    let compiled = Command::new("cc")
        .args(["-static", "-no-pie", "-o"])
        .args([&program, &source])
        .status();
    assert!(compiled.expect("this test needs cc in PATH").success());
    let (mut spec, scratch) = fixture.shell("exec /calls");
    spec.mounts
        .push(Mount::bind(program, "/calls", Access::ReadOnly));
    let running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
    let (ending, log) = finish(running).await;
    assert_eq!(ending, Ending::Exited(0), "{log}");
    let (eperm, enosys, enotsup) = (text(1), text(38), text(95));
    let mut expected: Vec<(&str, &str)> = vec![
        ("TIOCSTI", &eperm),
        ("TIOCSTI high", &eperm),
        ("TIOCLINUX", &eperm),
        ("TIOCLINUX high", &eperm),
        ("io_uring_setup", &enosys),
        ("fchmodat2", &eperm),
        ("open", &eperm),
        ("mknod", &eperm),
        ("device", &eperm),
        ("setxattr", &enotsup),
        ("setxattrat", &enotsup),
        ("setgroups", &eperm),
        ("mode", "644"),
    ];
    // Not every kernel has the old interface.
    if log.contains("32 ") {
        expected.extend([("chmod32", eperm.as_str()), ("open32", &eperm)]);
    }
    for (call, error) in expected {
        let line = format!("{call} {error}");
        assert!(
            log.lines().any(|found| found == line),
            "no '{line}' in:\n{log}"
        );
    }
}

fn text(errno: i32) -> String {
    errno.to_string()
}
