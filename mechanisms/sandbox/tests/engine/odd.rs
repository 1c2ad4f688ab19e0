//! Callers in unusual environments: the error names the cause and the remedy.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Fixture, finish};

/// Starts a sandbox and prints the result, if this program was started for that.
#[tokio::test]
async fn role() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let fixture = Fixture::new();
    let (spec, scratch) = fixture.shell("echo it ran");
    match fixture.engine.spawn_holding(spec, scratch).await {
        Ok(running) => println!("said: {:?}", finish(running).await),
        Err(error) => println!("said: {error}"),
    }
}

const ROLE: &str = "TVIX_TEST_ODD_CALLER";

/// The output of [`role`], started by this command.
fn said_by(words: &[&str]) -> String {
    let output = Command::new(words[0])
        .args(&words[1..])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "odd::role", "--nocapture"])
        .env(ROLE, "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = text.lines().find_map(|line| line.split("said: ").nth(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    said.unwrap_or_else(|| panic!("{words:?}: {text}\n{errors}"))
        .to_owned()
}

/// The users of root could be mapped, but the builder program would run as root, which owns
/// `/proc/sys`. Fails without `Obstacle::PowerlessRoot`.
#[test]
fn root_without_capabilities_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for words in [
        &["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"][..],
        &["setpriv", "--bounding-set", "-sys_admin"],
        &["setpriv", "--bounding-set", "-setuid"],
        &["unshare", "--user", "--map-root-user"],
    ] {
        let said = said_by(words);
        assert!(
            said.contains("root without the capabilities") && said.contains("ordinary user"),
            "{words:?}: {said}"
        );
    }
}

/// Users are mapped through `/proc/PID`. Fails without `Obstacle::ForeignProc`.
#[test]
fn a_foreign_proc_is_named() {
    let root = rustix::process::geteuid().is_root();
    let user: &[&str] = if root {
        &[]
    } else {
        &["--user", "--map-root-user"]
    };
    let words = ["unshare", "--pid", "--fork", "--kill-child"];
    let said = said_by(&[&words, user].concat());
    assert!(
        said.contains("another PID namespace") && said.contains("mount -t proc"),
        "{said}"
    );
    // With its own `/proc` it works, also for root of a user namespace created by an ordinary user.
    let said = said_by(&[&words, user, &["--mount-proc"]].concat());
    assert!(said.contains("it ran"), "{said}");
}

/// No `/proc` is mounted.
#[test]
fn a_missing_proc_is_named() {
    if !rustix::process::geteuid().is_root() || !Path::new("/proc/self").exists() {
        return;
    }
    let script = "umount -l /proc && exec \"$@\"";
    let said = said_by(&["unshare", "--mount", "sh", "-c", script, "sh"]);
    assert!(said.contains("/proc"), "{said}");
}

/// A mount over a part of `/proc`, as in containers. Fails without `proc_is_uncovered`.
#[test]
fn a_covered_proc_is_named() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let script = "mount -t tmpfs none /proc/fs && \
                  exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"";
    let said = said_by(&["unshare", "--mount", "sh", "-c", script, "sh"]);
    assert!(
        said.contains("cover parts of /proc: /proc/fs (") && said.contains("--no-sandbox"),
        "{said}"
    );
}
