//! Binary caches: the contract, trust, corruption and faulty servers.
#![allow(clippy::unwrap_used)]

mod faults;
mod lies;
mod nix_2_34;
mod odd;
mod realisations;
mod remembered;
mod server;
mod trust;

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use nix_compat::nar::Writer;
use nix_compat::narinfo::Compression;
use nix_compat::store_path::{StoreDir, StorePath};
use server::Server;
use tempfile::TempDir;
use tvix_store_api::cache::{BinaryCache, BinaryCacheOptions, Tuning};
use tvix_store_api::conformance::{Capabilities, run_all};
use tvix_store_api::verify::digest;
use tvix_store_api::{MemoryStore, PathInfo, Store, StoreExt as _};

const COMPRESSIONS: [&str; 8] = ["none", "xz", "bzip2", "gzip", "zstd", "br", "lz4", "lzma"];

/// Short pauses between retries.
fn tuning() -> Tuning {
    let mut tuning = Tuning::default();
    tuning.transfer.first_pause = Duration::from_millis(1);
    tuning
}

fn options(uri: &str) -> BinaryCacheOptions {
    BinaryCacheOptions::new(uri.parse().unwrap())
        .unwrap()
        .with_create(StoreDir::default())
        .with_require_signatures(false)
        .with_tuning(tuning())
}

async fn open(uri: &str) -> BinaryCache {
    BinaryCache::open(options(uri)).await.unwrap()
}

fn file_uri(directory: &TempDir) -> String {
    format!("file://{}", directory.path().display())
}

fn path(name: &str) -> StorePath {
    let mut hash = [0; 20];
    hash.copy_from_slice(&digest(name.as_bytes())[..20]);
    StorePath::new(hash, name.parse().unwrap())
}

fn object(name: &str, contents: &[u8]) -> (PathInfo, Bytes) {
    let mut writer = Writer::new(Vec::new());
    writer.regular(false, contents).unwrap();
    let nar: Bytes = writer.finish().unwrap().into();
    let info = PathInfo::new(path(name), digest(&nar), nar.len() as u64);
    (info, nar)
}

/// Text that is compressible, but not extremely.
fn contents(size: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b'a' + (state >> 27) as u8 % 20
    };
    (0..size).map(|_| byte()).collect()
}

async fn add(store: &dyn Store, info: &PathInfo, nar: &Bytes) {
    let nar = stream::iter([Ok(nar.clone())]).boxed();
    store.add(info.clone(), nar).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_keeps_the_contract() {
    let directory = TempDir::new().unwrap();
    let uri = file_uri(&directory);
    let new_store = || async {
        BinaryCache::open(options(&uri).with_compression(Compression::Zstd))
            .await
            .unwrap()
    };
    let capabilities = Capabilities::default().with_realisations(true);
    run_all(new_store, capabilities).await.assert_all();
    let left: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(".tvix"))
        .collect();
    assert!(left.is_empty(), "temporary files stay behind: {left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_keeps_the_contract() {
    let server = Server::start().await;
    let new_store = || async { open(&format!("{}/cache?compression=gzip", server.url)).await };
    let capabilities = Capabilities::default().with_realisations(true);
    run_all(new_store, capabilities).await.assert_all();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_compression_over_both() {
    let server = Server::start().await;
    let directory = TempDir::new().unwrap();
    for uri in [file_uri(&directory), server.url.clone()] {
        for compression in COMPRESSIONS {
            let uri = format!("{uri}?compression={compression}");
            let writer = open(&uri).await;
            for size in [0, 100, 500_000] {
                let (info, nar) = object(&format!("{compression}-{size}"), &contents(size));
                add(&writer, &info, &nar).await;
                // Read through a handle that has not written the path.
                let reader = open(&uri).await;
                let narinfo = reader.narinfo(&info.path).await.unwrap().unwrap();
                assert_eq!(narinfo.compression.as_str(), compression);
                if !matches!(compression, "none" | "lz4") && size > 1000 {
                    assert!(narinfo.file_size.unwrap() < info.nar_size);
                }
                reader.verify(&info.path).await.unwrap();
                let store = MemoryStore::new(StoreDir::default());
                let paths = [info.path.clone()];
                reader.copy_closure(&store, &paths).await.unwrap();
                assert_eq!(store.len(), 1);
            }
        }
    }
}

/// Listings of archives are written if enabled; `tests/tests/peers_cache.rs` compares them with
/// those of Nix.
#[tokio::test]
async fn listings_beside_archives() {
    for listings in [false, true] {
        let server = Server::start().await;
        let uri = format!("{}?compression=xz&write-nar-listing={listings}", server.url);
        let (info, nar) = object("path", &contents(100_000));
        add(&open(&uri).await, &info, &nar).await;
        let name = format!("{}.ls", info.path.hash_part());
        let listing = server.files().files.get(&name).cloned();
        let expected = listings
            .then_some(r#"{"root":{"narOffset":96,"size":100000,"type":"regular"},"version":1}"#);
        assert_eq!(listing.as_deref(), expected.map(str::as_bytes));
    }
}
