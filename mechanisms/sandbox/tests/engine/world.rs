//! The environment of a sandboxed process.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;

use tvix_sandbox::{Access, Ending, EngineError, Isolation, Mount, Network, SandboxSpec};

use crate::support::{Fixture, finish};

const SUCCESS: Ending = Ending::Exited(0);

#[tokio::test]
async fn the_environment_is_exactly_as_given() {
    let fixture = Fixture::new();
    let (mut spec, scratch) = fixture.shell("");
    spec.program = "/usr/bin/env".into();
    spec.args = vec!["anything".into()];
    spec.env = vec![
        ("A".into(), "1".into()),
        ("B".into(), "two words\nand a line".into()),
    ];
    let running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
    assert_eq!(
        finish(running).await,
        (SUCCESS, "A=1\nB=two words\nand a line\n".into())
    );
}

#[tokio::test]
async fn user_group_host_name_and_directory() {
    let fixture = Fixture::new();
    let (ending, log) = fixture
        .run("id -u; id -g; id -un; uname -n; pwd; umask; ulimit -c; echo $$")
        .await;
    assert_eq!(ending, SUCCESS, "{log}");
    assert_eq!(log, "1000\n100\nnixbld\nlocalhost\n/build\n0022\n0\n1\n");
}

#[tokio::test]
async fn no_capabilities_and_no_way_to_get_any() {
    let fixture = Fixture::new();
    let (_, log) = fixture
        .run(
            "grep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs|Seccomp|SigIgn|SigBlk):' /proc/self/status",
        )
        .await;
    for line in log.lines() {
        let (name, value) = line.split_once(':').unwrap();
        let expected = match name {
            "NoNewPrivs" => "1",
            "Seccomp" => "2",
            _ => "0000000000000000",
        };
        assert_eq!(value.trim(), expected, "{name}");
    }
    assert_eq!(log.lines().count(), 8, "{log}");
}

#[tokio::test]
async fn no_process_of_the_host() {
    let fixture = Fixture::new();
    let (_, log) = fixture.run("cd /proc; echo [0-9]*").await;
    assert_eq!(log, "1\n");
}

#[tokio::test]
async fn only_what_was_mounted() {
    let fixture = Fixture::new();
    let (_, log) = fixture
        .run("cd /; echo *; ls -a /dev /etc /tmp /build")
        .await;
    let (root, rest) = log.split_once('\n').unwrap();
    let seen: Vec<_> = root
        .split(' ')
        .filter(|name| !name.starts_with("lib"))
        .collect();
    assert_eq!(
        seen,
        ["bin", "build", "dev", "etc", "nix", "proc", "tmp", "usr"]
    );
    assert_eq!(
        rest.split_whitespace().collect::<Vec<_>>(),
        "/build: . .. /dev: . .. fd full null ptmx pts random shm stderr stdin stdout tty urandom \
         zero /etc: . .. passwd /tmp: . .."
            .split_whitespace()
            .collect::<Vec<_>>()
    );
}

/// Fails without `CLONE_NEWIPC`.
#[tokio::test]
async fn no_shared_memory_or_queue_of_the_host() {
    let fixture = Fixture::new();
    let (new, everybody) = (libc::IPC_PRIVATE, libc::IPC_CREAT | 0o666);
    // SAFETY: plain integers.
    let made = unsafe {
        (
            libc::shmget(new, 4096, everybody),
            libc::msgget(new, everybody),
        )
    };
    let kinds = ["shm", "msg"].map(|kind| format!("/proc/sysvipc/{kind}"));
    let here = kinds
        .each_ref()
        .map(|file| fs::read_to_string(file).unwrap());
    let (_, log) = fixture
        .run("tail -q -n +2 /proc/sysvipc/shm /proc/sysvipc/msg")
        .await;
    // SAFETY: removing takes no argument.
    unsafe {
        libc::shmctl(made.0, libc::IPC_RMID, std::ptr::null_mut());
        libc::msgctl(made.1, libc::IPC_RMID, std::ptr::null_mut());
    }
    assert!(here.iter().all(|text| text.lines().count() > 1), "{here:?}");
    assert_eq!(log, "");
}

/// No file grants privileges, and no device outside `/dev` works, whatever paths of the host are
/// visible. Fails without each of the flags of `restrict` in `child.rs`.
#[tokio::test]
async fn mounts_give_no_rights() {
    let fixture = Fixture::new();
    let input = fixture.directory.path().join("aaa-input");
    fs::create_dir(&input).unwrap();
    let (spec, scratch) = fixture.shell_with("cat /proc/self/mountinfo", &[input]);
    let running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
    let (_, log) = finish(running).await;
    let mut seen = Vec::new();
    for line in log.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let (place, options) = (fields[4], fields[5]);
        let has = |option: &str| options.split(',').any(|given| given == option);
        let device = place.starts_with("/dev/") && place != "/dev/shm";
        assert!(has("nosuid"), "{line}");
        assert!(has("nodev") || device, "{line}");
        assert!(has("noexec") || !device, "{line}");
        let own = ["/build", "/tmp", "/nix/store", "/dev/shm", "/proc"].contains(&place);
        assert!(has("ro") || own || device, "{line}");
        seen.push(place);
    }
    for place in [
        "/",
        "/usr",
        "/build",
        "/nix/store/aaa-input",
        "/dev/null",
        "/dev/pts",
        "/proc",
    ] {
        assert!(seen.contains(&place), "{log}");
    }
}

#[tokio::test]
async fn devices_work_and_only_the_own_places_are_writable() {
    let fixture = Fixture::new();
    let (ending, log) = fixture
        .run(
            "set -e
             echo x > /dev/null
             test $(head -c 4 /dev/zero | wc -c) = 4
             test $(head -c 4 /dev/urandom | wc -c) = 4
             echo x > /dev/shm/file; echo x > /tmp/file; echo x > file; echo x > /nix/store/out
             echo to-stderr > /dev/stderr
             for place in / /etc /dev /nix /bin /proc /proc/sys/kernel; do
               if (echo x > $place/new-file) 2>&-; then echo written to $place; fi
             done
             if (: < /dev/tty) 2>&-; then echo has a terminal; fi
             test -c /dev/ptmx",
        )
        .await;
    assert_eq!((ending, log.as_str()), (SUCCESS, "to-stderr\n"));
}

#[tokio::test]
async fn inputs_are_visible_and_read_only() {
    let fixture = Fixture::new();
    let store = fixture.directory.path().join("store");
    for name in ["aaa-dir", "bbb-hidden"] {
        fs::create_dir_all(store.join(name)).unwrap();
        fs::write(store.join(name).join("file"), "contents").unwrap();
    }
    fs::write(store.join("ccc-file"), "text").unwrap();
    std::os::unix::fs::symlink("aaa-dir/file", store.join("ddd-link")).unwrap();
    let inputs = ["aaa-dir", "ccc-file", "ddd-link"].map(|name| store.join(name));
    let script = "cd /nix/store; echo *; cat aaa-dir/file ccc-file ddd-link
                  (echo x > aaa-dir/new) 2>&- && echo written
                  (echo x > ccc-file) 2>&- && echo written
                  (chmod 777 aaa-dir) 2>&- && echo changed
                  (rm -rf aaa-dir ccc-file) 2>&-
                  echo output > eee-out";
    // Twice, so that the second build reuses the scratch directory of the first.
    for _ in 0..2 {
        let (spec, scratch) = fixture.shell_with(script, &inputs);
        let scratch = std::sync::Arc::new(scratch);
        let running = fixture
            .engine
            .spawn_holding(spec, scratch.clone())
            .await
            .unwrap();
        let (ending, log) = finish(running).await;
        assert_eq!(log, "aaa-dir ccc-file ddd-link\ncontentstextcontents");
        assert_eq!(ending, SUCCESS);
        let output = scratch.store_dir().join("eee-out");
        assert_eq!(fs::read(&output).unwrap(), b"output\n");
        assert_eq!(
            fs::metadata(&output).unwrap().uid(),
            scratch
                .host_ids()
                .map_or_else(|| rustix::process::geteuid().as_raw(), |ids| ids.uid)
        );
    }
    let (_, log) = fixture.run("ls -A /nix/store").await;
    assert_eq!(log, "", "an input of an earlier build is visible");
}

#[tokio::test]
async fn scratch_directories_come_back_clean() {
    let fixture = Fixture::new();
    for _ in 0..3 {
        let (ending, log) = fixture
            .run(
                "set -e; ls -A /build /tmp /nix/store
                 stat -c %a /build /tmp /nix/store
                 mkdir -p a/b /tmp/c; echo x > a/b/file; chmod 0 a/b; chmod 777 /build; chmod 0 /tmp
                 mkdir /nix/store/leftover; ln -s / /nix/store/link",
            )
            .await;
        assert_eq!(ending, SUCCESS, "{log}");
        assert_eq!(log, "/build:\n\n/nix/store:\n\n/tmp:\n700\n1777\n1775\n");
        // The clean-up runs in the background.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn no_network_but_its_own_loopback() {
    let fixture = Fixture::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
    let probe = |network| {
        let (mut spec, scratch) = fixture.shell("");
        spec.program = "/bin/bash".into();
        spec.args = vec!["bash".into(), "-c".into(), connect.clone().into()];
        spec.network = network;
        let engine = fixture.engine.clone();
        async move { finish(engine.spawn_holding(spec, scratch).await.unwrap()).await }
    };
    let (ending, log) = probe(Network::None).await;
    // "Refused" rather than "network is unreachable": the interface is up.
    assert!(log.contains("refused"), "{log}");
    assert_eq!(ending, Ending::Exited(1));
    assert_eq!(probe(Network::Host).await.0, SUCCESS);
    // The order of jobs must not matter to a spawner thread.
    assert_eq!(probe(Network::None).await.0, Ending::Exited(1));

    let (_, log) = fixture.run("tail -n +3 /proc/net/dev | cut -d: -f1").await;
    assert_eq!(log.trim(), "lo");
}

#[tokio::test]
async fn builds_share_no_network_even_one_after_the_other() {
    let fixture = Fixture::new();
    // Traffic on the loopback interface changes its counters, which must start at zero.
    let script = "tr -s ' ' < /proc/net/dev | grep lo: | cut -d' ' -f3,4
                  exec 3<>/dev/tcp/127.0.0.1/1";
    for _ in 0..4 {
        let (mut spec, scratch) = fixture.shell("");
        spec.program = "/bin/bash".into();
        spec.args = vec!["bash".into(), "-c".into(), script.into()];
        let running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
        let (_, log) = finish(running).await;
        assert_eq!(log.lines().next(), Some("0 0"), "{log}");
    }
    let namespaces = |fixture: &Fixture| {
        let (spec, scratch) = fixture.shell("readlink /proc/self/ns/net; sleep 0.2");
        let engine = fixture.engine.clone();
        async move {
            finish(engine.spawn_holding(spec, scratch).await.unwrap())
                .await
                .1
        }
    };
    let (one, other) = tokio::join!(namespaces(&fixture), namespaces(&fixture));
    assert_ne!(one, other);
}

#[tokio::test]
async fn set_id_modes_and_attributes_are_refused() {
    let fixture = Fixture::new();
    let (ending, log) = fixture
        .run(
            "touch file; mkdir dir
             for mode in 4755 2755 6755 u+s g+s; do
               chmod $mode file 2>&- && echo file $mode
               chmod $mode dir 2>&- && echo dir $mode
             done
             chmod 1777 dir && chmod 755 file && stat -c %a file dir
             command -v setfattr > /dev/null && setfattr -n user.a -v b file 2>&- && echo attribute
             true",
        )
        .await;
    assert_eq!((ending, log.as_str()), (SUCCESS, "755\n1777\n"));
}

#[tokio::test]
async fn files_links_and_memory() {
    let fixture = Fixture::new();
    let (mut spec, scratch) =
        fixture.shell("cat /a/deep/file; readlink /link; stat -f -c %T /mem; echo x > /mem/x");
    spec.mounts.extend([
        Mount::file("/a/deep/file", "hello\n"),
        Mount::Symlink {
            target: "/link".into(),
            to: "somewhere/else".into(),
        },
        Mount::Tmpfs {
            target: "/mem".into(),
            size: "1m".into(),
        },
        Mount::Bind {
            source: fixture.directory.path().join("missing"),
            target: "/missing".into(),
            access: Access::ReadOnly,
            optional: true,
        },
    ]);
    let running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
    assert_eq!(
        finish(running).await,
        (SUCCESS, "hello\nsomewhere/else\ntmpfs\n".into())
    );
}

#[tokio::test]
async fn mistakes_are_named() {
    let fixture = Fixture::new();
    let (mut spec, _scratch) = fixture.shell("");
    spec.program = "/no/such/program".into();
    let error = fixture.engine.spawn(spec).await.unwrap_err();
    assert!(
        matches!(&error, EngineError::Execute { program, source }
            if program.ends_with("no/such/program") && source.kind() == std::io::ErrorKind::NotFound),
        "{error:?}"
    );

    let (mut spec, _scratch) = fixture.shell("");
    spec.mounts
        .push(Mount::bind("/no/such/source", "/x", Access::ReadOnly));
    let error = fixture.engine.spawn(spec).await.unwrap_err();
    assert_eq!(error.to_string(), "mounting /no/such/source at /x");

    // Only the kernel detects the error, in the child.
    let (mut spec, _scratch) = fixture.shell("");
    spec.mounts.push(Mount::bind(
        "/usr",
        "/nix/store/no-mount-point",
        Access::ReadOnly,
    ));
    let error = fixture.engine.spawn(spec).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "mounting /usr at /nix/store/no-mount-point"
    );

    for bad in ["relative", "/a/../b", "/"] {
        let (mut spec, _scratch) = fixture.shell("");
        spec.mounts.push(Mount::file(bad, ""));
        let error = fixture.engine.spawn(spec).await.unwrap_err();
        assert!(matches!(error, EngineError::InvalidSpec(_)), "{error}");
    }
}

#[tokio::test]
async fn without_isolation_the_host_is_visible() {
    let fixture = Fixture::new();
    let file = fixture.directory.path().join("file");
    fs::write(&file, "host").unwrap();
    let mut spec = SandboxSpec::new("/bin/sh");
    spec.args = vec!["sh".into(), "-c".into(), "cat file; pwd".into()];
    spec.env = vec![("PATH".into(), "/bin:/usr/bin".into())];
    spec.isolation = Isolation::None;
    spec.cwd = fixture.directory.path().into();
    let (ending, log) = finish(fixture.engine.spawn(spec).await.unwrap()).await;
    assert_eq!(ending, SUCCESS);
    assert_eq!(log, format!("host{}\n", fixture.directory.path().display()));
}

#[tokio::test]
async fn nothing_is_left_on_the_host() {
    let count = |path: &str| fs::read_dir(path).unwrap().count();
    let mounts = || {
        let mut text = String::new();
        fs::File::open("/proc/self/mountinfo")
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text.lines().count()
    };
    let fixture = Fixture::new();
    for _ in 0..8 {
        fixture.run("true").await;
    }
    let before = (mounts(), count("/proc/self/fd"));
    for _ in 0..200 {
        assert_eq!(fixture.run("true").await.0, SUCCESS);
    }
    // Other tests of this program have descriptors too, but fewer than two hundred.
    let after = (mounts(), count("/proc/self/fd"));
    assert_eq!(before.0, after.0);
    assert!(after.1 < before.1 + 100, "{before:?} {after:?}");
    let scratch = fixture.directory.path().join("scratch");
    drop(fixture.engine);
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
}
