//! The directory of store paths.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::{HASH_PART_LEN, StorePath, StorePathError};
use crate::serde_text::serde_as_text;

/// The store directory, `/nix/store` by default: an absolute path without `.`, `..`, empty
/// components or a trailing slash.
///
/// Store paths are computed from it too, so stores exchange paths only with stores of the same
/// directory.
///
/// The directory is *logical*: each store determines where its files are on the file system. Cheap
/// to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreDir(Arc<str>);

/// Why a text is not a store directory.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{0}' is not an absolute path without '.', '..', empty components or a slash at its end")]
pub struct StoreDirError(String);

impl StoreDir {
    /// Validates `dir`.
    ///
    /// # Errors
    ///
    /// [`StoreDirError`], if `dir` is not such a path.
    pub fn new(dir: &str) -> Result<Self, StoreDirError> {
        let canonical = dir.strip_prefix('/').is_some_and(|components| {
            components
                .split('/')
                .all(|part| !matches!(part, "" | "." | ".."))
        });
        if canonical && !dir.contains('\0') {
            Ok(Self(dir.into()))
        } else {
            Err(StoreDirError(dir.to_owned()))
        }
    }

    /// The directory as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The directory as a path.
    pub fn as_path(&self) -> &Path {
        Path::new(&*self.0)
    }

    /// Parses `<store directory>/<hash part>-<name>`. A path below a store path is an error.
    pub fn parse(&self, path: impl AsRef<[u8]>) -> Result<StorePath, StorePathError> {
        let (store_path, below) = self.split(path.as_ref())?;
        if below.is_some() {
            return Err(StorePathError::NotTopLevel(lossy(path.as_ref())));
        }
        Ok(store_path)
    }

    /// Parses a store path or a path below one. Returns the store path and the remainder after its
    /// slash.
    ///
    /// # Errors
    ///
    /// [`StorePathError`], if the path is not below a valid store path of this directory.
    pub fn parse_below<'p>(
        &self,
        path: &'p (impl AsRef<[u8]> + ?Sized),
    ) -> Result<(StorePath, &'p [u8]), StorePathError> {
        let (store_path, below) = self.split(path.as_ref())?;
        Ok((store_path, below.unwrap_or_default()))
    }

    fn split<'p>(&self, path: &'p [u8]) -> Result<(StorePath, Option<&'p [u8]>), StorePathError> {
        let base = path
            .strip_prefix(self.0.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"/"))
            .ok_or_else(|| StorePathError::NotInStore {
                path: lossy(path),
                store_dir: self.clone(),
            })?;
        match memchr::memchr(b'/', base) {
            Some(slash) => Ok((
                StorePath::from_base_name(&base[..slash])?,
                Some(&base[slash + 1..]),
            )),
            None => Ok((StorePath::from_base_name(base)?, None)),
        }
    }

    /// Displays the absolute path of `path`.
    pub fn display<'a>(&'a self, path: &'a StorePath) -> impl fmt::Display + 'a {
        fmt::from_fn(move |f| write!(f, "{}/{path}", self.0))
    }

    /// The absolute path of `path` as text. Faster than [`StoreDir::display`].
    pub fn path_text(&self, path: &StorePath) -> String {
        let len = self.0.len() + 2 + HASH_PART_LEN + path.name().as_str().len();
        let mut text = String::with_capacity(len);
        self.push_path(path, &mut text);
        text
    }

    /// Appends the absolute path of `path`.
    pub(crate) fn push_path(&self, path: &StorePath, text: &mut String) {
        text.reserve(self.0.len() + 2 + HASH_PART_LEN + path.name().as_str().len());
        text.push_str(&self.0);
        text.push('/');
        path.push_to(text);
    }

    /// The absolute path of `path`.
    pub fn absolute(&self, path: &StorePath) -> PathBuf {
        self.as_path().join(path.to_string())
    }
}

fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

impl Default for StoreDir {
    fn default() -> Self {
        Self("/nix/store".into())
    }
}

impl FromStr for StoreDir {
    type Err = StoreDirError;

    fn from_str(dir: &str) -> Result<Self, Self::Err> {
        Self::new(dir)
    }
}

impl fmt::Display for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

serde_as_text!(StoreDir);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_directories() {
        for dir in ["/nix/store", "/s", "/a b/c"] {
            assert_eq!(StoreDir::new(dir).unwrap().as_str(), dir);
        }
        for dir in [
            "",
            "/",
            "nix/store",
            "/nix/store/",
            "/nix//store",
            "/a/./b",
            "/a/../b",
            "/a\0",
        ] {
            assert!(StoreDir::new(dir).is_err(), "{dir:?}");
        }
    }

    #[test]
    fn parses_below_itself_only() {
        let dir = StoreDir::default();
        let base = "00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools";
        let path = dir.parse(format!("/nix/store/{base}")).unwrap();
        assert_eq!(path.to_string(), base);
        assert_eq!(dir.display(&path).to_string(), format!("/nix/store/{base}"));
        let below = format!("/nix/store/{base}/bin/arp");
        assert_eq!(dir.parse_below(&below).unwrap(), (path, &b"bin/arp"[..]));
        for bad in [
            base,
            "/nix/storex",
            "/nix/store",
            "/nix/store/",
            "//nix/store/x",
        ] {
            assert!(dir.parse(bad).is_err(), "{bad}");
        }
        let slash = dir.parse(format!("/nix/store/{base}/"));
        assert!(matches!(slash, Err(StorePathError::NotTopLevel(_))));
    }
}
