//! Runs Nix on a store of this project. Nix must be installed: a missing Nix fails these tests.

use std::path::Path;
use std::process::Command;

use crate::local::find_in_path;

/// A program of Nix that works on the store at `root`, without the user's configuration. Builds are
/// sandboxed, with a static shell.
pub fn command(program: &str, root: &Path) -> Command {
    let busybox = find_in_path("busybox").expect("these tests need busybox in PATH");
    let home = root.parent().unwrap();
    let mut command = Command::new(program);
    command
        .env("NIX_REMOTE", "")
        .env("NIX_CONF_DIR", home)
        .env(
            "NIX_CONFIG",
            format!(
                "substituters =\nsandbox = true\nsandbox-fallback = false\nbuild-users-group =\n\
                 sandbox-paths = /bin/sh={}",
                busybox.display()
            ),
        )
        .env("HOME", home)
        .arg("--store")
        .arg(root);
    command
}

/// Runs a command, which must succeed. Returns the lines of its standard output, and its standard
/// error.
#[track_caller]
pub fn run(command: &mut Command) -> (Vec<String>, String) {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => panic!("these tests need {:?}: {error}", command.get_program()),
    };
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}:\n{log}");
    let out = String::from_utf8(output.stdout).unwrap();
    (out.lines().map(str::to_owned).collect(), log)
}
