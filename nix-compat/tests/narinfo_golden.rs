//! Narinfo files written by C++ Nix (`goldens/make-narinfo.sh`) are parsed, displayed, verified and
//! signed alike.
#![allow(clippy::unwrap_used, reason = "helpers fail the test too")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use nix_compat::narinfo::{Compression, NarInfo, SigningKey, VerifyingKey};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::StoreDir;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/narinfo")
}

fn golden(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

const COMPRESSIONS: [Compression; 4] = [
    Compression::Xz,
    Compression::None,
    Compression::Zstd,
    Compression::Bzip2,
];

/// The files of the cache with this compression.
fn cache(compression: &Compression) -> Vec<String> {
    let files = std::fs::read_dir(folder().join(compression.as_str())).unwrap();
    let texts: Vec<_> = files
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    assert_eq!(texts.len(), 5);
    texts
}

fn keys() -> (Vec<SigningKey>, Vec<VerifyingKey>) {
    let names = ["first.example.org-1", "second"];
    let secret = names.map(|name| golden(&format!("{name}.secret")).parse().unwrap());
    let public = names.map(|name| golden(&format!("{name}.public")).parse().unwrap());
    (secret.into(), public.into())
}

fn infos() -> (serde_json::Value, BTreeMap<String, PathInfo>) {
    let json: serde_json::Value = serde_json::from_str(&golden("path-info.json")).unwrap();
    let infos = json.as_array().unwrap().iter().map(|value| {
        let info = PathInfo::from_nix_json(value, &StoreDir::default()).unwrap();
        (info.path.name().to_string(), info)
    });
    let infos: BTreeMap<_, _> = infos.collect();
    assert_eq!(infos.len(), 5);
    (json, infos)
}

#[test]
fn narinfos_come_back_byte_for_byte() {
    let dir = StoreDir::default();
    for compression in COMPRESSIONS {
        for text in cache(&compression) {
            let narinfo = NarInfo::parse(&text, &dir).unwrap();
            assert_eq!(narinfo.compression, compression);
            assert!(narinfo.file_hash.is_some() && narinfo.file_size.is_some());
            assert_eq!(narinfo.display(&dir).to_string(), text);
        }
    }
}

#[test]
fn narinfos_say_what_path_info_says() {
    let dir = StoreDir::default();
    let (_, mut infos) = infos();
    for info in infos.values_mut() {
        // A cache does not hold the registration time.
        assert!(info.registration_time.take().is_some());
    }
    for compression in COMPRESSIONS {
        for text in cache(&compression) {
            let narinfo = NarInfo::parse(&text, &dir).unwrap();
            assert_eq!(&narinfo.info, &infos[narinfo.info.path.name().as_str()]);
        }
    }
}

#[test]
fn path_infos_come_back_byte_for_byte() {
    let dir = StoreDir::default();
    let (json, _) = infos();
    for value in json.as_array().unwrap() {
        let info = PathInfo::from_nix_json(value, &dir).unwrap();
        let again = info.to_nix_json(&dir);
        assert_eq!(again.to_string(), value.to_string());
        let ours = serde_json::to_string(&info).unwrap();
        assert_eq!(serde_json::from_str::<PathInfo>(&ours).unwrap(), info);
    }
}

#[test]
fn keys_are_read_and_belong_together() {
    let (secret, public) = keys();
    for (secret, public) in secret.iter().zip(&public) {
        assert_eq!(&secret.verifying_key(), public);
        assert_eq!(
            public.to_string(),
            golden(&format!("{}.public", public.name()))
        );
        let text = golden(&format!("{}.secret", secret.name()));
        assert_eq!(secret.to_secret_text(), text);
    }
}

#[test]
fn signatures_of_nix_verify() {
    let dir = StoreDir::default();
    let (_, public) = keys();
    let (_, infos) = infos();
    let signed_by = |info: &PathInfo| {
        let keys = info.signed_by(&dir, &public);
        keys.map(|key| key.name().to_owned()).collect::<Vec<_>>()
    };
    let top = &infos["top-1.0+x"];
    assert_eq!(signed_by(top), ["first.example.org-1", "second"]);
    assert_eq!(signed_by(&infos["leaf"]), ["second"]);
    assert!(signed_by(&infos["tree"]).is_empty());
}

#[test]
fn our_signatures_are_those_of_nix() {
    let dir = StoreDir::default();
    let (secret, _) = keys();
    let (_, infos) = infos();
    let mut unsigned = infos["top-1.0+x"].clone();
    unsigned.signatures.clear();
    for key in &secret {
        unsigned.sign(&dir, key);
        unsigned.sign(&dir, key); // a second call has no effect
    }
    assert_eq!(unsigned, infos["top-1.0+x"]);
}

#[test]
fn changes_of_signed_fields_are_detected() {
    let dir = StoreDir::default();
    let (_, public) = keys();
    let (_, infos) = infos();
    let top = &infos["top-1.0+x"];
    let leaf = &infos["leaf"];
    let changes: [fn(&mut PathInfo, &PathInfo); 6] = [
        |top, _| top.references = [].into(),
        |top, leaf| top.references = [leaf.path.clone()].into(),
        |top, _| top.nar_size += 1,
        |top, _| top.nar_hash[31] ^= 1,
        |top, leaf| (top.nar_hash, top.nar_size) = (leaf.nar_hash, leaf.nar_size),
        |top, leaf| top.path = leaf.path.clone(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut changed = top.clone();
        change(&mut changed, leaf);
        assert_eq!(
            changed.signed_by(&dir, &public).count(),
            0,
            "change {number}"
        );
    }
    let elsewhere = StoreDir::new("/other/store").unwrap();
    assert_eq!(top.signed_by(&elsewhere, &public).count(), 0);
    // A field that is not signed does not affect signatures.
    let mut changed = top.clone();
    changed.deriver = None;
    changed.registration_time = None;
    assert_eq!(changed.signed_by(&dir, &public).count(), 2);
}

#[test]
fn content_addressed_paths_are_told_from_others() {
    let dir = StoreDir::default();
    let (_, infos) = infos();
    for (name, addressed) in [
        ("tree", true),
        ("text", true),
        ("validity", true),
        ("leaf", false),
        ("top-1.0+x", false),
    ] {
        let info = &infos[name];
        assert_eq!(info.is_content_addressed(&dir), addressed, "{name}");
        let mut claimed = info.clone();
        claimed.ca = infos["tree"].ca.clone();
        assert_eq!(claimed.is_content_addressed(&dir), name == "tree", "{name}");
    }
}
