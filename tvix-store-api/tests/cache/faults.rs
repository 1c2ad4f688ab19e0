//! Servers that fail, close connections early, do not respond, or do not exist.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use nix_compat::store_path::StoreDir;
use tokio::net::TcpListener;
use tvix_store_api::cache::BinaryCache;
use tvix_store_api::{MemoryStore, Store as _, StoreError, StoreExt as _, TieredStore};

use crate::server::Server;
use crate::{add, contents, object, open, options, path, tuning};

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let server = Server::start().await;
    let (info, nar) = object("path", b"contents");
    add(&open(&server.url).await, &info, &nar).await;
    let name = format!("{}.narinfo", info.path.hash_part());
    for status in [
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::SERVICE_UNAVAILABLE,
        StatusCode::TOO_MANY_REQUESTS,
    ] {
        let cache = open(&server.url).await;
        server.files().requests.clear();
        let refuse = (tuning().transfer.download_attempts - 1, status);
        server.files().faults.refuse.insert(name.clone(), refuse);
        assert!(cache.path_info(&info.path).await.unwrap().is_some());
        assert_eq!(
            server.count(&name),
            tuning().transfer.download_attempts as usize,
            "{status}"
        );
    }
    // Permanent failures are not retried.
    let cache = open(&server.url).await;
    server.files().requests.clear();
    let refuse = (1, StatusCode::UNAUTHORIZED);
    server.files().faults.refuse.insert(name.clone(), refuse);
    let error = cache.path_info(&info.path).await.unwrap_err();
    assert!(!error.is_retryable(), "{error:?}");
    assert_eq!(server.count(&name), 1);
}

#[tokio::test]
async fn what_is_not_there_is_asked_for_once() {
    let server = Server::start().await;
    let cache = open(&server.url).await;
    let missing = path("missing");
    for _ in 0..3 {
        assert!(cache.path_info(&missing).await.unwrap().is_none());
        assert!(
            cache
                .valid_paths(std::slice::from_ref(&missing))
                .await
                .unwrap()
                .is_empty()
        );
    }
    assert_eq!(server.count(".narinfo"), 1);
    let (info, nar) = object("there", b"x");
    add(&open(&server.url).await, &info, &nar).await;
    server.files().requests.clear();
    for _ in 0..3 {
        cache.path_info(&info.path).await.unwrap().unwrap();
        drop(cache.nar(&info.path).await.unwrap());
    }
    assert_eq!(server.count(".narinfo"), 1);
}

async fn with_large() -> (Server, nix_compat::path_info::PathInfo) {
    let server = Server::start().await;
    let (info, nar) = object("large", &contents(2_000_000));
    let uri = format!("{}?compression=none", server.url);
    add(&open(&uri).await, &info, &nar).await;
    server.files().requests.clear();
    (server, info)
}

#[tokio::test]
async fn a_transfer_that_breaks_off_is_resumed() {
    for no_ranges in [false, true] {
        let (server, info) = with_large().await;
        {
            let faults = &mut server.files().faults;
            (faults.cut, faults.cuts, faults.no_ranges) = (Some(500_000), 3, no_ranges);
        }
        let store = MemoryStore::new(StoreDir::default());
        let cache = open(&server.url).await;
        let paths = [info.path.clone()];
        cache.copy_closure(&store, &paths).await.unwrap();
        let files = server.files();
        let asked = files.requests.iter().filter(|(it, _)| it.ends_with(".nar"));
        let ranges: Vec<_> = asked.map(|(_, range)| range.clone()).collect();
        assert_eq!(ranges.len(), 4, "{ranges:?}");
        assert_eq!(ranges[0], None);
        assert!(ranges[1..].iter().all(Option::is_some), "{ranges:?}");
        if !no_ranges {
            assert_ne!(ranges[1], ranges[2], "it goes on from where it was");
        }
    }
}

#[tokio::test]
async fn one_that_always_breaks_off_fails_in_the_end() {
    let (server, info) = with_large().await;
    let cache = open(&server.url).await;
    {
        let faults = &mut server.files().faults;
        // Longer than any narinfo.
        (faults.cut, faults.cuts) = (Some(1000), u32::MAX);
    }
    let store = MemoryStore::new(StoreDir::default());
    let paths = [info.path.clone()];
    let error = cache.copy_closure(&store, &paths).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("http://") && text.contains(&info.path.to_string()),
        "{text}"
    );
    assert!(store.is_empty());
}

#[tokio::test]
async fn silence_has_an_end() {
    let server = Server::start().await;
    let mut quick = tuning();
    quick.transfer.download_attempts = 2;
    quick.transfer.stalled_download_timeout = Some(Duration::from_millis(50));
    let cache = BinaryCache::open(options(&server.url).with_tuning(quick))
        .await
        .unwrap();
    server.files().faults.silent = true;
    let error = cache.path_info(&path("any")).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert_eq!(server.count(".narinfo"), 2);
    // The cache is considered down now.
    assert!(cache.path_info(&path("other")).await.is_err());
    assert_eq!(server.count(".narinfo"), 2);
}

#[tokio::test]
async fn a_dead_cache_is_left_alone_and_stops_nobody() {
    let server = Server::start().await;
    let dead = open(&server.url).await;
    server.stop();
    // A server at the same address that closes every connection.
    let address = server.url.trim_start_matches("http://").to_owned();
    let listener = loop {
        match TcpListener::bind(&address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let task = tokio::spawn(async move {
        loop {
            drop(listener.accept().await);
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    let error = dead.path_info(&path("any")).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    let before = calls.load(Ordering::SeqCst);
    for index in 0..100 {
        let error = dead
            .path_info(&path(&format!("path-{index}")))
            .await
            .unwrap_err();
        assert!(matches!(error, StoreError::Backend { .. }), "{error:?}");
    }
    assert_eq!(calls.load(Ordering::SeqCst), before, "it was asked again");
    // Another cache has the path.
    let other = Server::start().await;
    let other = open(&other.url).await;
    let (info, nar) = object("path", b"contents");
    add(&other, &info, &nar).await;
    let both = TieredStore::new(Arc::new(dead), [Arc::new(other) as _]).unwrap();
    both.verify(&info.path).await.unwrap();
    task.abort();
}

#[tokio::test]
async fn what_is_no_cache() {
    let server = Server::start().await;
    let uri: tvix_store_api::StoreUri = server.url.parse().unwrap();
    let options = tvix_store_api::cache::BinaryCacheOptions::new(uri).unwrap();
    let error = BinaryCache::open(options.clone()).await.unwrap_err();
    assert!(!error.is_retryable());
    for text in ["StoreDir: nonsense\n", "Priority: x\n"] {
        let name = "nix-cache-info".to_owned();
        server.files().files.insert(name, text.into());
        assert!(BinaryCache::open(options.clone()).await.is_err(), "{text}");
    }
    for bad in ["ftp://x", "file://relative", "http://", "http://x:99999"] {
        let options = tvix_store_api::cache::BinaryCacheOptions::new(bad.parse().unwrap());
        assert!(BinaryCache::open(options.unwrap()).await.is_err(), "{bad}");
    }
}

/// Fails without the login of `Http::send` (the server refuses every request) and without reqwest's
/// handling of redirects (the second server receives the password).
#[tokio::test]
async fn passwords_are_for_the_cache_alone() {
    let server = Server::start().await;
    let (info, nar) = object("path", b"contents");
    add(&open(&server.url).await, &info, &nar).await;
    // The base64 of "me:s3cret".
    server.files().faults.login = Some("Basic bWU6czNjcmV0".to_owned());
    let folder = tempfile::TempDir::new().unwrap();
    let netrc = folder.path().join("netrc");
    std::fs::write(&netrc, "machine 127.0.0.1 login me password s3cret\n").unwrap();
    let with_netrc = || options(&server.url).with_netrc_file(&netrc);
    let refused = BinaryCache::open(options(&server.url)).await.unwrap_err();
    let text = format!("{refused:?}");
    assert!(text.contains("401"), "{text}");
    let cache = BinaryCache::open(with_netrc()).await.unwrap();
    let store = MemoryStore::new(StoreDir::default());
    let paths = [info.path.clone()];
    cache.copy_closure(&store, &paths).await.unwrap();
    let (other, nar) = object("other", b"other contents");
    add(&cache, &other, &nar).await;
    // A missing file is accepted, an unreadable one is an error, and an entry for another host is
    // not used.
    let missing = options(&server.url).with_netrc_file(folder.path().join("missing"));
    assert!(BinaryCache::open(missing).await.is_err());
    let folder_in_place = options(&server.url).with_netrc_file(folder.path());
    let error = BinaryCache::open(folder_in_place).await.unwrap_err();
    assert!(format!("{error:?}").contains("cannot read"), "{error:?}");
    std::fs::write(&netrc, "machine elsewhere login me password s3cret\n").unwrap();
    assert!(BinaryCache::open(with_netrc()).await.is_err());
    // The password is not sent to the target of a redirect: another port is another host.
    std::fs::write(&netrc, "default login me password s3cret\n").unwrap();
    let curious = Server::start().await;
    let entries = server.files().files.clone();
    curious.files().files = entries;
    server.files().faults.moved_to = Some(curious.url.clone());
    let cache = BinaryCache::open(with_netrc()).await.unwrap();
    cache.path_info(&info.path).await.unwrap().unwrap();
    let logins = curious.files().logins.clone();
    assert!(logins.len() >= 2, "{logins:?}");
    assert!(logins.iter().all(Option::is_none), "{logins:?}");
    assert!(!format!("{cache:?}").contains("s3cret"));
}
