//! The engine in other programs: killed ones, those of ordinary users, and those that may not
//! sandbox.
//!
//! The tests run this test program again with a role.

use std::process::{Command, Stdio};
use std::time::Duration;

use tvix_sandbox::{Ending, Engine, EngineError, EngineOptions, Isolation, SandboxSpec};

use crate::support::{Fixture, eventually, marker, processes_with};

const ROLE: &str = "SANDBOX_ENGINE_TEST_ROLE";
const MARKER: &str = "SANDBOX_ENGINE_TEST_MARKER";

/// Plays a role, if this program was started with one.
#[tokio::test]
async fn role() {
    match std::env::var(ROLE).as_deref() {
        Ok("sleeper") => {
            let fixture = Fixture::new();
            let marker = std::env::var(MARKER).unwrap();
            let script =
                format!("setsid sh -c '(sleep 1000; : {marker}) & wait' & : {marker}; sleep 1000");
            let (spec, scratch) = fixture.shell(&script);
            let running = fixture.engine.spawn_holding(spec, scratch).await.unwrap();
            running.output().await.unwrap();
        }
        Ok("forbidden") => {
            std::fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
            let directory = tempfile::tempdir().unwrap();
            let engine = Engine::new(EngineOptions::new(directory.path())).unwrap();
            let error = engine.spawn(SandboxSpec::new("/bin/sh")).await.unwrap_err();
            let EngineError::Unavailable {
                missing, advice, ..
            } = &error
            else {
                panic!("{error}");
            };
            assert!(missing.contains("user namespaces"), "{missing}");
            assert!(advice.contains("user.max_user_namespaces"), "{advice}");
            assert!(advice.contains("--no-sandbox"), "{advice}");
            // Without a sandbox it still builds, and still kills the processes that it started.
            let marker = marker();
            let mut spec = SandboxSpec::new("/bin/sh");
            spec.args = ["sh", "-c", &format!("sleep 1000 & : {marker}")]
                .map(Into::into)
                .to_vec();
            spec.isolation = Isolation::None;
            let (ending, _) = engine.spawn(spec).await.unwrap().output().await.unwrap();
            assert_eq!(ending, Ending::Exited(0));
            eventually("the session is gone", || processes_with(&marker).is_empty()).await;
        }
        _ => {}
    }
}

/// This program, with a role.
fn actor(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "embedders::role"]).env(ROLE, role);
    command
}

/// Fails without `Step::DieWithParent`, and without `CLONE_NEWPID`.
#[tokio::test]
async fn a_killed_program_leaves_no_process() {
    let marker = marker();
    let directory = tempfile::tempdir().unwrap();
    let mut program = actor("sleeper")
        .env(MARKER, &marker)
        .env("TMPDIR", directory.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // The shell, the session leader and its child.
    eventually("the sandbox is up", || processes_with(&marker).len() >= 3).await;
    program.kill().unwrap();
    program.wait().unwrap();
    eventually("all processes are gone", || {
        processes_with(&marker).is_empty()
    })
    .await;

    // The scratch directories still exist; the next engine removes them.
    let entry = std::fs::read_dir(directory.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let scratch = entry.path().join("scratch");
    let left = std::fs::read_dir(&scratch)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let _engine = Engine::new(EngineOptions::new(&scratch)).unwrap();
    assert!(!left.exists());
}

#[test]
fn a_machine_that_cannot_sandbox_says_so() {
    let mut command = Command::new("unshare");
    let actor = actor("forbidden");
    command
        .args(["--user", "--map-root-user"])
        .arg(actor.get_program())
        .args(actor.get_args());
    command.env(ROLE, "forbidden");
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

/// Runs the whole suite once more as an unprivileged user, if it runs as root.
#[test]
fn as_an_ordinary_user() {
    tvix_test_support::ordinary_user::run_again();
    // By then the scratch directories have been cleaned up.
    std::thread::sleep(Duration::from_millis(100));
}
