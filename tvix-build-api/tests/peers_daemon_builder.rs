//! `DaemonBuilder` beside real daemons: the conformance suite, trust, inputs, cancellation, failures of
//! connections.
//!
//! `cargo test -p tvix-build-api --features daemon,conformance --test peers_daemon_builder`; needs
//! `nix-daemon` and a static `busybox`. TVIX_NIX_PREFIX is put before each program of Nix, to test with a
//! Nix in another root.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::Arc;

use nix_compat::derivation::DerivationBuilder;
use nix_compat::store_path::StoreDir;
use tvix_build_api::conformance::{Capabilities, Script, Subject, run_all};
use tvix_build_api::daemon::{DaemonBuilder, DaemonBuilderOptions};
use tvix_build_api::{BuilderProfile, this_system};
use tvix_store_api::daemon::DaemonOptions;
use tvix_store_api::{MemoryStore, Store};
use tvix_test_support::nix_daemon::NixDaemon;

const CONFIG: &str = "sandbox = true\nsystem-features =\nmax-jobs = 8\nbuild-poll-interval = 1\n";

/// A daemon that listens, with these further settings.
fn daemon(more: &str) -> NixDaemon {
    stopped(more).started()
}

/// One that does not.
fn stopped(more: &str) -> NixDaemon {
    NixDaemon::new(&format!("{CONFIG}{more}")).with_shell()
}

fn options(daemon: &NixDaemon) -> DaemonOptions {
    DaemonOptions::new(daemon.uri().parse().unwrap()).unwrap()
}

/// Over a stand-in for `ssh` that runs the command on this machine.
fn ssh_options(daemon: &NixDaemon) -> DaemonOptions {
    let root = daemon.beside("root");
    let uri = format!("ssh-ng://somewhere?remote-store={}", root.display());
    let options = DaemonOptions::new(uri.parse().unwrap()).unwrap();
    options.with_ssh_program(daemon.install_ssh())
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
    let daemon = daemon("");
    let report = run_all(|| async { subject(options(&daemon)) }, capabilities()).await;
    report.assert_all();
    daemon.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_with_floating_outputs() {
    let daemon = daemon("experimental-features = ca-derivations nix-command\n");
    let capabilities = capabilities().with_floating(true);
    let report = run_all(|| async { subject(options(&daemon)) }, capabilities).await;
    report.assert_all();
    daemon.verify();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_over_ssh() {
    let daemon = stopped("");
    let report = run_all(|| async { subject(ssh_options(&daemon)) }, capabilities()).await;
    report.assert_all();
    daemon.verify();
}

/// Derivations reach the daemon as files. Inputs of the suite are content-addressed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_without_trust() {
    let daemon = daemon("trusted-users = nobody\n");
    let report = run_all(|| async { subject(options(&daemon)) }, capabilities()).await;
    report.assert_all();
    daemon.verify();
}
