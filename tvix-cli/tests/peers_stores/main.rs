//! The command line with real daemons as stores, over a socket and over a real `sshd`.
//!
//! `cargo test -p tvix-cli --test peers_stores`; needs Nix, busybox, and for some tests `sshd` (in PATH, `/usr/sbin` or
//! TVIX_SSHD). TVIX_NIX_PREFIX is put before each program of Nix, to test with a Nix in another root.
#![allow(clippy::unwrap_used, clippy::disallowed_macros)]

mod auto;
mod builds;
mod daemon;
mod kills;
mod ssh;

use std::path::Path;
use std::process::{Command, Stdio};

use tvix_tests::local::sandbox_paths;
use tvix_tests::program;

use tvix_test_support::nix_daemon::NixDaemon;

/// `tvix` beside a daemon.
fn tvix(daemon: &NixDaemon) -> Command {
    let mut command = program::command(Path::new(env!("CARGO_BIN_EXE_tvix")));
    let folder = daemon.beside("work");
    std::fs::create_dir_all(&folder).unwrap();
    command
        .current_dir(folder)
        .env("HOME", daemon.beside("home"))
        .env_remove("XDG_DATA_HOME")
        .env_remove("XDG_STATE_HOME")
        .stdin(Stdio::null());
    command
}

/// `tvix build` with a shell in the sandbox.
fn build(daemon: &NixDaemon, store: &str) -> Command {
    let mut command = tvix(daemon);
    command.args(["build", "--store", store]);
    for path in sandbox_paths() {
        command.arg("--sandbox-path").arg(path.to_string());
    }
    command
}
