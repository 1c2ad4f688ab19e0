//! Archives through the file system: any tree, those of real Nix, and malformed ones.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "helpers fail the test too")]

#[path = "../../../nix-compat/tests/nar_common/mod.rs"]
mod nar_common;

use std::path::Path;

use nar_common::{Raw, encode, read, tree};
use nix_compat::nar::MAX_DEPTH;
use proptest::prelude::*;
use tvix_tree::{RestoreOptions, dump_path, restore};

/// Unpacks an archive, and packs what came of it.
fn there_and_back(nar: &[u8], canonical: bool) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("dest");
    restore(
        nar,
        &dest,
        RestoreOptions::default().with_canonical(canonical),
    )
    .unwrap();
    let mut again = Vec::new();
    dump_path(&dest, &mut again).unwrap();
    again
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_tree(tree in tree(), canonical in any::<bool>()) {
        let nar = encode(&tree);
        prop_assert_eq!(there_and_back(&nar, canonical), nar);
    }
}

#[test]
fn archives_of_real_nix() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nix-compat/tests/goldens/nar");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let nar = std::fs::read(&path).unwrap();
        for canonical in [false, true] {
            assert!(there_and_back(&nar, canonical) == nar, "{}", path.display());
        }
        count += 1;
    }
    assert_eq!(count, 12);
}

/// Fails as readers fail, and leaves nothing.
#[track_caller]
fn refused(nar: &[u8]) {
    let expected = read(nar).1.expect("malformed").to_string();
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("dest");
    let error = restore(nar, &dest, RestoreOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), expected);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

fn symlink(raw: Raw) -> Raw {
    raw.all(&["(", "type", "symlink", "target", "/etc", ")"])
}

fn good() -> Vec<u8> {
    let raw = Raw::new().directory().entry("a").file().close();
    let raw = symlink(raw.entry("b").directory().entry("c"))
        .close()
        .close()
        .close();
    raw.close().0
}

#[test]
fn truncated_anywhere() {
    let nar = good();
    for end in 0..nar.len() {
        refused(&nar[..end]);
    }
}

#[test]
fn followed_by_something() {
    let nar = good();
    for tail in [&b"\0"[..], b"x", &[0; 8], &nar] {
        refused(&[&nar, tail].concat());
    }
}

#[test]
fn one_bit_flipped() {
    let nar = good();
    let mut count = 0;
    for at in 0..nar.len() {
        let mut bad = nar.clone();
        bad[at] ^= 1 << (at % 8);
        if read(&bad).1.is_some() {
            refused(&bad);
            count += 1;
        }
    }
    assert!(count > nar.len() - 10, "{count} of {}", nar.len());
}

#[test]
fn names_that_lead_elsewhere() {
    for bad in ["", ".", "..", "/", "a/b", "../x", "a\0", "\0"] {
        let raw = Raw::new().directory().entry("a").file().close();
        refused(&raw.entry(bad).file().close().close().0);
    }
}

/// The last but one is that of CVE-2024-45593.
#[test]
fn duplicates() {
    let file = |raw: Raw| raw.file();
    let directory = |raw: Raw| raw.directory().close();
    type Shape<'a> = &'a dyn Fn(Raw) -> Raw;
    let shapes: [(Shape<'_>, Shape<'_>); 5] = [
        (&file, &file),
        (&directory, &directory),
        (&file, &directory),
        (&symlink, &directory),
        (&directory, &symlink),
    ];
    for (first, second) in shapes {
        let raw = first(Raw::new().directory().entry("a")).close().entry("a");
        refused(&second(raw).close().close().0);
    }
}

#[test]
fn too_deep() {
    let raw = (0..MAX_DEPTH).fold(Raw::new().directory(), |raw, _| raw.entry("d").directory());
    refused(&raw.0);
}
