//! Trust in signatures and content addresses.

use nix_compat::narinfo::NarInfo;
use nix_compat::signature::SigningKey;
use nix_compat::store_path::StoreDir;
use tempfile::TempDir;
use tvix_store_api::cache::BinaryCache;
use tvix_store_api::{MemoryStore, Store as _, StoreError, StoreExt as _};

use crate::{add, file_uri, object, open, options, path};

fn key(name: &str, seed: u8) -> SigningKey {
    SigningKey::from_seed(name, &[seed; 32]).unwrap()
}

/// A cache signed by `key`, with the infos of two paths, one of which refers to the other.
async fn signed(directory: &TempDir, key: SigningKey) -> [nix_compat::path_info::PathInfo; 2] {
    let options = options(&file_uri(directory)).with_signing_keys([key]);
    let cache = BinaryCache::open(options).await.unwrap();
    let (first, nar) = object("first", b"first");
    add(&cache, &first, &nar).await;
    let (mut second, nar) = object("second", b"second");
    second.references = [first.path.clone()].into();
    add(&cache, &second, &nar).await;
    [first, second]
}

async fn trusting(directory: &TempDir, key: &SigningKey) -> BinaryCache {
    let options = options(&file_uri(directory))
        .with_require_signatures(true)
        .with_trusted_keys([key.verifying_key()]);
    BinaryCache::open(options).await.unwrap()
}

#[tokio::test]
async fn signatures_of_trusted_keys_are_taken() {
    let directory = TempDir::new().unwrap();
    let [first, second] = signed(&directory, key("ours-1", 1)).await;
    let cache = trusting(&directory, &key("ours-1", 1)).await;
    let store = MemoryStore::new(StoreDir::default());
    let paths = [second.path.clone()];
    let copied = cache.copy_closure(&store, &paths).await.unwrap();
    assert_eq!(copied.len(), 2);
    assert!(store.path_info(&first.path).await.unwrap().is_some());
    // Another key of the same name, and the same key under another name.
    for other in [key("ours-1", 2), key("theirs-1", 1)] {
        let cache = trusting(&directory, &other).await;
        expect_untrusted(&cache, &second.path).await;
    }
}

async fn expect_untrusted(cache: &BinaryCache, path: &nix_compat::store_path::StorePath) {
    let paths = [path.clone()];
    assert!(cache.valid_paths(&paths).await.unwrap().is_empty());
    let store = MemoryStore::new(StoreDir::default());
    for error in [
        cache.path_info(path).await.map(|_| ()).unwrap_err(),
        cache.find(path.digest()).await.map(|_| ()).unwrap_err(),
        cache.nar(path).await.map(|_| ()).unwrap_err(),
        cache
            .copy_closure(&store, &paths)
            .await
            .map(|_| ())
            .unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(matches!(error, StoreError::Untrusted { .. }), "{error:?}");
        assert!(
            text.contains("file://") && text.contains(&path.to_string()),
            "{text}"
        );
    }
    assert!(store.is_empty());
}

#[tokio::test]
async fn whatever_is_signed_cannot_be_changed() {
    let directory = TempDir::new().unwrap();
    let [first, second] = signed(&directory, key("ours-1", 1)).await;
    let file = directory
        .path()
        .join(format!("{}.narinfo", second.path.hash_part()));
    let text = std::fs::read_to_string(&file).unwrap();
    let dir = StoreDir::default();
    let narinfo = NarInfo::parse(&text, &dir).unwrap();
    let other = object("other", b"other").0;
    let change = |change: &dyn Fn(&mut NarInfo)| {
        let mut changed = narinfo.clone();
        change(&mut changed);
        std::fs::write(&file, changed.display(&dir).to_string()).unwrap();
    };
    let key = key("ours-1", 1);
    let changes: [&dyn Fn(&mut NarInfo); 5] = [
        &|it| it.info.references = Default::default(),
        &|it| it.info.references.extend([path("more")]),
        &|it| it.info.nar_hash = other.nar_hash,
        &|it| it.info.nar_size += 1,
        &|it| it.info.signatures.clear(),
    ];
    for (index, it) in changes.iter().enumerate() {
        change(it);
        let cache = trusting(&directory, &key).await;
        println!("change {index}");
        expect_untrusted(&cache, &second.path).await;
    }
    // Unsigned fields may change; the contents that they lead to are verified against the signed
    // fields.
    let text = std::fs::read_to_string(
        directory
            .path()
            .join(format!("{}.narinfo", first.path.hash_part())),
    );
    let first_narinfo = NarInfo::parse(&text.unwrap(), &dir).unwrap();
    change(&|it| {
        it.url = first_narinfo.url.clone();
        it.file_size = first_narinfo.file_size;
    });
    let cache = trusting(&directory, &key).await;
    let store = MemoryStore::new(dir.clone());
    let paths = [second.path.clone()];
    let error = cache.copy_closure(&store, &paths).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(store.path_info(&second.path).await.unwrap().is_none());
}

#[tokio::test]
async fn content_addressed_paths_speak_for_themselves() {
    let directory = TempDir::new().unwrap();
    let writer = open(&file_uri(&directory)).await;
    let name = "text".parse().unwrap();
    let text = writer
        .add_text(name, b"some text", Default::default())
        .await
        .unwrap();
    let (plain, nar) = object("plain", b"plain");
    add(&writer, &plain, &nar).await;
    let cache = trusting(&directory, &key("ours-1", 1)).await;
    let store = MemoryStore::new(StoreDir::default());
    cache
        .copy_closure(&store, std::slice::from_ref(&text))
        .await
        .unwrap();
    expect_untrusted(&cache, &plain.path).await;
    // The field alone is not enough: the path must follow from it.
    let file = directory
        .path()
        .join(format!("{}.narinfo", plain.path.hash_part()));
    let narinfo = std::fs::read_to_string(&file).unwrap();
    let hash = plain.nix_hash().base32().to_string();
    std::fs::write(&file, format!("{narinfo}CA: fixed:r:{hash}\n")).unwrap();
    let cache = trusting(&directory, &key("ours-1", 1)).await;
    expect_untrusted(&cache, &plain.path).await;
}
