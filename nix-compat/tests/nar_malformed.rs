//! Every class of malformed archive is rejected with the right reason by every way of reading.
#![allow(clippy::unwrap_used, reason = "helpers fail the test too")]

mod nar_common;

use nar_common::{Raw, Tree, decode, encode, feed, read, read_views};
use nix_compat::nar::{Encoder, MAX_DEPTH, NarError, Parser, Reader, Violation};

/// The error of an archive, after a check that reading and skipping fail in the same way.
#[track_caller]
fn failure(nar: &[u8]) -> (u64, String, Violation) {
    let (events, error) = read(nar);
    let failure = malformed(error.expect("accepted"));
    assert_eq!(read_views(nar).0, events, "views");
    assert_eq!(malformed(read_views(nar).1.unwrap()), failure, "views");
    let whole = Reader::new(nar).skip();
    // Skipping does not check for trailing bytes, and neither does a parser.
    if failure.2 == Violation::TrailingBytes {
        whole.unwrap();
    } else {
        assert_eq!(malformed(whole.unwrap_err()), failure, "skip");
        for sizes in [&[1][..], &[5], &[8, 3], &[usize::MAX]] {
            let (fed, error) = feed(nar, sizes);
            assert_eq!(fed, events, "chunks of {sizes:?}");
            assert_eq!(malformed(error.unwrap()), failure, "chunks of {sizes:?}");
        }
    }
    assert_eq!(
        malformed(Reader::new(nar).finish().unwrap_err()),
        failure,
        "finish"
    );
    failure
}

#[track_caller]
fn violation(raw: Raw) -> Violation {
    failure(&raw.0).2
}

#[track_caller]
fn malformed(error: NarError) -> (u64, String, Violation) {
    match error {
        NarError::Malformed {
            offset,
            path,
            violation,
        } => (offset, path.to_string(), violation),
        other => panic!("{other:?}"),
    }
}

fn tag(expected: &'static str, found: &str) -> Violation {
    let found = found.into();
    Violation::UnexpectedTag { expected, found }
}

fn good() -> Vec<u8> {
    Raw::new()
        .directory()
        .entry("a")
        .all(&[
            "(",
            "type",
            "regular",
            "executable",
            "",
            "contents",
            "hello",
            ")",
        ])
        .close()
        .entry("b")
        .directory()
        .entry("c")
        .all(&["(", "type", "symlink", "target", "../a", ")"])
        .close()
        .close()
        .close()
        .close()
        .0
}

#[test]
fn the_good_one_is_good() {
    assert!(read(&good()).1.is_none());
}

#[test]
fn names() {
    let long = "n".repeat(256);
    for bad in ["", ".", "..", "/", "a/b", "../x", "a\0", "\0"] {
        let raw = Raw::new().directory().entry(bad).file().close().close();
        assert_eq!(violation(raw), Violation::BadName(bad.into()), "{bad:?}");
    }
    let raw = Raw::new().directory().entry(long).file().close().close();
    assert_eq!(
        violation(raw),
        Violation::TooLong {
            kind: "name",
            len: 256,
            limit: 255
        }
    );
}

#[test]
fn executable_after_contents() {
    let raw = Raw::new().all(&[
        "(",
        "type",
        "regular",
        "contents",
        "x",
        "executable",
        "",
        ")",
    ]);
    assert_eq!(violation(raw), tag("`)`", "executable"));
}

#[test]
fn executable_with_a_value() {
    let raw = Raw::new().all(&[
        "(",
        "type",
        "regular",
        "executable",
        "yes",
        "contents",
        "x",
        ")",
    ]);
    assert_eq!(violation(raw), tag("an empty string", "yes"));
}

#[test]
fn executable_twice() {
    let raw = Raw::new().all(&["(", "type", "regular", "executable", "", "executable"]);
    assert_eq!(violation(raw), tag("`contents`", "executable"));
}

#[test]
fn file_without_contents() {
    let raw = Raw::new().all(&["(", "type", "regular", ")"]);
    assert_eq!(violation(raw), tag("`executable` or `contents`", ")"));
}

#[test]
fn contents_twice() {
    let raw = Raw::new().all(&[
        "(", "type", "regular", "contents", "x", "contents", "y", ")",
    ]);
    assert_eq!(violation(raw), tag("`)`", "contents"));
}

#[test]
fn name_after_node() {
    let raw = Raw::new().directory().all(&["entry", "(", "node"]).file();
    let raw = raw.all(&["name", "a", ")", ")"]);
    assert_eq!(violation(raw), tag("`name`", "node"));
}

#[test]
fn entry_without_node() {
    let raw = Raw::new()
        .directory()
        .all(&["entry", "(", "name", "a", ")", ")"]);
    let (_, path, violation) = failure(&raw.0);
    assert_eq!((path.as_str(), violation), ("a", tag("`node`", ")")));
}

#[test]
fn two_nodes_in_an_entry() {
    let raw = Raw::new().directory().entry("a").file().s("node").file();
    assert_eq!(violation(raw.close().close()), tag("`)`", "node"));
}

#[test]
fn unknown_type() {
    let raw = Raw::new().all(&["(", "type", "socket", ")"]);
    assert_eq!(
        violation(raw),
        tag("`regular`, `directory` or `symlink`", "socket")
    );
    // A longer or shorter keyword is a different one.
    for kind in ["", "regula", "regularr", "Regular"] {
        let raw = Raw::new().all(&["(", "type", kind]).close();
        assert!(
            matches!(violation(raw), Violation::UnexpectedTag { .. }),
            "{kind}"
        );
    }
}

#[test]
fn type_missing_or_twice() {
    assert_eq!(violation(Raw::new().all(&["(", ")"])), tag("`type`", ")"));
    let raw = Raw::new().all(&["(", "type", "directory", "type", "directory", ")"]);
    assert_eq!(violation(raw), tag("`entry` or `)`", "type"));
    let raw = Raw::new().all(&["(", "type", "symlink", "type", "regular"]);
    assert_eq!(violation(raw), tag("`target`", "type"));
}

#[test]
fn wrong_magic() {
    let raw = Raw::default().s("nix-archive-2").file();
    assert_eq!(violation(raw), tag("`nix-archive-1`", "nix-archive-2"));
    let raw = Raw::default().file();
    assert_eq!(violation(raw), tag("`nix-archive-1`", "("));
    let limit = |len| Violation::TooLong {
        kind: "keyword",
        len,
        limit: 32,
    };
    // The first bytes of a file of another format.
    let len = u64::from_le_bytes(*b"\x1f\x8b\x08\0\0\0\0\0");
    assert_eq!(violation(Raw::default().len(len)), limit(len));
    assert_eq!(violation(Raw::default().s("k".repeat(33))), limit(33));
}

#[test]
fn padding_of_every_kind() {
    let nar = good();
    let mut spots = 0;
    for needle in [
        "nix-archive-1",
        "type",
        "a",
        "executable",
        "hello",
        "../a",
        ")",
    ] {
        let start = nar
            .windows(needle.len() + 1)
            .position(|window| window == [needle.as_bytes(), &[0]].concat())
            .unwrap();
        for at in start + needle.len()..(start + needle.len()).next_multiple_of(8) {
            let mut bad = nar.clone();
            bad[at] = 1;
            let (offset, _, violation) = failure(&bad);
            assert_eq!(violation, Violation::Padding, "{needle} {at}");
            assert_eq!(offset, at as u64, "{needle}");
            spots += 1;
        }
    }
    assert_eq!(spots, 3 + 4 + 7 + 6 + 3 + 4 + 7);
}

#[test]
fn truncation_at_every_byte() {
    let nar = good();
    for end in 0..nar.len() {
        let (offset, _, violation) = failure(&nar[..end]);
        assert_eq!((offset, violation), (end as u64, Violation::Truncated));
    }
}

#[test]
fn trailing_bytes() {
    let nar = good();
    for tail in [&b"\0"[..], b"x", &[0; 8], &nar] {
        let (offset, path, violation) = failure(&[&nar, tail].concat());
        assert_eq!(violation, Violation::TrailingBytes);
        assert_eq!((offset, path.as_str()), (nar.len() as u64, ""));
    }
}

#[test]
fn one_bit_flips_never_panic_and_are_never_the_same() {
    let nar = good();
    let tree = decode(&nar);
    let mut refused = 0;
    for at in 0..nar.len() {
        for bit in 0..8 {
            let mut bad = nar.clone();
            bad[at] ^= 1 << bit;
            let (_, error) = read(&bad);
            refused += u32::from(error.is_some());
            assert_eq!(
                error.is_none(),
                feed(&bad, &[1]).1.is_none(),
                "byte {at} bit {bit}"
            );
            if error.is_none() {
                // The change is in a name, contents or a target: the archive is a valid one of
                // another tree.
                let other = decode(&bad);
                assert_ne!(other, tree, "byte {at} bit {bit}");
                assert_eq!(encode(&other), bad, "byte {at} bit {bit}");
            }
        }
    }
    let payload = "a".len() + "hello".len() + "b".len() + "c".len() + "../a".len();
    assert!(refused as usize >= (nar.len() - payload) * 8, "{refused}");
}

#[test]
fn duplicates_of_four_shapes() {
    let file = |raw: Raw| raw.file();
    let directory = |raw: Raw| raw.directory().close();
    let symlink = |raw: Raw| raw.all(&["(", "type", "symlink", "target", "/etc", ")"]);
    type Shape<'a> = &'a dyn Fn(Raw) -> Raw;
    let shapes: [(Shape<'_>, Shape<'_>); 5] = [
        (&file, &file),
        (&directory, &directory),
        (&file, &directory),
        // The case of CVE-2024-45593.
        (&symlink, &directory),
        (&directory, &symlink),
    ];
    for (first, second) in shapes {
        let raw = first(Raw::new().directory().entry("a")).close().entry("a");
        let raw = second(raw).close().close();
        assert_eq!(violation(raw), Violation::DuplicateName("a".into()));
    }
}

#[test]
fn a_duplicate_is_one_however_deep_the_first_was() {
    let raw = Raw::new().directory().entry("a").directory();
    let raw = raw.entry("z").file().close().close().close();
    let raw = raw.entry("a").file().close().close();
    assert_eq!(violation(raw), Violation::DuplicateName("a".into()));
}

#[test]
fn misorder() {
    for (first, second) in [
        ("b", "a"),
        ("ab", "a"),
        ("a", "B"),
        ("a.b", "a-b"),
        ("\u{e4}", "z"),
    ] {
        let raw = Raw::new().directory().entry(first).file().close();
        let raw = raw.entry(second).file().close().close();
        let (_, path, violation) = failure(&raw.0);
        let (name, previous) = (second.into(), first.into());
        assert_eq!(violation, Violation::Unordered { name, previous });
        assert_eq!(path, "");
    }
}

#[test]
fn symlink_targets() {
    for bad in ["", "\0", "a\0b"] {
        let raw = Raw::new().all(&["(", "type", "symlink", "target", bad, ")"]);
        assert_eq!(violation(raw), Violation::BadTarget(bad.into()), "{bad:?}");
    }
    let raw = Raw::new().all(&["(", "type", "symlink", "target"]);
    assert_eq!(
        violation(raw.s("t".repeat(4096)).close()),
        Violation::TooLong {
            kind: "symlink target",
            len: 4096,
            limit: 4095
        }
    );
}

#[test]
fn lengths_that_overflow() {
    for len in [u64::MAX, u64::MAX - 7, u64::MAX - 8, 1 << 63] {
        let raw = Raw::new().all(&["(", "type", "regular", "contents"]);
        let (offset, _, violation) = failure(&raw.clone().len(len).bytes(&[0; 64]).0);
        assert_eq!(violation, Violation::FileTooLarge(len));
        assert_eq!(offset, raw.0.len() as u64);
        let too_long = |what, limit| Violation::TooLong {
            kind: what,
            len,
            limit,
        };
        let raw = Raw::default().len(len).bytes(&[0; 64]);
        assert_eq!(self::violation(raw), too_long("keyword", 32));
        let raw = Raw::new().directory().all(&["entry", "(", "name"]).len(len);
        assert_eq!(self::violation(raw), too_long("name", 255));
        let raw = Raw::new().all(&["(", "type", "symlink", "target"]).len(len);
        assert_eq!(self::violation(raw), too_long("symlink target", 4095));
    }
    // The largest allowed size uses no memory before the contents arrive.
    let raw = Raw::new().all(&["(", "type", "regular", "contents"]);
    assert_eq!(
        violation(raw.len(i64::MAX as u64).bytes(&[0; 9])),
        Violation::Truncated
    );
}

fn nested(levels: usize) -> Raw {
    let raw = (1..levels).fold(Raw::new().directory(), |raw, _| raw.entry("d").directory());
    (1..levels).fold(raw, |raw, _| raw.close().close()).close()
}

#[test]
fn nesting() {
    assert!(read(&nested(MAX_DEPTH).0).1.is_none());
    let (_, path, violation) = failure(&nested(MAX_DEPTH + 1).0);
    assert_eq!(violation, Violation::TooDeep);
    assert_eq!(path, vec!["d"; MAX_DEPTH].join("/"));
    assert_eq!(self::violation(nested(100_000)), Violation::TooDeep);
}

#[test]
fn errors_say_where() {
    let raw = Raw::new().directory().entry("a").directory();
    let raw = raw.entry("b").all(&["(", "type", "regular"]);
    let (offset, path, _) = failure(&raw.clone().s("oops").0);
    assert_eq!((offset, path.as_str()), (raw.0.len() as u64, "a/b"));
}

#[test]
fn a_parser_that_failed_stays_failed() {
    let mut parser = Parser::new();
    let bad = Raw::default().s("nope").0;
    let first = parser.feed(&bad).unwrap_err().to_string();
    let second = parser.feed(&good()).unwrap_err().to_string();
    assert_eq!(first, second);
    assert_eq!(parser.finish().unwrap_err().to_string(), first);
}

#[test]
fn encoder_and_parser_reject_the_same_archives() {
    // One function checks names; this tests that reader and writer both call it.
    for bad in ["", ".", "..", "a/b", "a\0"] {
        let mut encoder = Encoder::new();
        let mut out = Vec::new();
        encoder.directory_start(&mut out).unwrap();
        let error = encoder.entry(bad.as_bytes(), &mut out).unwrap_err();
        let raw = Raw::new().directory().entry(bad).file().close().close();
        assert_eq!(error.violation(), Some(&violation(raw)));
    }
}

#[test]
fn case_collisions_are_two_names() {
    let raw = Raw::new().directory().entry("A").file().close();
    let raw = raw.entry("a").file().close().close();
    let Tree::Directory(entries) = decode(&raw.0) else {
        panic!()
    };
    assert_eq!(entries.len(), 2);
}
