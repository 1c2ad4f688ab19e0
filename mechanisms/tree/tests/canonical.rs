//! Making trees canonical.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

#[path = "../../../tvix-store-api/tests/common/mod.rs"]
mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use common::Root;
use nix_compat::store_path::StorePath;
use tvix_tree::{TreeError, canonicalise, scan};

fn owner(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().uid()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn path(seed: u8) -> StorePath {
    StorePath::new([seed; 20], "x".parse().unwrap())
}

#[test]
fn one_pass_finds_what_two_find() {
    let directory = Root::new();
    let tree = directory.path().join("tree");
    fs::create_dir_all(tree.join("locked/inner")).unwrap();
    fs::write(tree.join("setuid"), path(1).hash_part()).unwrap();
    set_mode(&tree.join("setuid"), 0o6755);
    fs::write(tree.join("group-executable"), "x").unwrap();
    set_mode(&tree.join("group-executable"), 0o070);
    fs::write(tree.join("locked/inner/file"), vec![b'x'; 300_000]).unwrap();
    symlink(path(2).to_string(), tree.join("link")).unwrap();
    set_mode(&tree.join("locked/inner"), 0);
    set_mode(&tree.join("locked"), 0o7000);
    let candidates = [path(1), path(2), path(3)];
    let first = canonicalise(&tree, owner(&tree), &candidates).unwrap();
    let again = canonicalise(&tree, owner(&tree), &candidates).unwrap();
    assert_eq!(first, again);
    assert_eq!(first, scan(&tree, &candidates).unwrap());
    assert_eq!(first.references, [path(1), path(2)].into());
    for (name, expected) in [
        ("setuid", 0o555),
        ("group-executable", 0o444),
        ("locked", 0o555),
        ("locked/inner", 0o555),
        ("locked/inner/file", 0o444),
    ] {
        assert_eq!(mode(&tree.join(name)), expected, "{name}");
        assert_eq!(fs::metadata(tree.join(name)).unwrap().mtime(), 1, "{name}");
    }
}

#[test]
fn what_no_store_holds_is_named() {
    let directory = Root::new();
    let tree = directory.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
    let error = canonicalise(&tree, owner(&tree), []).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("tree/socket") && text.contains("socket, which"),
        "{text}"
    );
    fs::remove_file(tree.join("socket")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        tree.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let text = canonicalise(&tree, owner(&tree), [])
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("tree/fifo") && text.contains("fifo, which"),
        "{text}"
    );
}

#[test]
fn a_link_to_a_file_elsewhere_does_not_touch_it() {
    let directory = Root::new();
    let (tree, canary) = (
        directory.path().join("tree"),
        directory.path().join("canary"),
    );
    fs::create_dir(&tree).unwrap();
    fs::write(&canary, "alive").unwrap();
    set_mode(&canary, 0o640);
    for name in ["a", "b", "c"] {
        fs::hard_link(&canary, tree.join(name)).unwrap();
    }
    let before = fs::metadata(&canary).unwrap();
    canonicalise(&tree, owner(&tree), []).unwrap();
    let after = fs::metadata(&canary).unwrap();
    assert_eq!(
        (before.mode(), before.mtime()),
        (after.mode(), after.mtime())
    );
    assert_eq!(after.nlink(), 1);
    let inode = |name: &str| fs::metadata(tree.join(name)).unwrap().ino();
    assert_ne!(inode("a"), after.ino());
    // Hard links within the tree are kept.
    assert!(inode("a") == inode("b") && inode("b") == inode("c"));
    fs::write(&canary, "changed").unwrap();
    assert_eq!(fs::read_to_string(tree.join("b")).unwrap(), "alive");
    assert_eq!(mode(&tree.join("c")), 0o444);
}

#[test]
fn files_of_others_are_refused_untouched() {
    let directory = Root::new();
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    let before = mode(&file);
    let error = canonicalise(&file, owner(&file) + 1, []).unwrap_err();
    assert!(matches!(error, TreeError::ForeignOwner { .. }), "{error}");
    assert!(error.to_string().contains("file"), "{error}");
    assert_eq!(mode(&file), before);
}

#[test]
fn extended_attributes_are_removed() {
    let directory = Root::new();
    let file = directory.path().join("file");
    fs::write(&file, "x").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(&file, "user.note", b"x", flags).is_err() {
        return; // the file system has none
    }
    // Changing attributes requires write permission, which the owner does not have here.
    set_mode(&file, 0o444);
    let mut names = [0; 1024];
    assert!(rustix::fs::listxattr(&file, &mut names).unwrap() > 0);
    canonicalise(&file, owner(&file), []).unwrap();
    let left = rustix::fs::listxattr(&file, &mut names).unwrap();
    assert!(!String::from_utf8_lossy(&names[..left]).contains("user."));
    assert_eq!(mode(&file), 0o444);
}

/// Fails without `clear_flags`.
#[test]
#[cfg(target_os = "linux")]
fn flags_are_cleared() {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let directory = Root::new();
    let tree = directory.path().join("tree");
    fs::create_dir_all(tree.join("dir")).unwrap();
    fs::write(tree.join("dir/file"), "x").unwrap();
    let files = [tree.clone(), tree.join("dir"), tree.join("dir/file")];
    let open = |path: &Path| fs::File::open(path).unwrap();
    // An ordinary user can set the first; the others require root.
    for flags in [IFlags::NODUMP, IFlags::APPEND, IFlags::IMMUTABLE] {
        for file in files.iter().rev() {
            let before = ioctl_getflags(open(file)).unwrap_or(IFlags::empty());
            if ioctl_setflags(open(file), before | flags).is_err() {
                eprintln!("SKIPPED: this user, or this file system, cannot set {flags:?}");
            }
        }
        let result = canonicalise(&tree, owner(&tree), []);
        let left = files.each_ref().map(|file| {
            let left = ioctl_getflags(open(file)).unwrap_or(IFlags::empty());
            let _ = ioctl_setflags(open(file), left.difference(flags));
            left.intersects(flags)
        });
        result.unwrap();
        assert_eq!(left, [false; 3], "{flags:?}");
    }
}

/// Sparse files count with their full size, and no contents are read.
#[test]
fn trees_are_measured_before_they_are_read() {
    use tvix_tree::{Bounds, measure};
    let directory = Root::new();
    let tree = directory.path().join("tree");
    fs::create_dir_all(tree.join("locked")).unwrap();
    for (name, size) in [("a", 1 << 40), ("locked/b", 1 << 41)] {
        let file = fs::File::create(tree.join(name)).unwrap();
        file.set_len(size).unwrap();
    }
    set_mode(&tree.join("locked"), 0);
    let within = |nar_size| measure(&tree, Bounds::default().with_nar_size(nar_size));
    let size = within(u64::MAX).unwrap();
    assert!((3 << 40..(3 << 40) + 4096).contains(&size), "{size}");
    assert_eq!(within(size).unwrap(), size);
    let error = within(3 << 40).unwrap_err();
    assert!(matches!(error, TreeError::TooLarge { .. }), "{error}");
}
