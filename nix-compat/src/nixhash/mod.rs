//! Hashes and their textual forms (Nix manual, `nix hash`).

mod algo;
#[cfg(feature = "hash")]
mod hasher;
#[cfg(feature = "hash")]
mod self_reference;
mod sha256;

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use thiserror::Error;

pub use algo::HashAlgo;
#[cfg(feature = "hash")]
pub use hasher::NixHasher;
#[cfg(feature = "hash")]
pub use self_reference::{SelfReferenceHasher, SelfReferenceHashes};
pub(crate) use sha256::{hex, sha256, sha256_of};

use crate::nixbase32;
use crate::serde_text::serde_as_text;

/// A digest and its algorithm.
///
/// Displays as SRI (`sha256-<base-64>`), which is also its serde form. Parses any form that names
/// the algorithm.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NixHash {
    /// 16 bytes of MD5. Broken: only for old fixed outputs.
    Md5([u8; 16]),
    /// 20 bytes of SHA-1. Broken: only for old fixed outputs.
    Sha1([u8; 20]),
    /// 32 bytes of SHA-256, the algorithm of store paths.
    Sha256([u8; 32]),
    /// 64 bytes of SHA-512.
    Sha512(Box<[u8; 64]>),
}

/// Textual encodings of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashEncoding {
    /// Lower-case hexadecimal.
    Base16,
    /// [`nixbase32`].
    Base32,
    /// RFC 4648 base-64 with padding.
    Base64,
}

/// Why a text is not a hash.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HashError {
    /// The algorithm is not one of md5, sha1, sha256 and sha512.
    #[error("'{0}' is not a hash algorithm (known are md5, sha1, sha256, sha512)")]
    UnknownAlgo(String),
    /// Neither the text nor the caller names the algorithm.
    #[error("'{0}' does not name its hash algorithm")]
    MissingAlgo(String),
    /// The text names another algorithm than the expected one.
    #[error("'{text}' should be a {expected} hash")]
    AlgoMismatch {
        /// The text.
        text: String,
        /// The expected algorithm.
        expected: HashAlgo,
    },
    /// The length matches none of the encodings.
    #[error("'{text}' has the wrong length for a {algo} hash")]
    WrongLength {
        /// The text without the algorithm.
        text: String,
        /// The algorithm, which determines the length.
        algo: HashAlgo,
    },
    /// A character outside of the encoding's alphabet, or a wrong number of bytes.
    #[error(
        "invalid {encoding} hash '{text}', length {length} != expected length {}",
        algo.digest_len()
    )]
    InvalidDigits {
        /// The text without the algorithm.
        text: String,
        /// The algorithm.
        algo: HashAlgo,
        /// The assumed encoding, as named by C++ Nix.
        encoding: &'static str,
        /// Number of decoded bytes, or 0 if a character is outside of the alphabet.
        length: usize,
    },
}

impl NixHash {
    /// Hashes `bytes`.
    #[cfg(feature = "hash")]
    pub fn digest(algo: HashAlgo, bytes: impl AsRef<[u8]>) -> Self {
        let mut hasher = NixHasher::new(algo);
        hasher.update(bytes.as_ref());
        hasher.finish()
    }

    /// A hash with the raw digest `digest`; `None` if its length does not match the algorithm.
    pub fn from_digest(algo: HashAlgo, digest: &[u8]) -> Option<Self> {
        Some(match algo {
            HashAlgo::Md5 => Self::Md5(digest.try_into().ok()?),
            HashAlgo::Sha1 => Self::Sha1(digest.try_into().ok()?),
            HashAlgo::Sha256 => Self::Sha256(digest.try_into().ok()?),
            HashAlgo::Sha512 => Self::Sha512(Box::new(digest.try_into().ok()?)),
        })
    }

    /// The algorithm.
    pub const fn algo(&self) -> HashAlgo {
        match self {
            Self::Md5(_) => HashAlgo::Md5,
            Self::Sha1(_) => HashAlgo::Sha1,
            Self::Sha256(_) => HashAlgo::Sha256,
            Self::Sha512(_) => HashAlgo::Sha512,
        }
    }

    /// The raw digest.
    pub fn digest_bytes(&self) -> &[u8] {
        match self {
            Self::Md5(digest) => digest,
            Self::Sha1(digest) => digest,
            Self::Sha256(digest) => digest,
            Self::Sha512(digest) => &**digest,
        }
    }

    /// The digest alone, in this encoding.
    pub fn encode(&self, encoding: HashEncoding) -> String {
        match encoding {
            HashEncoding::Base16 => HEXLOWER.encode(self.digest_bytes()),
            HashEncoding::Base32 => nixbase32::encode(self.digest_bytes()),
            HashEncoding::Base64 => BASE64.encode(self.digest_bytes()),
        }
    }

    /// `sha256:<hexadecimal>`.
    pub fn base16(&self) -> String {
        format!("{}:{}", self.algo(), self.encode(HashEncoding::Base16))
    }

    /// `sha256:<nixbase32>`.
    pub fn base32(&self) -> String {
        format!("{}:{}", self.algo(), self.encode(HashEncoding::Base32))
    }

    /// `sha256:<base-64>`.
    pub fn base64(&self) -> String {
        format!("{}:{}", self.algo(), self.encode(HashEncoding::Base64))
    }

    /// Parses `sha256:…` in any encoding.
    ///
    /// # Errors
    ///
    /// [`HashError`], if the text does not name an algorithm, or if its digits are invalid.
    pub fn parse_prefixed(text: &str) -> Result<Self, HashError> {
        let (algo, digits) = text
            .split_once(':')
            .ok_or_else(|| HashError::MissingAlgo(text.to_owned()))?;
        Self::parse_digits(digits, algo.parse()?)
    }

    /// Parses every form that Nix accepts for `outputHash`: SRI, `algo:digits` or, if `algo` is
    /// given, digits alone.
    ///
    /// # Errors
    ///
    /// [`HashError`], if neither the text nor `algo` names an algorithm, if they disagree, or if
    /// the digits are invalid.
    pub fn parse_any(text: &str, algo: Option<HashAlgo>) -> Result<Self, HashError> {
        let split = text.split_once(':').or_else(|| text.split_once('-'));
        let Some((name, digits)) = split else {
            let algo = algo.ok_or_else(|| HashError::MissingAlgo(text.to_owned()))?;
            return Self::parse_digits(text, algo);
        };
        let named: HashAlgo = name.parse()?;
        match algo {
            Some(expected) if expected != named => Err(HashError::AlgoMismatch {
                text: text.to_owned(),
                expected,
            }),
            _ if text.contains(':') => Self::parse_digits(digits, named),
            _ => Self::parse_sri(text),
        }
    }

    /// Parses SRI, `sha256-<base-64>`, and no other form. As in C++ Nix, padding is optional (many
    /// nixpkgs omit it), and text after the padding is ignored.
    ///
    /// # Errors
    ///
    /// [`HashError`].
    pub fn parse_sri(text: &str) -> Result<Self, HashError> {
        let (algo, digits) = text
            .split_once('-')
            .ok_or_else(|| HashError::MissingAlgo(text.to_owned()))?;
        let algo: HashAlgo = algo.parse()?;
        Self::decoded(decode_base64(digits), digits, algo, "SRI")
    }

    /// The decoded digest, if decoding succeeded and its length is right.
    fn decoded(
        bytes: Option<Vec<u8>>,
        digits: &str,
        algo: HashAlgo,
        encoding: &'static str,
    ) -> Result<Self, HashError> {
        let bytes = bytes.unwrap_or_default();
        Self::from_digest(algo, &bytes).ok_or_else(|| HashError::InvalidDigits {
            text: digits.to_owned(),
            algo,
            encoding,
            length: bytes.len(),
        })
    }

    /// Parses digits without an algorithm; their number determines the encoding.
    ///
    /// # Errors
    ///
    /// [`HashError::WrongLength`] and [`HashError::InvalidDigits`].
    pub fn parse_digits(digits: &str, algo: HashAlgo) -> Result<Self, HashError> {
        let len = algo.digest_len();
        let base64_len = BASE64.encode_len(len);
        if digits.len() == len * 2 {
            let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok();
            Self::decoded(bytes, digits, algo, "base16")
        } else if digits.len() == nixbase32::encoded_len(len) {
            Self::decoded(decode_base32(digits, algo), digits, algo, "nix32")
        } else if digits.len() == base64_len {
            Self::decoded(decode_base64(digits), digits, algo, "Base64")
        } else {
            Err(HashError::WrongLength {
                text: digits.to_owned(),
                algo,
            })
        }
    }
}

/// Decodes base-64 as C++ Nix does: up to the first `=` or the end of the text, skipping line
/// breaks and ignoring leftover bits that do not fill a byte.
fn decode_base64(digits: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in digits.bytes().take_while(|digit| *digit != b'=') {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'\n' => continue,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

fn decode_base32(digits: &str, algo: HashAlgo) -> Option<Vec<u8>> {
    match algo {
        HashAlgo::Md5 => nixbase32::decode::<16>(digits).ok().map(Vec::from),
        HashAlgo::Sha1 => nixbase32::decode::<20>(digits).ok().map(Vec::from),
        HashAlgo::Sha256 => nixbase32::decode::<32>(digits).ok().map(Vec::from),
        HashAlgo::Sha512 => nixbase32::decode::<64>(digits).ok().map(Vec::from),
    }
}

impl fmt::Display for NixHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.algo(), self.encode(HashEncoding::Base64))
    }
}

impl fmt::Debug for NixHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NixHash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse_any(text, None)
    }
}

serde_as_text!(NixHash);

#[cfg(all(test, feature = "hash"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALGOS: [HashAlgo; 4] = [
        HashAlgo::Md5,
        HashAlgo::Sha1,
        HashAlgo::Sha256,
        HashAlgo::Sha512,
    ];

    #[test]
    fn one_hash_in_all_its_forms() {
        let hash = NixHash::digest(HashAlgo::Sha256, b"");
        for text in [
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            "sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        ] {
            assert_eq!(text.parse::<NixHash>().unwrap(), hash);
        }
        assert_eq!(
            hash.to_string(),
            "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
        );
    }

    #[test]
    fn base64_as_nix_reads_it() {
        let hash = NixHash::digest(HashAlgo::Sha256, b"");
        for digits in [
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=",
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU===",
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=more",
            "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NM\npJWZG3hSuFU",
        ] {
            let text = format!("sha256-{digits}");
            assert_eq!(text.parse::<NixHash>().unwrap(), hash, "{digits}");
        }
        for (text, message) in [
            (
                "sha256-47DE!",
                "invalid SRI hash '47DE!', length 0 != expected length 32",
            ),
            (
                "sha256-47DE",
                "invalid SRI hash '47DE', length 3 != expected length 32",
            ),
            (
                "sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
                "'47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU' has the wrong length for a sha256 hash",
            ),
        ] {
            let error = text.parse::<NixHash>().unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn errors_name_the_culprit() {
        let digits = HEXLOWER.encode(&[7; 32]);
        assert!(matches!(
            digits.parse::<NixHash>(),
            Err(HashError::MissingAlgo(_))
        ));
        assert!(
            matches!("sha3:00".parse::<NixHash>(), Err(HashError::UnknownAlgo(algo)) if algo == "sha3")
        );
        assert!(matches!(
            "md5:00".parse::<NixHash>(),
            Err(HashError::WrongLength { .. })
        ));
        let odd = format!("md5:{}", "g".repeat(32));
        assert!(matches!(
            odd.parse::<NixHash>(),
            Err(HashError::InvalidDigits { .. })
        ));
        let other = NixHash::parse_any(&format!("sha256:{digits}"), Some(HashAlgo::Sha512));
        assert!(matches!(other, Err(HashError::AlgoMismatch { .. })));
    }

    proptest! {
        #[test]
        fn round_trips(bytes: Vec<u8>) {
            for algo in ALGOS {
                let hash = NixHash::digest(algo, &bytes);
                for text in [hash.base16(), hash.base32(), hash.base64(), hash.to_string()] {
                    prop_assert_eq!(text.parse::<NixHash>().unwrap(), hash.clone());
                }
                for encoding in [HashEncoding::Base16, HashEncoding::Base32, HashEncoding::Base64] {
                    let digits = hash.encode(encoding);
                    prop_assert_eq!(NixHash::parse_digits(&digits, algo).unwrap(), hash.clone());
                }
            }
        }
    }
}
