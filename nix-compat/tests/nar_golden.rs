//! Archives made by C++ Nix (`goldens/make-nar.sh`) round-trip byte for byte.
#![allow(clippy::unwrap_used, reason = "helpers fail the test too")]

mod nar_common;

use std::path::{Path, PathBuf};

use nar_common::{Tree, decode, encode, feed, read, read_views};
use nix_compat::nar::{Event, Listing, Reader};

fn goldens() -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/nar");
    let mut goldens: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    goldens.sort();
    assert_eq!(goldens.len(), 12);
    goldens
}

fn golden(name: &str) -> Tree {
    let name = format!("{name}.nar");
    let found = goldens()
        .into_iter()
        .find(|(path, _)| path.ends_with(&name));
    decode(&found.unwrap().1)
}

fn file(executable: bool, contents: &str) -> Tree {
    Tree::File {
        executable,
        contents: contents.into(),
    }
}

#[test]
fn come_back_byte_for_byte() {
    for (path, nar) in goldens() {
        assert!(encode(&decode(&nar)) == nar, "{}", path.display());
    }
}

#[test]
fn every_reader_agrees() {
    for (path, nar) in goldens() {
        let (events, error) = read(&nar);
        assert!(error.is_none(), "{}: {error:?}", path.display());
        for sizes in [&[1][..], &[7], &[8], &[3, 1, 4, 1, 5], &[usize::MAX]] {
            assert_eq!(feed(&nar, sizes).0, events, "{} {sizes:?}", path.display());
        }
        assert_eq!(read_views(&nar).0, events, "{}", path.display());
    }
}

#[test]
fn hold_what_was_packed() {
    assert_eq!(golden("empty-file"), file(false, ""));
    assert_eq!(golden("file"), file(false, "hello\n"));
    assert_eq!(golden("executable"), file(true, "#!/bin/sh\n"));
    assert_eq!(golden("symlink"), Tree::Symlink("../some/where".into()));
    assert_eq!(golden("empty-dir"), Tree::Directory(Default::default()));
}

#[test]
fn executable_is_what_the_owner_may_execute() {
    let Tree::Directory(entries) = golden("modes") else {
        panic!()
    };
    let executable: Vec<_> = entries
        .iter()
        .filter(|(_, node)| {
            matches!(
                node,
                Tree::File {
                    executable: true,
                    ..
                }
            )
        })
        .map(|(name, _)| name.to_string())
        .collect();
    assert_eq!(executable, ["100", "111", "555", "700", "755"]);
}

/// Listings equal those of C++ Nix (`goldens/make-listings.sh`), and offsets of contents are right.
#[test]
fn listings() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/listing");
    let mut compared = 0;
    for (path, nar) in goldens() {
        let mut listing = Listing::new(Vec::new());
        let mut reader = Reader::new(&nar[..]);
        let mut contents = Vec::new();
        while let Some(event) = reader.next_event().unwrap() {
            listing.event(event).unwrap();
            match event {
                Event::RegularStart { .. } => contents.push(Vec::new()),
                Event::Contents(bytes) => contents.last_mut().unwrap().extend_from_slice(bytes),
                _ => {}
            }
        }
        let listing = String::from_utf8(listing.into_inner()).unwrap();
        let expected = folder.join(path.file_stem().unwrap()).with_extension("ls");
        if expected.exists() {
            assert_eq!(listing, std::fs::read_to_string(expected).unwrap());
            compared += 1;
        }
        let mut offsets = listing.match_indices("\"narOffset\":").map(|(at, tag)| {
            let rest = &listing[at + tag.len()..];
            rest[..rest.find(',').unwrap()].parse::<usize>().unwrap()
        });
        for file in contents {
            let at = offsets.next().unwrap();
            assert_eq!(nar[at..at + file.len()], file, "{}", path.display());
        }
        assert_eq!(offsets.next(), None);
    }
    assert_eq!(compared, 5);
}
