//! Builds with network and Unix sockets: CVE-2024-27297 and CVE-2025-46416, where a file descriptor
//! of an output leaves a build, or one of the host enters it. They need `cc`.
//!
//! All of these fail if `Plan::sandbox` puts builds with network into the host's network namespace.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;

use tvix_sandbox::{Access, Ending, Event, Mount, Network, Running};

use crate::support::{Fixture, compile, finish, marker};

/// `serve NAME`: prints "listening", accepts a connection, receives a descriptor and writes to it.
/// `give NAME FILE`: sends a descriptor of FILE. `both NAME FILE`: both, between two processes.
/// `tcp PORT`, `tcp32 PORT`: prints the output of the server at that port. NAME is an abstract
/// address.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
static struct sockaddr_un address; static socklen_t length;
static void name(const char *text) {
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path + 1, text, strlen(text));
    length = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(text);
}
static char space[CMSG_SPACE(sizeof(int))];
static struct msghdr message(struct iovec *data) {
    struct msghdr m = { .msg_iov = data, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space };
    return m;
}
static int listening(void) {
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (bind(fd, (void *)&address, length) || listen(fd, 8)) { printf("cannot listen %d\n", errno); exit(9); }
    printf("listening\n"); fflush(stdout);
    return fd;
}
static void take(int fd) {
    int from = accept(fd, 0, 0);
    char byte; struct iovec data = { &byte, 1 }; struct msghdr m = message(&data);
    if (recvmsg(from, &m, 0) != 1) exit(9);
    int got = *(int *)CMSG_DATA(CMSG_FIRSTHDR(&m));
    dprintf(got, "written from outside\n");
}
static void give(const char *file) {
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (void *)&address, length)) { printf("not connected: %d\n", errno); return; }
    int pair[2]; socketpair(AF_UNIX, SOCK_DGRAM, 0, pair);
    char byte = 'x'; struct iovec data = { &byte, 1 }; struct msghdr m = message(&data);
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET; c->cmsg_type = SCM_RIGHTS; c->cmsg_len = CMSG_LEN(sizeof(int));
    *(int *)CMSG_DATA(c) = open(file, O_RDWR | O_CREAT, 0666);
    printf("given: %ld\n", (long)sendmsg(fd, &m, 0));
}
static int socket32(void) {
#ifdef __x86_64__
    static int arguments[3] = { AF_INET, SOCK_STREAM, 0 };
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(102L), "b"(1L), "c"(arguments) : "memory");
    return result;
#else
    return socket(AF_INET, SOCK_STREAM, 0);
#endif
}
int main(int count, char **words) {
    if (!strncmp(words[1], "tcp", 3)) {
        int fd = words[1][3] ? socket32() : socket(AF_INET, SOCK_STREAM, 0);
        struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(atoi(words[2])) };
        inet_aton("127.0.0.1", &to.sin_addr);
        if (connect(fd, (void *)&to, sizeof to)) { printf("not connected: %d %d\n", fd, errno); return 1; }
        char text[99]; int got = read(fd, text, sizeof text);
        return got != write(1, text, got);
    }
    name(words[2]);
    if (!strcmp(words[1], "serve")) take(listening());
    if (!strcmp(words[1], "give")) give(words[3]);
    if (!strcmp(words[1], "both")) {
        int fd = listening();
        if (fork() == 0) { give(words[3]); return 0; }
        take(fd); wait(0);
    }
    return 0;
}
"#;

struct Sockets {
    fixture: Fixture,
    program: PathBuf,
}

impl Sockets {
    fn new() -> Self {
        let fixture = Fixture::new();
        let program = compile(fixture.directory.path(), "sockets", PROGRAM);
        Self { fixture, program }
    }

    async fn start(&self, script: &str) -> Running {
        let (mut spec, scratch) = self.fixture.shell(script);
        spec.network = Network::Host;
        spec.mounts
            .push(Mount::bind(&self.program, "/sockets", Access::ReadOnly));
        let engine = &self.fixture.engine;
        engine.spawn_holding(spec, scratch).await.unwrap()
    }

    /// A server that is already listening.
    async fn serve(&self, name: &str) -> Running {
        let mut running = self.start(&format!("exec /sockets serve {name}")).await;
        match running.next().await.unwrap() {
            Event::Log(line) => assert_eq!(line, "listening\n"),
            event => panic!("{event:?}"),
        }
        running
    }

    async fn give(&self, name: &str) -> String {
        finish(self.start(&format!("/sockets give {name} output")).await)
            .await
            .1
    }
}

const REFUSED: &str = "not connected: 111\n";

#[tokio::test]
async fn no_descriptor_from_one_build_to_another() {
    let sockets = Sockets::new();
    let name = marker();
    let server = sockets.serve(&name).await;
    assert_eq!(sockets.give(&name).await, REFUSED);
    drop(server);
    // The program works: processes of one build can exchange descriptors.
    let running = sockets
        .start(&format!("/sockets both {name} output; cat output"))
        .await;
    let (ending, log) = finish(running).await;
    assert_eq!(ending, Ending::Exited(0), "{log}");
    assert!(
        log.contains("given: 1") && log.contains("written from outside"),
        "{log}"
    );
}

#[tokio::test]
async fn no_descriptor_from_a_build_to_the_host() {
    let sockets = Sockets::new();
    let name = marker();
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(sockets.give(&name).await, REFUSED);
    assert!(listener.accept().is_err());
}

#[tokio::test]
async fn no_descriptor_from_the_host_to_a_build() {
    let sockets = Sockets::new();
    let name = marker();
    let _server = sockets.serve(&name).await;
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    assert!(UnixStream::connect_addr(&address).is_err());
}

/// Sockets with path names are as private as their directories.
#[tokio::test]
async fn no_path_leads_from_one_build_to_another() {
    let sockets = Sockets::new();
    let places = "/build /tmp /nix/store /dev/shm";
    let script = format!("for place in {places}; do mkfifo $place/way-in; done; echo made; read x");
    let mut one = sockets.start(&format!("{script} < /build/way-in")).await;
    assert!(matches!(one.next().await.unwrap(), Event::Log(_)));
    let other = format!("for place in {places}; do ls $place; done");
    let (ending, log) = finish(sockets.start(&other).await).await;
    assert_eq!((ending, log.as_str()), (Ending::Exited(0), ""));
}

/// TCP is that of the host, also with the system calls of 32-bit programs.
#[tokio::test]
async fn the_network_is_the_hosts() {
    let sockets = Sockets::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"from the host\n");
        }
    });
    for way in ["tcp", "tcp32"] {
        let (ending, log) = finish(sockets.start(&format!("/sockets {way} {port}")).await).await;
        // Not every kernel has the old interface.
        if way == "tcp32" && log.starts_with("not connected: -38") {
            continue;
        }
        assert_eq!(
            (ending, log.as_str()),
            (Ending::Exited(0), "from the host\n"),
            "{way}"
        );
    }
}

/// Otherwise a build could share a port with a program of root, if that allows sharing. Fails
/// without `set_thread_fs_user`.
#[tokio::test]
async fn sockets_belong_to_the_builder() {
    let sockets = Sockets::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (mut spec, scratch) = sockets.fixture.shell(&format!("/sockets tcp {port}"));
    spec.network = Network::Host;
    spec.mounts
        .push(Mount::bind(&sockets.program, "/sockets", Access::ReadOnly));
    let owner = match scratch.host_ids() {
        Some(ids) => ids.uid,
        None => rustix::process::geteuid().as_raw(),
    };
    let running = sockets.fixture.engine.spawn_holding(spec, scratch).await;
    let running = running.unwrap();
    let (mut stream, from) = listener.accept().unwrap();
    let mut table = String::new();
    let mut file = std::fs::File::open("/proc/net/tcp").unwrap();
    file.read_to_string(&mut table).unwrap();
    let local = format!(":{:04X}", from.port());
    let line = table.lines().find(|line| {
        let address = line.split_whitespace().nth(1).unwrap_or_default();
        address.ends_with(&local)
    });
    let fields: Vec<_> = line.unwrap().split_whitespace().collect();
    assert_eq!(fields[7], owner.to_string(), "{fields:?}");
    stream.write_all(b"done\n").unwrap();
    drop(stream);
    assert_eq!(finish(running).await, (Ending::Exited(0), "done\n".into()));
}
