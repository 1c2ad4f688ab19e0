//! A builder program sees the same environment.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use nix_compat::store_path::StoreDir;
use tvix_build_api::BuildOutcome;
use tvix_store_api::local_fs::LocalStore;
use tvix_tests::build_users;

use crate::{Peers, instantiate, shell};

/// Why the environment differs from that of Nix.
enum Difference {
    /// It is equal.
    None,
    /// It differs for all users.
    Always(&'static str),
    /// It differs if root builds, and Nix has no build users.
    AsRoot(&'static str),
    /// It differs if Nix has no build users, for all users.
    NoBuildUsers(&'static str),
}

use Difference::{Always, AsRoot, NoBuildUsers, None};

/// The parts of the environment that a builder program can inspect.
const WORLD: &[(&str, &str, Difference)] = &[
    ("environment", "env | sort > $out", None),
    (
        "arguments",
        "tr '\\0' '\\n' < /proc/$$/cmdline > $out; echo $0 >> $out",
        None,
    ),
    (
        "ids",
        "(id; id -u; pwd; umask; uname -n; uname -s; echo $$; hostname) > $out",
        None,
    ),
    (
        "etc",
        "for file in /etc/*; do echo \"== $file\"; cat $file; done > $out",
        None,
    ),
    (
        "build",
        "for file in /build /build/.[a-z]*; do stat -c '%n %a %u:%g %s' $file; done > $out",
        None,
    ),
    (
        "dev",
        "ls /dev > $out; ls -l /dev/fd /dev/stdin /dev/stdout /dev/stderr \
         | sed 's/.* \\(.dev\\)/\\1/' >> $out",
        None,
    ),
    ("root", "ls / > $out", None),
    ("store", "ls $NIX_STORE > $out", None),
    (
        "modes",
        "for dir in /build /tmp /dev /dev/shm /etc /nix/store; do
           stat -c '%n %a' $dir; done > $out",
        None,
    ),
    (
        "owners",
        "for dir in / /dev /etc /nix/store; do stat -c '%n %u' $dir; done > $out",
        AsRoot(
            "what is not the builder's to change belongs to nobody, as with Nix's build users; \
             Nix without them makes everything the builder's",
        ),
    ),
    ("input", "stat -c '%a %Y' $source > $out", None),
    (
        "limits",
        "grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status > $out; ulimit -a >> $out",
        None,
    ),
    (
        "mounts",
        "cut -d' ' -f2,3 /proc/self/mounts | sort > $out",
        Always(
            "inputs that are files are mounted too, and cannot be written to; Nix makes hard links. \
             /tmp is a directory of its own, which is emptied",
        ),
    ),
    (
        "devices",
        "for file in /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx /dev/pts/ptmx; do
           stat -L -c '%n %F %t:%T %a' $file; done > $out",
        None,
    ),
    (
        "namespaces",
        "for ns in user mnt pid net ipc uts; do readlink /proc/self/ns/$ns | sed 's/[[0-9].*//'; done > $out
         cat /proc/self/uid_map /proc/self/gid_map | wc -l >> $out; cat /proc/self/setgroups >> $out",
        None,
    ),
    (
        "processes",
        "set -- /proc/[0-9]*; echo $* > $out; ls /proc/sys >> $out; cat /proc/sys/kernel/hostname >> $out",
        None,
    ),
    (
        "signals",
        "grep -E '^(SigBlk|SigIgn|SigCgt)' /proc/self/status > $out",
        Always("Nix 2.8 leaves a signal ignored that its C library uses itself"),
    ),
    (
        "terminal",
        "if (: < /dev/tty) 2>&-; then echo yes; else echo no; fi > $out; cut -d' ' -f6,7 /proc/self/stat >> $out",
        None,
    ),
    (
        "writable",
        "for dir in / /etc /dev /nix /nix/store /tmp /build /proc /bin; do
           if (echo > $dir/probe) 2>&-; then echo $dir; rm $dir/probe; fi; done > $out",
        NoBuildUsers("the root is read-only; Nix without build users makes everything the builder's"),
    ),
    (
        "personality",
        "cat /proc/self/personality 2>&- > $out || echo unreadable > $out; uname -m >> $out",
        None,
    ),
    (
        "network",
        "tail -n +3 /proc/net/dev | cut -d: -f1 > $out",
        None,
    ),
    (
        "descriptors",
        "for fd in /proc/$$/fd/[012]; do readlink $fd | sed 's/[[0-9].*//'; done > $out",
        Always("the log is a pipe; Nix has a pseudo-terminal, so that programs write whole lines"),
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_world_is_the_same() {
    let peers = Peers::new().await;
    let source = peers.add_text("source", "text").await;
    let build_users = build_users::group().is_some();
    let as_root = fs::metadata("/proc/self").unwrap().uid() == 0 && !build_users;
    for (name, script, difference) in WORLD {
        let made = instantiate(
            shell(name, script)
                .source(&source)
                .env("passAsFile", "text")
                .env("text", "some text")
                .env("PATH", "/overridden")
                .env("TMPDIR", "/overridden")
                .env("source", StoreDir::default().display(&source).to_string()),
        );
        let outcome = peers.build_ours(&made).await;
        let BuildOutcome::Success(success) = outcome else {
            panic!("{name}: {outcome:?}");
        };
        peers.build_theirs(&made).await.unwrap();
        let path = success.delivery.outputs()[0].1.path.clone();
        let read = |store: &LocalStore| fs::read_to_string(store.real_path(&path)).unwrap();
        let (ours, theirs) = (read(&peers.ours), read(&peers.theirs));
        match difference {
            None => assert_eq!(ours, theirs, "{name}"),
            AsRoot(_) if !as_root => assert_eq!(ours, theirs, "{name}"),
            NoBuildUsers(_) if build_users => assert_eq!(ours, theirs, "{name}"),
            Always(reason) | AsRoot(reason) | NoBuildUsers(reason) => {
                assert_ne!(ours, theirs, "{name} is the same by now, though {reason}");
            }
        }
    }
}
