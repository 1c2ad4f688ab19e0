//! Guarantees of the local store beyond the contract.
#![cfg(all(feature = "local-fs", feature = "conformance"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use bytes::Bytes;
use common::Root;
use futures::stream::{self, StreamExt as _};
use nix_compat::derivation::DerivationBuilder;
use nix_compat::store_path::{StoreDir, StorePath};
use tempfile::TempDir;
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions, OutputTree};
use tvix_store_api::verify::digest;
use tvix_store_api::{Fault, NarStream, PathInfo, Store, StoreError, StoreExt as _};
use tvix_tree::dump_path;

fn open(root: &Path) -> LocalStore {
    LocalStore::open_blocking(LocalStoreOptions::new(root)).unwrap()
}

fn path(seed: u8, name: &str) -> StorePath {
    StorePath::new([seed; 20], name.parse().unwrap())
}

/// A text under a given path.
fn object(path: &StorePath, text: &str, references: &[StorePath]) -> (PathInfo, NarStream) {
    let mut writer = nix_compat::nar::Writer::new(Vec::new());
    writer.regular(false, text.as_bytes()).unwrap();
    let nar = Bytes::from(writer.finish().unwrap());
    let mut info = PathInfo::new(path.clone(), digest(&nar), nar.len() as u64);
    info.references.extend(references.iter().cloned());
    (info, stream::iter([Ok(nar)]).boxed())
}

async fn add(store: &LocalStore, path: &StorePath, text: &str) {
    let (info, nar) = object(path, text, &[]);
    store.add(info, nar).await.unwrap();
}

fn entries(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn nar_hash(path: &Path) -> [u8; 32] {
    let mut nar = Vec::new();
    dump_path(path, &mut nar).unwrap();
    digest(&nar)
}

fn query(store: &LocalStore, sql: &str) -> Vec<String> {
    let database = store.state_dir().join("db/db.sqlite");
    let connection = rusqlite::Connection::open(database).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

#[tokio::test]
async fn files_have_canonical_metadata_and_nothing_else_is_left() {
    let root = Root::new();
    let store = open(root.path());
    let source = TempDir::new().unwrap();
    fs::create_dir(source.path().join("d")).unwrap();
    fs::write(source.path().join("d/x"), "#!").unwrap();
    fs::set_permissions(
        source.path().join("d/x"),
        fs::Permissions::from_mode(0o4777),
    )
    .unwrap();
    symlink("d/x", source.path().join("l")).unwrap();
    let method = nix_compat::content_address::ContentAddressMethod::NixArchive;
    let path = store
        .add_tree(source.path(), "tree".parse().unwrap(), method)
        .await
        .unwrap();
    let real = store.real_path(&path);
    for (name, mode) in [
        ("", 0o40555),
        ("d", 0o40555),
        ("d/x", 0o100_555),
        ("l", 0o120_777),
    ] {
        let metadata = fs::symlink_metadata(real.join(name)).unwrap();
        let trimmed = real.join(name);
        assert_eq!(metadata.mode(), mode, "{}", trimmed.display());
        assert_eq!(metadata.mtime(), 1, "{}", trimmed.display());
        assert_eq!(metadata.mtime_nsec(), 0, "{}", trimmed.display());
    }
    drop(store);
    let names = entries(&root.path().join("nix/store"));
    assert_eq!(names, [".links".to_owned(), path.to_string()]);
    assert!(entries(&root.path().join("nix/var/nix/tmp-tvix")).is_empty());
}

#[tokio::test]
async fn what_a_killed_process_left_is_replaced_and_removed() {
    let root = Root::new();
    let canary = root.path().join("canary");
    fs::write(&canary, "alive").unwrap();
    let store = open(root.path());
    let path = path(1, "left");
    // Moved into place but never registered, with a symlink out of the store.
    let leftover = store.real_path(&path);
    fs::create_dir_all(leftover.join("sub")).unwrap();
    symlink(root.path(), leftover.join("sub/link")).unwrap();
    fs::set_permissions(leftover.join("sub"), fs::Permissions::from_mode(0o555)).unwrap();
    assert!(!store.is_valid(&path).await.unwrap());
    // The scratch place of a dead process: its lock is free.
    let stale = store.state_dir().join("tmp-tvix/1-0");
    fs::create_dir_all(stale.join("0/deep")).unwrap();
    let other = open(root.path());
    assert!(!stale.exists());
    add(&other, &path, "right").await;
    assert_eq!(fs::read_to_string(&leftover).unwrap().len(), 5);
    assert_eq!(fs::read_to_string(&canary).unwrap(), "alive");
    // The scratch place of the first handle is not stale.
    add(&store, &self::path(2, "still"), "works").await;
}

#[tokio::test]
async fn a_failed_registration_leaves_no_files() {
    let root = Root::new();
    let store = open(root.path());
    let (info, nar) = object(&path(1, "x"), "x", &[path(2, "missing")]);
    let error = store.add(info, nar).await.unwrap_err();
    assert!(
        matches!(error, StoreError::InvalidReference { .. }),
        "{error}"
    );
    assert!(!store.real_path(&path(1, "x")).exists());
}

#[tokio::test]
async fn two_stores_on_one_root_see_each_other() {
    let root = Root::new();
    let (one, two) = (open(root.path()), open(root.path()));
    assert_eq!(one.uri(), two.uri());
    let paths: Vec<_> = (0..50).map(|seed| path(seed, "shared")).collect();
    let adding = paths.iter().map(|path| async {
        futures::join!(add(&one, path, "shared"), add(&two, path, "shared"));
    });
    futures::future::join_all(adding).await;
    assert_eq!(one.all_valid_paths().await.unwrap().len(), 50);
    for path in &paths {
        two.verify(path).await.unwrap();
    }
}

#[tokio::test]
async fn read_only_stores_read() {
    let root = Root::new();
    let path = path(1, "x");
    let read_only = LocalStoreOptions::new(root.path()).with_read_only(true);
    let error = LocalStore::open(read_only.clone()).await.unwrap_err();
    assert!(
        with_sources(&error).contains("there is no store"),
        "{error:?}"
    );
    add(&open(root.path()), &path, "x").await;
    let store = LocalStore::open(read_only).await.unwrap();
    store.verify(&path).await.unwrap();
    add(&store, &path, "x").await; // valid already
    let (info, nar) = object(&self::path(2, "y"), "y", &[]);
    let error = store.add(info, nar).await.unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error}");
    assert!(matches!(store.scratch(), Err(StoreError::ReadOnly { .. })));
}

/// Reading an endless database is aborted, but the limit holds for each of many look-ups. Fails if
/// only the first look-up resets the step count.
#[tokio::test]
async fn any_number_of_paths_is_looked_up() {
    let root = tempfile::tempdir().unwrap();
    drop(open(root.path()));
    let read_only = LocalStoreOptions::new(root.path()).with_read_only(true);
    let store = LocalStore::open(read_only).await.unwrap();
    let unknown = |number: u32| {
        let mut digest = [0; 20];
        digest[..4].copy_from_slice(&number.to_le_bytes());
        StorePath::new(digest, "x".parse().unwrap())
    };
    let unknown: Vec<StorePath> = (0..400_000).map(unknown).collect();
    assert_eq!(store.valid_paths(&unknown).await.unwrap().len(), 0);
    let infos = store.path_infos(&unknown).await.unwrap();
    assert!(infos.iter().all(Option::is_none));
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let source = error.source().map(with_sources).unwrap_or_default();
    format!("{error}: {source}")
}

#[tokio::test]
async fn what_is_no_store_is_named() {
    type Spoil = fn(&Path);
    let cases: [(&str, Spoil, &str); 4] = [
        (
            "db/db.sqlite",
            |file| fs::write(file, "not a database at all, but long enough to look at").unwrap(),
            "not a database",
        ),
        (
            "db/db.sqlite",
            |file| fs::remove_file(file).unwrap(),
            "unable to open",
        ),
        (
            "db/schema",
            |file| fs::write(file, "11").unwrap(),
            "newer than 10",
        ),
        (
            "db/schema",
            |file| fs::write(file, "7").unwrap(),
            "older than 10",
        ),
    ];
    for (name, spoil, expected) in cases {
        let root = Root::new();
        let state = open(root.path()).state_dir().to_owned();
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(state.join(format!("db/db.sqlite{suffix}")));
        }
        spoil(&state.join(name));
        let options = LocalStoreOptions::new(root.path());
        let error = LocalStore::open(options).await.unwrap_err();
        let text = with_sources(&error);
        assert!(text.contains(expected), "{text}");
        assert!(text.contains(name), "{text}");
        assert!(matches!(error.fault(), Fault::Backend { retryable: false }));
    }
}

#[tokio::test]
async fn what_cannot_be_made_is_named() {
    let root = Root::new();
    fs::write(root.path().join("nix"), "in the way").unwrap();
    let error = LocalStore::open(LocalStoreOptions::new(root.path()))
        .await
        .unwrap_err();
    let text = with_sources(&error);
    assert!(
        text.contains("nix/store") && text.contains("Not a directory"),
        "{text}"
    );
}

#[tokio::test]
async fn a_row_that_makes_no_sense_is_named() {
    let root = Root::new();
    let store = open(root.path());
    let path = path(1, "x");
    add(&store, &path, "x").await;
    let connection = rusqlite::Connection::open(store.state_dir().join("db/db.sqlite")).unwrap();
    connection
        .execute("update ValidPaths set hash = 'sha256:zz'", [])
        .unwrap();
    let error = store.path_info(&path).await.unwrap_err();
    let text = with_sources(&error);
    assert!(
        text.contains(&path.to_string()) && text.contains("invalid hash"),
        "{text}"
    );
}

#[tokio::test]
async fn a_locked_database_is_worth_a_retry() {
    let root = Root::new();
    let options =
        LocalStoreOptions::new(root.path()).with_busy_timeout(std::time::Duration::from_millis(20));
    let store = LocalStore::open(options).await.unwrap();
    let connection = rusqlite::Connection::open(store.state_dir().join("db/db.sqlite")).unwrap();
    connection.execute_batch("begin immediate").unwrap();
    let (info, nar) = object(&path(1, "x"), "x", &[]);
    let error = store.add(info, nar).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(!store.real_path(&path(1, "x")).exists());
    connection.execute_batch("rollback").unwrap();
    add(&store, &path(1, "x"), "x").await;
}

#[tokio::test]
async fn the_outputs_of_derivations_are_registered() {
    let root = Root::new();
    let store = open(root.path());
    let dir = StoreDir::default();
    let built = DerivationBuilder::new("two", "x86_64-linux", "/bin/sh")
        .outputs(["out", "dev"])
        .instantiate(&dir)
        .unwrap();
    let aterm = built.derivation.to_aterm(&dir);
    let name = built.path.name().clone();
    let path = store
        .add_text(name, &aterm, Default::default())
        .await
        .unwrap();
    assert_eq!(path, built.path);
    let outputs = query(
        &store,
        "select id || ' ' || path from DerivationOutputs order by id",
    );
    let expected = ["dev", "out"].map(|output| {
        let path = built.output_path(output).unwrap();
        format!("{output} {}", dir.display(&path))
    });
    assert_eq!(outputs, expected);
}

fn output(scratch: &Path, path: &StorePath) -> OutputTree {
    OutputTree::new(
        scratch.to_owned(),
        fs::symlink_metadata(scratch).unwrap().uid(),
        path.clone(),
    )
    .with_deriver(self::path(99, "made.drv"))
}

#[tokio::test]
async fn outputs_are_imported_together_where_they_are() {
    let root = Root::new();
    let store = open(root.path());
    let input = path(1, "input");
    let unused = path(2, "unused");
    add(&store, &input, "input").await;
    add(&store, &unused, "unused").await;
    let (out, dev) = (path(3, "made"), path(4, "made-dev"));
    let scratch = store.scratch().unwrap();
    fs::create_dir(scratch.path()).unwrap();
    let place = |name: &str| scratch.path().join(name);
    fs::create_dir(place("out")).unwrap();
    let text = format!("{} and {}", input, dev.hash_part());
    fs::write(place("out/file"), text).unwrap();
    fs::hard_link(place("out/file"), place("out/twin")).unwrap();
    symlink(format!("/nix/store/{out}/file"), place("out/self")).unwrap();
    fs::write(place("dev"), "refers to nothing").unwrap();
    let outputs = vec![output(&place("out"), &out), output(&place("dev"), &dev)];
    // The reference comes last.
    let infos = store
        .import_outputs(outputs, vec![input.clone(), unused])
        .await
        .unwrap();
    assert_eq!(infos[0].path, out);
    assert_eq!(
        infos[0].references,
        [input, out.clone(), dev.clone()].into()
    );
    assert_eq!(infos[1].path, dev);
    for info in &infos {
        assert_eq!(info.nar_hash, nar_hash(&store.real_path(&info.path)));
        assert_eq!(
            store.path_info(&info.path).await.unwrap().as_ref(),
            Some(info)
        );
        assert!(info.ultimate && info.deriver.is_some());
        store.verify(&info.path).await.unwrap();
    }
    assert!(entries(scratch.path()).is_empty());
    assert_eq!(store.referrers(&dev).await.unwrap(), [out]);
}

#[tokio::test]
async fn outputs_that_cannot_be_registered_leave_nothing() {
    let root = Root::new();
    let store = open(root.path());
    let (out, dev) = (path(3, "made"), path(4, "made-dev"));
    let scratch = store.scratch().unwrap();
    fs::create_dir(scratch.path()).unwrap();
    let place = |name: &str| scratch.path().join(name);
    fs::write(place("out"), dev.hash_part()).unwrap();
    fs::write(place("dev"), out.hash_part()).unwrap();
    let outputs = vec![output(&place("out"), &out), output(&place("dev"), &dev)];
    let error = store.import_outputs(outputs, vec![]).await.unwrap_err();
    assert!(matches!(error, StoreError::Cycle { .. }), "{error}");
    let listed = entries(store.real_store_dir());
    assert_eq!(listed, [".links"]);
    // A valid path stays, and the tree is removed.
    add(&store, &out, "there before").await;
    fs::write(place("out"), "another one").unwrap();
    let outputs = vec![output(&place("out"), &out)];
    let infos = store.import_outputs(outputs, vec![]).await.unwrap();
    assert_eq!(infos[0].nar_hash, nar_hash(&store.real_path(&out)));
    assert_eq!(
        fs::read_to_string(store.real_path(&out)).unwrap(),
        "there before"
    );
    assert!(entries(scratch.path()).is_empty());
}

#[tokio::test]
async fn a_source_that_changed_is_not_added() {
    let root = Root::new();
    let store = open(root.path());
    let file = root.path().join("source");
    fs::write(&file, "before").unwrap();
    let method = nix_compat::content_address::ContentAddressMethod::Flat;
    let path = store
        .add_tree(&file, "source".parse().unwrap(), method)
        .await
        .unwrap();
    let add_again = || store.add_tree_as(&file, &path, method, Default::default());
    add_again().await.unwrap();
    fs::write(&file, "after").unwrap();
    let error = add_again().await.unwrap_err();
    let text = with_sources(&error);
    assert!(
        text.contains("source") && text.contains("changed since"),
        "{text}"
    );
    let valid = store.all_valid_paths().await.unwrap();
    assert_eq!(valid, std::slice::from_ref(&path));
    fs::remove_file(&file).unwrap();
    assert!(matches!(add_again().await, Err(StoreError::Source { .. })));
}
