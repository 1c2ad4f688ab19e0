//! Limits of the process (`ulimit`) that are too low: an error that names them, no panic and no hang.

use std::path::Path;
use std::process::Command;

use tvix_tests::local::{LocalWorld, instantiate, shell};
use tvix_tests::program::run;

const TVIX: &str = env!("CARGO_BIN_EXE_tvix");

/// The same command, within limits that a shell sets first.
fn limited(limits: &str, command: &Command) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("{limits} && exec \"$@\""), "bash"]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    shell.current_dir(command.get_current_dir().unwrap_or(Path::new(".")));
    shell
}

#[tokio::test]
async fn low_limits_are_named() {
    let world = LocalWorld::new().await;
    let drv = world.write(&instantiate(shell("x", "echo > $out"))).await;
    let mut command = super::build(&world);
    command.arg(&drv);
    for (limits, option) in [
        ("ulimit -n 5", "ulimit -n"),
        ("ulimit -n 6", "ulimit -n"),
        ("ulimit -n 40", "ulimit -n"),
    ] {
        let ended = run(&mut limited(limits, &command)).expect(1);
        assert!(!ended.err.contains("panicked"), "{limits}: {ended:#?}");
        ended.says(&["error:", option]);
    }
    // The main thread has a stack of its own, so a small one is no trouble.
    for limits in ["ulimit -s 64", "ulimit -s 200", "ulimit -s unlimited"] {
        run(&mut limited(limits, &command)).expect(0);
    }
}

/// Above the least that is needed, every limit works, though not for everything.
#[test]
fn limited_address_space_is_enough() {
    let mut command = super::plain();
    command.args([
        "eval",
        "--expr",
        "builtins.length (builtins.genList (x: x) 10000)",
    ]);
    for mebibytes in [300, 380, 400, 512, 700, 1000, 1200, 1500, 2000, 3000] {
        let limits = format!("ulimit -v {}", mebibytes << 10);
        let ended = run(&mut limited(&limits, &command)).expect(0);
        assert_eq!(ended.out, ["10000"], "{limits}");
    }
    let mut command = super::plain();
    command.args([
        "eval",
        "--expr",
        "builtins.length (builtins.foldl' (a: x: builtins.seq (builtins.length x) [ x a ]) [ ] (builtins.genList (x: builtins.genList (y: y) 5000000) 10))",
    ]);
    let ended = run(&mut limited("ulimit -v 600000", &command)).expect(1);
    ended.says(&["error:", "address space", "ulimit -v"]);
}

#[test]
fn too_little_address_space_and_too_few_threads_are_named() {
    let mut command = super::plain();
    command.args(["eval", "--expr", "1 + 1"]);
    for limits in ["ulimit -v 150000", "ulimit -v 250000"] {
        let ended = run(&mut limited(limits, &command)).expect(1);
        let told = "MiB of address space and needs 256 or more; raise the limit (ulimit -v)";
        ended.says(&["error: this process may use", told]);
    }
    // Root may start any number of threads.
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("tvix");
    std::fs::copy(TVIX, &program).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).unwrap();
    for threads in 1..=4 {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        command.arg("bash").arg("-c");
        command.arg(format!("ulimit -u {threads} && exec \"$@\""));
        command.arg("bash").arg(&program);
        command.args(["eval", "--expr", "1 + 1"]).current_dir("/");
        let ended = run(&mut command);
        // Other processes of this user count, too.
        assert!(matches!(ended.code, Some(0 | 1)), "{threads}: {ended:#?}");
        assert!(!ended.err.contains("panicked"), "{threads}: {ended:#?}");
        if ended.code == Some(1) {
            ended.says(&["ulimit -u"]);
        }
    }
}
