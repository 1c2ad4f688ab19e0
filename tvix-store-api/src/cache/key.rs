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

/// The `URL` of a narinfo, which may be any text, if it is the name of a file of the cache:
/// relative, with neither empty nor dot segments, of printable ASCII. A query is allowed, as some
/// servers want to hear more than the name.
pub(super) fn of_url(url: &str) -> Option<&str> {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#' | b'%' | b':');
    let segment = |segment: &str| !matches!(segment, "" | "." | "..");
    let fine = path.bytes().all(plain)
        && path.split('/').all(segment)
        && query.bytes().all(|byte| byte.is_ascii_graphic());
    (fine && url.len() <= 4096).then_some(url)
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
    fn what_a_url_may_be() {
        for good in ["nar/x.nar.xz", "x", "nar/x.nar?hash=y", "a/b/c+d.e"] {
            assert_eq!(of_url(good), Some(good));
        }
        for bad in [
            "",
            "/x",
            "/etc/passwd",
            "..",
            "../x",
            "nar/../x",
            "nar/..",
            "nar//x",
            "nar/",
            "./x",
            "http://other/x",
            "file:///x",
            "a\\b",
            "nar/%2e%2e/x",
            "x#y",
            "x y",
            "x\n",
            "x\0",
            "grün",
            "x?a b",
        ] {
            assert_eq!(of_url(bad), None, "{bad:?}");
        }
        assert_eq!(of_url(&"x".repeat(5000)), None);
    }
}
