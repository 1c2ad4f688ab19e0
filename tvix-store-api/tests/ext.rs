//! `StoreExt`, and stores made of stores.
#![cfg(all(feature = "local-fs", feature = "conformance"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use common::Root;
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::sorted::SortedSet;
use nix_compat::store_path::{StoreDir, StorePath};
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions};
use tvix_store_api::{
    DrvOutput, MemoryStore, NarStream, PathInfo, Realisation, Store, StoreError, StoreExt as _,
    StoreUri, TieredStore,
};

fn memory() -> MemoryStore {
    MemoryStore::new(StoreDir::default())
}

async fn text(store: &dyn Store, name: &str, references: &[&StorePath]) -> StorePath {
    let references: SortedSet<StorePath> = references.iter().map(|path| (*path).clone()).collect();
    let name = name.parse().unwrap();
    store.add_text(name, b"contents", references).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closures_are_copied_references_first_and_once() {
    let from = memory();
    let mut layer = vec![text(&from, "bottom", &[]).await];
    let mut count = 1;
    for depth in 0..20 {
        let below: Vec<&StorePath> = layer.iter().collect();
        let mut next = Vec::new();
        for width in 0..5 {
            next.push(text(&from, &format!("{depth}-{width}"), &below).await);
        }
        count += next.len();
        layer = next;
    }
    let root = Root::new();
    let to = LocalStore::open(LocalStoreOptions::new(root.path()))
        .await
        .unwrap();
    let copied = from.copy_closure(&to, &layer[..1]).await.unwrap();
    assert_eq!(copied.len(), count - 4);
    let copied = from.copy_closure(&to, &layer).await.unwrap();
    assert_eq!(copied.len(), 4);
    assert!(from.copy_closure(&to, &layer).await.unwrap().is_empty());
    assert_eq!(to.closure(&layer).await.unwrap().len(), count);
    let elsewhere = MemoryStore::new(StoreDir::new("/other/store").unwrap());
    let error = from.copy_closure(&elsewhere, &layer).await.unwrap_err();
    assert!(matches!(error, StoreError::OtherStoreDir { .. }), "{error}");
}

/// Groups of small paths, and large ones, that refer to each other; and a damaged one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_and_large_paths_are_copied_but_none_that_is_damaged() {
    let root = Root::new();
    let from = LocalStore::open(LocalStoreOptions::new(root.path()))
        .await
        .unwrap();
    let mut paths: Vec<StorePath> = Vec::new();
    for number in 0..400 {
        // References to a recent path and to an early one, so that groups depend on each other.
        let references = [number - 1, number - 150_i32].into_iter();
        let references = references.filter_map(|it| paths.get(usize::try_from(it).ok()?));
        let size = if number % 90 == 89 { 300_000 } else { 10 };
        let contents = format!("{number} {}", "x".repeat(size));
        let name = format!("text-{number}").parse().unwrap();
        let references = references.cloned().collect();
        let added = from.add_text(name, contents.as_bytes(), references).await;
        paths.push(added.unwrap());
    }
    let last = paths.last().unwrap().clone();
    let to = memory();
    let copied = from
        .copy_closure(&to, std::slice::from_ref(&last))
        .await
        .unwrap();
    let copied: Vec<_> = copied.iter().map(|info| info.path.clone()).collect();
    assert_eq!(copied, paths);
    for path in &paths {
        to.verify(path).await.unwrap();
        assert_eq!(
            to.require(path).await.unwrap().nar_hash,
            from.require(path).await.unwrap().nar_hash
        );
    }

    for damaged in [200, 179] {
        let file = from.real_path(&paths[damaged]);
        fs::remove_file(&file).unwrap();
        fs::write(&file, "damaged").unwrap();
        let to = memory();
        let error = from
            .copy_closure(&to, std::slice::from_ref(&last))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, StoreError::Corrupt { path, store, .. }
                if *path == paths[damaged] && store == from.uri()),
            "{error}"
        );
        assert!(to.is_valid(&paths[damaged - 1]).await.unwrap());
        for path in &paths[damaged..] {
            assert!(!to.is_valid(path).await.unwrap(), "{path}");
        }
    }
}

#[tokio::test]
async fn a_flipped_byte_is_found() {
    let root = Root::new();
    let store = LocalStore::open(LocalStoreOptions::new(root.path()))
        .await
        .unwrap();
    let path = text(&store, "x", &[]).await;
    store.verify(&path).await.unwrap();
    let file = store.real_path(&path);
    fs::remove_file(&file).unwrap();
    fs::write(&file, b"cOntents").unwrap();
    let error = store.verify(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::HashMismatch { .. }), "{error}");
}

#[tokio::test]
async fn unpacked_paths_are_removed_again() {
    let store = memory();
    let path = text(&store, "x", &[]).await;
    let local = store.local_path(&path).await.unwrap();
    assert!(local.is_temporary());
    let place = local.path().to_owned();
    assert_eq!(fs::read(&place).unwrap(), b"contents");
    drop(local);
    for _ in 0..200 {
        if !place.parent().unwrap().exists() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("'{}' is still there", place.display());
}

#[tokio::test]
async fn unpacked_trees_look_as_on_disk_and_are_removed_again() {
    use std::os::unix::fs::MetadataExt as _;
    let folder = Root::new();
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/file"), "x").unwrap();
    std::os::unix::fs::symlink("b", tree.join("a/link")).unwrap();
    let store = memory();
    let name = "tree".parse().unwrap();
    let method = ContentAddressMethod::NixArchive;
    let path = store.add_tree(&tree, name, method).await.unwrap();
    let local = store.local_path(&path).await.unwrap();
    for (name, mode) in [
        ("", 0o555),
        ("a", 0o555),
        ("a/b", 0o555),
        ("a/b/file", 0o444),
        ("a/link", 0o777),
    ] {
        let metadata = local.path().join(name).symlink_metadata().unwrap();
        assert_eq!(metadata.mode() & 0o7777, mode, "{name}");
        assert_eq!(metadata.mtime(), 1, "{name}");
    }
    let place = local.path().parent().unwrap().to_owned();
    // Not on a thread of the runtime, so that the removal is synchronous.
    std::thread::spawn(move || drop(local)).join().unwrap();
    assert!(!place.exists(), "'{}' is still there", place.display());
}

/// A store that is down.
#[derive(Debug)]
struct Down(StoreUri, StoreDir);

impl Down {
    fn shared() -> Arc<dyn Store> {
        Arc::new(Self(StoreUri::memory("down"), StoreDir::default()))
    }

    fn fail<T>(&self) -> Result<T, StoreError> {
        Err(StoreError::Backend {
            store: self.0.clone(),
            action: "doing anything".into(),
            retryable: true,
            source: "down".into(),
        })
    }
}

#[async_trait]
impl Store for Down {
    fn uri(&self) -> &StoreUri {
        &self.0
    }
    fn store_dir(&self) -> &StoreDir {
        &self.1
    }
    async fn path_info(&self, _: &StorePath) -> Result<Option<Arc<PathInfo>>, StoreError> {
        self.fail()
    }
    async fn find(&self, _: &[u8; 20]) -> Result<Option<Arc<PathInfo>>, StoreError> {
        self.fail()
    }

    async fn valid_paths(&self, _: &[StorePath]) -> Result<HashSet<StorePath>, StoreError> {
        self.fail()
    }
    async fn nar(&self, _: &StorePath) -> Result<NarStream, StoreError> {
        self.fail()
    }
    async fn add(&self, _: PathInfo, _: NarStream) -> Result<(), StoreError> {
        self.fail()
    }
    async fn on_disk(&self, _: &StorePath) -> Result<Option<PathBuf>, StoreError> {
        self.fail()
    }
    async fn realisation(&self, _: &DrvOutput) -> Result<Option<Realisation>, StoreError> {
        self.fail()
    }
    async fn add_realisation(&self, _: &Realisation) -> Result<(), StoreError> {
        self.fail()
    }
}

#[tokio::test]
async fn a_tier_that_is_down_hides_only_what_nobody_else_has() {
    let (first, last) = (memory(), memory());
    let there = text(&last, "there", &[]).await;
    let nowhere = StorePath::new([9; 20], "nowhere".parse().unwrap());
    let tiers = TieredStore::new(
        Arc::new(first.clone()),
        [Down::shared(), Arc::new(last) as Arc<dyn Store>],
    )
    .unwrap();
    assert!(tiers.is_valid(&there).await.unwrap());
    tiers.verify(&there).await.unwrap();
    assert_eq!(
        tiers
            .valid_paths(std::slice::from_ref(&there))
            .await
            .unwrap()
            .len(),
        1
    );
    assert!(tiers.path_info(&nowhere).await.unwrap_err().is_retryable());
    assert!(
        tiers
            .valid_paths(&[there.clone(), nowhere.clone()])
            .await
            .is_err()
    );
    assert!(
        tiers
            .nar(&nowhere)
            .await
            .is_err_and(|error| error.is_retryable())
    );
    // The references of a new path are copied with it.
    assert!(first.is_empty());
    let new = text(&tiers, "new", &[&there]).await;
    assert!(first.is_valid(&new).await.unwrap() && first.is_valid(&there).await.unwrap());
    assert_eq!(tiers.uri(), first.uri());
}
