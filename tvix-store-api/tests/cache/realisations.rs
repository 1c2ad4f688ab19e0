//! Realisations of both forms: format, trust, and malicious ones.

use std::fs;
use std::path::{Path, PathBuf};

use nix_compat::realisation::{DrvKey, DrvOutput, Realisation};
use nix_compat::signature::SigningKey;
use nix_compat::store_path::StorePath;
use serde_json::{Value, json};
use tempfile::TempDir;
use tvix_store_api::cache::{BinaryCache, RealisationForms};
use tvix_store_api::{Store as _, StoreError};

use crate::server::Server;
use crate::{add, file_uri, object, open, options, path};

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed("ours-1", &[seed; 32]).unwrap()
}

/// The keys of an output: by hash and by derivation path.
fn ids(seed: u8) -> [DrvOutput; 2] {
    let out = || "out".parse().unwrap();
    [
        DrvOutput::by_hash([seed; 32], out()),
        DrvOutput::by_path(path(&format!("{seed}.drv")), out()),
    ]
}

fn file_of(directory: &Path, id: &DrvOutput) -> PathBuf {
    directory.join(match &id.drv {
        DrvKey::HashModulo(_) => format!("realisations/{id}.doi"),
        DrvKey::Path(path) => format!("build-trace-v2/{path}/{}.doi", id.output),
    })
}

/// A cache with one path that is signed by the first key.
async fn cache_with_path(directory: &TempDir) -> StorePath {
    let options = options(&file_uri(directory)).with_signing_keys([key(1)]);
    let cache = BinaryCache::open(options).await.unwrap();
    let (info, nar) = object("first", b"first");
    add(&cache, &info, &nar).await;
    info.path
}

async fn trusting(directory: &TempDir, key: &SigningKey) -> BinaryCache {
    let options = options(&file_uri(directory))
        .with_require_signatures(true)
        .with_trusted_keys([key.verifying_key()]);
    BinaryCache::open(options).await.unwrap()
}

async fn expect_untrusted(cache: &BinaryCache, id: &DrvOutput) {
    let error = cache.realisation(id).await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, StoreError::UntrustedRealisation { .. }),
        "{error:?}"
    );
    assert!(
        text.contains("file://") && text.contains(&id.to_string()),
        "{text}"
    );
}

#[tokio::test]
async fn unsigned_realisations_are_not_believed() {
    let directory = TempDir::new().unwrap();
    let out_path = cache_with_path(&directory).await;
    for (seed, keys) in [(1, vec![]), (2, vec![key(1)])] {
        let options = options(&file_uri(&directory)).with_signing_keys(keys);
        let writer = BinaryCache::open(options).await.unwrap();
        for id in ids(seed) {
            let realisation = Realisation::new(id, out_path.clone());
            writer.add_realisation(&realisation).await.unwrap();
        }
    }
    let cache = trusting(&directory, &key(1)).await;
    for (unsigned, signed) in ids(1).iter().zip(&ids(2)) {
        expect_untrusted(&cache, unsigned).await;
        let found = cache.realisation(signed).await.unwrap().unwrap();
        assert_eq!(found.out_path, out_path);
        // Another key of the same name.
        expect_untrusted(&trusting(&directory, &key(2)).await, signed).await;
    }
    // A signed realisation cannot be used for another output.
    for id in ids(2) {
        let file = file_of(directory.path(), &id);
        let text = fs::read_to_string(&file).unwrap();
        let other = text.replace(&out_path.to_string(), &path("other").to_string());
        assert_ne!(text, other);
        fs::write(&file, other).unwrap();
        expect_untrusted(&cache, &id).await;
    }
}

#[tokio::test]
async fn either_form_and_both() {
    for forms in [
        "",
        "?realisations=both",
        "?realisations=hash",
        "?realisations=path",
    ] {
        let directory = TempDir::new().unwrap();
        let out_path = cache_with_path(&directory).await;
        let uri = format!("{}{forms}", file_uri(&directory));
        let writer = BinaryCache::open(options(&uri).with_signing_keys([key(1)]));
        let writer = writer.await.unwrap();
        let reader = trusting(&directory, &key(1)).await;
        for id in ids(1) {
            let realisation = Realisation::new(id.clone(), out_path.clone());
            writer.add_realisation(&realisation).await.unwrap();
            let left_out = match id.drv {
                DrvKey::HashModulo(_) => forms.ends_with("path"),
                DrvKey::Path(_) => forms.ends_with("hash"),
            };
            let found = reader.realisation(&id).await.unwrap();
            assert_eq!(found.is_none(), left_out, "{forms} {id}");
        }
    }
    let refused = "file:///x?realisations=old".parse().unwrap();
    let error = tvix_store_api::cache::BinaryCacheOptions::new(refused).unwrap_err();
    assert!(error.to_string().contains("'realisations'"), "{error}");
    assert_eq!(RealisationForms::default(), RealisationForms::Both);
}

/// The files are as written by `BinaryCacheStore::registerDrvOutput` of Nix 2.8 and 2.35.
#[tokio::test]
async fn files_are_those_of_nix() {
    let directory = TempDir::new().unwrap();
    let out_path = cache_with_path(&directory).await;
    let writer = BinaryCache::open(options(&file_uri(&directory)).with_signing_keys([key(1)]));
    let writer = writer.await.unwrap();
    let [by_hash, by_path] = ids(1);
    for id in [&by_hash, &by_path] {
        let realisation = Realisation::new(id.clone(), out_path.clone());
        writer.add_realisation(&realisation).await.unwrap();
    }
    let read = |id: &DrvOutput| -> Value {
        let text = fs::read(file_of(directory.path(), id)).unwrap();
        serde_json::from_slice(&text).unwrap()
    };
    let signature = |id: &DrvOutput| {
        let realisation = Realisation::new(id.clone(), out_path.clone());
        let signature = key(1).sign(realisation.fingerprint());
        signature.as_str().to_owned()
    };
    let expected = json!({
        "dependentRealisations": {}, "id": by_hash.to_string(), "outPath": out_path,
        "signatures": [signature(&by_hash)],
    });
    assert_eq!(read(&by_hash), expected);
    let text = signature(&by_path);
    let expected = json!({
        "outPath": out_path,
        "signatures": [{ "keyName": "ours-1", "sig": text.strip_prefix("ours-1:").unwrap() }],
    });
    assert_eq!(read(&by_path), expected);
}

#[tokio::test]
async fn signatures_of_the_same_are_added() {
    let directory = TempDir::new().unwrap();
    let out_path = cache_with_path(&directory).await;
    for seed in [1, 2] {
        let writer =
            BinaryCache::open(options(&file_uri(&directory)).with_signing_keys([key(seed)]));
        let writer = writer.await.unwrap();
        for id in ids(1) {
            let realisation = Realisation::new(id, out_path.clone());
            writer.add_realisation(&realisation).await.unwrap();
        }
    }
    for seed in [1, 2] {
        let cache = trusting(&directory, &key(seed)).await;
        for id in ids(1) {
            let found = cache.realisation(&id).await.unwrap().unwrap();
            assert_eq!(found.signatures.len(), 2);
        }
    }
}

#[tokio::test]
async fn hostile_realisations() {
    let directory = TempDir::new().unwrap();
    let out_path = cache_with_path(&directory).await;
    let [by_hash, by_path] = ids(1);
    let [other_hash, other_path] = ids(2);
    let flat = |id: &DrvOutput| Realisation::new(id.clone(), out_path.clone()).to_nix_json();
    let with = |mut value: Value, field: &str, new: Value| {
        value[field] = new;
        value.to_string()
    };
    let mut dev = by_hash.clone();
    dev.output = "dev".parse().unwrap();
    let mut dev_path = by_path.clone();
    dev_path.output = "dev".parse().unwrap();
    let padded = format!("{}{}", flat(&by_hash), " ".repeat(100_000));
    let nested = |field: &str| format!("{{\"{field}\":{}", "[".repeat(10_000));
    let cases = [
        (&by_hash, String::new()),
        (&by_hash, "not JSON".to_owned()),
        (&by_hash, "\0".to_owned()),
        (&by_hash, "[]".to_owned()),
        (&by_hash, "{}".to_owned()),
        (&by_hash, nested("signatures")),
        (&by_hash, nested("dependentRealisations")),
        (&by_hash, padded),
        // Another output, another derivation, the other form.
        (&by_hash, flat(&dev).to_string()),
        (&by_hash, flat(&other_hash).to_string()),
        (&by_hash, flat(&by_path).to_string()),
        (&by_hash, json!({ "outPath": out_path }).to_string()),
        (
            &by_hash,
            with(flat(&by_hash), "outPath", json!("../../etc/passwd")),
        ),
        (
            &by_hash,
            with(flat(&by_hash), "outPath", json!("/etc/passwd")),
        ),
        (
            &by_hash,
            with(flat(&by_hash), "signatures", json!(["no colon"])),
        ),
        // Ones with invalid dependencies.
        (
            &by_hash,
            with(flat(&by_hash), "dependentRealisations", json!("x")),
        ),
        (
            &by_hash,
            with(
                flat(&by_hash),
                "dependentRealisations",
                json!({ "x!out": "y" }),
            ),
        ),
        (
            &by_hash,
            with(
                flat(&by_hash),
                "dependentRealisations",
                json!({ by_path.to_string(): out_path }),
            ),
        ),
        (
            &by_hash,
            with(
                flat(&by_hash),
                "dependentRealisations",
                json!({ other_hash.to_string(): "/etc/passwd" }),
            ),
        ),
        (&by_path, "null".to_owned()),
        (&by_path, "{}".to_owned()),
        (&by_path, flat(&dev_path).to_string()),
        (&by_path, flat(&other_path).to_string()),
        (&by_path, flat(&by_hash).to_string()),
        (&by_path, json!({ "outPath": "x" }).to_string()),
        (
            &by_path,
            json!({ "outPath": out_path, "signatures": [{}] }).to_string(),
        ),
        (
            &by_path,
            json!({ "key": {}, "value": { "outPath": out_path } }).to_string(),
        ),
        (
            &by_path,
            json!({ "id": "x", "outPath": out_path }).to_string(),
        ),
    ];
    // Not even with a cache that needs no signatures.
    let cache = open(&file_uri(&directory)).await;
    for (id, text) in cases {
        let file = file_of(directory.path(), id);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &text).unwrap();
        let shown: String = text.chars().take(200).collect();
        let error = cache.realisation(id).await.expect_err(&shown);
        let is_bad = matches!(error, StoreError::BadRealisation { .. });
        // An unlimited file is not read to its end.
        assert!(is_bad || text.len() > 64 * 1024, "{shown}: {error:?}");
        assert!(error.to_string().contains(&id.to_string()), "{error}");
        // A valid one replaces it.
        let good = Realisation::new(id.clone(), out_path.clone());
        if is_bad {
            cache.add_realisation(&good).await.unwrap();
            assert_eq!(cache.realisation(id).await.unwrap(), Some(good), "{shown}");
        }
    }
}

#[tokio::test]
async fn names_with_question_marks() {
    let server = Server::start().await;
    let directory = TempDir::new().unwrap();
    let id = DrvOutput::by_path(path("what?.drv"), "a?b".parse().unwrap());
    for uri in [server.url.clone(), file_uri(&directory)] {
        let cache = open(&uri).await;
        let (info, nar) = object("first", b"first");
        add(&cache, &info, &nar).await;
        let realisation = Realisation::new(id.clone(), info.path.clone());
        cache.add_realisation(&realisation).await.unwrap();
        let other = open(&uri).await;
        assert_eq!(other.realisation(&id).await.unwrap(), Some(realisation));
        let mut similar = id.clone();
        similar.output = "a?c".parse().unwrap();
        assert_eq!(other.realisation(&similar).await.unwrap(), None);
    }
}
