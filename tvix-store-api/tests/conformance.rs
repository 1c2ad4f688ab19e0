//! Runs the conformance suite on every back end of this crate.
#![cfg(feature = "conformance")]
#![allow(clippy::unwrap_used)]

#[cfg(feature = "local-fs")]
mod common;

use std::sync::Arc;

use nix_compat::store_path::StoreDir;
use tvix_store_api::conformance::{Capabilities, run_all};
use tvix_store_api::{MemoryStore, Store, TieredStore};

fn memory() -> Capabilities {
    Capabilities::default()
        .with_realisations(true)
        .with_registration(true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_store() {
    let new_store = || async { MemoryStore::new(StoreDir::default()) };
    run_all(new_store, memory()).await.assert_all();
}

#[tokio::test]
async fn memory_store_on_one_thread_and_in_another_directory() {
    let new_store = || async { MemoryStore::new(StoreDir::new("/elsewhere/store").unwrap()) };
    run_all(new_store, memory()).await.assert_all();
}

#[tokio::test]
async fn behind_pointers() {
    let boxed = || async { Box::new(MemoryStore::new(StoreDir::default())) as Box<dyn Store> };
    run_all(boxed, memory()).await.assert_all();
    let shared = || async { Arc::new(MemoryStore::new(StoreDir::default())) as Arc<dyn Store> };
    run_all(shared, memory()).await.assert_all();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tiers() {
    let memory_store = || Arc::new(MemoryStore::new(StoreDir::default()));
    let new_store = || async {
        TieredStore::new(
            memory_store(),
            [memory_store() as Arc<dyn Store>, memory_store()],
        )
        .unwrap()
    };
    run_all(new_store, memory()).await.assert_all();
}

#[cfg(feature = "local-fs")]
mod local {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tvix_store_api::local_fs::{Durability, LocalStore, LocalStoreOptions};

    use super::common::Root;
    use super::*;

    async fn run(change: impl Fn(LocalStoreOptions) -> LocalStoreOptions) {
        let directory = Root::new();
        let counter = AtomicUsize::new(0);
        let new_store = || async {
            let number = counter.fetch_add(1, Ordering::Relaxed);
            let root = directory.path().join(number.to_string());
            LocalStore::open(change(LocalStoreOptions::new(root)))
                .await
                .unwrap()
        };
        let capabilities = Capabilities::default()
            .with_realisations(true)
            .with_registration(true)
            .with_on_disk(true);
        run_all(new_store, capabilities).await.assert_all();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn local_store() {
        run(|options| options).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn local_store_above_memory() {
        let directory = Root::new();
        let counter = AtomicUsize::new(0);
        let new_store = || async {
            let number = counter.fetch_add(1, Ordering::Relaxed);
            let root = directory.path().join(number.to_string());
            let local = LocalStore::open(LocalStoreOptions::new(root))
                .await
                .unwrap();
            let below: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreDir::default()));
            TieredStore::new(Arc::new(local), [below]).unwrap()
        };
        let capabilities = Capabilities::default()
            .with_realisations(true)
            .with_registration(true)
            .with_on_disk(true);
        run_all(new_store, capabilities).await.assert_all();
    }

    #[tokio::test]
    async fn local_store_on_one_thread_that_adds_one_at_a_time_and_syncs() {
        run(|options| {
            options
                .with_concurrent_additions(1)
                .with_durability(Durability::Full)
        })
        .await;
    }
}
