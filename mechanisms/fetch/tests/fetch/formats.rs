//! Formats of archives, whole and cut off. What is expected is what C++ Nix 2.34.8 makes of the same
//! bytes, unless it is said otherwise.

use std::io::{Cursor, Write as _};

use serde_json::json;
use tar::EntryType;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::World;
use super::pack::{archive, file, link, special};

/// Whether an archive is unpacked.
fn unpacks(world: &World, name: &str, bytes: &[u8]) -> bool {
    let path = world.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let url = format!("fetchTarball \"file://{}\"", path.display());
    world.eval(&url).is_ok()
}

/// The entries at the top of an archive.
fn top(world: &World, name: &str, bytes: &[u8]) -> serde_json::Value {
    let path = world.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let url = path.display();
    let text = format!("builtins.readDir (fetchTarball \"file://{url}\")");
    match world.eval(&text) {
        Ok(value) => value,
        Err(failure) => panic!("{name}: {}", failure.rendered),
    }
}

/// The store path of an archive.
fn store_path(world: &World, name: &str, bytes: &[u8]) -> String {
    let path = world.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    world.text(&format!("fetchTarball \"file://{}\"", path.display()))
}

fn tree() -> Vec<u8> {
    let large = "0123456789abcdef".repeat(100);
    archive([
        special(EntryType::Directory, "t/"),
        file("t/a", "5\n"),
        file("t/big", &large),
    ])
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(plain).unwrap();
    out.finish().unwrap()
}

fn bzip2(plain: &[u8]) -> Vec<u8> {
    let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    out.write_all(plain).unwrap();
    out.finish().unwrap()
}

fn xz(plain: &[u8]) -> Vec<u8> {
    let mut out = liblzma::write::XzEncoder::new(Vec::new(), 0);
    out.write_all(plain).unwrap();
    out.finish().unwrap()
}

fn lzma(plain: &[u8]) -> Vec<u8> {
    let options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
    let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
    let mut out = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    out.write_all(plain).unwrap();
    out.finish().unwrap()
}

fn zstd(plain: &[u8]) -> Vec<u8> {
    let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
    out.include_checksum(true).unwrap();
    out.write_all(plain).unwrap();
    out.finish().unwrap()
}

type Pack = fn(&[u8]) -> Vec<u8>;
/// Each format, whether streams in a row are one, and whether bytes may follow.
const FORMATS: [(&str, Pack, bool, bool); 5] = [
    ("gzip", gzip, true, true),
    ("bzip2", bzip2, true, true),
    ("xz", xz, true, false),
    ("lzma", lzma, false, true),
    ("zstd", zstd, true, false),
];

#[test]
fn streams_that_are_cut_off_are_errors() {
    let world = World::new();
    let plain = tree();
    for (name, pack, joined, trailing) in FORMATS {
        let packed = pack(&plain);
        assert!(unpacks(&world, name, &packed), "{name}");
        for cut in [1, 4, 8, packed.len() / 2] {
            let cut_off = &packed[..packed.len() - cut];
            let case = format!("{name}-{cut}");
            assert!(!unpacks(&world, &case, cut_off), "{case}");
        }
        let half = plain.len() / 1024 * 512;
        let two = [pack(&plain[..half]), pack(&plain[half..])].concat();
        if joined {
            assert!(unpacks(&world, &format!("{name}-two"), &two), "{name}");
            let case = format!("{name}-two-cut");
            assert!(!unpacks(&world, &case, &two[..two.len() - 5]), "{case}");
        }
        let more = [&packed[..], b"trailing"].concat();
        let case = format!("{name}-more");
        assert_eq!(unpacks(&world, &case, &more), trailing, "{case}");
        let twice = gzip(&packed);
        let case = format!("{name}-twice");
        assert!(unpacks(&world, &case, &twice), "{case}");
    }
    assert_eq!(world.kept("trees"), 1);
    assert_eq!(world.kept("tmp"), 0);
}

#[test]
fn tar_archives_that_are_cut_off() {
    let world = World::new();
    let whole = tree();
    // The headers and contents, without what ends the archive.
    let end = whole.len() - 1024;
    // The last file has 1,600 bytes, and 448 to fill the block.
    let contents = end - 448;
    for (length, unpacked) in [
        (0, true),
        (whole.len(), true),
        (end, true),
        (end + 512, true),
        (end + 200, false),
        (end - 1, false),
        (contents + 3, false),
        (contents - 20, false),
        (1024 + 100, false),
        (3, false),
    ] {
        let name = length.to_string();
        assert_eq!(unpacks(&world, &name, &whole[..length]), unpacked, "{name}");
        // The same, in a stream that is whole.
        let name = format!("{length}.gz");
        let packed = gzip(&whole[..length]);
        assert_eq!(unpacks(&world, &name, &packed), unpacked, "{name}");
    }
    assert!(unpacks(&world, "more", &[&whole[..], b"garbage"].concat()));
    assert!(!unpacks(
        &world,
        "text",
        "hello, world\n".repeat(100).as_bytes()
    ));
    let mut wrong = whole;
    wrong[600] ^= 1;
    assert!(!unpacks(&world, "sum", &wrong));
}

#[test]
fn kinds_of_tar_entries() {
    let world = World::new();
    let before = archive([
        link(EntryType::Link, "t/b", "t/a"),
        file("t/a", "x"),
        special(EntryType::new(b'D'), "t/d"),
        special(EntryType::new(b'V'), "label"),
    ]);
    let found = top(&world, "before", &before);
    assert_eq!(
        found,
        json!({"a": "regular", "b": "regular", "d": "directory"})
    );
    let unknown = archive([special(EntryType::new(b'Z'), "t/a"), file("t/b", "1")]);
    let found = top(&world, "unknown", &unknown);
    assert_eq!(found, json!({"a": "regular", "b": "regular"}));
    let of_link = archive([
        link(EntryType::Symlink, "t/l", "zz"),
        link(EntryType::Link, "t/b", "t/l"),
    ]);
    let found = top(&world, "link", &of_link);
    assert_eq!(found, json!({"b": "symlink", "l": "symlink"}));
    for (name, entry) in [
        ("missing", link(EntryType::Link, "t/b", "t/none")),
        ("volumes", special(EntryType::new(b'M'), "t/b")),
        // C++ Nix reads these.
        ("sparse", special(EntryType::GNUSparse, "t/b")),
    ] {
        assert!(!unpacks(&world, name, &archive([entry])), "{name}");
    }
}

/// A zip archive of files with modes.
fn zip(entries: &[(&str, &str, u32, bool)]) -> Vec<u8> {
    let mut out = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, contents, mode, deflated) in entries {
        let method = match deflated {
            true => zip::CompressionMethod::Deflated,
            false => zip::CompressionMethod::Stored,
        };
        let options = SimpleFileOptions::default()
            .compression_method(method)
            .large_file(name.ends_with("zip64"));
        match mode & 0o170_000 {
            0o120_000 => out.add_symlink(*name, *contents, options).unwrap(),
            _ if name.ends_with('/') => {
                out.add_directory(*name, options.unix_permissions(*mode & 0o777))
                    .unwrap();
            }
            _ => {
                out.start_file(*name, options.unix_permissions(*mode & 0o777))
                    .unwrap();
                out.write_all(contents.as_bytes()).unwrap();
            }
        }
    }
    out.finish().unwrap().into_inner()
}

fn zipped_tree() -> Vec<u8> {
    let script = "#!".repeat(500);
    zip(&[
        ("t/", "", 0o040_755, false),
        ("t/a", "5\n", 0o100_644, false),
        ("t/x", &script, 0o100_755, true),
        ("t/l", "a", 0o120_777, false),
        ("t/d/e", "deep", 0o100_600, true),
    ])
}

#[test]
fn zip_archives() {
    let world = World::new();
    let whole = zipped_tree();
    let golden = "/nix/store/gqy05vy1smv3l7cv23dxifmpw6s0i6k3-source";
    assert_eq!(store_path(&world, "a.zip", &whole), golden);
    // Of another name they are read from the front, where no modes are.
    assert_eq!(
        store_path(&world, "a.bin", &whole),
        "/nix/store/71ks21lzr07rl93sfci25k3kqg8dc5vb-source"
    );
    let in_front = [&b"front"[..], &whole].concat();
    assert_eq!(store_path(&world, "front.ZIP", &in_front), golden);
    let large = zip(&[("t/zip64", "1", 0o644, true), ("t/b", "2", 0o644, true)]);
    let found = top(&world, "large.zip", &large);
    assert_eq!(found, json!({"zip64": "regular", "b": "regular"}));
    let found = top(&world, "back.zip", &zip(&[("t\\a", "1", 0o644, false)]));
    assert_eq!(found, json!({"a": "regular"}));
    assert_eq!(top(&world, "empty.zip", &zip(&[])), json!({}));
    // Paths stay inside.
    let found = top(
        &world,
        "outside.zip",
        &zip(&[("../../e", "1", 0o644, false), ("/t/a", "2", 0o644, false)]),
    );
    assert_eq!(found, json!({"e": "regular", "t": "directory"}));
}

#[test]
fn zip_archives_that_are_damaged() {
    let world = World::new();
    let whole = zipped_tree();
    // C++ Nix takes files from archives whose directory is cut off.
    for cut in [1, 30, whole.len() / 2, whole.len() - 4] {
        let name = format!("{cut}.zip");
        assert!(
            !unpacks(&world, &name, &whole[..whole.len() - cut]),
            "{name}"
        );
    }
    let mut wrong = whole.clone();
    let at = wrong.windows(2).position(|bytes| bytes == b"5\n").unwrap();
    wrong[at] = b'6';
    assert!(!unpacks(&world, "sum.zip", &wrong));
    let through_link = zip(&[
        ("t/l", "/tmp", 0o120_777, false),
        ("t/l/x", "1", 0o644, false),
    ]);
    assert!(!unpacks(&world, "through.zip", &through_link));
    assert_eq!(world.kept("trees"), 0);
}

#[test]
fn zip_bombs_are_limited() {
    let mut world = World::new();
    world.options.unpacked_limit = 1 << 20;
    let bomb = zip(&[("x", &"0".repeat((1 << 20) + 1), 0o644, true)]);
    assert!(bomb.len() < 4096);
    assert!(!unpacks(&world, "bomb.zip", &bomb));
    assert!(unpacks(
        &world,
        "fits.zip",
        &zip(&[("x", &"0".repeat(1 << 20), 0o644, true)])
    ));
}
