//! Answers that are remembered on disk, between processes.

use std::time::Duration;

use nix_compat::signature::SigningKey;
use nix_compat::store_path::StoreDir;
use tempfile::TempDir;
use tvix_store_api::cache::{BinaryCache, BinaryCacheOptions, DiskCache};
use tvix_store_api::{MemoryStore, Store as _, StoreError, StoreExt as _};

use super::server::Server;
use super::{add, contents, object, open, tuning};

struct World {
    server: Server,
    directory: TempDir,
}

impl World {
    async fn new() -> Self {
        Self {
            server: Server::start().await,
            directory: TempDir::new().unwrap(),
        }
    }

    fn disk(&self) -> DiskCache {
        DiskCache::new(self.directory.path().join("answers"))
    }

    fn options(&self) -> BinaryCacheOptions {
        BinaryCacheOptions::new(self.server.url.parse().unwrap())
            .unwrap()
            .with_require_signatures(false)
            .with_tuning(tuning())
    }

    /// As another process opens it.
    async fn open(&self, disk: DiskCache) -> BinaryCache {
        let options = self.options().with_disk_cache(disk);
        BinaryCache::open(options).await.unwrap()
    }
}

#[tokio::test]
async fn answers_are_asked_for_once() {
    let world = World::new().await;
    let (info, nar) = object("path", &contents(1000));
    let (missing, _) = object("missing", b"");
    add(&open(&world.server.url).await, &info, &nar).await;
    world.server.files().requests.clear();
    for _ in 0..3 {
        let cache = world.open(world.disk()).await;
        assert!(cache.path_info(&info.path).await.unwrap().is_some());
        assert!(cache.path_info(&missing.path).await.unwrap().is_none());
        cache.verify(&info.path).await.unwrap();
    }
    assert_eq!(world.server.count("nix-cache-info"), 1);
    assert_eq!(world.server.count(".narinfo"), 2);
    // As with `--refresh`.
    let now = Duration::ZERO;
    let disk = world.disk().with_positive_ttl(now).with_negative_ttl(now);
    let cache = world.open(disk.with_info_ttl(now)).await;
    assert!(cache.path_info(&info.path).await.unwrap().is_some());
    assert!(cache.path_info(&missing.path).await.unwrap().is_none());
    assert_eq!(world.server.count("nix-cache-info"), 2);
    assert_eq!(world.server.count(".narinfo"), 4);
}

/// Signatures are verified each time: what one process accepts without is not accepted by others.
#[tokio::test]
async fn what_is_remembered_is_not_trusted() {
    let world = World::new().await;
    let (info, nar) = object("path", &contents(1000));
    add(&open(&world.server.url).await, &info, &nar).await;
    let cache = world.open(world.disk()).await;
    assert!(cache.path_info(&info.path).await.unwrap().is_some());
    let key = SigningKey::from_seed("other-1", &[7; 32]).unwrap();
    let strict = world
        .options()
        .with_disk_cache(world.disk())
        .with_trusted_keys([key.verifying_key()])
        .with_require_signatures(true);
    let strict = BinaryCache::open(strict).await.unwrap();
    let found = strict.path_info(&info.path).await;
    assert!(
        matches!(found, Err(StoreError::Untrusted { .. })),
        "{found:?}"
    );
}

/// The NAR may have another name since, or none.
#[tokio::test]
async fn a_narinfo_that_is_out_of_date_is_asked_for_again() {
    let world = World::new().await;
    let (info, nar) = object("path", &contents(1000));
    add(&open(&world.server.url).await, &info, &nar).await;
    let cache = world.open(world.disk()).await;
    assert!(cache.path_info(&info.path).await.unwrap().is_some());
    {
        let mut files = world.server.files();
        let name = files
            .files
            .keys()
            .find(|it| it.starts_with("nar/"))
            .unwrap()
            .clone();
        let contents = files.files.remove(&name).unwrap();
        let moved = name.replace("nar/", "nar/moved-");
        files.files.insert(moved.clone(), contents);
        let narinfo = files
            .files
            .keys()
            .find(|it| it.ends_with(".narinfo"))
            .unwrap()
            .clone();
        let text = String::from_utf8(files.files[&narinfo].to_vec()).unwrap();
        files
            .files
            .insert(narinfo, text.replace(&name, &moved).into());
    }
    let cache = world.open(world.disk()).await;
    let store = MemoryStore::new(StoreDir::default());
    cache
        .copy_closure(&store, std::slice::from_ref(&info.path))
        .await
        .unwrap();
    // Now the path is gone for good.
    world
        .server
        .files()
        .files
        .retain(|name, _| name == "nix-cache-info");
    let cache = world.open(world.disk()).await;
    let read = cache.verify(&info.path).await;
    assert!(matches!(read, Err(StoreError::NotFound { .. })), "{read:?}");
}
