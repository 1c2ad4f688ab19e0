//! Adding many local trees to a local store, in concurrent groups.
#![cfg(feature = "local-fs")]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use common::Root;
use nix_compat::content_address::ContentAddressMethod;
use nix_compat::store_path::{StorePath, StorePathName};
use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions, VerifyOptions};
use tvix_store_api::{StoreError, StoreExt as _};

const METHOD: ContentAddressMethod = ContentAddressMethod::NixArchive;

fn open(root: &Path) -> LocalStore {
    LocalStore::open_blocking(LocalStoreOptions::new(root)).unwrap()
}

fn named(file: PathBuf) -> (PathBuf, StorePathName) {
    (file, "source".parse().unwrap())
}

/// Files, a third of which have contents in common with others.
fn files(folder: &Path, count: usize) -> Vec<(PathBuf, StorePathName)> {
    let write = |number| {
        let file = folder.join(format!("{number}"));
        let contents = if number % 3 == 0 { number % 30 } else { number };
        fs::write(&file, format!("contents of {contents}")).unwrap();
        named(file)
    };
    (0..count).map(write).collect()
}

async fn expect_whole(store: &LocalStore) {
    let options = VerifyOptions::default().with_contents(true);
    let report = store.verify_all(options).await.unwrap();
    assert!(report.damaged.is_empty(), "{report:?}");
    let names = fs::read_dir(store.real_store_dir()).unwrap().flatten();
    let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
    let locks = names
        .iter()
        .filter(|name| name.to_string_lossy().ends_with(".lock"));
    assert_eq!(locks.count(), 0);
    let valid = store.all_valid_paths().await.unwrap();
    assert_eq!(names.len() - 1, valid.len(), "all but '.links' is valid");
}

#[tokio::test]
async fn each_file_has_its_result_in_its_place() {
    let root = Root::new();
    let folder = root.path().join("files");
    fs::create_dir(&folder).unwrap();
    let mut sources = files(&folder, 700);
    fs::write(folder.join("large"), vec![b'x'; 3 << 20]).unwrap();
    fs::create_dir_all(folder.join("tree/empty")).unwrap();
    let _socket = UnixListener::bind(folder.join("socket")).unwrap();
    let special = [
        (100, "large"),
        (300, "tree"),
        (350, "socket"),
        (600, "missing"),
    ];
    for (index, name) in special {
        sources.insert(index, named(folder.join(name)));
    }
    let store = open(&root.path().join("store"));
    let added = store.import_trees(sources.clone(), METHOD).await;
    assert_eq!(added.len(), sources.len());
    let other = open(&root.path().join("other"));
    for (index, ((file, name), added)) in sources.into_iter().zip(added).enumerate() {
        if index == 350 || index == 600 {
            assert!(matches!(added, Err(StoreError::Source { .. })), "{added:?}");
            continue;
        }
        let path = added.unwrap();
        if index % 50 == 0 {
            let alone = other.add_tree(&file, name, METHOD).await.unwrap();
            assert_eq!(path, alone, "of '{}'", file.display());
            assert_eq!(
                store.require(&path).await.unwrap().nar_hash,
                other.require(&path).await.unwrap().nar_hash
            );
        }
    }
    expect_whole(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn groups_of_the_same_files_do_not_wait_in_a_circle() {
    let root = Root::new();
    let folder = root.path().join("files");
    fs::create_dir(&folder).unwrap();
    let sources = files(&folder, 1000);
    let mut tasks = Vec::new();
    for turn in 0..4 {
        // Each has its own locks, like a separate process.
        let (store, mut sources) = (open(root.path()), sources.clone());
        match turn {
            0 => {}
            1 => sources.reverse(),
            turn => sources.rotate_left(turn * 130),
        }
        tasks.push(tokio::spawn(async move {
            let added = store.import_trees(sources, METHOD).await;
            added.into_iter().collect::<Result<Vec<StorePath>, _>>()
        }));
    }
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap().len(), 1000);
    }
    expect_whole(&open(root.path())).await;
}

#[tokio::test]
async fn a_store_that_cannot_be_written_says_so_of_each() {
    let root = Root::new();
    let folder = root.path().join("files");
    fs::create_dir(&folder).unwrap();
    let sources = files(&folder, 200);
    let store = open(root.path());
    let first = store.import_trees(sources[..3].to_vec(), METHOD).await;
    first.into_iter().for_each(|added| drop(added.unwrap()));
    drop(store);
    let options = LocalStoreOptions::new(root.path()).with_read_only(true);
    let store = LocalStore::open_blocking(options).unwrap();
    let added = store.import_trees(sources, METHOD).await;
    for (index, added) in added.into_iter().enumerate() {
        match added {
            // Files 0, 1 and 2, and those equal to the first.
            Ok(_) => assert!(index < 3 || index % 30 == 0, "{index} is valid"),
            Err(StoreError::ReadOnly { .. }) => {}
            Err(error) => panic!("{index}: {error}"),
        }
    }
}
