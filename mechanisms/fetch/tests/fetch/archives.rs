//! `fetchTarball`: what is unpacked, and that nothing is written anywhere else.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::json;
use tar::EntryType;
use tvix_eval::error::ErrorKind;

use super::World;
use super::pack::{Entry, archive, file, link, special};
use super::server::{Page, Server};

fn tree() -> Vec<u8> {
    archive([
        special(EntryType::Directory, "top/"),
        file("top/default.nix", "{ x = import ./sub/x.nix; }"),
        file("top/sub/x.nix", "42"),
        Entry {
            mode: 0o4755,
            ..file("top/run", "#!")
        },
        link(EntryType::Symlink, "top/link", "sub/x.nix"),
        link(EntryType::Link, "top/again", "top/sub/x.nix"),
        special(EntryType::Directory, "top/empty"),
    ])
}

/// A file of the world, which has to stay as it is.
struct Canary(PathBuf, fs::Metadata);

impl Canary {
    fn new(world: &World) -> Self {
        let path = world.path().join("canary");
        fs::write(&path, "alive").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let metadata = path.metadata().unwrap();
        Self(path, metadata)
    }

    fn check(&self) {
        assert_eq!(fs::read(&self.0).unwrap(), b"alive");
        let now = self.0.metadata().unwrap();
        assert_eq!(
            (now.mode(), now.ino(), now.nlink()),
            (self.1.mode(), self.1.ino(), 1)
        );
    }
}

fn put(world: &World, name: &str, bytes: &[u8]) -> String {
    let path = world.path().join(name);
    fs::write(&path, bytes).unwrap();
    format!("file://{}", path.display())
}

fn unpacked(world: &World, bytes: &[u8]) -> PathBuf {
    let url = put(world, "archive", bytes);
    let path = world.text(&format!("fetchTarball \"{url}\""));
    let mut trees = fs::read_dir(world.path().join("cache/trees")).unwrap();
    let tree = trees.next().unwrap().unwrap().path();
    assert!(trees.next().is_none(), "{path}");
    tree
}

#[test]
fn every_compression_by_content() {
    let plain = tree();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 0);
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    xz.write_all(&plain).unwrap();
    bzip2.write_all(&plain).unwrap();
    let packed = [
        gzip.finish().unwrap(),
        xz.finish().unwrap(),
        bzip2.finish().unwrap(),
        zstd::encode_all(&*plain, 1).unwrap(),
        plain,
    ];
    let world = World::new();
    let server = Server::start();
    for (number, bytes) in packed.into_iter().enumerate() {
        // The name says nothing.
        let path = format!("/{number}.zip");
        server.put(&path, Page::of(bytes));
        let fetched = format!("fetchTarball \"{}\"", server.url(&path));
        // `nix-store --add` on the same tree says so too.
        assert_eq!(
            world.text(&fetched),
            "/nix/store/y20asnfwvm0csd5q1fi5v535la2dyqby-source"
        );
        assert_eq!(
            world.eval(&format!("(import ({fetched})).x")).unwrap(),
            json!(42)
        );
    }
    assert_eq!(world.kept("trees"), 1, "the same contents are kept once");
}

#[test]
fn trees_are_what_the_archive_says() {
    let world = World::new();
    let tree = unpacked(&world, &tree());
    let mode = |name: &str| tree.join(name).symlink_metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode("run"), 0o555, "executable, and not for another user");
    assert_eq!(mode("sub/x.nix"), 0o444);
    assert_eq!(
        fs::read_link(tree.join("link")).unwrap(),
        Path::new("sub/x.nix")
    );
    assert_eq!(fs::read_to_string(tree.join("again")).unwrap(), "42");
    assert!(tree.join("empty").is_dir());
}

#[test]
fn several_at_the_top_stay() {
    let world = World::new();
    let tree = unpacked(
        &world,
        &archive([file("a", "1"), file("b/c", "2"), file("a", "3")]),
    );
    assert_eq!(
        fs::read_to_string(tree.join("a")).unwrap(),
        "3",
        "the last one counts"
    );
    assert!(tree.join("b/c").is_file());
}

#[test]
fn names_stay_inside() {
    let world = World::new();
    let canary = Canary::new(&world);
    let path = canary.0.to_str().unwrap().to_owned().leak();
    let tree = unpacked(
        &world,
        &archive([
            file(path, "dead"),
            file("../../../canary", "dead"),
            file("x/../../y", "in"),
        ]),
    );
    canary.check();
    assert_eq!(fs::read_to_string(tree.join("y")).unwrap(), "in");
    assert_eq!(fs::read_to_string(tree.join("canary")).unwrap(), "dead");
    assert_eq!(fs::read_to_string(tree.join(&path[1..])).unwrap(), "dead");
}

#[test]
fn hostile_archives_are_refused() {
    let world = World::new();
    let canary = Canary::new(&world);
    let path: &'static str = canary.0.to_str().unwrap().to_owned().leak();
    let folder: &'static str = world.path().to_str().unwrap().to_owned().leak();
    let deep = Entry {
        contents: "a/".repeat(66).into(),
        ..special(EntryType::GNULongName, "long")
    };
    let link_to = |target| link(EntryType::Symlink, "x", target);
    let cases: Vec<(Vec<Entry>, &str)> = vec![
        // A link, then something in the directory that it leads to.
        (
            vec![link_to(folder), file("x/canary", "dead")],
            "is below something that is no directory",
        ),
        (
            vec![
                link_to(folder),
                special(EntryType::Directory, "x/"),
                file("x/canary", "dead"),
            ],
            "is below something that is no directory",
        ),
        (
            vec![file("x", ""), file("x/y", "")],
            "is below something that is no directory",
        ),
        (
            vec![link(EntryType::Link, "x", path)],
            "is the target of a hard link",
        ),
        (
            vec![link(EntryType::Link, "x", "../../../canary")],
            "is the target of a hard link",
        ),
        (
            vec![link_to(folder), link(EntryType::Link, "y", "x/canary")],
            "is the target of a hard link",
        ),
        (
            vec![
                special(EntryType::Directory, "d"),
                link(EntryType::Link, "x", "d"),
            ],
            "hard link",
        ),
        (vec![link(EntryType::Symlink, "x", "")], "has a target"),
        (vec![special(EntryType::Char, "null")], "is a device"),
        (vec![special(EntryType::Block, "disk")], "is a device"),
        (vec![special(EntryType::Fifo, "pipe")], "is a named pipe"),
        (vec![deep, file("x", "")], "is too deep"),
        (vec![file("..", "x")], "is the tree itself"),
        (
            vec![Entry {
                size: Some(1 << 32),
                ..file("x", "short")
            }],
            "",
        ),
        (
            vec![Entry {
                size: Some(1 << 40),
                ..special(EntryType::GNULongName, "x")
            }],
            "it has a header of",
        ),
        (
            vec![Entry {
                size: Some(1 << 40),
                ..special(EntryType::XHeader, "x")
            }],
            "it has a header of",
        ),
    ];
    for (number, (entries, message)) in cases.into_iter().enumerate() {
        let url = put(&world, &format!("{number}"), &archive(entries));
        world.fails(
            &format!("fetchTarball \"{url}\""),
            ErrorKind::Build,
            message,
        );
        canary.check();
    }
    for (number, bytes) in [
        &b"PK\x03\x04"[..],
        b"no archive",
        b"\x1f\x8bno gzip",
        b"\xfd7zXZ\0no",
    ]
    .into_iter()
    .enumerate()
    {
        let url = put(&world, &format!("bytes{number}"), bytes);
        world.fails(
            &format!("fetchTarball \"{url}\""),
            ErrorKind::Build,
            "cannot unpack",
        );
    }
    assert_eq!(world.kept("trees"), 0);
    assert_eq!(world.kept("tmp"), 0, "nothing stays behind");
}

#[test]
fn bombs_are_limited() {
    let mut world = World::new();
    world.options.unpacked_limit = 1 << 20;
    let large = "0".repeat((1 << 20) + 1);
    let bomb = zstd::encode_all(&*archive([file("x", &large)]), 1).unwrap();
    assert!(bomb.len() < 4096);
    let url = put(&world, "files", &bomb);
    world.fails(
        &format!("fetchTarball \"{url}\""),
        ErrorKind::Build,
        "more than 1048576 bytes",
    );
    // Another name for a file counts as the file: it may become one.
    let half = "0".repeat(600 << 10);
    let links = archive([file("x", &half), link(EntryType::Link, "y", "x")]);
    let url = put(&world, "links", &links);
    world.fails(
        &format!("fetchTarball \"{url}\""),
        ErrorKind::Build,
        "more than 1048576 bytes",
    );
    // Nothing but headers.
    let headers = archive((0..10_000).map(|_| file("x", "")));
    let url = put(&world, "headers", &zstd::encode_all(&*headers, 1).unwrap());
    world.fails(
        &format!("fetchTarball \"{url}\""),
        ErrorKind::Build,
        "too large",
    );
    let fits = archive([file("x", &large[..1 << 20])]);
    let url = put(&world, "fits", &fits);
    world.text(&format!("fetchTarball \"{url}\""));
    assert_eq!(world.kept("tmp"), 0);
}

#[test]
fn hashes_of_trees() {
    let world = World::new();
    let server = Server::start();
    server.put("/x", Page::of(tree()));
    let url = server.url("/x");
    let with = |hash: &str| format!("fetchTarball {{ url = \"{url}\"; sha256 = \"{hash}\"; }}");
    world.fails(
        &with(&"0".repeat(52)),
        ErrorKind::Build,
        "hash mismatch in file downloaded from",
    );
    let hash = "1ymi795kzasxz03ds0d27wnhb4z3p9s29yx2ziw9caywx95pflw5";
    assert!(world.text(&with(hash)).ends_with("-source"));
    assert_eq!(server.seen().len(), 1, "what did not fit is kept");
}

#[test]
fn entries_of_the_search_path() {
    let mut world = World::new();
    let server = Server::start();
    server.put("/x.tar", Page::of(tree()));
    let url = server.url("/x.tar");
    world.settings.search_path = vec![
        ("gone".into(), server.url("/gone")),
        ("gone".into(), url.clone()),
        ("t".into(), url.clone()),
    ];
    assert_eq!(world.eval("(import <t>).x").unwrap(), json!(42));
    assert_eq!(world.eval("import <t/sub/x.nix>").unwrap(), json!(42));
    assert_eq!(
        world.eval("(import <gone>).x").unwrap(),
        json!(42),
        "the next entry has it"
    );
    let found = format!("builtins.findFile [ {{ prefix = \"y\"; path = \"{url}\"; }} ] \"y/sub\"");
    assert!(
        world
            .text(&format!("toString ({found})"))
            .ends_with("-source/sub")
    );
    world.fails(
        "<other>",
        ErrorKind::Thrown,
        "was not found in the Nix search path",
    );
    assert_eq!(
        server
            .seen()
            .iter()
            .filter(|path| *path == "/x.tar")
            .count(),
        1
    );
}
