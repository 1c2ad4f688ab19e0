//! Content addresses: a hash, and the method by which a store object is hashed.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::nixhash::{HashAlgo, HashError, NixHash};
use crate::serde_text::serde_as_text;

/// The serialisation of a file system object that a content address hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentAddressMethod {
    /// The bytes of a single non-executable file, which may refer to store paths (`text`).
    Text,
    /// The bytes of a single non-executable file (`flat`).
    Flat,
    /// The NAR of any object (`nar`, formerly `recursive`).
    NixArchive,
}

impl ContentAddressMethod {
    /// The prefix of the algorithm in a `.drv` file: `text:`, nothing or `r:`.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Text => "text:",
            Self::Flat => "",
            Self::NixArchive => "r:",
        }
    }

    /// The name in JSON: `text`, `flat`, `nar`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Flat => "flat",
            Self::NixArchive => "nar",
        }
    }

    /// Splits the output type of a `.drv` file, such as `r:sha256`, into method and algorithm.
    ///
    /// # Errors
    ///
    /// [`HashError::UnknownAlgo`].
    pub fn split_prefixed(text: &str) -> Result<(Self, HashAlgo), HashError> {
        let (method, algo) = if let Some(algo) = text.strip_prefix("r:") {
            (Self::NixArchive, algo)
        } else if let Some(algo) = text.strip_prefix("text:") {
            (Self::Text, algo)
        } else {
            (Self::Flat, text)
        };
        Ok((method, algo.parse()?))
    }
}

/// A content address.
///
/// Displays as in `.narinfo` files and in Nix's database: `text:sha256:<base-32>`,
/// `fixed:sha256:…`, `fixed:r:sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentAddress {
    /// The serialisation that is hashed.
    pub method: ContentAddressMethod,
    /// The hash.
    pub hash: NixHash,
}

/// Why a text is not a content address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ContentAddressError {
    /// The text starts with neither `text:` nor `fixed:`.
    #[error("'{0}' begins with neither 'text:' nor 'fixed:'")]
    UnknownMethod(String),
    /// The hash does not parse.
    #[error("'{text}' is no content address")]
    Hash {
        /// The text.
        text: String,
        /// The reason.
        source: HashError,
    },
    /// An algorithm other than SHA-256 with the method `text`.
    #[error("a text is addressed by sha256, not by {0}")]
    TextAlgo(HashAlgo),
}

impl fmt::Display for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.method {
            ContentAddressMethod::Text => write!(f, "text:{}", self.hash.base32()),
            method => write!(f, "fixed:{}{}", method.prefix(), self.hash.base32()),
        }
    }
}

impl FromStr for ContentAddress {
    type Err = ContentAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (method, hash) = if let Some(hash) = text.strip_prefix("text:") {
            (ContentAddressMethod::Text, hash)
        } else if let Some(hash) = text.strip_prefix("fixed:r:") {
            (ContentAddressMethod::NixArchive, hash)
        } else if let Some(hash) = text.strip_prefix("fixed:") {
            (ContentAddressMethod::Flat, hash)
        } else {
            return Err(ContentAddressError::UnknownMethod(text.to_owned()));
        };
        let hash = NixHash::parse_prefixed(hash).map_err(|source| ContentAddressError::Hash {
            text: text.to_owned(),
            source,
        })?;
        if method == ContentAddressMethod::Text && hash.algo() != HashAlgo::Sha256 {
            return Err(ContentAddressError::TextAlgo(hash.algo()));
        }
        Ok(Self { method, hash })
    }
}

serde_as_text!(ContentAddress);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_errors() {
        let hash = NixHash::digest(HashAlgo::Sha256, b"x");
        for method in [
            ContentAddressMethod::Text,
            ContentAddressMethod::Flat,
            ContentAddressMethod::NixArchive,
        ] {
            let address = ContentAddress {
                method,
                hash: hash.clone(),
            };
            assert_eq!(address.to_string().parse(), Ok(address));
        }
        let md5 = NixHash::digest(HashAlgo::Md5, b"x");
        let text = format!("text:{}", md5.base32());
        let error = text.parse::<ContentAddress>().unwrap_err();
        assert_eq!(error, ContentAddressError::TextAlgo(HashAlgo::Md5));
        assert!("nar:sha256:00".parse::<ContentAddress>().is_err());
        assert!("fixed:r:sha256:00".parse::<ContentAddress>().is_err());
    }
}
