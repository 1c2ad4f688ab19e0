//! Paths as bytes: absolute and canonical, by text alone. The file system is not accessed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// An absolute path without `.`, `..`, repeated slashes and trailing slash. `..` removes the
/// component before it, even if that is a symbolic link.
pub fn canonical(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                let parent = memchr::memrchr(b'/', &out).unwrap_or(0);
                out.truncate(parent);
            }
            name => {
                out.push(b'/');
                out.extend_from_slice(name);
            }
        }
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out
}

/// The last component of a path, without trailing slashes.
pub fn base_name(path: &[u8]) -> &[u8] {
    let end = match path.iter().rposition(|byte| *byte != b'/') {
        None => return b"",
        // C++ Nix ignores one trailing slash only.
        Some(_) if path.last() == Some(&b'/') && path.len() > 1 => path.len() - 1,
        Some(_) => path.len(),
    };
    let path = &path[..end];
    let start = memchr::memrchr(b'/', path).map_or(0, |at| at + 1);
    &path[start..]
}

/// The part of a path before its last component.
pub fn dir_name(path: &[u8]) -> &[u8] {
    match memchr::memrchr(b'/', path) {
        None => b".",
        Some(0) => b"/",
        Some(at) => &path[..at],
    }
}

/// A path for the operating system.
pub fn to_os(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_paths() {
        for (path, wanted) in [
            ("/a/./b//c/", "/a/b/c"),
            ("/a/../../b", "/b"),
            ("/..", "/"),
            ("/", "/"),
        ] {
            assert_eq!(canonical(path.as_bytes()), wanted.as_bytes(), "{path}");
        }
    }
}
