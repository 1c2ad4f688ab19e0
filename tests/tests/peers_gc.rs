//! The garbage collectors of this project and of Nix on one store, and the roots that each
//! respects.
//!
//! `cargo test -p tvix-tests --test peers_gc`; needs `nix-store`, `nix-build`,
//! `mkfifo` and a static busybox.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix_compat::store_path::StorePath;
use tvix_store_api::StoreExt as _;
use tvix_store_api::local_fs::{
    GcAction, GcOptions, LocalStore, LocalStoreOptions, OptimiseOptions,
};
use tvix_tests::local::{LocalWorld, absolute, find_in_path, instantiate, names_in, shell};
use tvix_tests::nix;
use tvix_tests::program::{build, run, tvix};

fn nix_store(world: &LocalWorld, args: &[&str]) -> Vec<String> {
    nix::run(nix::command("nix-store", &world.root()).args(args)).0
}

fn collect_with_nix(world: &LocalWorld) {
    nix_store(world, &["--gc"]);
}

fn verify_with_nix(world: &LocalWorld) {
    let mut command = nix::command("nix-store", &world.root());
    let (_, log) = nix::run(command.args(["--verify", "--check-contents"]));
    assert!(!log.contains("warning") && !log.contains("error"), "{log}");
}

async fn add(store: &LocalStore, name: &str) -> StorePath {
    let name = name.parse().unwrap();
    let added = store.add_text(name, b"x", Default::default()).await;
    added.unwrap()
}

/// The valid paths as another process sees them: asking for them does not make them roots.
async fn valid(world: &LocalWorld) -> Vec<StorePath> {
    world.store.all_valid_paths().await.unwrap()
}

/// The same store without temporary roots. All handles of a process share their roots, so it is
/// closed before it is opened again.
async fn reopened(world: &mut LocalWorld) {
    let other = LocalStore::open(LocalStoreOptions::new(world.beside("other")));
    drop(std::mem::replace(&mut world.store, other.await.unwrap()));
    let again = LocalStore::open(LocalStoreOptions::new(world.root()));
    world.store = again.await.unwrap();
}

fn fifo(world: &LocalWorld, name: &str) -> std::path::PathBuf {
    let path = world.beside(name);
    assert!(
        Command::new("mkfifo")
            .arg(&path)
            .status()
            .unwrap()
            .success()
    );
    path
}

/// Resumes the process that reads from the pipe.
fn release(fifo: &Path) {
    fs::OpenOptions::new()
        .write(true)
        .open(fifo)
        .unwrap()
        .write_all(b"go\n")
        .unwrap();
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if there() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not happen");
}

fn expect_success(child: Child) {
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
}

#[tokio::test]
async fn nix_keeps_what_we_rely_on() {
    let mut world = LocalWorld::new().await;
    let held = add(&world.store, "held").await;
    collect_with_nix(&world);
    assert_eq!(valid(&world).await, [held]);
    reopened(&mut world).await;
    collect_with_nix(&world);
    assert_eq!(valid(&world).await, []);
}

#[tokio::test]
async fn nix_that_collects_is_told_of_what_we_rely_on() {
    let mut world = LocalWorld::new().await;
    let (asked, dead) = (
        add(&world.store, "asked").await,
        add(&world.store, "dead").await,
    );
    reopened(&mut world).await;
    let sync = fifo(&world, "sync");
    // The collector has read all roots at this point.
    let collector = nix::command("nix-store", &world.root())
        .arg("--gc")
        .env("_NIX_TEST_GC_SYNC", &sync)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let socket = world.store.state_dir().join("gc-socket/socket");
    wait_for("the collector's socket", || socket.exists());
    // A path that is valid now is a root now, old or new.
    assert!(world.store.is_valid(&asked).await.unwrap());
    let new = add(&world.store, "new").await;
    release(&sync);
    expect_success(collector);
    let mut expected = [asked, new];
    expected.sort();
    assert_eq!(valid(&world).await, expected);
    assert!(!valid(&world).await.contains(&dead));
    verify_with_nix(&world);
}

#[tokio::test]
async fn we_keep_what_nix_builds() {
    let mut world = LocalWorld::new().await;
    add(&world.store, "dead").await;
    reopened(&mut world).await;
    let (begun, go) = (fifo(&world, "begun"), fifo(&world, "go"));
    let busybox = find_in_path("busybox").unwrap();
    let sandbox_paths = format!(
        "/bin/sh={} {} {}",
        busybox.display(),
        begun.display(),
        go.display()
    );
    let source = world.beside("source");
    fs::write(&source, "source").unwrap();
    let expression = format!(
        "derivation {{ name = \"x\"; system = builtins.currentSystem; builder = \"/bin/sh\";
           args = [ \"-c\" \"echo > {}; read x < {}; read y < ${{{}}} || :; echo $y > $out\" ]; }}",
        begun.display(),
        go.display(),
        source.display()
    );
    let mut building = nix::command("nix-build", &world.root())
        .args([
            "--option",
            "sandbox-paths",
            &sandbox_paths,
            "-E",
            &expression,
        ])
        .args(["-o", world.beside("result").to_str().unwrap()])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let began = std::thread::spawn({
        let begun = begun.clone();
        move || fs::read(begun)
    });
    let mut ended = None;
    wait_for("the build", || {
        ended = building.try_wait().unwrap();
        ended.is_some() || began.is_finished()
    });
    if ended.is_some() {
        // Resumes the thread.
        release(&begun);
        let output = building.wait_with_output().unwrap();
        panic!("{}", String::from_utf8_lossy(&output.stderr));
    }
    let options = GcOptions::default();
    let report = world.store.collect_garbage(options).await.unwrap();
    assert_eq!(report.paths.len(), 1, "{report:?}");
    release(&go);
    expect_success(building);
    assert_eq!(valid(&world).await.len(), 3);
    verify_with_nix(&world);
}

#[tokio::test]
async fn both_find_the_same_dead_and_alive() {
    let mut world = LocalWorld::new().await;
    let kept = instantiate(shell("kept", "echo > $out"));
    let dead = instantiate(shell("dead", "echo > $out"));
    for made in [&kept, &dead] {
        let drv = world.write(made).await;
        run(build(tvix(), &world).args(["--no-out-link", &drv])).expect(0);
    }
    run(build(tvix(), &world).arg(absolute(&kept.path))).expect(0);
    let names = names_in(&world.beside("work"));
    assert_eq!(names, ["result"]);
    reopened(&mut world).await;
    for (ours, theirs) in [
        (GcAction::ListDead, "--print-dead"),
        (GcAction::ListLive, "--print-live"),
    ] {
        let options = GcOptions::default().with_action(ours);
        let report = world.store.collect_garbage(options).await.unwrap();
        let mut found: Vec<_> = report.paths.iter().map(absolute).collect();
        found.sort();
        let mut nix = nix_store(&world, &["--gc", theirs]);
        nix.sort();
        assert_eq!(found, nix);
        assert_eq!(found.len(), 2);
    }
    // Both respect links to outputs as roots.
    collect_with_nix(&world);
    let output = kept.output_path("out").unwrap();
    assert!(valid(&world).await.contains(&output));
    assert_eq!(valid(&world).await.len(), 2);
    let roots = nix_store(&world, &["--gc", "--print-roots"]);
    assert!(
        roots.iter().any(|line| line.contains(&absolute(&output))),
        "{roots:?}"
    );
    fs::remove_file(world.beside("work/result")).unwrap();
    let options = GcOptions::default();
    let report = world.store.collect_garbage(options).await.unwrap();
    assert_eq!(report.paths.len(), 2);
    verify_with_nix(&world);
    assert_eq!(names_in(world.store.real_store_dir()), [".links"]);
}

/// Roots made by Nix are respected.
#[tokio::test]
async fn we_keep_nix_roots() {
    let mut world = LocalWorld::new().await;
    let made = instantiate(shell("x", "echo > $out"));
    world.write(&made).await;
    let link = world.beside("link");
    let realise = [
        "--realise",
        &absolute(&made.path),
        "--add-root",
        link.to_str().unwrap(),
    ];
    nix_store(&world, &[&realise[..], &["--indirect"]].concat());
    reopened(&mut world).await;
    let report = world.store.collect_garbage(GcOptions::default()).await;
    assert_eq!(report.unwrap().paths, []);
    let roots = world.store.roots().await.unwrap();
    assert_eq!(roots.len(), 1, "{roots:?}");
    assert_eq!(roots[0].source.to_string(), link.display().to_string());
}

#[tokio::test]
async fn both_share_equal_files_in_the_same_way() {
    let world = LocalWorld::new().await;
    let folder = world.beside("folder");
    fs::create_dir_all(folder.join("sub")).unwrap();
    for name in ["a", "b", "sub/c"] {
        fs::write(folder.join(name), "equal contents").unwrap();
    }
    fs::write(folder.join("other"), "others").unwrap();
    let method = nix_compat::content_address::ContentAddressMethod::NixArchive;
    let added = world
        .store
        .add_tree(&folder, "x".parse().unwrap(), method)
        .await;
    let report = world
        .store
        .optimise(OptimiseOptions::default())
        .await
        .unwrap();
    assert_eq!((report.files, report.shared), (4, 2));
    let links = names_in(&world.store.real_store_dir().join(".links"));
    assert_eq!(links.len(), 2);
    nix_store(&world, &["--optimise"]);
    assert_eq!(
        names_in(&world.store.real_store_dir().join(".links")),
        links
    );
    verify_with_nix(&world);
    let again = world
        .store
        .optimise(OptimiseOptions::default())
        .await
        .unwrap();
    assert_eq!(again.shared, 0);
    world.store.verify(&added.unwrap()).await.unwrap();
}

/// The collector of Nix may remove an output between its look-up and its use. The build is then
/// retried once.
#[tokio::test]
async fn builds_succeed_while_nix_collects() {
    let world = LocalWorld::new().await;
    let library = instantiate(shell("library", "echo > $out"));
    let program = shell("program", "cat $library > $out").input_env("library", &library, "out");
    let program = instantiate(program);
    world.write(&library).await;
    let drv = world.write(&program).await;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collecting = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                collect_with_nix(&world);
            }
        });
        let mut failed = Vec::new();
        for _ in 0..40 {
            let ended = run(build(tvix(), &world).args(["--no-out-link", &drv]));
            if ended.code != Some(0) {
                failed.push(ended.err);
            }
        }
        over.store(true, Ordering::Relaxed);
        collecting.join().unwrap();
        // A build may be hit twice, and then reports it; `STORE.md` has figures.
        assert!(failed.len() <= 2, "{failed:#?}");
        assert!(
            failed.iter().all(|err| err.contains("vanished")),
            "{failed:#?}"
        );
    });
    verify_with_nix(&world);
}
