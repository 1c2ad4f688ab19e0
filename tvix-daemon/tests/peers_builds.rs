//! Builds by clients of Nix through our daemon, compared with those through Nix's own daemon of the same version.
//!
//! `cargo test -p tvix-daemon --test peers_builds`; needs Nix, and a static busybox at /bin/busybox. TVIX_NIX_PREFIX is put
//! before each program of Nix, to test with a Nix in another root.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tvix_build_api::sandbox::{SandboxBuilder, SandboxOptions, SandboxPath};
use tvix_coordinator::Coordinator;
use tvix_daemon::local::{LocalSettings, LocalStores};
use tvix_daemon::{Access, Builds, Daemon, DaemonOptions, bind};
use tvix_eval_api::drv::DrvEvaluator;
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};
use tvix_store_api::{OpenOptions, Store};
use tvix_test_support::directory::make_writable;
use tvix_test_support::nix_daemon::NixDaemon;

const EXPRESSION: &str = include_str!("peers_builds.nix");

/// A daemon with a store of its own: ours or Nix's.
struct Side {
    /// That of Nix, or the directory and clients of ours.
    nix: NixDaemon,
    ours: Option<(Runtime, CancellationToken)>,
}

impl Side {
    fn prepare(substituter: Option<&Path>) -> NixDaemon {
        let substituter =
            substituter.map_or(String::new(), |at| format!("file://{}", at.display()));
        let nix = NixDaemon::new(&format!(
            "substituters = {substituter}\nrequire-sigs = false\nsandbox = true\n\
             experimental-features = nix-command ca-derivations\n"
        ));
        nix.write("expression.nix", EXPRESSION);
        nix.with_shell()
    }

    fn real(substituter: Option<&Path>) -> Self {
        let nix = Self::prepare(substituter).started();
        Self { nix, ours: None }
    }

    fn ours(substituter: Option<&Path>) -> Self {
        let nix = Self::prepare(substituter);
        let at = nix.directory().to_owned();
        let runtime = Runtime::new().unwrap();
        let shell = SandboxPath::new(at.join("busybox"), "/bin/sh");
        let cache = substituter.map(|at| format!("file://{}", at.display()));
        let shutdown = CancellationToken::new();
        let until = shutdown.clone();
        runtime.block_on(async {
            let cache: Option<Arc<dyn Store>> = match cache {
                Some(uri) => {
                    let uri = uri.parse().unwrap();
                    let opened =
                        tvix_store_api::open(&uri, OpenOptions::new().with_allow_unsigned(true));
                    Some(opened.await.unwrap())
                }
                None => None,
            };
            let options = LocalStoreOptions::new(at.join("root"));
            let stores = LocalStores::open(options, LocalSettings::default())
                .await
                .unwrap();
            let make = move |store: LocalStore| {
                let logs = store.state_dir().join("../log/nix/drvs");
                let mut options = SandboxOptions::new("local")
                    .with_sandbox_paths([shell.clone()])
                    .with_keep_failed(store.state_dir().join("tvix-failed"));
                let nix = ["benchmark", "big-parallel", "nixos-test"];
                options.features.extend(nix.map(str::to_owned));
                let store = Arc::new(store);
                let builder = SandboxBuilder::new(options).unwrap();
                let builder = builder.with_local_store(store.clone());
                let evaluator = DrvEvaluator::new(store.store_dir().clone(), Vec::new());
                let mut coordinator =
                    Coordinator::new(Arc::new(evaluator), store).with_builder(Arc::new(builder));
                if let Some(cache) = &cache {
                    coordinator = coordinator.with_substituter(cache.clone(), 0);
                }
                Ok(Builds::new(coordinator).with_log_directory(logs, true))
            };
            let stores = stores.with_builds(Arc::new(make));
            let access = Access::default().with_trusted(["*"]);
            let options = DaemonOptions::default().with_access(access);
            let daemon = Daemon::new(Arc::new(stores), options.with_require_signatures(false));
            let listener = bind(&at.join("socket")).unwrap();
            tokio::spawn(async move { daemon.listen(listener, until).await });
        });
        let ours = Some((runtime, shutdown));
        Self { nix, ours }
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.nix.nix(program);
        command
            .args(args)
            .current_dir(self.nix.directory())
            .env("NIX_REMOTE", self.nix.uri());
        command
    }

    fn run(&self, program: &str, args: &[&str]) -> Run {
        let output = self.command(program, args).output().unwrap();
        Run::of(self, &output)
    }

    /// `nix-build` without a link.
    fn build(&self, args: &[&str]) -> Run {
        let first = ["expression.nix", "--no-out-link"];
        self.run("nix-build", &[&first, args].concat())
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if let Some((runtime, shutdown)) = self.ours.take() {
            shutdown.cancel();
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }
}

/// What a client ended with and wrote, without what differs between stores.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    code: Option<i32>,
    out: String,
    err: Vec<String>,
}

impl Run {
    fn of(side: &Side, output: &Output) -> Self {
        let directory = side.nix.directory().to_string_lossy().into_owned();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&directory, "DIR");
        let err = text(&output.stderr);
        let lines = err
            .lines()
            .map(str::trim_end)
            .filter(|line| !line.is_empty());
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: lines.map(shortened).collect(),
        }
    }

    fn text(&self) -> String {
        self.err.join("\n")
    }
}

/// Leaves out places of files outside of the store, and of features that machines or versions differ in.
fn shortened(line: &str) -> String {
    if let Some((start, _)) = line.split_once(" at \"") {
        return start.to_owned();
    }
    if let Some((start, _)) = line.split_once(" at 'DIR") {
        return start.to_owned();
    }
    if let Some((start, _)) = line.split_once(" at '/nix/store") {
        return start.to_owned();
    }
    for start in ["note: keeping build directory", "       Available features"] {
        if line.starts_with(start) {
            return start.to_owned();
        }
    }
    match line.split_once(", but I am a ") {
        Some((start, _)) => start.to_owned(),
        None => line.to_owned(),
    }
}

/// Runs the same with both daemons.
fn same(real: &Side, ours: &Side, args: &[&str]) -> Run {
    let (expected, actual) = (real.build(args), ours.build(args));
    assert_eq!(actual, expected, "{args:?}");
    actual
}

#[test]
fn as_with_the_daemon_of_nix() {
    let (real, ours) = (Side::real(None), Side::ours(None));
    let cases: &[&[&str]] = &[
        &["-A", "ok"],
        &["-A", "ok"],
        &["-A", "two"],
        &["-A", "top", "--dry-run"],
        &["-A", "bad"],
        &["-A", "dep"],
        &["-A", "dep2", "-k", "-j1"],
        &["-A", "top", "-k"],
        &["-A", "top", "-k", "-Q"],
        &["-A", "bad", "-A", "dep"],
        &["-A", "bad", "-A", "bad2", "-A", "two", "-k", "-j1"],
        &["-A", "hash"],
        &["-A", "miss"],
        &["-A", "killed"],
        &["-A", "other"],
        &["-A", "feature"],
        &["-A", "bad2", "-j0"],
        &["-A", "forbidden"],
        &["-A", "unended"],
        &["-A", "bad2", "-K"],
        &["-A", "slow", "--timeout", "1"],
        &["-A", "slow", "--max-silent-time", "1"],
        &["-A", "ok", "--check"],
        &["-A", "unbuilt", "--check"],
        &["-A", "phase"],
        &["-A", "structured"],
        &["-A", "graph"],
        &["-A", "ifd"],
        &["-A", "ok", "-v"],
    ];
    for case in cases {
        same(&real, &ours, case);
    }
    // Contents that differ each time.
    for args in [&["-A", "random"][..], &["-A", "random", "--check"]] {
        let (expected, actual) = (real.build(args), ours.build(args));
        assert_eq!((actual.code, actual.err), (expected.code, expected.err));
    }
    let both = |program: &str, args: &[&str]| {
        let (expected, actual) = (real.run(program, args), ours.run(program, args));
        assert_eq!(actual, expected, "{program} {args:?}");
        actual
    };
    let build = ["build", "--no-link", "-f", "expression.nix"];
    for args in [
        &["floating2"][..],
        &["floating2", "--json"],
        &["ok", "two", "--json"],
        &["bad"],
        &["dep"],
        &["hash"],
        &["bad", "bad2", "ok", "--keep-going"],
        &["phase2", "-L"],
    ] {
        both("nix", &[&build, args].concat());
    }
    let missing = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-missing";
    both("nix-store", &["-r", missing]);
    both("nix-store", &["-r", &format!("{missing}.drv")]);
    let drv = ours
        .run("nix-instantiate", &["expression.nix", "-A", "ok"])
        .out;
    let log = both("nix-store", &["-l", drv.trim()]);
    assert_eq!(log.out, "a line\ntwo\n");
    assert_eq!(
        ours.run("nix-store", &["--verify", "--check-contents"])
            .code,
        Some(0)
    );
}

#[test]
fn two_clients_of_one_build() {
    let ours = Side::ours(None);
    let start = || {
        let mut command = ours.command(
            "nix-build",
            &["expression.nix", "--no-out-link", "-A", "shared"],
        );
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let clients = [start(), start(), start()];
    let runs = clients.map(|client| Run::of(&ours, &client.wait_with_output().unwrap()));
    let id = |run: &Run| run.err.iter().find(|line| line.starts_with("id ")).cloned();
    for run in &runs {
        assert_eq!(run.code, Some(0), "{run:?}");
        // One execution, and all get its log.
        assert!(id(run).is_some() && id(run) == id(&runs[0]), "{runs:?}");
        assert!(run.err.contains(&"ends".to_owned()), "{run:?}");
    }
}

#[test]
fn a_client_that_vanishes_ends_its_build() {
    let ours = Side::ours(None);
    let mut client = ours.command(
        "nix-build",
        &["expression.nix", "--no-out-link", "-A", "slow"],
    );
    let mut client = client
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::BufRead as _;
    let lines = std::io::BufReader::new(client.stderr.take().unwrap()).lines();
    let begun = lines.map_while(Result::ok).any(|line| line == "begin");
    assert!(begun);
    let children = format!("/proc/{0}/task/{0}/children", client.id());
    for child in fs::read_to_string(children)
        .unwrap_or_default()
        .split_whitespace()
    {
        let _ = Command::new("kill").args(["-KILL", child]).status();
    }
    client.kill().unwrap();
    client.wait().unwrap();
    // The place of the only build that may run is free again.
    let run = ours.build(&["-A", "ok"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    for _ in 0..500 {
        let left = fs::read_dir("/proc")
            .unwrap()
            .filter_map(Result::ok)
            .any(|process| {
                fs::read(process.path().join("cmdline")).is_ok_and(|it| it == b"sleep\x00105\x00")
            });
        if !left {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the build goes on");
}

#[test]
fn outputs_come_from_a_cache() {
    let cache = TempDir::new().unwrap();
    let source = Side::real(None);
    let made = source.build(&["-A", "two"]).out;
    let made = made.trim();
    let uri = format!("file://{}", cache.path().display());
    let copied = source.run("nix", &["copy", "--to", &uri, made]);
    assert_eq!(copied.code, Some(0), "{copied:?}");
    let (real, ours) = (
        Side::real(Some(cache.path())),
        Side::ours(Some(cache.path())),
    );
    let run = |args: &[&str]| {
        let (expected, actual) = (real.build(args), ours.build(args));
        // Sizes of downloads are not known to every store.
        let sizes = |run: &Run| {
            let lines = run
                .err
                .iter()
                .map(|line| line.split(" (").next().unwrap_or_default().to_owned());
            lines.collect::<Vec<_>>()
        };
        assert_eq!(sizes(&actual), sizes(&expected));
        assert_eq!((actual.code, &actual.out), (expected.code, &expected.out));
        actual
    };
    run(&["-A", "two", "--dry-run"]);
    let fetched = run(&["-A", "two"]);
    assert!(fetched.text().contains("copying path '"), "{fetched:?}");
    // A cache whose files have gone.
    for file in fs::read_dir(cache.path().join("nar")).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    let (real, ours) = (
        Side::real(Some(cache.path())),
        Side::ours(Some(cache.path())),
    );
    for args in [&["-A", "two"][..], &["-A", "two", "--fallback"]] {
        let (expected, actual) = (real.build(args), ours.build(args));
        assert_eq!(actual.code, expected.code, "{actual:?} {expected:?}");
        let last = |run: &Run| run.err.last().cloned();
        assert_eq!(last(&actual), last(&expected), "{actual:?} {expected:?}");
    }
    make_writable(cache.path());
}

#[test]
fn garbage_is_collected_beside_builds() {
    let ours = Side::ours(None);
    let mut client = ours.command(
        "nix-build",
        &["expression.nix", "--no-out-link", "-A", "many"],
    );
    let mut client = client
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut collections = 0;
    while client.try_wait().unwrap().is_none() {
        let collected = ours.run("nix-store", &["--gc"]);
        assert_eq!(collected.code, Some(0), "{collected:?}");
        collections += 1;
    }
    let run = Run::of(&ours, &client.wait_with_output().unwrap());
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(collections > 0);
}
