//! The local store and C++ Nix on the same root: each reads paths that the other wrote.
//!
//! `cargo test -p tvix-tests --test peers_store`; needs `nix-store`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix_compat::content_address::ContentAddressMethod;
use nix_compat::derivation::{DerivationBuilder, OutputName};
use nix_compat::nixhash::HashAlgo;
use nix_compat::realisation::{DrvOutput, Realisation};
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath};
use tempfile::TempDir;
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions, OutputTree};
use tvix_store_api::{MemoryStore, PathInfo, Store, StoreExt as _};
use tvix_tests::local::make_writable;

/// A store that both have opened, and a directory next to it.
struct Shared {
    directory: TempDir,
    store: LocalStore,
}

impl Shared {
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let store = LocalStore::open(LocalStoreOptions::new(directory.path().join("root")));
        Self {
            store: store.await.unwrap(),
            directory,
        }
    }

    /// Reopens the store without temporary roots.
    async fn reopen(&mut self) {
        // All handles of a process share their roots.
        let other = LocalStore::open(LocalStoreOptions::new(self.beside("other")));
        self.store = other.await.unwrap();
        let again = LocalStore::open(LocalStoreOptions::new(self.beside("root")));
        self.store = again.await.unwrap();
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("NIX_REMOTE", "")
            .env("NIX_CONF_DIR", self.directory.path())
            .env(
                "NIX_CONFIG",
                "substituters =\nsandbox = false\nbuild-users-group =",
            )
            .env("HOME", self.directory.path())
            .arg("--store")
            .arg(self.directory.path().join("root"));
        command
    }

    /// The output of a program of Nix, which must succeed.
    fn nix_store(&self, args: &[&str]) -> String {
        run(self.command("nix-store").args(args))
    }

    fn query(&self, what: &str, path: &StorePath) -> Vec<String> {
        let text = self.nix_store(&["-q", what, &absolute(path)]);
        text.lines().map(str::to_owned).collect()
    }

    fn add_with_nix(&self, file: &Path) -> StorePath {
        let path = self.nix_store(&["--add", file.to_str().unwrap()]);
        StoreDir::default().parse(path.trim()).unwrap()
    }

    fn verify_all(&self) {
        let mut command = self.command("nix-store");
        let output = command
            .args(["--verify", "--check-contents"])
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log}");
        assert!(!log.contains("warning") && !log.contains("error"), "{log}");
    }

    /// Checks that Nix reports the same metadata of a path.
    async fn expect_agreement(&self, path: &StorePath) {
        let info = self.store.require(path).await.unwrap();
        let hash = self.query("--hash", path);
        assert_eq!(hash, [info.nix_hash().base32()]);
        assert_eq!(self.query("--size", path), [info.nar_size.to_string()]);
        let mut references = self.query("--references", path);
        references.sort();
        let expected: Vec<_> = info.references.iter().map(absolute).collect();
        assert_eq!(references, expected);
        let deriver = info
            .deriver
            .as_ref()
            .map_or("unknown-deriver".into(), absolute);
        assert_eq!(self.query("--deriver", path), [deriver]);
        let mut referrers = self.query("--referrers", path);
        referrers.sort();
        let expected = self.store.referrers(path).await.unwrap();
        assert_eq!(referrers, expected.iter().map(absolute).collect::<Vec<_>>());
        let tree = self.query("--tree", path);
        assert!(tree[0].contains(&path.to_string()), "{tree:?}");
        self.store.verify(path).await.unwrap();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        make_writable(self.directory.path());
    }
}

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("these tests need Nix: {command:?}: {error}"));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {log}");
    String::from_utf8(output.stdout).unwrap()
}

fn absolute(path: &StorePath) -> String {
    StoreDir::default().display(path).to_string()
}

fn path(seed: u8, name: &str) -> StorePath {
    StorePath::new([seed; 20], name.parse().unwrap())
}

fn make_tree(at: &Path) {
    fs::create_dir_all(at.join("bin")).unwrap();
    fs::create_dir_all(at.join("empty")).unwrap();
    fs::write(at.join("bin/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(at.join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(at.join("large"), vec![b'x'; 3 << 20]).unwrap();
    fs::write(at.join("odd \u{fffd}\n name"), "").unwrap();
    symlink("bin/run", at.join("link")).unwrap();
}

#[tokio::test]
async fn nix_reads_what_we_add() {
    let shared = Shared::new().await;
    let source = shared.beside("tree");
    make_tree(&source);
    let method = ContentAddressMethod::NixArchive;
    let name = "tree".parse().unwrap();
    let tree = shared.store.add_tree(&source, name, method).await.unwrap();
    let references = SortedSet::from([tree.clone()]);
    let name = "text".parse().unwrap();
    let text = shared
        .store
        .add_text(name, b"refers", references)
        .await
        .unwrap();
    let flat = shared.beside("flat");
    fs::write(&flat, "flat").unwrap();
    let method = ContentAddressMethod::Flat;
    let flat = shared
        .store
        .add_tree(&flat, "flat".parse().unwrap(), method)
        .await
        .unwrap();
    for path in [&tree, &text, &flat] {
        shared.expect_agreement(path).await;
    }
    // Nix computes the same path, and finds it in the store.
    assert_eq!(shared.add_with_nix(&source), tree);
    assert_eq!(shared.query("--referrers", &tree), [absolute(&text)]);
    shared.verify_all();
}

#[tokio::test]
async fn we_read_what_nix_adds() {
    let shared = Shared::new().await;
    // A store that Nix has created.
    fs::remove_dir_all(shared.beside("root")).unwrap();
    let source = shared.beside("tree");
    make_tree(&source);
    let tree = shared.add_with_nix(&source);
    let store = LocalStore::open(LocalStoreOptions::new(shared.beside("root")))
        .await
        .unwrap();
    let ours = MemoryStore::new(StoreDir::default());
    let method = ContentAddressMethod::NixArchive;
    ours.add_tree(&source, "tree".parse().unwrap(), method)
        .await
        .unwrap();
    let expected = ours.require(&tree).await.unwrap();
    let info = store.require(&tree).await.unwrap();
    let without_time = |info: &PathInfo| PathInfo {
        registration_time: None,
        ..info.clone()
    };
    assert_eq!(without_time(&info), without_time(&expected));
    assert!(info.registration_time.is_some());
    store.verify(&tree).await.unwrap();
    // Add to it.
    let text = store
        .add_text("t".parse().unwrap(), b"t", [tree.clone()].into())
        .await
        .unwrap();
    assert_eq!(shared.query("--references", &text), [absolute(&tree)]);
    let copied = store
        .copy_closure(&ours, std::slice::from_ref(&text))
        .await
        .unwrap();
    assert_eq!(copied.len(), 1);
    ours.verify(&text).await.unwrap();
    shared.verify_all();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_add_at_the_same_time() {
    let shared = Shared::new().await;
    let mut files = Vec::new();
    for number in 0..12 {
        let file = shared.beside(&format!("file-{number}"));
        fs::write(&file, format!("contents {number}")).unwrap();
        files.push(file);
    }
    let (theirs, ours) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| {
            let add = |file: &PathBuf| shared.add_with_nix(file);
            files.iter().map(add).collect::<Vec<_>>()
        });
        let ours = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            let method = ContentAddressMethod::NixArchive;
            let add = |file: &PathBuf| {
                let name = file.file_name().unwrap().to_str().unwrap();
                runtime
                    .block_on(shared.store.add_tree(file, name.parse().unwrap(), method))
                    .unwrap()
            };
            // In reverse order, so that the two meet.
            files.iter().rev().map(add).collect::<Vec<_>>()
        });
        (theirs.join().unwrap(), ours.join().unwrap())
    });
    let reversed: Vec<_> = ours.into_iter().rev().collect();
    assert_eq!(theirs, reversed);
    for path in &theirs {
        shared.expect_agreement(path).await;
    }
    shared.verify_all();
}

#[tokio::test]
async fn derivations_and_their_outputs() {
    let mut shared = Shared::new().await;
    let store = &shared.store;
    let dir = StoreDir::default();
    let built = DerivationBuilder::new("two", "x86_64-linux", "/bin/sh")
        .outputs(["out", "dev"])
        .instantiate(&dir)
        .unwrap();
    let aterm = built.derivation.to_aterm(&dir);
    let name = built.path.name().clone();
    let drv = store
        .add_text(name, &aterm, SortedSet::new())
        .await
        .unwrap();
    let (out, dev) = (
        built.output_path("out").unwrap(),
        built.output_path("dev").unwrap(),
    );
    let mut outputs = shared.query("--outputs", &drv);
    outputs.sort();
    let mut expected = [absolute(&out), absolute(&dev)];
    expected.sort();
    assert_eq!(outputs, expected);

    let scratch = store.scratch().unwrap();
    fs::create_dir(scratch.path()).unwrap();
    let mut trees = Vec::new();
    for (path, contents) in [(&out, absolute(&dev)), (&dev, "headers".to_owned())] {
        let at = scratch.path().join(path.to_string());
        make_tree(&at);
        fs::write(at.join("reference"), contents).unwrap();
        fs::write(at.join("self"), absolute(path)).unwrap();
        let owner = fs::metadata(&at).unwrap().uid();
        trees.push(OutputTree::new(at, owner, path.clone()).with_deriver(drv.clone()));
    }
    store
        .import_outputs(trees, vec![drv.clone()])
        .await
        .unwrap();
    drop(scratch);
    for path in [&drv, &out, &dev] {
        shared.expect_agreement(path).await;
    }
    assert_eq!(shared.query("--deriver", &out), [absolute(&drv)]);
    let requisites = shared.query("--requisites", &out);
    assert_eq!(requisites, [absolute(&dev), absolute(&out)]);
    shared.verify_all();
    // Nix does not delete paths in use here. It deletes unused ones, which are then invalid here
    // too.
    let delete = ["--delete", &absolute(&out)];
    let refused = shared.command("nix-store").args(delete).output();
    assert!(!refused.unwrap().status.success());
    shared.reopen().await;
    let store = &shared.store;
    shared.nix_store(&delete);
    let valid = store.all_valid_paths().await.unwrap();
    assert!(!valid.contains(&out) && valid.contains(&dev));
    // A concurrent garbage collection keeps the directory in which paths are created.
    shared.nix_store(&["--gc"]);
    assert!(store.all_valid_paths().await.unwrap().is_empty());
    store
        .add_text("after".parse().unwrap(), b"gc", SortedSet::new())
        .await
        .unwrap();
    shared.verify_all();
}

#[tokio::test]
async fn nix_instantiates_and_builds_in_our_store() {
    let shared = Shared::new().await;
    let file = shared.beside("default.nix");
    fs::write(
        &file,
        r#"derivation {
            name = "built"; system = builtins.currentSystem; builder = "/bin/sh";
            args = [ "-c" "echo $out > $out" ]; src = builtins.toFile "src" "source";
        }"#,
    )
    .unwrap();
    let drv = run(shared.command("nix-instantiate").arg(&file));
    let drv = StoreDir::default().parse(drv.trim()).unwrap();
    let info = shared.store.require(&drv).await.unwrap();
    assert_eq!(info.references.len(), 1);
    shared.expect_agreement(&drv).await;
    for reference in info.references.iter() {
        shared.expect_agreement(reference).await;
    }
}

#[tokio::test]
async fn realisations_are_where_nix_has_them() {
    let shared = Shared::new().await;
    let text = shared
        .store
        .add_text("x".parse().unwrap(), b"x", SortedSet::new());
    let out_path = text.await.unwrap();
    let id = DrvOutput::by_hash([7; 32], OutputName::out());
    let realisation = Realisation::new(id, out_path.clone());
    shared.store.add_realisation(&realisation).await.unwrap();
    let mut command = shared.command("nix");
    command
        .args([
            "--extra-experimental-features",
            "nix-command ca-derivations",
        ])
        .args(["realisation", "info", "--json"])
        .arg(absolute(&out_path));
    // A path without realisations is not an error; wrong tables are.
    run(&mut command);
    let version = shared.store.state_dir().join("db/ca-schema");
    assert_eq!(fs::read_to_string(version).unwrap(), "3");
    let found = shared.store.realisation(&realisation.id).await.unwrap();
    assert_eq!(found, Some(realisation));
    shared.verify_all();
}

/// The content addresses of contents that refer to themselves are equal.
#[tokio::test]
async fn contents_that_refer_to_themselves() {
    let shared = Shared::new().await;
    let store = &shared.store;
    let own = path(77, "self");
    let scratch = store.scratch().unwrap();
    make_tree(scratch.path());
    let text = format!("{} twice {}", absolute(&own), own.hash_part());
    fs::write(scratch.path().join("self"), text).unwrap();
    let tree = OutputTree::new(
        scratch.path().to_owned(),
        fs::metadata(scratch.path()).unwrap().uid(),
        own.clone(),
    );
    store.import_outputs(vec![tree], vec![]).await.unwrap();
    let mut command = shared.command("nix");
    command
        .args([
            "--extra-experimental-features",
            "nix-command ca-derivations",
        ])
        .args(["store", "make-content-addressed", "--json"])
        .arg(absolute(&own));
    let json: serde_json::Value = serde_json::from_str(&run(&mut command)).unwrap();
    let rewritten = json["rewrites"][absolute(&own)].as_str().unwrap();
    let rewritten = StoreDir::default().parse(rewritten).unwrap();
    let info = store.require(&rewritten).await.unwrap();
    assert!(info.references.contains(&rewritten));
    assert_eq!(info.ca.as_ref().unwrap().hash.algo(), HashAlgo::Sha256);
    // Adding verifies the address.
    let ours = MemoryStore::new(StoreDir::default());
    store
        .copy_closure(&ours, std::slice::from_ref(&rewritten))
        .await
        .unwrap();
    ours.verify(&rewritten).await.unwrap();
    shared.verify_all();
}
