//! `DaemonStore` beside real daemons: the conformance suite, copies, failures of connections.
//!
//! `cargo test -p tvix-store-api --features daemon --test peers_daemon`; needs `nix-daemon`. TVIX_NIX_PREFIX is put before each
//! program of Nix, to test with a Nix in another root.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix_compat::derivation::OutputName;
use nix_compat::realisation::{DrvOutput, Realisation};
use nix_compat::store_path::StoreDir;
use tempfile::TempDir;
use tvix_store_api::conformance::{Capabilities, run_all};
use tvix_store_api::daemon::{DaemonOptions, DaemonStore};
use tvix_store_api::{MemoryStore, PathInfo, Store, StoreError, StoreExt as _};
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

const CONFIG: &str = "build-users-group =\nsubstituters =\nsandbox = false\n";

impl Daemon {
    fn new(more: &str) -> Self {
        let mut daemon = Self::without_daemon(more);
        daemon.start();
        daemon
    }

    fn without_daemon(more: &str) -> Self {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("nix.conf"), format!("{CONFIG}{more}")).unwrap();
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

    fn uri(&self) -> String {
        format!(
            "unix://{}?root={}",
            self.beside("socket").display(),
            self.beside("root").display()
        )
    }

    fn options(&self) -> DaemonOptions {
        DaemonOptions::new(self.uri().parse().unwrap()).unwrap()
    }

    async fn open(&self) -> DaemonStore {
        DaemonStore::open(self.options()).await.unwrap()
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
        let uri = format!(
            "ssh-ng://somewhere?remote-store={}",
            self.beside("root").display()
        );
        DaemonOptions::new(uri.parse().unwrap())
            .unwrap()
            .with_ssh_program(ssh)
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

fn capabilities() -> Capabilities {
    Capabilities::default()
        .with_registration(true)
        .with_checks_derivations(true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_over_a_socket() {
    let daemon = Daemon::new("");
    let report = run_all(|| daemon.open(), capabilities().with_on_disk(true)).await;
    report.assert_all();
    daemon.verify();
}

#[tokio::test]
async fn conformance_with_realisations_and_few_connections_on_one_thread() {
    let daemon = Daemon::new("experimental-features = ca-derivations nix-command\n");
    let open = || async {
        let options = daemon.options().with_connections(1);
        DaemonStore::open(options).await.unwrap()
    };
    run_all(open, capabilities().with_on_disk(true))
        .await
        .assert_all();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_over_ssh() {
    let daemon = Daemon::without_daemon("");
    let open = || async { DaemonStore::open(daemon.ssh_options()).await.unwrap() };
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
    let daemon = Daemon::new("");
    let store = daemon.open().await;
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
    let mut daemon = Daemon::new("");
    let store = daemon.open().await;
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
    let daemon = Daemon::new("");
    let store = daemon.open().await;
    let (from, paths) = small_paths(4).await;
    from.copy_closure(&store, &paths[..3]).await.unwrap();
    let collect = || {
        let mut command = nix("nix-store");
        command
            .arg("--gc")
            .env("NIX_REMOTE", daemon.uri())
            .env("NIX_CONF_DIR", daemon.directory.path());
        assert!(command.output().unwrap().status.success());
    };
    collect();
    assert_eq!(store.valid_paths(&paths).await.unwrap().len(), 3);
    drop(store);
    // The daemon notices the end of the connection in its own time.
    let other = DaemonStore::open(daemon.options().with_temporary_roots(false))
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
        let daemon = Daemon::new(config);
        let store = daemon.open().await;
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
    let daemon = Daemon::new("trusted-users = nobody\n");
    let store = daemon.open().await;
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
