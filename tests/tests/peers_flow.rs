//! The whole flow compared with C++ Nix: Nix instantiates a package set into a store, `tvix build`
//! builds it, and Nix reads the result. `nix-build` has the same result.
//!
//! `cargo test -p tvix-tests --test peers_flow`; needs Nix and a statically
//! linked `busybox`, and fails without.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StoreDir;
use tvix_store_api::StoreExt as _;
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};
use tvix_tests::local::{LocalWorld, absolute};
use tvix_tests::nix::{command, run};
use tvix_tests::program::{self, tvix};

/// Several outputs, a fixed one, sources, references to others and to itself, and a diamond: `site`
/// needs `left` and `right`, which both need `base`.
const PACKAGES: &str = r#"
let
  make = name: attrs: script: derivation ({
    inherit name; system = builtins.currentSystem; builder = "/bin/sh";
    args = [ "-e" "-c" script ];
  } // attrs);
in rec {
  source = builtins.toFile "source" "from the source\n";
  fetched = make "fetched" {
    outputHashMode = "recursive"; outputHashAlgo = "sha256";
    outputHash = "HASH";
  } "mkdir $out; printf fetched > $out/file";
  base = make "base" { inherit source fetched; outputs = [ "out" "dev" "doc" ]; } ''
    echo building the base; echo and more >&2
    mkdir $out $dev; cat $source $fetched/file > $out/text; ln -s $out/text $dev/link
    echo $dev $out > $dev/both; echo words > $doc
  '';
  left = make "left" { inherit base; } "mkdir -p $out/bin; ln -s $base $out/base; echo run > $out/bin/run; chmod +x $out/bin/run";
  right = make "right" { inherit (base) dev; } "cat $dev/both > $out";
  graph = make "graph" { exportReferencesGraph = [ "refs" base ]; } "cat refs > $out";
  structured = make "structured" {
    __structuredAttrs = true; outputs = [ "out" ]; words = [ "it's" 1 true null ];
    exportReferencesGraph.refs = [ base ]; outputChecks.out = { maxSize = 100000; allowedReferences = [ base ]; };
  } ''
    line=$(grep '^declare -A outputs=' .attrs.sh); out=''${line#*"'out']='"}
    sed 's/"[a-zA-Z]*":true,//; s/,"valid":true//g; s#"outputs":{[^}]*}##' .attrs.json > ''${out%%"'"*}
  '';
  site = make "site" { inherit left right graph structured; } "mkdir $out; cp -r $left $out/left; echo $right $graph $structured $out > $out/index";
}
"#;

/// The store into which Nix has instantiated the packages, and the paths of the requested ones.
async fn instantiated() -> (LocalWorld, Vec<String>) {
    let world = LocalWorld::new().await;
    let file = packages(&world);
    let mut instantiate = command("nix-instantiate", &world.root());
    let (drvs, _) = run(instantiate
        .arg(&file)
        .args(["-A", "site", "-A", "base.doc"]));
    let drvs: Vec<_> = drvs.iter().map(|drv| drv.trim().to_owned()).collect();
    assert_eq!(drvs.len(), 2);
    (world, drvs)
}

fn packages(world: &LocalWorld) -> PathBuf {
    let file = world.beside("packages.nix");
    let folder = world.beside("fetched");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("file"), "fetched").unwrap();
    // The hash of the fetched file is computed in advance, by Nix.
    let hash = std::process::Command::new("nix-hash")
        .args(["--type", "sha256"])
        .arg(&folder)
        .output()
        .expect("these tests need nix-hash in PATH");
    let hash = String::from_utf8(hash.stdout).unwrap();
    std::fs::write(&file, PACKAGES.replace("HASH", hash.trim())).unwrap();
    file
}

fn tvix_build(world: &LocalWorld, drvs: &[String]) -> Vec<String> {
    let mut command = program::build(tvix(), world);
    program::run(command.arg("--no-out-link").args(drvs))
        .expect(0)
        .out
}

fn nix_store(root: &Path, args: &[&str]) -> Vec<String> {
    run(command("nix-store", root).args(args)).0
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[tokio::test]
async fn nix_reads_what_was_built() {
    let (world, drvs) = instantiated().await;
    let printed = tvix_build(&world, &drvs);
    let root = world.root();

    let mut verify = command("nix-store", &root);
    let (_, log) = run(verify.args(["--verify", "--check-contents"]));
    assert!(!log.contains("warning") && !log.contains("error"), "{log}");

    let mut built = 0;
    for path in world.valid().await {
        let info = world.store.require(&path).await.unwrap();
        let query = |what: &str| nix_store(&root, &["-q", what, &absolute(&path)]);
        let references = info.references.iter().map(absolute);
        assert_eq!(
            sorted(query("--references")),
            references.collect::<Vec<_>>()
        );
        assert_eq!(query("--hash"), [info.nix_hash().base32()]);
        assert_eq!(query("--size"), [info.nar_size.to_string()]);
        let tree = query("--tree");
        assert!(tree[0].starts_with(&absolute(&path)), "{tree:?}");
        if let Some(deriver) = &info.deriver {
            built += 1;
            assert_eq!(query("--deriver"), [absolute(deriver)]);
            let outputs = nix_store(&root, &["-q", "--outputs", &absolute(deriver)]);
            assert!(outputs.contains(&absolute(&path)), "{outputs:?}");
        }
    }
    assert_eq!(built, 9);
    // The tree of the site refers to itself, to the source that it was copied from, and to their
    // dependencies.
    let requisites = nix_store(&root, &["-q", "--requisites", &printed[0]]);
    for name in ["-base", "-base-dev", "-right", "-site"] {
        assert!(
            requisites.iter().any(|path| path.ends_with(name)),
            "{requisites:?}"
        );
    }
}

#[tokio::test]
async fn nix_finds_the_logs() {
    let (world, drvs) = instantiated().await;
    tvix_build(&world, &drvs);
    let base = drvs.iter().find(|drv| drv.contains("-base.drv")).unwrap();
    let base = base.split('!').next().unwrap();
    let log = nix_store(&world.root(), &["--read-log", base]);
    assert_eq!(log, ["building the base", "and more"]);
}

#[tokio::test]
async fn nix_build_finds_everything_built() {
    let (world, drvs) = instantiated().await;
    let printed = tvix_build(&world, &drvs);
    let mut nix_build = command("nix-build", &world.root());
    let file = world.beside("packages.nix");
    nix_build.args(["--no-out-link", "-A", "site"]).arg(file);
    let (out, log) = run(&mut nix_build);
    assert_eq!(out, printed[..1]);
    assert!(!log.contains("building"), "{log}");
}

#[tokio::test]
async fn nix_build_makes_the_same() {
    let (world, drvs) = instantiated().await;
    let ours = tvix_build(&world, &drvs);
    let other = world.beside("root-of-nix");
    let mut nix_build = command("nix-build", &other);
    let file = world.beside("packages.nix");
    nix_build
        .args(["--no-out-link", "-A", "site", "-A", "base.doc"])
        .arg(file);
    let (theirs, _) = run(&mut nix_build);
    // The output paths of the same arguments, those of `site` first.
    assert_eq!(ours[0], theirs[0]);

    let other = LocalStore::open(LocalStoreOptions::new(other))
        .await
        .unwrap();
    let (ours, theirs) = (infos(&world.store).await, infos(&other).await);
    assert_eq!(
        ours.keys().collect::<Vec<_>>(),
        theirs.keys().collect::<Vec<_>>()
    );
    for (path, info) in &ours {
        assert_eq!(info, &theirs[path]);
    }
}

/// The metadata of each path, except the time and the origin of its registration.
async fn infos(store: &LocalStore) -> BTreeMap<String, PathInfo> {
    let mut infos = BTreeMap::new();
    for path in store.all_valid_paths().await.unwrap() {
        let info = store.require(&path).await.unwrap();
        let info = PathInfo {
            registration_time: None,
            ultimate: false,
            signatures: Vec::new(),
            ..(*info).clone()
        };
        infos.insert(StoreDir::default().display(&path).to_string(), info);
    }
    infos
}

/// Paths built by Nix and by this project may depend on each other in one store.
#[tokio::test]
async fn they_take_turns() {
    let (world, drvs) = instantiated().await;
    let file = world.beside("packages.nix");
    let mut nix_build = command("nix-build", &world.root());
    run(nix_build.args(["--no-out-link", "-A", "left"]).arg(&file));
    let before = world.valid().await.len();
    let printed = tvix_build(&world, &drvs);
    // The paths that `left` does not need; the others were valid already.
    assert_eq!(world.valid().await.len(), before + 4);
    let mut nix_build = command("nix-build", &world.root());
    let (out, _) = run(nix_build.args(["--no-out-link", "-A", "site"]).arg(&file));
    assert_eq!(out, printed[..1]);
    world.expect_clean().await;
    // A path that Nix rebuilds is equal. Nix leaves a lock file then.
    let site = drvs.iter().find(|drv| drv.contains("-site.drv")).unwrap();
    run(command("nix-store", &world.root()).args(["--realise", "--check", site]));
}
