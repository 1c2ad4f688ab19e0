//! Every class of malformed narinfo is rejected with line and field, and any narinfo round-trips
//! through text.
#![allow(clippy::unwrap_used, reason = "helpers fail the test too")]

use nix_compat::content_address::{ContentAddress, ContentAddressMethod};
use nix_compat::narinfo::{
    Compression, FieldError, NarInfo, NarInfoError, Signature, SignatureError,
};
use nix_compat::nixhash::{HashAlgo, NixHash};
use nix_compat::path_info::PathInfo;
use nix_compat::store_path::{StoreDir, StorePath};
use proptest::prelude::*;

const GOOD: &str = "\
StorePath: /nix/store/z0r3h1vxbdmfg1ffj8ghzkarmd4lbwsx-top-1.0+x
URL: nar/18z4yyrr4d19j50irxxczhxnd6rxkgbzbmrfi11k2ill9bvggxpm.nar.xz
Compression: xz
FileHash: sha256:18z4yyrr4d19j50irxxczhxnd6rxkgbzbmrfi11k2ill9bvggxpm
FileSize: 168
NarHash: sha256:19l59z9nbs59axnhw6iqsz5bdagqb22kf0dp2zhkiq5m4b6k5247
NarSize: 288
References: 0c6mj4x7b8p2bcqkrzk1lfn5zzbr4nyl-leaf
Deriver: 1ycv1kzmv5vzrzj1kkkk0p9n2hx1bzl7-top-1.0+x.drv
System: x86_64-linux
Sig: name:c2lnbmF0dXJl
CA: fixed:r:sha256:19l59z9nbs59axnhw6iqsz5bdagqb22kf0dp2zhkiq5m4b6k5247
";

const FIELDS: [&str; 12] = [
    "StorePath",
    "URL",
    "Compression",
    "FileHash",
    "FileSize",
    "NarHash",
    "NarSize",
    "References",
    "Deriver",
    "System",
    "Sig",
    "CA",
];

fn parse(text: &str) -> Result<NarInfo, NarInfoError> {
    NarInfo::parse(text, &StoreDir::default())
}

/// The valid narinfo with another value of this field.
fn with(field: &str, value: &str) -> String {
    let lines = GOOD.lines().map(|line| match line.split_once(": ") {
        Some((name, _)) if name == field => format!("{name}: {value}\n"),
        _ => format!("{line}\n"),
    });
    let text: String = lines.collect();
    assert_ne!(text, GOOD);
    text
}

fn without(field: &str) -> String {
    let prefix = format!("{field}: ");
    let lines = GOOD.split_inclusive('\n');
    lines.filter(|line| !line.starts_with(&prefix)).collect()
}

/// The error for this value of this field.
#[track_caller]
fn wrong(name: &str, value: &str) -> FieldError {
    match parse(&with(name, value)).unwrap_err() {
        NarInfoError::Invalid {
            line,
            field,
            source,
        } => {
            assert_eq!(field, name);
            assert_eq!(FIELDS[line - 1], name);
            source
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_good_one_is_good() {
    let narinfo = parse(GOOD).unwrap();
    assert_eq!(narinfo.display(&StoreDir::default()).to_string(), GOOD);
    assert_eq!(narinfo.system.as_deref(), Some("x86_64-linux"));
}

#[test]
fn missing_fields() {
    for field in FIELDS {
        let result = parse(&without(field));
        if ["StorePath", "URL", "NarHash", "NarSize"].contains(&field) {
            assert_eq!(result.unwrap_err(), NarInfoError::Missing { field });
        } else {
            result.unwrap();
        }
    }
    let field = "StorePath";
    assert_eq!(parse("").unwrap_err(), NarInfoError::Missing { field });
}

#[test]
fn absent_fields() {
    let narinfo = parse(&without("Compression")).unwrap();
    assert_eq!(narinfo.compression, Compression::Bzip2);
    let narinfo = parse(&with("Deriver", "unknown-deriver")).unwrap();
    assert_eq!(narinfo.info.deriver, None);
    assert_eq!(parse(&with("CA", "")).unwrap().info.ca, None);
    assert!(
        parse(&with("References", ""))
            .unwrap()
            .info
            .references
            .is_empty()
    );
    assert!(
        parse(&without("References"))
            .unwrap()
            .info
            .references
            .is_empty()
    );
}

#[test]
fn duplicates() {
    for field in FIELDS {
        let prefix = format!("{field}: ");
        let line = GOOD.lines().find(|line| line.starts_with(&prefix)).unwrap();
        let result = parse(&format!("{GOOD}{line}\n"));
        if field == "Sig" {
            assert_eq!(result.unwrap().info.signatures.len(), 2);
        } else {
            let line = 13;
            assert_eq!(result.unwrap_err(), NarInfoError::Duplicate { line, field });
        }
    }
    // Also if the first one is empty.
    for field in ["References", "CA"] {
        let text = format!("{}{field}: \n", with(field, ""));
        let error = parse(&text).unwrap_err();
        assert_eq!(error, NarInfoError::Duplicate { line: 13, field });
    }
}

#[test]
fn lines() {
    let error = parse(GOOD.trim_end()).unwrap_err();
    assert_eq!(error, NarInfoError::NoNewline { line: 12 });
    for bad in ["", "nothing", "System:x", "System:", " "] {
        let error = parse(&format!("{GOOD}{bad}\n")).unwrap_err();
        assert_eq!(error, NarInfoError::NoColon { line: 13 }, "{bad:?}");
    }
}

#[test]
fn truncation_is_an_error_or_another_narinfo() {
    for end in 0..GOOD.len() {
        let result = parse(&GOOD[..end]);
        let complete = GOOD[..end].ends_with('\n') && GOOD[..end].contains("NarSize: 288\n");
        assert_eq!(result.is_ok(), complete, "{end}");
    }
}

#[test]
fn numbers() {
    for bad in ["", "x", "-1", "+1", "1 ", "0x10", "18446744073709551616"] {
        for field in ["NarSize", "FileSize"] {
            assert_eq!(wrong(field, bad), FieldError::Number(bad.into()));
        }
    }
    assert_eq!(wrong("NarSize", "0"), FieldError::Zero);
    let largest = parse(&with("NarSize", "18446744073709551615")).unwrap();
    assert_eq!(largest.info.nar_size, u64::MAX);
}

#[test]
fn hashes() {
    let md5 = NixHash::digest(HashAlgo::Md5, "x").base32();
    for bad in [
        "",
        "sha256:",
        "19l59z9nbs59axnhw6iqsz5bdagqb22kf0dp2zhkiq5m4b6k5247",
        "sha256:e9l59z9nbs59axnhw6iqsz5bdagqb22kf0dp2zhkiq5m4b6k5247",
        "sha256:9l59z9nbs59axnhw6iqsz5bdagqb22kf0dp2zhkiq5m4b6k5247",
        "sha3:19l59z9nbs59axnhw6iqsz5bdagqb22kf0dp2zhkiq5m4b6k5247",
    ] {
        for field in ["NarHash", "FileHash"] {
            assert!(matches!(wrong(field, bad), FieldError::Hash(_)), "{bad}");
        }
    }
    assert_eq!(wrong("NarHash", &md5), FieldError::NotSha256(md5.clone()));
    parse(&with("FileHash", &md5)).unwrap();
}

#[test]
fn store_paths() {
    for (field, bad) in [
        ("StorePath", "z0r3h1vxbdmfg1ffj8ghzkarmd4lbwsx-top"),
        (
            "StorePath",
            "/other/store/z0r3h1vxbdmfg1ffj8ghzkarmd4lbwsx-top",
        ),
        (
            "StorePath",
            "/nix/store/z0r3h1vxbdmfg1ffj8ghzkarmd4lbwsx-top/bin",
        ),
        (
            "StorePath",
            "/nix/store/z0r3h1vxbdmfg1ffj8ghzkarmd4lbwsx-top\r",
        ),
        (
            "References",
            "/nix/store/z0r3h1vxbdmfg1ffj8ghzkarmd4lbwsx-top",
        ),
        ("References", "0c6mj4x7b8p2bcqkrzk1lfn5zzbr4nyl-leaf x"),
        ("References", "../../etc/passwd"),
        ("Deriver", ""),
        (
            "Deriver",
            "/nix/store/1ycv1kzmv5vzrzj1kkkk0p9n2hx1bzl7-top.drv",
        ),
    ] {
        let error = wrong(field, bad);
        assert!(
            matches!(error, FieldError::StorePath(_)),
            "{field} {bad}: {error:?}"
        );
    }
}

#[test]
fn the_rest() {
    assert_eq!(wrong("URL", ""), FieldError::Empty);
    assert!(matches!(wrong("CA", "x"), FieldError::ContentAddress(_)));
    assert_eq!(
        wrong("Sig", "nocolon"),
        FieldError::Signature(SignatureError::MissingColon)
    );
    let unknown = parse(&with("Compression", "snappy")).unwrap();
    assert_eq!(unknown.compression, Compression::Other("snappy".into()));
    // Fields of future versions.
    parse(&format!("{GOOD}Provenance: something: else\n")).unwrap();
}

#[test]
fn errors_name_line_field_and_cause() {
    let error = parse(&with("NarSize", "0")).unwrap_err();
    assert_eq!(error.to_string(), "line 7: bad NarSize");
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "it is zero");
}

fn store_path() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), "[a-zA-Z0-9+_?=][a-zA-Z0-9+._?=-]{0,30}")
        .prop_map(|(digest, name)| StorePath::new(digest, name.parse().unwrap()))
}

prop_compose! {
    fn narinfo()(
        path in store_path(),
        nar_hash: [u8; 32],
        nar_size in 1..u64::MAX,
        references in proptest::collection::vec(store_path(), 0..4),
        deriver in proptest::option::of(store_path()),
        names in proptest::collection::vec("[^\\s:\\pC]{1,9}", 0..3),
        file in proptest::option::of((any::<[u8; 32]>(), any::<u64>())),
        system in proptest::option::of("[a-z0-9_-]{1,20}"),
        compression in prop_oneof!["xz", "none", "zstd", "gzip", "[a-z]{2,9}"],
        url in "[^\\s\\pC]{1,40}",
        ca in proptest::option::of(any::<[u8; 32]>()),
    ) -> NarInfo {
        let signatures = names.iter().map(|name| Signature::new(name, &[7; 64]).unwrap());
        NarInfo {
            info: PathInfo {
                references: references.into_iter().collect(),
                deriver,
                signatures: signatures.collect(),
                ca: ca.map(|hash| ContentAddress {
                    method: ContentAddressMethod::Flat,
                    hash: NixHash::Sha256(hash),
                }),
                ..PathInfo::new(path, nar_hash, nar_size)
            },
            url,
            compression: compression.as_str().into(),
            file_hash: file.map(|(hash, _)| NixHash::Sha256(hash)),
            file_size: file.map(|(_, size)| size),
            system,
        }
    }
}

proptest! {
    #[test]
    fn to_text_and_back(narinfo in narinfo()) {
        let dir = StoreDir::default();
        let text = narinfo.display(&dir).to_string();
        prop_assert_eq!(NarInfo::parse(&text, &dir), Ok(narinfo));
    }

    #[test]
    fn to_json_and_back(narinfo in narinfo(), ultimate: bool, time: Option<u64>) {
        let dir = StoreDir::default();
        let info = PathInfo { ultimate, registration_time: time, ..narinfo.info };
        let json = info.to_nix_json(&dir);
        prop_assert_eq!(PathInfo::from_nix_json(&json, &dir).unwrap(), info.clone());
        let ours = serde_json::to_value(&info).unwrap();
        prop_assert_eq!(serde_json::from_value::<PathInfo>(ours).unwrap(), info);
    }

    #[test]
    fn any_text_is_safe(text in "(([A-Za-z]{1,5}|StorePath|NarSize|Sig|CA): \\PC{0,20}\n?){0,6}") {
        let _ = parse(&text);
    }
}
