//! Names of files in a cache.

use nix_compat::nixbase32;
use nix_compat::realisation::{DrvKey, DrvOutput};

/// Where what is known of a path is.
pub(super) fn narinfo(digest: &[u8; 20]) -> String {
    format!("{}.narinfo", nixbase32::encode(digest))
}

/// Where Nix keeps what is in the archive of a path.
pub(super) fn listing(digest: &[u8; 20]) -> String {
    format!("{}.ls", nixbase32::encode(digest))
}

/// Where Nix keeps which path an output turned out to have.
pub(super) fn realisation(id: &DrvOutput) -> String {
    match &id.drv {
        DrvKey::HashModulo(_) => format!("realisations/{id}.doi"),
        DrvKey::Path(path) => format!("build-trace-v2/{path}/{}.doi", id.output),
    }
}

/// Whether a text may be a URL in a narinfo at all: printable ASCII of a sensible length.
pub(super) fn is_url(url: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#');
    (1..=4096).contains(&url.len()) && url.bytes().all(plain)
}

/// The name of a file below the cache by a URL relative to it: dot segments are resolved, and the
/// root is that of the cache. An error if it leads out of it or names no file.
pub(super) fn below(url: &str) -> Result<String, String> {
    let refused = || format!("its URL '{url}' is not the name of a file of the cache");
    // Neither another host nor a URL of a scheme.
    if !is_url(url) || url.starts_with("//") || has_scheme(url) {
        return Err(refused());
    }
    let mut segments: Vec<&str> = Vec::new();
    let mut is_folder = true;
    for segment in url.split('/') {
        is_folder = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop().ok_or_else(refused)?;
            }
            segment => segments.push(segment),
        }
    }
    match is_folder || segments.is_empty() {
        true => Err(refused()),
        false => Ok(segments.join("/")),
    }
}

/// Whether a URL begins with a scheme rather than with a path.
fn has_scheme(url: &str) -> bool {
    let first = url.split(['/', '?']).next().unwrap_or_default();
    first.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_realisations_are() {
        let drv = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar.drv";
        let id: DrvOutput = format!("{drv}^dev").parse().unwrap();
        assert_eq!(realisation(&id), format!("build-trace-v2/{drv}/dev.doi"));
        let hash = format!("sha256:{}!out", "0".repeat(64));
        let id: DrvOutput = hash.parse().unwrap();
        assert_eq!(realisation(&id), format!("realisations/{hash}.doi"));
    }

    #[test]
    fn files_below_the_cache() {
        for (url, file) in [
            ("nar/x.nar.xz", "nar/x.nar.xz"),
            ("x", "x"),
            ("./nar/x", "nar/x"),
            ("/nar/x", "nar/x"),
            ("nar/../x", "x"),
            ("nar/./x", "nar/x"),
            ("nar//x", "nar/x"),
            ("nar/x.nar?hash=y", "nar/x.nar?hash=y"),
            ("a/b/c+d.e", "a/b/c+d.e"),
            ("a/b:c", "a/b:c"),
        ] {
            assert_eq!(below(url).as_deref(), Ok(file), "{url}");
        }
        for bad in [
            "",
            "/",
            "..",
            "../x",
            "/../x",
            "nar/../../x",
            "nar/..",
            "nar/",
            "//other/x",
            "http://other/x",
            "file:///x",
            "a:b",
            "a\\b",
            "x#y",
            "x y",
            "x\n",
            "x\0",
            "grün",
            "x?a b",
        ] {
            assert!(below(bad).is_err(), "{bad:?}: {:?}", below(bad));
        }
        assert!(below(&"x".repeat(5000)).is_err());
    }
}
