//! Names of files in a cache.

use nix_compat::nixbase32;
use nix_compat::realisation::{DrvKey, DrvOutput};

/// The name of the narinfo of a path.
pub(super) fn narinfo(digest: &[u8; 20]) -> String {
    format!("{}.narinfo", nixbase32::encode(digest))
}

/// The name of the listing of a path's archive, as in Nix.
pub(super) fn listing(digest: &[u8; 20]) -> String {
    format!("{}.ls", nixbase32::encode(digest))
}

/// The name of a realisation, as in Nix.
pub(super) fn realisation(id: &DrvOutput) -> String {
    match &id.drv {
        DrvKey::HashModulo(_) => format!("realisations/{id}.doi"),
        DrvKey::Path(path) => format!("build-trace-v2/{path}/{}.doi", id.output),
    }
}

/// Whether a text is acceptable as a URL in a narinfo: printable ASCII of limited length.
pub(super) fn is_url(url: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#');
    (1..=4096).contains(&url.len()) && url.bytes().all(plain)
}

/// The name of a file in the cache for a URL relative to the cache. Dot segments are resolved; the
/// root is that of the cache. An error if the URL leads out of the cache or names no file.
pub(super) fn below(url: &str) -> Result<String, String> {
    let refused = || format!("its URL '{url}' is not the name of a file of the cache");
    // Rejects other hosts and absolute URLs.
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

/// Whether a URL begins with a scheme.
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
