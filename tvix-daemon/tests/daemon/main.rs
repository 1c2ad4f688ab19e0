//! Our daemon in this process, on a socket: the conformance suite of stores, trust, derivations, and hostile clients.
#![allow(clippy::unwrap_used)]

mod derivations;
mod hostile;
mod trust;
mod world;

use tvix_store_api::MemoryStore;
use tvix_store_api::conformance::{Capabilities, run_all};
use tvix_worker_protocol::Version;

use world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_with_a_local_store() {
    let world = World::local().await;
    let capabilities = Capabilities::default()
        .with_registration(true)
        .with_on_disk(true)
        .with_checks_derivations(true);
    run_all(|| world.open(), capabilities).await.assert_all();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_with_a_store_in_memory_and_the_oldest_version() {
    let world = World::memory(MemoryStore::new(Default::default()), |options| {
        options.with_protocol(Version::MIN)
    });
    let capabilities = Capabilities::default()
        .with_registration(true)
        .with_checks_derivations(true);
    run_all(|| world.open(), capabilities).await.assert_all();
}
