//! Access to a build's directories from outside: CVE-2024-38531, CVE-2025-52991, CVE-2025-52993.
//! Tests that need another user run only as root.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use tvix_sandbox::{Engine, EngineError, EngineOptions, Event};

use crate::support::{Fixture, eventually};

const ROLE: &str = "SANDBOX_ENGINE_TEST_OPEN_HOUSE";
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn open_to_all(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Whether a user of the host can read and write a directory.
fn can(uid: u32, directory: &Path) -> (bool, bool) {
    let run = |script: &str| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "sh"]).arg(directory);
        command.uid(uid).gid(uid).current_dir("/");
        command.stderr(Stdio::null()).status().unwrap().success()
    };
    (run("ls -A \"$1\" >&2"), run(": > \"$1\"/entered"))
}

const OPEN_HOUSE: &str =
    "chmod 777 . /tmp; echo secret > file; chmod 666 file; echo open; sleep 1000";

/// Builds as an ordinary user, if this program was started for that.
#[tokio::test]
async fn role() {
    let Some(said) = std::env::var_os(ROLE) else {
        return;
    };
    let fixture = Fixture::new();
    open_to_all(fixture.directory.path());
    let (spec, scratch) = fixture.shell(OPEN_HOUSE);
    let build = scratch.build_dir();
    let mut running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
    assert!(matches!(running.next().await.unwrap(), Event::Log(_)));
    fs::write(said, build.to_str().unwrap()).unwrap();
    let _ = running.next().await;
}

/// CVE-2024-38531, CVE-2025-52993: `chmod 777 .` in a build gives access to nobody, not even to the
/// user of the builder. Fails if the parent directories (`EngineDirectory`, `Slot::create`) have
/// mode 0755.
#[tokio::test]
async fn a_builder_cannot_let_others_in() {
    if !is_root() {
        return;
    }
    let fixture = Fixture::new();
    open_to_all(fixture.directory.path());
    let (spec, scratch) = fixture.shell(OPEN_HOUSE);
    let (build, own) = (scratch.build_dir(), scratch.host_ids().unwrap().uid);
    let mut running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
    assert!(matches!(running.next().await.unwrap(), Event::Log(_)));
    assert_eq!(fs::metadata(&build).unwrap().mode() & 0o777, 0o777);
    for uid in [NOBODY, own] {
        assert_eq!(can(uid, &build), (false, false), "{uid}");
        // Access stops at the engine's directory, not at a parent of it.
        assert!(can(uid, fixture.directory.path()).0);
    }
    running.kill();
}

/// The same for builds of an ordinary user.
#[tokio::test]
async fn an_ordinary_users_builder_cannot_let_others_in() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    open_to_all(directory.path());
    let program = directory.path().join("suite");
    let copied = Command::new("cp")
        .arg(std::env::current_exe().unwrap())
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    let said = directory.path().join("said");
    let mut builds = Command::new(program)
        .args(["--exact", "outside::role"])
        .env(ROLE, &said)
        .env("TMPDIR", directory.path())
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it builds", || {
        fs::read(&said).is_ok_and(|said| !said.is_empty())
    })
    .await;
    let build = fs::read_to_string(&said).unwrap();
    let (seen, entered) = can(NOBODY - 1, Path::new(&build));
    let control = can(NOBODY, Path::new(&build));
    builds.kill().unwrap();
    builds.wait().unwrap();
    assert_eq!((seen, entered), (false, false));
    assert_eq!(control, (true, true));
}

/// CVE-2025-52991, also found in Guix: another user swaps directories for symlinks during the
/// set-up, a thousand times. Fails without `check_ancestors`.
#[tokio::test]
async fn set_up_follows_no_link_of_others() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    open_to_all(directory.path());
    let canary = directory.path().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("file"), "x").unwrap();
    let before = fs::metadata(&canary).unwrap();
    let shared = directory.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Only this thread becomes another user. SAFETY: plain integers.
            let changed = unsafe {
                libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY)
                    | libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY)
            };
            assert_eq!(changed, 0);
            while !done.load(Ordering::Relaxed) {
                for entry in fs::read_dir(&shared).into_iter().flatten().flatten() {
                    let aside = shared.join("aside");
                    if fs::rename(entry.path(), &aside).is_ok() {
                        let _ = symlink(&canary, entry.path());
                    }
                }
            }
        });
        let set_mode =
            |mode| fs::set_permissions(&shared, fs::Permissions::from_mode(mode)).unwrap();
        set_mode(0o777);
        let refused = (0..500).all(|_| {
            let engine = Engine::new(EngineOptions::new(&shared));
            matches!(
                engine.and_then(|engine| engine.scratch().map(drop)),
                Err(EngineError::Exposed { .. })
            )
        });
        set_mode(0o1777);
        for _ in 0..500 {
            let engine = Engine::new(EngineOptions::new(&shared)).unwrap();
            let mut scratch = engine.scratch().unwrap();
            scratch.mounts(Path::new("/nix/store"), &[]).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(refused);
    });
    let after = fs::metadata(&canary).unwrap();
    assert_eq!(
        (
            before.uid(),
            before.gid(),
            before.mode(),
            before.mtime_nsec()
        ),
        (after.uid(), after.gid(), after.mode(), after.mtime_nsec())
    );
    let left: Vec<_> = fs::read_dir(&canary).unwrap().collect();
    assert_eq!(left.len(), 1);
}
