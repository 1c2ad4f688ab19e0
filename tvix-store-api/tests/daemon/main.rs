//! `DaemonStore` beside a small daemon in this process: the conformance suite, and daemons that fail.
//!
//! `tests/peers_daemon.rs` does the same beside real Nix.
#![allow(clippy::unwrap_used)]

mod server;

use std::time::Duration;

use futures::StreamExt as _;
use nix_compat::store_path::{StoreDir, StorePath};
use server::{Fault, Server};
use tvix_store_api::conformance::{Capabilities, run_all};
use tvix_store_api::daemon::{DaemonOptions, DaemonStore};
use tvix_store_api::{MemoryStore, Store as _, StoreError, StoreExt as _};
use tvix_worker_protocol::{Feature, Features, Version};

async fn open(server: &Server) -> DaemonStore {
    DaemonStore::open(server.options()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_in_every_version() {
    let by_path = Features::default().with(Feature::RealisationWithPath);
    for (minor, features) in [
        (34, Features::default()),
        (37, Features::default()),
        (39, by_path),
    ] {
        let server = Server::new(Version::new(1, minor), features);
        let new_store = || open(&server);
        let capabilities = Capabilities::default().with_registration(true);
        run_all(new_store, capabilities).await.assert_all();
        assert_eq!(
            open(&server).await.daemon().protocol,
            Version::new(1, minor)
        );
    }
}

#[tokio::test]
async fn conformance_with_one_connection_on_one_thread() {
    let server = Server::new(Version::MAX, Features::default());
    let new_store = || async {
        DaemonStore::open(server.options().with_connections(1))
            .await
            .unwrap()
    };
    run_all(new_store, Capabilities::default().with_registration(true))
        .await
        .assert_all();
}

/// A store in memory with a chain of paths.
async fn chain(count: usize) -> (MemoryStore, Vec<StorePath>) {
    let store = MemoryStore::new(StoreDir::default());
    let mut paths: Vec<StorePath> = Vec::new();
    for number in 0..count {
        let name = format!("path-{number}").parse().unwrap();
        let references = paths.last().cloned().into_iter().collect();
        let text = format!("contents {number}");
        paths.push(
            store
                .add_text(name, text.as_bytes(), references)
                .await
                .unwrap(),
        );
    }
    (store, paths)
}

#[tokio::test]
async fn requests_that_change_nothing_are_tried_again() {
    let server = Server::new(Version::MAX, Features::default());
    let (from, paths) = chain(5).await;
    let store = open(&server).await;
    from.copy_closure(&store, &paths).await.unwrap();
    for fault in [Fault::Close, Fault::CloseWithin] {
        for after in 0..6 {
            server.fail(fault, after);
            assert!(store.path_info(&paths[0]).await.unwrap().is_some());
            assert_eq!(store.valid_paths(&paths).await.unwrap().len(), 5);
            assert!(store.find(paths[1].digest()).await.unwrap().is_some());
            assert_eq!(store.path_infos(&paths).await.unwrap().len(), 5);
            let infos = store
                .path_infos(&paths)
                .await
                .unwrap()
                .into_iter()
                .flatten()
                .collect();
            for read in store.read_many(infos).await {
                read.unwrap();
            }
        }
    }
    server.fail(Fault::Close, 0);
}

/// A daemon may end a connection that it has accepted, before anything was asked.
#[tokio::test]
async fn connections_that_end_at_once_are_opened_again() {
    let server = Server::new(Version::MAX, Features::default());
    server.refuse(2);
    let store = open(&server).await;
    let (from, paths) = chain(1).await;
    server.close_all();
    server.refuse(2);
    from.copy_closure(&store, &paths).await.unwrap();
    server.refuse(3);
    let error = DaemonStore::open(server.options()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
}

/// An addition may fail, and can then be made again.
#[tokio::test]
async fn additions_are_made_once_or_fail() {
    let server = Server::new(Version::MAX, Features::default());
    for fault in [Fault::Close, Fault::CloseWithin] {
        for after in 0..12 {
            let (from, paths) = chain(3).await;
            let store = open(&server).await;
            server.fail(fault, after);
            if let Err(error) = from.copy_closure(&store, &paths).await {
                assert!(error.is_retryable(), "{error:?}");
            }
            server.heal();
            from.copy_closure(&store, &paths).await.unwrap();
            store.verify(&paths[2]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn nonsense_is_an_error_of_the_daemon() {
    let server = Server::new(Version::MAX, Features::default());
    let (from, paths) = chain(1).await;
    let store = open(&server).await;
    from.copy_closure(&store, &paths).await.unwrap();
    server.fail(Fault::Nonsense, 0);
    let found = store.path_info(&paths[0]).await;
    assert!(
        matches!(
            found,
            Err(StoreError::Backend {
                retryable: false,
                ..
            })
        ),
        "{found:?}"
    );
    server.heal();
    assert!(store.path_info(&paths[0]).await.unwrap().is_some());
}

/// Connections that were idle when the daemon ended are not used again, so that additions do not fail.
#[tokio::test]
async fn stale_connections_are_not_used() {
    let server = Server::new(Version::MAX, Features::default());
    let (from, paths) = chain(20).await;
    let store = open(&server).await;
    for path in &paths {
        server.close_all();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let info = from.require(path).await.unwrap();
        let nar = from.nar(path).await.unwrap();
        store
            .add(tvix_store_api::PathInfo::clone(&info), nar)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn no_more_connections_than_allowed() {
    let server = Server::new(Version::MAX, Features::default());
    let (from, paths) = chain(30).await;
    let store = DaemonStore::open(server.options().with_connections(3))
        .await
        .unwrap();
    from.copy_closure(&store, &paths).await.unwrap();
    let reads = paths.iter().map(|path| store.nar(path));
    let reading = futures::future::join_all(reads);
    // More streams than connections: the others wait for the first.
    let streams = tokio::time::timeout(Duration::from_secs(1), reading).await;
    assert!(streams.is_err(), "all are open at once");
    let all = futures::stream::iter(&paths).map(|path| async {
        let nar: Vec<_> = store.nar(path).await.unwrap().collect().await;
        assert!(nar.iter().all(Result::is_ok));
    });
    all.buffer_unordered(30).collect::<Vec<_>>().await;
    // Requests, reads, and the one that holds temporary roots.
    assert!(
        server.most_connections() <= 7,
        "{}",
        server.most_connections()
    );
}

#[tokio::test]
async fn what_does_not_answer_is_unreachable() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let uri = format!("unix://{}", socket.display()).parse().unwrap();
    let options = DaemonOptions::new(uri).unwrap();
    let options = options.with_connect_timeout(Duration::from_millis(50));
    let opened = DaemonStore::open(options).await;
    assert!(
        matches!(opened, Err(StoreError::Unreachable { .. })),
        "{opened:?}"
    );
}
