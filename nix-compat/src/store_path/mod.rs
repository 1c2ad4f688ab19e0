//! Store paths: `<store directory>/<hash part>-<name>`.
//!
//! A [`StorePath`] is the part below the store directory, and does not depend on it. A [`StoreDir`]
//! converts between store paths and absolute paths. Paths are computed by
//! [`content_addressed_path`], [`text_path`] and [`output_path`].

mod compute;
mod dir;
#[cfg(feature = "serde")]
mod full;
mod name;

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use thiserror::Error;

pub(crate) use compute::text_path_of_hash;
pub use compute::{
    PathReferences, compress_hash, content_addressed_path, fixed_output_path, output_path,
    output_path_name, text_path,
};
pub use dir::{StoreDir, StoreDirError};
pub use name::{MAX_NAME_LEN, NameError, StorePathName};

use crate::nixbase32;

/// Number of bytes of a digest.
pub const DIGEST_LEN: usize = 20;
/// Number of characters of a hash part.
pub const HASH_PART_LEN: usize = nixbase32::encoded_len(DIGEST_LEN);

/// The base name of a store path: a digest of 20 bytes and a name.
///
/// Ordered by its text, the order of ATerm, narinfo and fingerprints.
#[derive(Clone, PartialEq, Eq)]
pub struct StorePath {
    digest: [u8; DIGEST_LEN],
    name: StorePathName,
}

/// Why a text is not a store path.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StorePathError {
    /// The path is not in the store directory.
    #[error("'{path}' is not in the store directory '{store_dir}'")]
    NotInStore {
        /// The path.
        path: String,
        /// The expected store directory.
        store_dir: StoreDir,
    },
    /// The path goes below a store path or ends in a slash, where a store path is expected.
    #[error("'{0}' goes below a store path or ends in a slash")]
    NotTopLevel(String),
    /// The hash part is not 32 digits of nixbase32.
    #[error("'{path}' has no valid hash part")]
    InvalidHashPart {
        /// The base name.
        path: String,
        /// The reason.
        source: nixbase32::DecodeError,
    },
    /// The hash part is not followed by a dash.
    #[error("'{0}' has no dash after its hash part")]
    MissingDash(String),
    /// The name is invalid.
    #[error("'{path}' has an invalid name")]
    InvalidName {
        /// The base name.
        path: String,
        /// The reason.
        source: NameError,
    },
}

impl StorePath {
    /// A path of a digest and a name.
    pub fn new(digest: [u8; DIGEST_LEN], name: StorePathName) -> Self {
        Self { digest, name }
    }

    /// Parses `<hash part>-<name>`.
    ///
    /// # Errors
    ///
    /// [`StorePathError`].
    pub fn from_base_name(text: impl AsRef<[u8]>) -> Result<Self, StorePathError> {
        let text = text.as_ref();
        let shown = || String::from_utf8_lossy(text).into_owned();
        let (hash_part, rest) = text.split_at(text.len().min(HASH_PART_LEN));
        let digest =
            nixbase32::decode(hash_part).map_err(|source| StorePathError::InvalidHashPart {
                path: shown(),
                source,
            })?;
        let name = rest
            .strip_prefix(b"-")
            .ok_or_else(|| StorePathError::MissingDash(shown()))?;
        let name =
            StorePathName::from_bytes(name).map_err(|source| StorePathError::InvalidName {
                path: shown(),
                source,
            })?;
        Ok(Self { digest, name })
    }

    /// The 20 bytes of the hash part.
    pub fn digest(&self) -> &[u8; DIGEST_LEN] {
        &self.digest
    }

    /// The hash part as text, for which reference scans search.
    pub fn hash_part(&self) -> String {
        nixbase32::encode(&self.digest)
    }

    /// [`StorePath::hash_part`] without an allocation.
    pub(crate) fn hash_part_bytes(&self) -> [u8; HASH_PART_LEN] {
        nixbase32::encode_20(&self.digest)
    }

    /// Appends `<hash part>-<name>`.
    pub(crate) fn push_to(&self, text: &mut String) {
        let hash_part = self.hash_part_bytes();
        text.push_str(std::str::from_utf8(&hash_part).expect("digits are ASCII"));
        text.push('-');
        text.push_str(self.name.as_str());
    }

    /// The name, without the hash part.
    pub fn name(&self) -> &StorePathName {
        &self.name
    }

    /// Whether the name ends in `.drv`.
    pub fn is_derivation(&self) -> bool {
        self.name.as_str().ends_with(DRV_SUFFIX)
    }

    /// `<hash part>-<name>`.
    pub fn base_name(&self) -> String {
        self.to_string()
    }
}

/// Suffix of the name of a derivation's file.
pub const DRV_SUFFIX: &str = ".drv";

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(HASH_PART_LEN + 1 + self.name.as_str().len());
        self.push_to(&mut text);
        f.write_str(&text)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorePath({self})")
    }
}

impl FromStr for StorePath {
    type Err = StorePathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_base_name(text)
    }
}

impl Hash for StorePath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The digest covers the name, so hashing the name too would only cost time: paths with
        // equal digests are equal unless one is forged. All digests have the same length, so the
        // length prefix of a slice is omitted.
        state.write(&self.digest);
    }
}

impl Ord for StorePath {
    fn cmp(&self, other: &Self) -> Ordering {
        // The first digits of the text encode the most significant bits of the last byte.
        let by_digest = self.digest.iter().rev().cmp(other.digest.iter().rev());
        by_digest.then_with(|| self.name.cmp(&other.name))
    }
}

impl PartialOrd for StorePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    const HELLO: &str = "00bgd045z0d4icpbc2yyz4gx48ak44la-net-tools-1.60_p20170221182432";

    pub(crate) fn arbitrary_store_path() -> impl Strategy<Value = StorePath> {
        (
            any::<[u8; DIGEST_LEN]>(),
            "[a-zA-Z0-9+_?=][a-zA-Z0-9+._?=-]{0,30}",
        )
            .prop_map(|(digest, name)| StorePath::new(digest, name.parse().unwrap()))
    }

    #[test]
    fn parses_and_prints() {
        let path: StorePath = HELLO.parse().unwrap();
        assert_eq!(path.to_string(), HELLO);
        assert_eq!(path.name().as_str(), "net-tools-1.60_p20170221182432");
        assert_eq!(path.hash_part(), HELLO[..32]);
        assert!(!path.is_derivation());
        assert_eq!(
            serde_json::to_string(&path).unwrap(),
            format!("\"{HELLO}\"")
        );
    }

    #[test]
    fn rejects_what_is_no_store_path() {
        let hash = &HELLO[..32];
        for (text, wanted) in [
            (String::new(), "hash part"),
            (hash[..31].to_string(), "hash part"),
            (hash.to_string(), "dash"),
            (format!("{hash}_a"), "dash"),
            (format!("{hash}-"), "name"),
            (format!("{hash}-."), "name"),
            (format!("{hash}-.."), "name"),
            (format!("{hash}-.-a"), "name"),
            (format!("{hash}-..-a"), "name"),
            (format!("{hash}-a/b"), "name"),
            (format!("{hash}-a b"), "name"),
            (format!("{hash}-{}", "x".repeat(212)), "name"),
            (format!("{}e-a", &hash[..31]), "hash part"),
            (format!("{}u-a", &hash[..31]), "hash part"),
        ] {
            let error = text.parse::<StorePath>().unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        assert!(
            format!("{hash}-{}", "x".repeat(211))
                .parse::<StorePath>()
                .is_ok()
        );
        assert!(format!("{hash}-.hidden").parse::<StorePath>().is_ok());
    }

    proptest! {
        #[test]
        fn round_trip(path in arbitrary_store_path()) {
            prop_assert_eq!(&path.to_string().parse::<StorePath>().unwrap(), &path);
            let json = serde_json::to_string(&path).unwrap();
            prop_assert_eq!(serde_json::from_str::<StorePath>(&json).unwrap(), path);
        }

        #[test]
        fn orders_as_text(a in arbitrary_store_path(), b in arbitrary_store_path()) {
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }
}
