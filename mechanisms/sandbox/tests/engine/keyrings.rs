//! Kernel keyrings. Tested by a C program that makes all their system calls; it needs `cc`.

use std::path::Path;

use tvix_sandbox::{Access, Ending, Isolation, Mount, Network};

use crate::support::{Fixture, compile, finish, marker};

/// Prints each call that succeeds or fails with an error other than `ENOSYS`, then the number of
/// calls.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static int count;
static char type[] = "user", name[64], payload[] = "planted", buffer[256];
static void say(const char *what, long number, long keyring, long result, int error) {
    count++;
    if (result >= 0 || error != ENOSYS)
        printf("%s %ld on %ld: %ld, error %d\n", what, number, keyring, result, result < 0 ? error : 0);
    fflush(stdout);
}
#ifdef __x86_64__
static void say32(const char *what, long number, long a, long b, long c, long d, long e) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
    say(what, number, e, result, (int)-result);
}
#endif
int main(int words, char **word) {
    long result;
    strcpy(name, word[1]);
    for (long keyring = 0; keyring >= -8; keyring--) {
        result = syscall(SYS_add_key, type, name, payload, 7L, keyring); say("add_key", 0, keyring, result, errno);
        result = syscall(SYS_request_key, type, name, 0L, keyring); say("request_key", 0, keyring, result, errno);
        result = syscall(SYS_request_key, type, name, payload, keyring); say("request_key with call-out", 0, keyring, result, errno);
        for (long operation = 0; operation <= 40; operation++) {
            result = syscall(SYS_keyctl, operation, keyring, (long)type, (long)name, 0L); say("keyctl", operation, keyring, result, errno);
        }
        result = syscall(SYS_keyctl, 11L, keyring, buffer, 255L); say("keyctl read", 11, keyring, result, errno);
        result = syscall(SYS_keyctl, 7L, keyring); say("keyctl clear", 7, keyring, result, errno);
    }
#ifdef __x86_64__
    if (fork() == 0) {
        count = 0;
        for (long keyring = 0; keyring >= -8; keyring--) {
            say32("32-bit add_key", 286, (long)type, (long)name, (long)payload, 7, keyring);
            say32("32-bit request_key", 287, (long)type, (long)name, 0, keyring, 0);
            for (long operation = 0; operation <= 40; operation++)
                say32("32-bit keyctl", 288, operation, keyring, (long)type, (long)name, 0);
        }
        _exit(0);
    }
    int status;
    wait(&status);
    /* The third interface, of 64-bit registers and 32-bit pointers. */
    for (long keyring = 0; keyring >= -8; keyring--) {
        result = syscall(0x40000000 | SYS_add_key, type, name, payload, 7L, keyring); say("x32 add_key", 0, keyring, result, errno);
        result = syscall(0x40000000 | SYS_request_key, type, name, 0L, keyring); say("x32 request_key", 0, keyring, result, errno);
        result = syscall(0x40000000 | SYS_keyctl, 10L, keyring, type, name, 0L); say("x32 keyctl", 10, keyring, result, errno);
    }
#endif
    printf("%d calls\n", count);
    return 0;
}
"#;

const SESSION: libc::c_long = -3;
const USER: libc::c_long = -4;
const USER_SESSION: libc::c_long = -5;
const KEYRINGS: [libc::c_long; 3] = [SESSION, USER, USER_SESSION];

fn keyctl(operation: libc::c_long, first: libc::c_long, second: libc::c_long) -> libc::c_long {
    // SAFETY: the operations used here take integers.
    unsafe { libc::syscall(libc::SYS_keyctl, operation, first, second, 0usize) }
}

/// Adds a key of this name to a keyring. Returns its number, or -1 without keyrings.
fn plant(name: &str, keyring: libc::c_long) -> libc::c_long {
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: strings and a buffer of the length given, which the kernel copies.
    unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            name.as_ptr(),
            c"SECRET".as_ptr(),
            6usize,
            keyring,
        )
    }
}

/// The keys in a keyring of the calling thread, sorted.
fn contents(keyring: libc::c_long) -> Vec<i32> {
    let mut keys = vec![0i32; 1024];
    // SAFETY: the buffer has the length given.
    let len = unsafe { libc::syscall(libc::SYS_keyctl, 11, keyring, keys.as_mut_ptr(), 4096usize) };
    keys.truncate(usize::try_from(len).unwrap_or(0) / 4);
    keys.sort_unstable();
    keys
}

/// The number of keys of this name that are visible to this process, of all users.
fn keys_named(name: &str) -> usize {
    let keys = std::fs::read_to_string("/proc/keys").unwrap_or_default();
    keys.lines().filter(|line| line.contains(name)).count()
}

/// No kind of build reads, extends or clears a keyring of its caller, or leaves keys for another
/// build. Each call succeeds without its line in the table in `seccomp.rs` (the second, 32-bit
/// interface too).
#[test]
fn builders_have_no_keyrings() {
    let thread = std::thread::spawn(|| {
        let name = marker();
        // The threads of the engine inherit the session keyring of the thread that creates it.
        if keyctl(1, 0, 0) < 0 {
            eprintln!("SKIPPED: no keyrings here");
            return;
        }
        let planted: Vec<_> = KEYRINGS.iter().map(|ring| plant(&name, *ring)).collect();
        let before: Vec<_> = KEYRINGS.iter().map(|ring| contents(*ring)).collect();
        assert!(!before[0].is_empty());
        let seen = keys_named(&name);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        for (network, isolation) in [
            (Network::None, Isolation::Sandbox),
            (Network::None, Isolation::Sandbox),
            (Network::Host, Isolation::Sandbox),
            (Network::None, Isolation::None),
        ] {
            let log = runtime.block_on(calls(&name, network, isolation));
            let calls = if cfg!(target_arch = "x86_64") {
                441
            } else {
                414
            };
            assert_eq!(log, format!("{calls} calls\n"), "{network:?} {isolation:?}");
        }
        let after: Vec<_> = KEYRINGS.iter().map(|ring| contents(*ring)).collect();
        assert_eq!(before, after);
        assert_eq!(keys_named(&name), seen);
        for (key, ring) in planted.into_iter().zip(KEYRINGS) {
            keyctl(9, key, ring); // unlink
        }
    });
    thread.join().unwrap();
}

async fn calls(name: &str, network: Network, isolation: Isolation) -> String {
    let fixture = Fixture::new();
    let program = compile(fixture.directory.path(), "keys", PROGRAM);
    let (mut spec, scratch) = fixture.shell("");
    spec.network = network;
    spec.isolation = isolation;
    let mut command = Path::new("/keys").to_owned();
    if isolation == Isolation::None {
        // The build sees the host's user, which owns the keys.
        spec.host_ids = None;
        spec.cwd = "/".into();
        command = program.clone();
    }
    spec.mounts
        .push(Mount::bind(program, "/keys", Access::ReadOnly));
    spec.args = vec!["keys".into(), name.into()];
    spec.program = command;
    let running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
    let (ending, log) = finish(running).await;
    assert_eq!(ending, Ending::Exited(0), "{log}");
    log
}
