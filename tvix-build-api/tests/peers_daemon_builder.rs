//! `DaemonBuilder` beside real daemons: the conformance suite, trust, inputs, cancellation, failures of
//! connections.
//!
//! `cargo test -p tvix-build-api --features daemon,conformance --test peers_daemon_builder`; needs
//! `nix-daemon` and a static `busybox`. TVIX_NIX_PREFIX is put before each program of Nix, to test with a
//! Nix in another root.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix_compat::derivation::DerivationBuilder;
use nix_compat::store_path::StoreDir;
use tempfile::TempDir;
use tvix_build_api::conformance::{Capabilities, Script, Subject, run_all};
use tvix_build_api::daemon::{DaemonBuilder, DaemonBuilderOptions};
use tvix_build_api::{BuilderProfile, this_system};
use tvix_store_api::daemon::DaemonOptions;
use tvix_store_api::{MemoryStore, Store};
use tvix_test_support::directory::make_writable;

/// A daemon with an empty store.
struct Daemon {
    directory: TempDir,
    child: Option<Child>,
}

fn prefix() -> Vec<String> {
    let prefix = std::env::var("TVIX_NIX_PREFIX").unwrap_or_default();
    prefix.split_whitespace().map(str::to_owned).collect()
}

/// The program and the first arguments of a command of Nix.
fn nix(program: &str) -> Command {
    let words: Vec<_> = prefix().into_iter().chain([program.to_owned()]).collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

const CONFIG: &str = "build-users-group =\nsubstituters =\nsandbox = true\nsystem-features =\n\
                      max-jobs = 8\nbuild-poll-interval = 1\n";

impl Daemon {
    fn new(more: &str) -> Self {
        let mut daemon = Self::without_daemon(more);
        daemon.start();
        daemon
    }

    fn without_daemon(more: &str) -> Self {
        let directory = TempDir::new().unwrap();
        // In the root of the daemon too.
        let shell = directory.path().join("busybox");
        fs::copy("/bin/busybox", &shell).unwrap();
        let shell = format!("sandbox-paths = /bin/sh={}\n", shell.display());
        fs::write(
            directory.path().join("nix.conf"),
            format!("{CONFIG}{shell}{more}"),
        )
        .unwrap();
        Self {
            directory,
            child: None,
        }
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start(&mut self) {
        let mut command = nix("nix-daemon");
        command
            .arg("--store")
            .arg(self.beside("root"))
            .env("NIX_CONF_DIR", self.directory.path())
            .env("NIX_DAEMON_SOCKET_PATH", self.beside("socket"))
            .env("HOME", self.directory.path())
            .env_remove("NIX_REMOTE")
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        self.child = Some(command.spawn().expect("these tests need nix-daemon"));
        for _ in 0..1000 {
            if std::os::unix::net::UnixStream::connect(self.beside("socket")).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nix-daemon does not listen");
    }

    /// Ends the daemon and those of its connections.
    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let children = format!("/proc/{0}/task/{0}/children", child.id());
            let children = fs::read_to_string(children).unwrap_or_default();
            let _ = child.kill();
            for child in children.split_whitespace() {
                let _ = Command::new("kill")
                    .args(["-KILL", child])
                    .stderr(Stdio::null())
                    .status();
            }
            let _ = child.wait();
        }
        let _ = fs::remove_file(self.beside("socket"));
    }

    fn options(&self) -> DaemonOptions {
        let (socket, root) = (self.beside("socket"), self.beside("root"));
        let uri = format!("unix://{}?root={}", socket.display(), root.display());
        DaemonOptions::new(uri.parse().unwrap()).unwrap()
    }

    /// Over a stand-in for `ssh` that runs the command on this machine.
    fn ssh_options(&self) -> DaemonOptions {
        let ssh = self.beside("ssh");
        let conf = self.directory.path().display();
        let prefix = prefix().join(" ");
        let script = format!(
            "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\n\
             export NIX_CONF_DIR={conf} HOME={conf}\nunset NIX_REMOTE\neval exec {prefix} \"$@\"\n"
        );
        fs::write(&ssh, script).unwrap();
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
        let root = self.beside("root");
        let uri = format!("ssh-ng://somewhere?remote-store={}", root.display());
        let options = DaemonOptions::new(uri.parse().unwrap()).unwrap();
        options.with_ssh_program(ssh)
    }

    fn verify(&self) {
        let mut command = nix("nix-store");
        command
            .arg("--store")
            .arg(self.beside("root"))
            .args(["--verify", "--check-contents"]);
        let command = command
            .env("NIX_CONF_DIR", self.directory.path())
            .env_remove("NIX_REMOTE");
        let output = command.output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !log.contains("error"), "{log}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
        make_writable(self.directory.path());
    }
}

fn profile() -> BuilderProfile {
    BuilderProfile::new("remote", this_system(), 8)
}

/// The processes with this word in their arguments.
fn processes_with(word: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let arguments = processes
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|arguments| String::from_utf8_lossy(&arguments).into_owned());
    arguments.filter(|text| text.contains(word)).collect()
}

fn derivation(name: &str, script: &Script) -> DerivationBuilder {
    // The name is in the arguments, so that the process can be found.
    let script = script.to_shell(&StoreDir::default());
    let script = format!(": {name}\n{script}");
    DerivationBuilder::new(name, this_system(), "/bin/sh").args(["-c", &script])
}

/// A builder on a daemon, beside a store in memory that it knows.
fn subject(daemon: DaemonOptions) -> Subject {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreDir::default()));
    let options = DaemonBuilderOptions::new(daemon, profile()).with_store(store.clone());
    Subject::new(DaemonBuilder::new(options), store, derivation).leftovers(processes_with)
}

fn capabilities() -> Capabilities {
    Capabilities::default().with_log_limits(true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_over_a_socket() {
    let daemon = Daemon::new("");
    let report = run_all(|| async { subject(daemon.options()) }, capabilities()).await;
    report.assert_all();
    daemon.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_with_floating_outputs() {
    let daemon = Daemon::new("experimental-features = ca-derivations nix-command\n");
    let capabilities = capabilities().with_floating(true);
    let report = run_all(|| async { subject(daemon.options()) }, capabilities).await;
    report.assert_all();
    daemon.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_over_ssh() {
    let daemon = Daemon::without_daemon("");
    let report = run_all(|| async { subject(daemon.ssh_options()) }, capabilities()).await;
    report.assert_all();
    daemon.verify();
}

/// Derivations reach the daemon as files. Inputs of the suite are content-addressed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_without_trust() {
    let daemon = Daemon::new("trusted-users = nobody\n");
    let report = run_all(|| async { subject(daemon.options()) }, capabilities()).await;
    report.assert_all();
    daemon.verify();
}
