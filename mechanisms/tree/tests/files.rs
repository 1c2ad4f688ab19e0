//! Packing and unpacking: effects of the file system.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "helpers fail the test too")]

#[path = "../../../nix-compat/tests/nar_common/mod.rs"]
mod nar_common;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use nar_common::{Raw, Tree, decode};
use nix_compat::nar::{Event, MAX_DEPTH, NarError, Reader, Violation};
use tvix_tree::{RestoreOptions, TreeError, Unpacker, dump_path, restore};

fn dump(path: &Path) -> Result<Vec<u8>, TreeError> {
    let mut nar = Vec::new();
    dump_path(path, &mut nar).map(|()| nar)
}

fn plain() -> RestoreOptions {
    RestoreOptions::default()
}

fn file_nar() -> Vec<u8> {
    Raw::new().file().0
}

#[test]
fn symlinks_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("target"), "x").unwrap();
    let link = folder.path().join("link");
    symlink("target", &link).unwrap();
    assert_eq!(
        decode(&dump(&link).unwrap()),
        Tree::Symlink("target".into())
    );
}

#[test]
fn executable_is_what_the_owner_may_execute() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "x").unwrap();
    for (mode, expected) in [
        (0o644, false),
        (0o655, false),
        (0o611, false),
        (0o744, true),
        (0o500, true),
        (0o755, true),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let Tree::File { executable, .. } = decode(&dump(&path).unwrap()) else {
            panic!("not a file")
        };
        assert_eq!(executable, expected, "{mode:o}");
    }
}

#[test]
fn errors_name_files_that_cannot_be_packed() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("a")).unwrap();
    let socket = tree.join("a/socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    match dump(&tree).unwrap_err() {
        TreeError::UnsupportedType { path, kind } => {
            assert_eq!((path, kind), (socket.clone(), "socket"));
        }
        other => panic!("{other:?}"),
    }
    fs::remove_file(&socket).unwrap();
    let fifo = tree.join("a/fifo");
    let status = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(status.unwrap().success());
    // Opening the FIFO would hang; this does not.
    for path in [&tree, &fifo] {
        let error = dump(path).unwrap_err();
        assert!(
            matches!(&error, TreeError::UnsupportedType { path, kind: "fifo" } if *path == fifo),
            "{error:?}"
        );
    }
    let error = dump(Path::new("/dev/null")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/dev/null is a character device, which a NAR cannot hold"
    );
}

#[test]
fn a_missing_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nothing");
    match dump(&path).unwrap_err() {
        TreeError::File {
            path: named,
            source,
            ..
        } => {
            assert_eq!(named, path);
            assert_eq!(source.kind(), io::ErrorKind::NotFound);
        }
        other => panic!("{other:?}"),
    }
}

/// Changes the tree when the first bytes of the archive arrive.
struct Meddler<F: FnMut()>(Option<F>);

impl<F: FnMut()> Write for Meddler<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(mut meddle) = self.0.take() {
            meddle();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn files_that_grow_or_shrink_are_named() {
    for len in [0, 499_999, 500_001, 1_000_000] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, vec![1; 500_000]).unwrap();
        let resize = || {
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_len(len).unwrap();
        };
        let error = dump_path(folder.path(), Meddler(Some(resize))).unwrap_err();
        assert!(
            matches!(&error, TreeError::Changed { path: named } if *named == path),
            "{len}: {error:?}"
        );
    }
}

#[test]
fn write_errors_differ_from_file_errors() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let error = dump_path(folder.path(), Broken).unwrap_err();
    assert!(
        matches!(error, TreeError::Nar(NarError::Io(_))),
        "{error:?}"
    );
}

#[test]
fn a_tree_too_deep_is_refused_by_both() {
    let folder = tempfile::tempdir().unwrap();
    let mut deepest = folder.path().join("tree");
    for _ in 1..MAX_DEPTH {
        deepest.push("d");
    }
    fs::create_dir_all(&deepest).unwrap();
    let tree = folder.path().join("tree");
    let nar = dump(&tree).unwrap();
    restore(&nar[..], &folder.path().join("again"), plain()).unwrap();
    fs::create_dir(deepest.join("d")).unwrap();
    let error = dump(&tree).unwrap_err();
    assert_eq!(error.violation(), Some(&Violation::TooDeep));
}

#[test]
fn an_existing_destination_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("dest");
    let refused = || {
        let error = restore(&file_nar()[..], &dest, plain()).unwrap_err();
        assert!(matches!(&error, TreeError::DestinationExists { path } if *path == dest));
    };
    fs::write(&dest, "mine").unwrap();
    refused();
    assert_eq!(fs::read(&dest).unwrap(), b"mine");
    fs::remove_file(&dest).unwrap();
    fs::create_dir(&dest).unwrap();
    refused();
    fs::remove_dir(&dest).unwrap();
    symlink("dangling", &dest).unwrap();
    refused();
    assert_eq!(fs::read_link(&dest).unwrap(), Path::new("dangling"));
    assert!(!folder.path().join("dangling").exists());
}

#[test]
fn a_destination_that_appears_meanwhile_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("dest");
    for event in [
        Event::DirectoryStart,
        Event::RegularStart {
            executable: false,
            size: 0,
        },
        Event::Symlink { target: "x".into() },
    ] {
        let mut unpacker = Unpacker::new(&dest, plain()).unwrap();
        fs::write(&dest, "mine").unwrap();
        let error = unpacker.event(event).unwrap_err();
        assert!(
            matches!(error, TreeError::DestinationExists { .. }),
            "{error:?}"
        );
        drop(unpacker);
        assert_eq!(fs::read(&dest).unwrap(), b"mine");
        fs::remove_file(&dest).unwrap();
    }
}

/// For `unpack`, a file created by another process looks the same as a file system that ignores
/// case. Without `Errno::EXIST` in `Unpacker::event` the error would only say that the file exists.
#[test]
fn names_that_the_file_system_takes_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("dest");
    for second in [
        Event::DirectoryStart,
        Event::RegularStart {
            executable: false,
            size: 0,
        },
        Event::Symlink { target: "x".into() },
    ] {
        let mut unpacker = Unpacker::new(&dest, plain()).unwrap();
        unpacker.event(Event::DirectoryStart).unwrap();
        unpacker.event(Event::Entry { name: "A".into() }).unwrap();
        unpacker
            .event(Event::Symlink { target: "x".into() })
            .unwrap();
        fs::write(dest.join("a"), "mine").unwrap();
        unpacker.event(Event::Entry { name: "a".into() }).unwrap();
        let error = unpacker.event(second).unwrap_err();
        assert!(
            matches!(&error, TreeError::Collision { path } if *path == dest.join("a")),
            "{error:?}"
        );
        drop(unpacker);
        assert!(fs::symlink_metadata(&dest).is_err());
    }
}

#[test]
fn a_destination_needs_a_name() {
    for dest in ["/", "..", "a/..", ""] {
        let error = restore(&file_nar()[..], Path::new(dest), plain()).unwrap_err();
        assert!(matches!(error, TreeError::File { .. }), "{dest}: {error:?}");
    }
}

#[test]
fn canonical_metadata() {
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("dest");
    let raw = Raw::new().directory().entry("dir").directory();
    let raw = raw.entry("file").file().close().close().close();
    let raw = raw.entry("exe");
    let raw = raw.all(&[
        "(",
        "type",
        "regular",
        "executable",
        "",
        "contents",
        "x",
        ")",
    ]);
    let raw = raw.close().entry("link");
    let raw = raw.all(&["(", "type", "symlink", "target", "nowhere", ")"]);
    let nar = raw.close().close();
    restore(&nar.0[..], &dest, plain().with_canonical(true)).unwrap();
    for (path, mode) in [
        ("", 0o555),
        ("dir", 0o555),
        ("dir/file", 0o444),
        ("exe", 0o555),
        ("link", 0o777),
    ] {
        let metadata = fs::symlink_metadata(dest.join(path)).unwrap();
        assert_eq!(metadata.mode() & 0o7777, mode, "{path}");
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1, 0), "{path}");
    }
}

#[test]
fn failed_restores_leave_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("dest");
    let raw = Raw::new().directory().entry("dir").directory();
    let raw = raw.entry("file").file().close().close().close();
    for tail in [
        raw.clone(),
        raw.clone().s("nonsense"),
        raw.close().s("trailing"),
    ] {
        restore(&tail.0[..], &dest, plain().with_canonical(true)).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn nothing_outside_is_written_or_removed() {
    let folder = tempfile::tempdir().unwrap();
    let canary = folder.path().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("file"), "mine").unwrap();
    let target = canary.to_str().unwrap();
    let link = |raw: Raw| raw.all(&["(", "type", "symlink", "target", target, ")"]);
    let dest = folder.path().join("dest");
    // A symlink, then a directory of the same name: CVE-2024-45593. Fails if neither the parser
    // rejects it nor `Unpacker` rejects an existing directory, whose link it would follow.
    let raw = link(Raw::new().directory().entry("a")).close();
    let raw = raw.entry("a").directory().entry("new").file();
    restore(&raw.0[..], &dest, plain()).unwrap_err();
    // A symlink as the root, and as an object to remove on failure.
    let raw = link(Raw::new()).s("trailing");
    restore(&raw.0[..], &dest, plain().with_canonical(true)).unwrap_err();
    assert!(fs::symlink_metadata(&dest).is_err());
    // A directory is replaced by a symlink during unpacking.
    let mut unpacker = Unpacker::new(&dest, plain()).unwrap();
    unpacker.event(Event::DirectoryStart).unwrap();
    unpacker.event(Event::Entry { name: "d".into() }).unwrap();
    unpacker.event(Event::DirectoryStart).unwrap();
    fs::rename(dest.join("d"), folder.path().join("moved")).unwrap();
    symlink(&canary, dest.join("d")).unwrap();
    let name = "file".into();
    unpacker.event(Event::Entry { name }).unwrap();
    let start = Event::RegularStart {
        executable: false,
        size: 0,
    };
    unpacker.event(start).unwrap();
    unpacker.abort().unwrap();
    assert!(fs::symlink_metadata(&dest).is_err());
    assert_eq!(fs::read(canary.join("file")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(&canary).unwrap().count(), 1);
    let mode = fs::metadata(&canary).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}

#[test]
fn events_that_are_no_archive_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("dest");
    let mut unpacker = Unpacker::new(&dest, plain()).unwrap();
    unpacker.event(Event::DirectoryStart).unwrap();
    for name in ["..", "../canary", ""] {
        let name = name.into();
        let error = unpacker.event(Event::Entry { name }).unwrap_err();
        assert!(matches!(error.violation(), Some(Violation::BadName(_))));
    }
    let error = unpacker.finish().unwrap_err();
    assert!(matches!(
        error.violation(),
        Some(Violation::UnexpectedCall(_))
    ));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_archive_inside_a_stream() {
    let folder = tempfile::tempdir().unwrap();
    let dest = folder.path().join("dest");
    let stream = [&file_nar()[..], b"rest"].concat();
    let mut reader = Reader::new(&stream[..]);
    let mut unpacker = Unpacker::new(&dest, plain()).unwrap();
    while let Some(event) = reader.next_event().unwrap() {
        unpacker.event(event).unwrap();
    }
    unpacker.finish().unwrap();
    assert_eq!(reader.into_inner(), b"rest");
    assert_eq!(fs::read(dest).unwrap(), b"x");
}

#[test]
fn large_files_survive() {
    let folder = tempfile::tempdir().unwrap();
    let contents: Vec<u8> = (0..3_000_001u32).map(|i| (i % 253) as u8).collect();
    fs::write(folder.path().join("large"), &contents).unwrap();
    let nar = dump(folder.path()).unwrap();
    let dest = folder.path().join("dest");
    restore(&nar[..], &dest, plain()).unwrap();
    assert!(fs::read(dest.join("large")).unwrap() == contents);
}
