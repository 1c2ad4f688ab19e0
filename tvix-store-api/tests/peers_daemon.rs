//! `DaemonStore` beside real daemons: the conformance suite, copies, failures of connections.
//!
//! `cargo test -p tvix-store-api --features daemon --test peers_daemon`; needs `nix-daemon`. TVIX_NIX_PREFIX is put before each
//! program of Nix, to test with a Nix in another root.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use nix_compat::derivation::OutputName;
use nix_compat::realisation::{DrvOutput, Realisation};
use nix_compat::store_path::StoreDir;
use tempfile::TempDir;
use tvix_store_api::conformance::{Capabilities, run_all};
use tvix_store_api::daemon::{DaemonOptions, DaemonStore};
use tvix_store_api::{MemoryStore, PathInfo, Store, StoreError, StoreExt as _};
use tvix_test_support::nix_daemon::NixDaemon;

const CONFIG: &str = "sandbox = false\n";

/// A daemon that listens, with these further settings.
fn daemon(more: &str) -> NixDaemon {
    stopped(more).started()
}

/// One that does not.
fn stopped(more: &str) -> NixDaemon {
    NixDaemon::new(&format!("{CONFIG}{more}"))
}

fn options(daemon: &NixDaemon) -> DaemonOptions {
    DaemonOptions::new(daemon.uri().parse().unwrap()).unwrap()
}

async fn open(daemon: &NixDaemon) -> DaemonStore {
    DaemonStore::open(options(daemon)).await.unwrap()
}

/// Over a stand-in for `ssh` that runs the command on this machine.
fn ssh_options(daemon: &NixDaemon) -> DaemonOptions {
    let root = daemon.beside("root");
    let uri = format!("ssh-ng://somewhere?remote-store={}", root.display());
    let options = DaemonOptions::new(uri.parse().unwrap()).unwrap();
    options.with_ssh_program(daemon.install_ssh())
}

fn capabilities() -> Capabilities {
    Capabilities::default()
        .with_registration(true)
        .with_checks_derivations(true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_over_a_socket() {
    let daemon = daemon("");
    let report = run_all(|| open(&daemon), capabilities().with_on_disk(true)).await;
    report.assert_all();
    daemon.verify();
}

#[tokio::test]
async fn conformance_with_realisations_and_few_connections_on_one_thread() {
    let daemon = daemon("experimental-features = ca-derivations nix-command\n");
    let open = || async {
        let options = options(&daemon).with_connections(1);
        DaemonStore::open(options).await.unwrap()
    };
    run_all(open, capabilities().with_on_disk(true))
        .await
        .assert_all();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_over_ssh() {
    let daemon = stopped("");
    let open = || async { DaemonStore::open(ssh_options(&daemon)).await.unwrap() };
    run_all(open, capabilities()).await.assert_all();
    daemon.verify();
}

/// Adds small paths with references to a store in memory.
async fn small_paths(count: usize) -> (MemoryStore, Vec<nix_compat::store_path::StorePath>) {
    let store = MemoryStore::new(StoreDir::default());
    let mut paths = Vec::new();
    for number in 0..count {
        let references = paths.last().cloned().into_iter().collect();
        let name = format!("path-{number}").parse().unwrap();
        let text = format!("text {number}");
        paths.push(
            store
                .add_text(name, text.as_bytes(), references)
                .await
                .unwrap(),
        );
    }
    (store, paths)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closures_are_copied_to_and_from_a_daemon() {
    let daemon = daemon("");
    let store = open(&daemon).await;
    let (from, paths) = small_paths(500).await;
    from.copy_closure(&store, &paths).await.unwrap();
    let back = MemoryStore::new(StoreDir::default());
    store.copy_closure(&back, &paths).await.unwrap();
    assert_eq!(back.len(), paths.len());
    assert_eq!(store.valid_paths(&paths).await.unwrap().len(), paths.len());
    daemon.verify();
}

#[tokio::test]
async fn connections_are_opened_again_after_a_restart() {
    let mut daemon = daemon("");
    let store = open(&daemon).await;
    let (from, paths) = small_paths(3).await;
    from.copy_closure(&store, &paths).await.unwrap();
    for _ in 0..3 {
        daemon.stop();
        match store.path_info(&paths[0]).await {
            Err(
                StoreError::Unreachable { .. }
                | StoreError::Backend {
                    retryable: true, ..
                },
            ) => {}
            other => panic!("without a daemon: {other:?}"),
        }
        daemon.start();
        assert!(store.path_info(&paths[0]).await.unwrap().is_some());
        assert_eq!(store.valid_paths(&paths).await.unwrap().len(), 3);
        store.verify(&paths[2]).await.unwrap();
    }
}

#[tokio::test]
async fn temporary_roots_keep_what_is_used() {
    let daemon = daemon("");
    let store = open(&daemon).await;
    let (from, paths) = small_paths(4).await;
    from.copy_closure(&store, &paths[..3]).await.unwrap();
    let collect = || {
        let mut command = daemon.nix("nix-store");
        command.arg("--gc").env("NIX_REMOTE", daemon.uri());
        assert!(command.output().unwrap().status.success());
    };
    collect();
    assert_eq!(store.valid_paths(&paths).await.unwrap().len(), 3);
    drop(store);
    // The daemon notices the end of the connection in its own time.
    let other = DaemonStore::open(options(&daemon).with_temporary_roots(false))
        .await
        .unwrap();
    for _ in 0..100 {
        collect();
        if other.valid_paths(&paths).await.unwrap().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the paths are still there");
}

/// Realisations by hash, which daemons up to 2.34 keep.
#[tokio::test]
async fn realisations_are_kept_with_the_feature_only() {
    for (config, kept) in [
        ("", false),
        ("experimental-features = ca-derivations\n", true),
    ] {
        let daemon = daemon(config);
        let store = open(&daemon).await;
        let (from, paths) = small_paths(1).await;
        from.copy_closure(&store, &paths).await.unwrap();
        let id = DrvOutput::by_hash([7; 32], OutputName::out());
        let mut realisation = Realisation::new(id.clone(), paths[0].clone());
        realisation.signatures = vec!["key-1:AAAA".parse().unwrap()];
        store.add_realisation(&realisation).await.unwrap();
        let found = store.realisation(&id).await.unwrap();
        assert_eq!(found, Some(realisation).filter(|_| kept));
    }
}

/// An untrusted client may add only what is signed or content-addressed.
#[tokio::test]
async fn an_untrusted_client_is_refused_unsigned_paths() {
    let daemon = daemon("trusted-users = nobody\n");
    let store = open(&daemon).await;
    let (from, paths) = small_paths(1).await;
    from.copy_closure(&store, &paths).await.unwrap();
    let nar = from.nar(&paths[0]).await.unwrap();
    let unsigned = "00bgd045z0d4icpbc2yyz4gx48ak44la-unsigned".parse().unwrap();
    let info = from.require(&paths[0]).await.unwrap();
    let info = PathInfo::new(unsigned, info.nar_hash, info.nar_size);
    let added = store.add(info, nar).await;
    assert!(
        matches!(added, Err(StoreError::Untrusted { .. })),
        "{added:?}"
    );
}

#[tokio::test]
async fn what_is_no_daemon_is_an_error() {
    let directory = TempDir::new().unwrap();
    let uri = format!("unix://{}", directory.path().join("socket").display());
    let options = DaemonOptions::new(uri.parse().unwrap()).unwrap();
    let options = options.with_attempts(2);
    let opened = DaemonStore::open(options).await;
    assert!(
        matches!(opened, Err(StoreError::Unreachable { .. })),
        "{opened:?}"
    );
    let options = DaemonOptions::new("ssh-ng://somewhere".parse().unwrap()).unwrap();
    for program in ["/nowhere/at/all", "false"] {
        let opened = DaemonStore::open(options.clone().with_ssh_program(program)).await;
        let unreachable = matches!(opened, Err(StoreError::Unreachable { .. }));
        assert!(unreachable, "{program}: {opened:?}");
    }
    // It may end before it is spoken to.
    let opened = DaemonStore::open(options.with_ssh_program("echo")).await;
    assert!(opened.is_err(), "{opened:?}");
}
