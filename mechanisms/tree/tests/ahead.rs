//! Trees large enough to be read ahead by threads: same archive, same errors.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use nix_compat::nar::{MAX_DEPTH, NarError, Violation, Writer};
use nix_compat::nixhash::{HashAlgo, NixHash};
use tvix_tree::{TreeError, dump_path, hash_path};

/// Directories with files of all sizes, links, programs and nested directories.
fn forest(folder: &Path) {
    for number in 0..60usize {
        let place = folder
            .join(format!("{}", number % 7))
            .join(number.to_string());
        fs::create_dir_all(place.join("empty")).unwrap();
        for file in 0..20usize {
            let len = match file {
                0 => 0,
                1 => 47 * 1024 + number * 64,
                2 if number % 10 == 0 => 700_000,
                _ => number * 97 + file,
            };
            let path = place.join(format!("f{file}"));
            fs::write(&path, vec![(number + file) as u8; len]).unwrap();
            if file % 3 == 0 {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
        symlink("nowhere", place.join("link")).unwrap();
    }
}

/// A second, straightforward implementation.
fn plain(path: &Path, writer: &mut Writer<Vec<u8>>) {
    let metadata = path.symlink_metadata().unwrap();
    if metadata.is_symlink() {
        use std::os::unix::ffi::OsStrExt as _;
        writer
            .symlink(fs::read_link(path).unwrap().as_os_str().as_bytes())
            .unwrap();
    } else if metadata.is_dir() {
        writer.directory_start().unwrap();
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        for name in names {
            writer.entry(name.as_bytes()).unwrap();
            plain(&path.join(name), writer);
        }
        writer.directory_end().unwrap();
    } else {
        let executable = metadata.permissions().mode() & 0o100 != 0;
        writer
            .regular(executable, &fs::read(path).unwrap())
            .unwrap();
    }
}

#[test]
fn the_archive_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    forest(folder.path());
    let mut writer = Writer::new(Vec::new());
    plain(folder.path(), &mut writer);
    let expected = writer.finish().unwrap();
    for _ in 0..20 {
        let mut nar = Vec::new();
        dump_path(folder.path(), &mut nar).unwrap();
        assert!(nar == expected);
    }
    let hash = NixHash::digest(HashAlgo::Sha256, &expected);
    let hashed = hash_path(folder.path(), HashAlgo::Sha256).unwrap();
    assert_eq!(hashed, (hash, expected.len() as u64));
}

/// Calls a function when the archive has reached a number of bytes.
struct At<F>(usize, Option<F>);

impl<F: FnOnce() -> io::Result<()>> Write for At<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_sub(bytes.len());
        if self.0 == 0
            && let Some(act) = self.1.take()
        {
            act()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_first_that_cannot_be_archived_is_named() {
    let folder = tempfile::tempdir().unwrap();
    forest(folder.path());
    for place in ["5/5", "5/12", "6/6"] {
        let socket = folder.path().join(place).join("socket");
        std::os::unix::net::UnixListener::bind(socket).unwrap();
    }
    let first = folder.path().join("5/12/socket");
    for _ in 0..20 {
        let error = dump_path(folder.path(), io::sink()).unwrap_err();
        assert!(
            matches!(&error, TreeError::UnsupportedType { path, kind: "socket" } if *path == first),
            "{error:?}"
        );
    }
}

#[test]
fn errors_name_files_that_vanish_or_change() {
    let last = "6/6/f9";
    for remove in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        forest(folder.path());
        let file = folder.path().join(last);
        let meddle = At(
            1,
            Some(|| {
                if remove {
                    fs::remove_file(&file)
                } else {
                    fs::remove_file(&file)?;
                    symlink("f8", &file)
                }
            }),
        );
        // Writing this file takes so long that later files may or may not be listed in the
        // meantime.
        fs::write(folder.path().join("0/0/f2"), vec![0; 10_000_000]).unwrap();
        match dump_path(folder.path(), meddle) {
            Err(TreeError::File { path, .. }) => assert!(remove && path == file),
            Err(TreeError::Changed { path }) => assert!(!remove && path == file),
            // The file was read already, or its directory was not listed yet.
            Ok(()) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn a_writer_that_fails_or_panics_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    forest(folder.path());
    for bytes in [1, 300_000, 1_000_000] {
        let broken = At(bytes, Some(|| Err(io::ErrorKind::ConnectionReset.into())));
        let error = dump_path(folder.path(), broken).unwrap_err();
        assert!(
            matches!(error, TreeError::Nar(NarError::Io(_))),
            "{error:?}"
        );
        let panics = At(bytes, Some(|| panic!("on purpose")));
        let dumped = catch_unwind(AssertUnwindSafe(|| dump_path(folder.path(), panics)));
        assert!(dumped.is_err());
    }
}

#[test]
fn depth_is_limited_as_ever() {
    let folder = tempfile::tempdir().unwrap();
    forest(folder.path());
    let mut deepest = folder.path().join("z");
    for _ in 2..MAX_DEPTH {
        deepest.push("d");
    }
    fs::create_dir_all(&deepest).unwrap();
    dump_path(folder.path(), io::sink()).unwrap();
    fs::create_dir(deepest.join("d")).unwrap();
    let error = dump_path(folder.path(), io::sink()).unwrap_err();
    assert_eq!(error.violation(), Some(&Violation::TooDeep));
}
