//! Verification, repair and deduplication; read-only stores; trees that cannot be added.
#![cfg(all(feature = "local-fs", feature = "conformance"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::error::Error as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use common::Root;
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::store_path::StorePath;
use tvix_store_api::local_fs::{
    Damage, GcOptions, LocalStore, LocalStoreOptions, OptimiseOptions, VerifyOptions,
};
use tvix_store_api::{Store as _, StoreError, StoreExt as _};

fn open(root: &Path) -> LocalStore {
    LocalStore::open_blocking(LocalStoreOptions::new(root)).unwrap()
}

async fn add(store: &LocalStore, folder: &Path, name: &str) -> Result<StorePath, StoreError> {
    let method = ContentAddressMethod::NixArchive;
    store.add_tree(folder, name.parse().unwrap(), method).await
}

/// A directory with two equal files and another one, in two stores.
struct Two {
    root: Root,
    store: LocalStore,
    other: Arc<LocalStore>,
    path: StorePath,
}

impl Two {
    async fn new() -> Self {
        let root = Root::new();
        let folder = root.path().join("folder");
        fs::create_dir_all(folder.join("sub")).unwrap();
        for name in ["a", "sub/b"] {
            fs::write(folder.join(name), "equal contents").unwrap();
        }
        fs::write(folder.join("c"), "other contents").unwrap();
        let store = open(&root.path().join("store"));
        let other = Arc::new(open(&root.path().join("other")));
        let path = add(&store, &folder, "x").await.unwrap();
        add(&other, &folder, "x").await.unwrap();
        Self {
            root,
            store,
            other,
            path,
        }
    }

    fn damage(&self, file: &str) {
        let file = self.store.real_path(&self.path).join(file);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&file, "equal_contents").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444)).unwrap();
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.store.real_path(&self.path).join(file)).unwrap()
    }

    fn inode(&self, file: &str) -> u64 {
        let file = self.store.real_path(&self.path).join(file);
        fs::metadata(file).unwrap().ino()
    }
}

#[tokio::test]
async fn damage_is_found_and_repaired() {
    let two = Two::new().await;
    let all = VerifyOptions::default().with_contents(true);
    let report = two.store.verify_all(all.clone()).await.unwrap();
    assert!(report.is_intact() && report.checked == 1, "{report:?}");
    two.damage("a");
    let quick = two.store.verify_all(VerifyOptions::default()).await;
    assert!(quick.unwrap().is_intact());
    let report = two.store.verify_all(all.clone()).await.unwrap();
    assert!(!report.is_intact());
    let damage = &report.damaged[0].damage;
    assert!(
        matches!(damage, Damage::Contents(StoreError::HashMismatch { .. })),
        "{damage}"
    );
    let repair = all.clone().with_repair_from(two.other.clone());
    let report = two.store.verify_all(repair).await.unwrap();
    assert!(report.is_intact(), "{report:?}");
    assert_eq!(two.read("a"), "equal contents");
    // The old files are gone.
    let places = two.store.state_dir().join("tmp-tvix");
    let ours = fs::read_dir(places).unwrap().map(|it| it.unwrap().path());
    assert!(
        ours.into_iter()
            .all(|it| fs::read_dir(it).unwrap().count() == 0)
    );
}

#[tokio::test]
async fn what_is_missing_is_repaired_or_forgotten() {
    let two = Two::new().await;
    let file = two.store.real_path(&two.path);
    let remove = || {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&file, two.root.path().join("away")).unwrap();
    };
    remove();
    two.store.repair(&two.path, &*two.other).await.unwrap();
    two.store.verify(&two.path).await.unwrap();
    fs::rename(two.root.path().join("away"), two.root.path().join("gone")).unwrap();
    remove();
    let options = VerifyOptions::default().with_forget_missing(true);
    let report = two.store.verify_all(options).await.unwrap();
    assert!(matches!(report.damaged[0].damage, Damage::Missing));
    assert!(report.damaged[0].forgotten && report.is_intact());
    assert_eq!(two.store.all_valid_paths().await.unwrap(), []);
}

#[tokio::test]
async fn what_others_need_is_not_forgotten() {
    let two = Two::new().await;
    let text = |name: &str, references: &[StorePath]| {
        let (name, store) = (name.parse().unwrap(), two.store.clone());
        let references = references.iter().cloned().collect();
        async move { store.add_text(name, b"x", references).await.unwrap() }
    };
    let input = text("input", &[]).await;
    let middle = text("middle", std::slice::from_ref(&input)).await;
    let top = text("top", std::slice::from_ref(&middle)).await;
    let options = VerifyOptions::default().with_forget_missing(true);
    for path in [&input, &middle] {
        fs::remove_file(two.store.real_path(path)).unwrap();
    }
    let report = two.store.verify_all(options.clone()).await.unwrap();
    assert_eq!(report.damaged.len(), 2);
    assert!(report.damaged.iter().all(|it| !it.forgotten));
    fs::remove_file(two.store.real_path(&top)).unwrap();
    let report = two.store.verify_all(options).await.unwrap();
    assert!(report.damaged.iter().all(|it| it.forgotten), "{report:?}");
}

#[tokio::test]
async fn only_the_same_contents_repair() {
    let two = Two::new().await;
    let missing = two
        .store
        .repair(&two.path, &open(&two.root.path().join("third")))
        .await;
    assert!(
        matches!(missing, Err(StoreError::NotFound { .. })),
        "{missing:?}"
    );
    // Another build of the same path.
    let third = open(&two.root.path().join("fourth"));
    let other: StorePath = "00bgd045z0d4icpbc2yyz4gx48ak44la-x".parse().unwrap();
    for (store, text) in [(&two.store, "one"), (&third, "two")] {
        let mut writer = nix_compat::nar::Writer::new(Vec::new());
        writer.regular(false, text.as_bytes()).unwrap();
        let nar = writer.finish().unwrap();
        let digest = tvix_store_api::verify::digest(&nar);
        let info = tvix_store_api::PathInfo::new(other.clone(), digest, nar.len() as u64);
        use futures::StreamExt as _;
        let nar = futures::stream::iter([Ok(nar.into())]).boxed();
        store.add(info, nar).await.unwrap();
    }
    let refused = two.store.repair(&other, &third).await;
    assert!(
        matches!(refused, Err(StoreError::HashMismatch { .. })),
        "{refused:?}"
    );
    two.store.verify(&other).await.unwrap();
}

#[tokio::test]
async fn equal_files_become_one() {
    let two = Two::new().await;
    let report = two
        .store
        .optimise(OptimiseOptions::default())
        .await
        .unwrap();
    assert_eq!((report.files, report.shared), (3, 1));
    assert_eq!(two.inode("a"), two.inode("sub/b"));
    assert_ne!(two.inode("a"), two.inode("c"));
    let folder = two.store.real_path(&two.path).join("sub");
    let metadata = fs::metadata(folder).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.mtime()), (0o555, 1));
    two.store.verify(&two.path).await.unwrap();
    // Files that share their space already are left alone.
    let again = two
        .store
        .optimise(OptimiseOptions::default())
        .await
        .unwrap();
    assert_eq!(again.shared, 0);
    drop((two.store, two.other));
    let store = open(&two.root.path().join("store"));
    let report = store.collect_garbage(GcOptions::default()).await.unwrap();
    assert_eq!((report.paths.len(), report.unused_links), (1, 2));
}

/// Empty files and symlinks are linked as well, as by `nix-store --optimise` of 2.8 and 2.34.8:
/// equal files have one inode, and one name in `.links`.
#[tokio::test]
async fn empty_files_and_symbolic_links_share() {
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;
    let root = Root::new();
    let store = open(&root.path().join("store"));
    let folder = root.path().join("folder");
    fs::create_dir_all(folder.join("d")).unwrap();
    for name in ["e1", "e2", "d/e3", "ex"] {
        fs::write(folder.join(name), "").unwrap();
    }
    for name in ["f1", "f2", "x1"] {
        fs::write(folder.join(name), "same\n").unwrap();
    }
    for name in ["ex", "x1"] {
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for (name, target) in [("l1", "x"), ("l2", "x"), ("l3", "y"), ("d/l4", "x")] {
        symlink(target, folder.join(name)).unwrap();
    }
    let first = add(&store, &folder, "a").await.unwrap();
    fs::write(folder.join("f2"), "other\n").unwrap();
    let second = add(&store, &folder, "b").await.unwrap();
    let top = add(&store, &folder.join("l1"), "lk").await.unwrap();
    let report = store.optimise(OptimiseOptions::default()).await.unwrap();
    // Of 23 files and links, 7 are kept.
    assert_eq!((report.files, report.shared), (23, 16));
    let links = store.real_store_dir().join(".links");
    let mut found: BTreeMap<u64, (String, u64)> = BTreeMap::new();
    for entry in fs::read_dir(&links).unwrap() {
        let entry = entry.unwrap();
        let metadata = entry.path().symlink_metadata().unwrap();
        let name = entry.file_name().into_string().unwrap();
        found.insert(metadata.ino(), (name, metadata.nlink()));
    }
    // The names and link counts are those of Nix.
    let mut names: Vec<_> = found.values().cloned().collect();
    names.sort();
    let expected = [
        ("08m9shh7m0v5bk805531pb1y0h6psm3x6xkzcmz7f54mhlfk4vb2", 2),
        ("0ip26j2h11n1kgkz36rl4akv694yz65hr72q4kv4b3lxcbi65b3p", 7),
        ("1216b33aa5hzvgha7dh3shasgfd03y13s2x6pccxkm68h71psn0d", 3),
        ("146m62fh059g7arnrjh6a7yh4q879r36fsm4a5c4dbd6ja2hpq1l", 3),
        ("1bsadkv09jb3raxyaiia8cf660bdx3harmx9mp08di2fi152xx4x", 4),
        ("1d6zyhr3yvx7xayifvpkf2x46qrym7xllznh96652dkln231x55v", 8),
        ("1djdn8459n3lg0h5bwfyqc1fq68mymc35jy05m9v8ga68kkhxxff", 3),
    ];
    assert_eq!(
        names,
        expected.map(|(name, count)| (name.to_owned(), count))
    );
    let inode = |path: &StorePath, name: &str| {
        let place = store.real_path(path).join(name);
        place.symlink_metadata().unwrap().ino()
    };
    for name in [
        "e1", "e2", "d/e3", "ex", "f1", "f2", "x1", "l1", "l2", "l3", "d/l4",
    ] {
        for path in [&first, &second] {
            assert!(found.contains_key(&inode(path, name)), "{name}");
        }
    }
    let top_inode = store.real_path(&top).symlink_metadata().unwrap().ino();
    assert_eq!(top_inode, inode(&first, "l1"));
    for path in [&first, &second, &top] {
        store.verify(path).await.unwrap();
    }
    let all = VerifyOptions::default().with_contents(true);
    assert!(store.verify_all(all).await.unwrap().is_intact());
    let again = store.optimise(OptimiseOptions::default()).await.unwrap();
    assert_eq!(again.shared, 0);
    drop(store);
    let store = open(&root.path().join("store"));
    let report = store.collect_garbage(GcOptions::default()).await.unwrap();
    assert_eq!((report.paths.len(), report.unused_links), (3, 7));
}

/// Damage does not spread: a link is verified before a file is linked to it.
#[tokio::test]
async fn damage_does_not_spread() {
    let two = Two::new().await;
    two.store
        .optimise(OptimiseOptions::default())
        .await
        .unwrap();
    two.damage("a");
    two.store.repair(&two.path, &*two.other).await.unwrap();
    let report = two
        .store
        .optimise(OptimiseOptions::default())
        .await
        .unwrap();
    assert_eq!(report.bad_links, 1);
    assert_eq!(two.read("a"), "equal contents");
    assert_eq!(two.read("sub/b"), "equal contents");
    two.store.verify(&two.path).await.unwrap();
    let all = VerifyOptions::default().with_contents(true);
    assert!(two.store.verify_all(all).await.unwrap().is_intact());
}

#[tokio::test]
async fn bad_links_are_found() {
    let two = Two::new().await;
    two.store
        .optimise(OptimiseOptions::default())
        .await
        .unwrap();
    two.damage("c");
    let all = VerifyOptions::default().with_contents(true);
    let report = two.store.verify_all(all.clone()).await.unwrap();
    assert_eq!((report.damaged.len(), report.bad_links.len()), (1, 1));
    let report = two
        .store
        .verify_all(all.with_repair_from(two.other.clone()))
        .await
        .unwrap();
    assert!(
        report.is_intact() && !report.bad_links[0].exists(),
        "{report:?}"
    );
}

#[tokio::test]
async fn a_store_that_is_only_read_is_not_changed() {
    let two = Two::new().await;
    let options = LocalStoreOptions::new(two.root.path().join("store")).with_read_only(true);
    let store = LocalStore::open_blocking(options).unwrap();
    let all = VerifyOptions::default().with_contents(true);
    assert!(store.verify_all(all.clone()).await.unwrap().is_intact());
    let read_only = |result: Result<(), StoreError>| {
        assert!(
            matches!(result, Err(StoreError::ReadOnly { .. })),
            "{result:?}"
        );
    };
    read_only(store.optimise(OptimiseOptions::default()).await.map(drop));
    read_only(store.repair(&two.path, &*two.other).await);
    read_only(
        store
            .verify_all(all.with_repair_from(two.other.clone()))
            .await
            .map(drop),
    );
    read_only(
        store
            .add_root(&two.root.path().join("link"), &two.path)
            .await,
    );
    read_only(
        add(&store, &two.root.path().join("folder"), "new")
            .await
            .map(drop),
    );
    // Adding a valid path changes nothing.
    assert_eq!(
        add(&store, &two.root.path().join("folder"), "x")
            .await
            .unwrap(),
        two.path
    );
}

#[tokio::test]
async fn what_no_store_holds_is_named() {
    let root = Root::new();
    let folder = root.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let _socket = UnixListener::bind(folder.join("the-socket")).unwrap();
    let store = open(&root.path().join("store"));
    let error = add(&store, &folder, "x").await.unwrap_err();
    let source = error.source().unwrap().to_string();
    assert!(
        source.contains("the-socket") && source.contains("socket"),
        "{source}"
    );
    let missing = add(&store, &root.path().join("missing"), "x")
        .await
        .unwrap_err();
    assert!(missing.to_string().contains("missing"), "{missing}");
    assert_eq!(store.all_valid_paths().await.unwrap(), []);
}

/// Contents are verified against their content address, as by a receiver, not only against the NAR
/// hash.
#[tokio::test]
async fn contents_that_are_not_those_of_their_address() {
    use nix_compat::content_address::ContentAddress;
    use nix_compat::nixhash::NixHash;
    use nix_compat::store_path::{PathReferences, StoreDir, content_addressed_path};
    use tvix_store_api::MemoryStore;
    use tvix_store_api::local_fs::OutputTree;
    let root = Root::new();
    let store = open(&root.path().join("store"));
    let dir = StoreDir::default();
    for (method, algo, to_self) in [
        (
            ContentAddressMethod::Flat,
            nix_compat::nixhash::HashAlgo::Sha1,
            false,
        ),
        (
            ContentAddressMethod::Flat,
            nix_compat::nixhash::HashAlgo::Sha256,
            false,
        ),
        (
            ContentAddressMethod::Text,
            nix_compat::nixhash::HashAlgo::Sha256,
            false,
        ),
        (
            ContentAddressMethod::NixArchive,
            nix_compat::nixhash::HashAlgo::Sha512,
            false,
        ),
        (
            ContentAddressMethod::NixArchive,
            nix_compat::nixhash::HashAlgo::Sha256,
            false,
        ),
        (
            ContentAddressMethod::NixArchive,
            nix_compat::nixhash::HashAlgo::Sha256,
            true,
        ),
    ] {
        let address = ContentAddress {
            method,
            hash: NixHash::digest(algo, b"something else"),
        };
        let references = PathReferences {
            to_self,
            ..Default::default()
        };
        let name = "x".parse().unwrap();
        let path = content_addressed_path(&dir, name, &address, &references).unwrap();
        let scratch = store.scratch().unwrap();
        let own = if to_self {
            path.to_string()
        } else {
            String::new()
        };
        fs::write(scratch.path(), format!("contents {own}")).unwrap();
        let tree = OutputTree::new(
            scratch.path().to_owned(),
            fs::metadata(scratch.path()).unwrap().uid(),
            path.clone(),
        )
        .with_ca(address);
        store.import_outputs(vec![tree], vec![]).await.unwrap();
        let options = VerifyOptions::default()
            .with_contents(true)
            .with_paths(vec![path.clone()]);
        let report = store.verify_all(options).await.unwrap();
        let [damaged] = &report.damaged[..] else {
            panic!("{method:?} {algo}: {report:?}");
        };
        assert!(
            matches!(
                &damaged.damage,
                Damage::Contents(StoreError::HashMismatch { .. })
            ),
            "{damaged:?}"
        );
        let to = MemoryStore::new(dir.clone());
        store.copy_closure(&to, &[path]).await.unwrap_err();
    }
}
