//! Garbage collection: dead and live paths.
#![cfg(all(feature = "local-fs", feature = "conformance"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use bytes::Bytes;
use common::Root;
use futures::stream::{self, StreamExt as _};
use nix_compat::nar::Writer;
use nix_compat::store_path::StorePath;
use tvix_store_api::local_fs::{
    GcAction, GcOptions, GcReport, LocalStore, LocalStoreOptions, RootSource,
};
use tvix_store_api::verify::digest;
use tvix_store_api::{NarStream, PathInfo, Store as _, StoreError};

fn open(root: &Root) -> LocalStore {
    LocalStore::open_blocking(LocalStoreOptions::new(root.path())).unwrap()
}

fn path(seed: u8, name: &str) -> StorePath {
    StorePath::new([seed; 20], name.parse().unwrap())
}

fn nar(path: &StorePath, nar: Vec<u8>, references: &[&StorePath]) -> (PathInfo, NarStream) {
    let nar = Bytes::from(nar);
    let mut info = PathInfo::new(path.clone(), digest(&nar), nar.len() as u64);
    info.references.extend(references.iter().copied().cloned());
    (info, stream::iter([Ok(nar)]).boxed())
}

async fn add(store: &LocalStore, path: &StorePath, references: &[&StorePath]) {
    let mut writer = Writer::new(Vec::new());
    writer.regular(false, path.to_string().as_bytes()).unwrap();
    let (info, nar) = nar(path, writer.finish().unwrap(), references);
    store.add(info, nar).await.unwrap();
}

/// A directory with a file of that size and a symlink to `target`.
async fn add_folder(store: &LocalStore, path: &StorePath, size: usize, target: &str) {
    let mut writer = Writer::new(Vec::new());
    writer.directory_start().unwrap();
    writer.entry(b"file").unwrap();
    writer.regular(false, &vec![b'x'; size]).unwrap();
    writer.entry(b"link").unwrap();
    writer.symlink(target.as_bytes()).unwrap();
    writer.directory_end().unwrap();
    let (info, nar) = nar(path, writer.finish().unwrap(), &[]);
    store.add(info, nar).await.unwrap();
}

/// Collects with a new handle, without temporary roots.
async fn collect(root: &Root, options: GcOptions) -> GcReport {
    open(root).collect_garbage(options).await.unwrap()
}

async fn valid(root: &Root) -> Vec<StorePath> {
    open(root).all_valid_paths().await.unwrap()
}

fn in_store(root: &Root) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root.path().join("nix/store"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name != ".links")
        .collect();
    names.sort();
    names
}

fn state(root: &Root, name: &str) -> PathBuf {
    root.path().join("nix/var/nix").join(name)
}

#[tokio::test]
async fn what_roots_need_stays_and_all_else_goes() {
    let root = Root::new();
    let paths: Vec<StorePath> = (1..=9).map(|n| path(n, "x")).collect();
    let [
        input,
        direct,
        profile,
        indirect,
        file,
        dead_in,
        dead,
        per_user,
        _,
    ] = &paths[..]
    else {
        unreachable!()
    };
    let outside = root.path().join("result");
    {
        let store = open(&root);
        add(&store, input, &[]).await;
        add(&store, direct, &[input]).await;
        for path in [profile, indirect, file, dead_in, per_user] {
            add(&store, path, &[]).await;
        }
        add(&store, dead, &[dead_in, input]).await;
        store.add_root(&outside, indirect).await.unwrap();
        store
            .add_root(&state(&root, "gcroots/mine"), direct)
            .await
            .unwrap();
    }
    let logical = |path: &StorePath| format!("/nix/store/{path}");
    symlink(logical(profile), state(&root, "profiles/system-1-link")).unwrap();
    symlink("system-1-link", state(&root, "profiles/system")).unwrap();
    fs::create_dir_all(state(&root, "gcroots/per-user/someone")).unwrap();
    let link = state(&root, "gcroots/per-user/someone/x");
    symlink(logical(per_user) + "/bin/x", link).unwrap();
    fs::write(state(&root, "gcroots").join(file.to_string()), "").unwrap();
    // A dangling link, which is no root.
    symlink("/nowhere/at/all", state(&root, "gcroots/auto/stale")).unwrap();

    let found = open(&root).roots().await.unwrap();
    let of = |path: &StorePath| -> Vec<&RootSource> {
        let found = found.iter().filter(|root| root.path == *path);
        found.map(|root| &root.source).collect()
    };
    assert!(matches!(of(direct)[..], [RootSource::Direct(_)]));
    assert!(
        matches!(&of(indirect)[..], [RootSource::Direct(_), RootSource::Indirect { link, .. }]
            if *link == outside),
        "{found:?}"
    );

    let list = GcOptions::default().with_action(GcAction::ListDead);
    let mut listed = collect(&root, list).await.paths;
    listed.sort();
    assert_eq!(listed, [dead_in.clone(), dead.clone()]);
    let alive = collect(&root, GcOptions::default().with_action(GcAction::ListLive)).await;
    assert_eq!(alive.paths.len(), 6);

    let report = collect(&root, GcOptions::default()).await;
    // Referrers are removed first.
    assert_eq!(report.paths, [dead.clone(), dead_in.clone()]);
    assert!(
        report.bytes_freed > 0 && report.failures.is_empty(),
        "{report:?}"
    );
    let left = [input, direct, profile, indirect, file, per_user];
    assert_eq!(valid(&root).await, left.map(Clone::clone));
    assert_eq!(in_store(&root), left.map(ToString::to_string));
    assert!(!state(&root, "gcroots/auto/stale").is_symlink());

    // A removed link keeps nothing alive, and its mirror is removed.
    fs::remove_file(&outside).unwrap();
    let report = collect(&root, GcOptions::default()).await;
    assert_eq!(report.paths, vec![indirect.clone()]);
    assert_eq!(
        fs::read_dir(state(&root, "gcroots/auto")).unwrap().count(),
        0
    );
    assert_eq!(
        fs::read_dir(state(&root, "gcroots/tvix")).unwrap().count(),
        0
    );
}

#[tokio::test]
async fn a_link_that_leads_elsewhere_keeps_only_that() {
    let root = Root::new();
    let (old, new) = (path(1, "old"), path(2, "new"));
    let link = root.path().join("result");
    {
        let store = open(&root);
        for path in [&old, &new] {
            add(&store, path, &[]).await;
            store.add_root(&link, path).await.unwrap();
        }
        fs::write(root.path().join("file"), "precious").unwrap();
        let refused = store.add_root(&root.path().join("file"), &new).await;
        assert!(
            matches!(refused, Err(StoreError::Backend { .. })),
            "{refused:?}"
        );
        let refused = store.add_root(&store.real_path(&path(3, "x")), &new).await;
        assert!(
            matches!(refused, Err(StoreError::Backend { .. })),
            "{refused:?}"
        );
        let refused = store.add_root(&link, &path(3, "x")).await;
        assert!(
            matches!(refused, Err(StoreError::NotFound { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(collect(&root, GcOptions::default()).await.paths, [old]);
    assert_eq!(fs::read_link(link).unwrap(), open(&root).real_path(&new));
}

#[tokio::test]
async fn what_was_found_valid_stays_until_the_store_is_closed() {
    let root = Root::new();
    let (looked_up, other, input) = (path(1, "a"), path(2, "b"), path(3, "c"));
    {
        let store = open(&root);
        add(&store, &input, &[]).await;
        add(&store, &looked_up, &[&input]).await;
        add(&store, &other, &[]).await;
    }
    let store = open(&root);
    let asked = [looked_up.clone(), path(9, "missing")];
    assert_eq!(store.valid_paths(&asked).await.unwrap().len(), 1);
    let report = store.collect_garbage(GcOptions::default()).await.unwrap();
    assert_eq!(report.paths, vec![other.clone()]);
    // The name and format of Nix.
    let file = state(&root, "temproots").join(std::process::id().to_string());
    let expected = asked.map(|path| format!("/nix/store/{path}\0"));
    assert_eq!(fs::read_to_string(&file).unwrap(), expected.concat());
    drop(store);
    assert!(!file.exists());
    let report = collect(&root, GcOptions::default()).await;
    assert_eq!(report.paths, [looked_up, input]);
}

#[tokio::test]
async fn roots_of_the_living_count_and_those_of_the_dead_do_not() {
    let root = Root::new();
    let (living, dead) = (path(1, "a"), path(2, "b"));
    {
        let store = open(&root);
        add(&store, &living, &[]).await;
        add(&store, &dead, &[]).await;
    }
    let write = |name: &str, path: &StorePath| {
        let file = state(&root, "temproots").join(name);
        fs::write(
            &file,
            format!("/nix/store/{path}\0nonsense\0/nix/store/unfinished"),
        )
        .unwrap();
        File::options().write(true).open(file).unwrap()
    };
    let held = write("1", &living);
    held.lock().unwrap();
    write("2", &dead);
    fs::write(state(&root, "temproots/.keep"), "").unwrap();
    assert_eq!(collect(&root, GcOptions::default()).await.paths, [dead]);
    assert!(state(&root, "temproots/1").exists());
    assert!(!state(&root, "temproots/2").exists());
    assert!(state(&root, "temproots/.keep").exists());
    drop(held);
    assert_eq!(collect(&root, GcOptions::default()).await.paths, [living]);
}

#[tokio::test]
async fn what_is_not_valid_goes_unless_somebody_makes_it() {
    let root = Root::new();
    let making = path(1, "making");
    let store = open(&root);
    let real = store.real_store_dir().to_owned();
    // A root, although it is not valid yet; so is everything with its hash part.
    store
        .valid_paths(std::slice::from_ref(&making))
        .await
        .unwrap();
    let canary = root.path().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("file"), "alive").unwrap();
    let stay = [
        making.to_string(),
        format!("{making}.lock"),
        format!("{}.lock", path(2, "held")),
        "tmp-1-1".to_owned(),
    ];
    fs::create_dir(real.join(&stay[0])).unwrap();
    File::create(real.join(&stay[1])).unwrap();
    let held = File::create(real.join(&stay[2])).unwrap();
    held.lock().unwrap();
    fs::create_dir(real.join(&stay[3])).unwrap();
    let used = File::open(real.join(&stay[3])).unwrap();
    used.lock().unwrap();
    // Leftovers of a dead process: an incomplete tree, and unknown entries.
    let stray = path(3, "half").to_string();
    fs::create_dir_all(real.join(&stray).join("folder")).unwrap();
    symlink(&canary, real.join(&stray).join("folder/link")).unwrap();
    symlink(&canary, real.join(path(4, "link").to_string())).unwrap();
    File::create(real.join(format!("{}.lock", path(5, "free")))).unwrap();
    fs::create_dir(real.join("tmp-2-2")).unwrap();
    fs::write(real.join("unknown"), "").unwrap();
    let report = store.collect_garbage(GcOptions::default()).await.unwrap();
    assert_eq!(report.strays.len(), 5, "{report:?}");
    let mut left = stay.to_vec();
    left.sort();
    assert_eq!(in_store(&root), left);
    assert_eq!(fs::read_to_string(canary.join("file")).unwrap(), "alive");
}

#[tokio::test]
async fn no_link_is_followed_and_nothing_stays_behind() {
    let root = Root::new();
    let canary = root.path().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("file"), "alive").unwrap();
    add_folder(&open(&root), &path(1, "x"), 10, canary.to_str().unwrap()).await;
    let report = collect(&root, GcOptions::default()).await;
    assert_eq!(report.paths.len(), 1);
    assert_eq!(fs::read_to_string(canary.join("file")).unwrap(), "alive");
    assert_eq!(in_store(&root), [""; 0]);
    let places = fs::read_dir(state(&root, "tmp-tvix")).unwrap();
    assert_eq!(places.count(), 0);
}

#[tokio::test]
async fn it_ends_when_enough_is_freed() {
    let root = Root::new();
    {
        let store = open(&root);
        for seed in 1..=20 {
            add_folder(&store, &path(seed, "x"), 100_000, "nowhere").await;
        }
    }
    let report = collect(&root, GcOptions::default().with_max_freed(0)).await;
    assert_eq!(report.paths, []);
    let report = collect(&root, GcOptions::default().with_max_freed(250_000)).await;
    assert_eq!(report.paths.len(), 3);
    assert!(report.bytes_freed >= 250_000);
    assert_eq!(valid(&root).await.len(), 17);
}

#[tokio::test]
async fn outputs_and_derivations_are_kept_as_asked() {
    let root = Root::new();
    let made = nix_compat::derivation::DerivationBuilder::new("x", "s", "/b")
        .instantiate(&Default::default())
        .unwrap();
    let output = made.output_path("out").unwrap();
    {
        let store = open(&root);
        let aterm = made.derivation.to_aterm(&made.store_dir);
        use tvix_store_api::StoreExt as _;
        let name = made.path.name().clone();
        let added = store.add_text(name, &aterm, Default::default()).await;
        assert_eq!(added.unwrap(), made.path);
        let mut writer = Writer::new(Vec::new());
        writer.regular(false, b"made").unwrap();
        let (mut info, nar) = nar(&output, writer.finish().unwrap(), &[]);
        info.deriver = Some(made.path.clone());
        store.add(info, nar).await.unwrap();
        let link = state(&root, "gcroots/x");
        store.add_root(&link, &output).await.unwrap();
    }
    assert_eq!(collect(&root, GcOptions::default()).await.paths, []);
    fs::remove_file(state(&root, "gcroots/x")).unwrap();
    let link = format!("/nix/store/{}", made.path);
    symlink(link, state(&root, "gcroots/drv")).unwrap();
    let keep = GcOptions::default().with_keep_outputs(true);
    assert_eq!(collect(&root, keep).await.paths, []);
    assert_eq!(collect(&root, GcOptions::default()).await.paths, [output]);
}

#[tokio::test]
async fn roots_that_cannot_be_read_end_it() {
    let root = Root::new();
    add(&open(&root), &path(1, "x"), &[]).await;
    // A directory in the place of a file: its roots cannot be read.
    fs::create_dir(state(&root, "temproots/1")).unwrap();
    let collected = open(&root).collect_garbage(GcOptions::default()).await;
    let error = collected.unwrap_err();
    assert!(error.to_string().contains("temproots"), "{error}");
    assert_eq!(valid(&root).await.len(), 1);
}

#[tokio::test]
async fn a_store_that_is_only_read_is_not_collected() {
    let root = Root::new();
    drop(open(&root));
    let options = LocalStoreOptions::new(root.path()).with_read_only(true);
    let store = LocalStore::open_blocking(options).unwrap();
    let refused = store.collect_garbage(GcOptions::default()).await;
    assert!(matches!(refused, Err(StoreError::ReadOnly { .. })));
    assert_eq!(store.roots().await.unwrap(), []);
}

/// Look-ups, additions and collections run concurrently: a path that was found valid keeps its
/// files.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn collecting_beside_everything_else() {
    let root = Root::new();
    let store = open(&root);
    let collector = {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..30 {
                store.collect_garbage(GcOptions::default()).await.unwrap();
            }
        })
    };
    let users = (0..3u8).map(|user| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..60u8 {
                // Other threads use the same input.
                let input = path(round, "input");
                let mine = path(round, &format!("user-{user}"));
                add(&store, &input, &[]).await;
                add(&store, &mine, &[&input]).await;
                for path in [&input, &mine] {
                    assert!(store.on_disk(path).await.unwrap().unwrap().exists());
                }
            }
        })
    });
    for user in users.collect::<Vec<_>>() {
        user.await.unwrap();
    }
    collector.await.unwrap();
    for path in store.all_valid_paths().await.unwrap() {
        assert!(store.real_path(&path).exists());
    }
}
