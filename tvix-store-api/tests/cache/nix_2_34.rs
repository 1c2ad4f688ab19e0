//! A cache written by Nix 2.34.8 (`tests/goldens/make-nix-2.34.sh`): a floating output that refers
//! to itself, with a content address that does not include the offsets of the references.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix_compat::derivation::Derivation;
use nix_compat::narinfo::NarInfo;
use nix_compat::nixhash::{HashAlgo, NixHash, SelfReferenceHasher};
use nix_compat::realisation::{DrvKey, DrvOutput};
use nix_compat::signature::{SigningKey, VerifyingKey};
use nix_compat::store_path::{PathReferences, StoreDir, StorePath, content_addressed_path};
use tempfile::TempDir;
use tvix_store_api::cache::{BinaryCache, BinaryCacheOptions};
use tvix_store_api::verify::digest;
use tvix_store_api::{MemoryStore, PathInfo, Store, StoreError, StoreExt as _, VerifiedObject};

const SELF: &str = "jsxxj4yy4cksnmvpz3x10limfay55ksf-self";

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens/nix-2.34")
        .join(name)
}

fn path() -> StorePath {
    SELF.parse().unwrap()
}

fn key() -> VerifyingKey {
    SigningKey::from_seed("golden-1", &[7; 32])
        .unwrap()
        .verifying_key()
}

async fn open(directory: &Path, keys: &[VerifyingKey]) -> BinaryCache {
    let uri = format!("file://{}", directory.display()).parse().unwrap();
    let options = BinaryCacheOptions::new(uri).unwrap();
    BinaryCache::open(options.with_trusted_keys(keys.to_vec()))
        .await
        .unwrap()
}

/// A copy of the cache with a changed narinfo or NAR.
fn changed(change: impl FnOnce(&mut NarInfo, &mut Vec<u8>)) -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("nar")).unwrap();
    for folder in ["", "nar"] {
        for entry in fs::read_dir(golden("cache").join(folder)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                let to = directory.path().join(folder).join(entry.file_name());
                fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let file = directory
        .path()
        .join(format!("{}.narinfo", path().hash_part()));
    let dir = StoreDir::default();
    let mut narinfo = NarInfo::parse(&fs::read_to_string(&file).unwrap(), &dir).unwrap();
    let archive = directory.path().join(&narinfo.url);
    let mut nar = fs::read(&archive).unwrap();
    change(&mut narinfo, &mut nar);
    narinfo.info.nar_hash = digest(&nar);
    narinfo.info.nar_size = nar.len() as u64;
    narinfo.file_hash = Some(NixHash::Sha256(digest(&nar)));
    narinfo.file_size = Some(nar.len() as u64);
    fs::write(archive, nar).unwrap();
    fs::remove_file(file).unwrap();
    let file = format!("{}.narinfo", narinfo.info.path.hash_part());
    fs::write(
        directory.path().join(file),
        narinfo.display(&dir).to_string(),
    )
    .unwrap();
    directory
}

async fn copy(cache: &BinaryCache, path: &StorePath) -> Result<MemoryStore, StoreError> {
    let store = MemoryStore::new(StoreDir::default());
    cache
        .copy_closure(&store, std::slice::from_ref(path))
        .await?;
    Ok(store)
}

#[tokio::test]
async fn its_paths_are_read_if_they_are_signed() {
    let cache = open(&golden("cache"), &[key()]).await;
    let store = copy(&cache, &path()).await.unwrap();
    assert_eq!(store.len(), 2);
    let info = store.require(&path()).await.unwrap();
    // As in the output of `nix path-info --json`.
    let json = fs::read(golden("path-info.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let mut json = json[format!("/nix/store/{SELF}")].clone();
    json["path"] = format!("/nix/store/{SELF}").into();
    let theirs = PathInfo::from_nix_json(&json, &StoreDir::default()).unwrap();
    let fields = |it: &PathInfo| {
        let deriver = it.deriver.clone();
        (
            it.nar_hash,
            it.nar_size,
            it.references.clone(),
            it.ca.clone(),
            deriver,
        )
    };
    assert_eq!(fields(&theirs), fields(&info));
    // All ways of verifying contents agree.
    cache.verify(&path()).await.unwrap();
    store.verify(&path()).await.unwrap();
    let again = MemoryStore::new(StoreDir::default());
    let all = [path()];
    store.copy_closure(&again, &all).await.unwrap();
    let nar = fs::read(golden(
        "cache/nar/13294bb1rf4pm76fibq6z5zf2j57ki829fy9by8zj3krr6591v0m.nar",
    ));
    let nar = nar.unwrap();
    let dir = StoreDir::default();
    VerifiedObject::verify(&dir, PathInfo::clone(&info), nar.clone().into()).unwrap();
    // The form without offsets.
    let mut hasher = SelfReferenceHasher::new(HashAlgo::Sha256, &path());
    hasher.update(&nar);
    let hashes = hasher.finish_both();
    let address = info.ca.clone().unwrap();
    assert_eq!(address.hash, hashes.without_offsets);
    assert_ne!(address.hash, hashes.with_offsets);
}

#[cfg(feature = "local-fs")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_store_keeps_its_paths() {
    use tvix_store_api::local_fs::{LocalStore, LocalStoreOptions, VerifyOptions};
    let root = TempDir::new().unwrap();
    let store = LocalStore::open(LocalStoreOptions::new(root.path()))
        .await
        .unwrap();
    let cache = Arc::new(open(&golden("cache"), &[key()]).await);
    let all = [path()];
    cache.copy_closure(&store, &all).await.unwrap();
    let report = store
        .verify_all(VerifyOptions::default().with_contents(true))
        .await
        .unwrap();
    assert!(report.is_intact() && report.checked == 2, "{report:?}");
    copy_local(&store).await.unwrap();
    // `verify` and `copy` both detect damage and repair it.
    let file = store.real_path(&path());
    fs::remove_file(&file).unwrap();
    fs::write(&file, "something else").unwrap();
    copy_local(&store).await.unwrap_err();
    let options = VerifyOptions::default().with_contents(true);
    let report = store.verify_all(options.clone()).await.unwrap();
    assert_eq!(report.damaged.len(), 1);
    let report = store
        .verify_all(options.clone().with_repair_from(cache))
        .await
        .unwrap();
    assert!(report.is_intact(), "{report:?}");
    assert!(store.verify_all(options).await.unwrap().damaged.is_empty());
    copy_local(&store).await.unwrap();
}

#[cfg(feature = "local-fs")]
async fn copy_local(store: &tvix_store_api::local_fs::LocalStore) -> Result<(), StoreError> {
    let to = MemoryStore::new(StoreDir::default());
    store.copy_closure(&to, &[path()]).await.map(|_| ())
}

#[tokio::test]
async fn without_a_signature_the_address_alone_is_not_enough() {
    // Refused with another key, and with contents in which a reference is replaced by zeroes, which
    // have the same content address.
    let own = path().hash_part();
    let zeroed = changed(|_, nar| {
        let last = memchr::memmem::rfind(nar, own.as_bytes()).unwrap();
        nar[last..last + own.len()].fill(0);
    });
    let as_it_is = changed(|_, _| {});
    let unsigned = changed(|narinfo, _| narinfo.info.signatures.clear());
    for (directory, keys) in [
        (&zeroed, vec![key()]),
        (&zeroed, vec![]),
        (&as_it_is, vec![]),
        (&unsigned, vec![key()]),
    ] {
        let cache = open(directory.path(), &keys).await;
        let error = copy(&cache, &path()).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, StoreError::WeakAddress { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(SELF) && text.contains("file://"), "{text}");
        // An object without references to itself is authenticated by its content address.
        let input = "65jkgrjay8kirc3hbfdq7xr8ij14kc6j-input".parse().unwrap();
        copy(&cache, &input).await.unwrap();
    }
    let cache = open(as_it_is.path(), &[key()]).await;
    copy(&cache, &path()).await.unwrap();
}

#[tokio::test]
async fn the_right_form_needs_no_signature() {
    let mut right = path();
    let directory = changed(|narinfo, nar| {
        let mut hasher = SelfReferenceHasher::new(HashAlgo::Sha256, &path());
        hasher.update(nar);
        let mut address = narinfo.info.ca.clone().unwrap();
        address.hash = hasher.finish();
        let others = narinfo.info.references.iter().filter(|it| **it != path());
        let references = PathReferences {
            others: others.cloned().collect(),
            to_self: true,
        };
        let dir = StoreDir::default();
        let name = path().name().clone();
        right = content_addressed_path(&dir, name, &address, &references).unwrap();
        let (old, new) = (path().hash_part(), right.hash_part());
        while let Some(at) = memchr::memmem::find(nar, old.as_bytes()) {
            nar[at..at + new.len()].copy_from_slice(new.as_bytes());
        }
        narinfo.info.references = references.others;
        narinfo.info.references.insert(right.clone());
        narinfo.info.path = right.clone();
        narinfo.info.ca = Some(address);
        narinfo.info.signatures.clear();
    });
    let cache = open(directory.path(), &[]).await;
    let store = copy(&cache, &right).await.unwrap();
    assert_eq!(store.len(), 2);
}

#[tokio::test]
async fn neither_form_is_an_error_even_if_it_is_signed() {
    let signing = SigningKey::from_seed("golden-1", &[7; 32]).unwrap();
    let own = path().hash_part();
    let directory = changed(|narinfo, nar| {
        let at = memchr::memmem::find(nar, b"twice").unwrap();
        nar[at..at + 5].copy_from_slice(b"TWICE");
        assert!(memchr::memmem::find(nar, own.as_bytes()).is_some());
        narinfo.info.nar_hash = digest(nar);
        narinfo.info.signatures.clear();
        narinfo.info.sign(&StoreDir::default(), &signing);
    });
    let cache = open(directory.path(), &[key()]).await;
    let error = copy(&cache, &path()).await.map(|_| ()).unwrap_err();
    let StoreError::Corrupt { source, .. } = error else {
        panic!("{error:?}");
    };
    assert!(
        matches!(*source, StoreError::HashMismatch { .. }),
        "{source:?}"
    );
}

#[tokio::test]
async fn its_realisations_are_read() {
    let dir = StoreDir::default();
    let contents = fs::read(golden("resolved.drv")).unwrap();
    let derivation = Derivation::from_aterm(&dir, "self".parse().unwrap(), &contents).unwrap();
    let resolved: StorePath = fs::read_to_string(golden("resolved"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert_eq!(derivation.path(&dir).unwrap(), resolved);
    let keys = derivation.realisation_keys(&dir, &resolved);
    let hash = DrvKey::HashModulo(derivation.masked_hash_modulo(&dir, |_| None).unwrap().hash);
    assert_eq!(keys, [DrvKey::Path(resolved), hash.clone()]);
    let cache = open(&golden("cache"), &[key()]).await;
    let out = "out".parse().unwrap();
    let found = cache.realisation_of(keys, &out).await.unwrap().unwrap();
    assert_eq!(found.out_path, path());
    assert_eq!(found.id.drv, hash);
    // The realisations of unresolved derivations exist too, and all of them are signed.
    let mut count = 0;
    for entry in fs::read_dir(golden("cache/realisations")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let id: DrvOutput = name.strip_suffix(".doi").unwrap().parse().unwrap();
        let found = cache.realisation(&id).await.unwrap().unwrap();
        assert_eq!(found.out_path, path());
        count += 1;
        let distrusting = open(&golden("cache"), &[]).await;
        let error = distrusting.realisation(&id).await.unwrap_err();
        assert!(
            matches!(error, StoreError::UntrustedRealisation { .. }),
            "{error:?}"
        );
    }
    assert_eq!(count, 2);
}
