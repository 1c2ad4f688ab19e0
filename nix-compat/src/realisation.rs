//! Realisations: the store paths of outputs that are known only after a build (Nix manual, "Build
//! trace").
//!
//! There are two forms, with different keys, JSON and signatures:
//!
//! | | Nix up to 2.34 | Nix since 2.35 |
//! |---|---|---|
//! | identified by | hash modulo fixed outputs: `sha256:<base 16>!out` | path of the derivation: `<path>.drv^out` |
//! | derivations | any; with input derivations it is *deep* | resolved derivations only |
//! | in caches | `realisations/<key>.doi` | `build-trace-v2/<path>.drv/<output>.doi` |
//! | JSON | flat, with an `id` | `key` and `value`; in caches the value alone |

#[cfg(feature = "json")]
mod json;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

#[cfg(feature = "json")]
pub use self::json::RealisationJsonError;
use crate::derivation::{OutputName, OutputNameError};
use crate::nixhash::{HashAlgo, HashError, NixHash};
use crate::serde_text::serde_as_text;
use crate::signature::Signature;
#[cfg(all(feature = "json", feature = "signing"))]
use crate::signature::{SigningKey, VerifyingKey};
use crate::store_path::{StorePath, StorePathError};

/// The key of a derivation in realisations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DrvKey {
    /// The masked hash modulo fixed outputs, in Nix up to 2.34. Derivations that differ only in the
    /// way their inputs are fetched share this key. See
    /// [`Derivation::masked_hash_modulo`](crate::derivation::Derivation::masked_hash_modulo).
    HashModulo([u8; 32]),
    /// The path of the `.drv` file, in Nix since 2.35. The derivation must be resolved.
    Path(StorePath),
}

/// An output of a derivation. Displays as `sha256:<base 16>!<output>` or `<path>.drv^<output>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DrvOutput {
    /// The derivation.
    pub drv: DrvKey,
    /// The output.
    pub output: OutputName,
}

impl DrvOutput {
    /// An output of the derivation with the masked hash modulo fixed outputs `hash`.
    pub fn by_hash(hash: [u8; 32], output: OutputName) -> Self {
        let drv = DrvKey::HashModulo(hash);
        Self { drv, output }
    }

    /// An output of the resolved derivation at `path`.
    pub fn by_path(path: StorePath, output: OutputName) -> Self {
        let drv = DrvKey::Path(path);
        Self { drv, output }
    }
}

/// The store path of an output. The serde form is [`to_nix_json`](Self::to_nix_json).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Realisation {
    /// The output.
    pub id: DrvOutput,
    /// Its store path.
    pub out_path: StorePath,
    /// Signatures of its [`fingerprint`](Self::fingerprint). Unverified.
    pub signatures: Vec<Signature>,
    /// The outputs of inputs that a deep realisation depends on. Always empty for a key that is a
    /// path, and mostly empty for a hash.
    pub dependent_realisations: BTreeMap<DrvOutput, StorePath>,
}

impl Realisation {
    /// A realisation without signatures.
    pub fn new(id: DrvOutput, out_path: StorePath) -> Self {
        Self {
            id,
            out_path,
            signatures: Vec::new(),
            dependent_realisations: BTreeMap::new(),
        }
    }
}

/// Signatures cover the JSON form.
#[cfg(all(feature = "json", feature = "signing"))]
impl Realisation {
    /// Adds a signature of this key, unless there is one.
    pub fn sign(&mut self, key: &SigningKey) {
        let signature = key.sign(self.fingerprint());
        if !self.signatures.contains(&signature) {
            self.signatures.push(signature);
        }
    }

    /// Whether it has a valid signature of one of `keys`.
    pub fn is_signed_by(&self, keys: &[VerifyingKey]) -> bool {
        let fingerprint = self.fingerprint();
        keys.iter().any(|key| {
            let mut signatures = self.signatures.iter();
            signatures.any(|signature| key.verify(&fingerprint, signature))
        })
    }
}

/// Why a text does not identify an output of a derivation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DrvOutputError {
    /// The text has neither `!` nor `^`.
    #[error("'{0}' has neither '!' nor '^' between derivation and output")]
    MissingSeparator(String),
    /// The hash is invalid.
    #[error("'{text}' does not begin with a SHA-256 hash")]
    Hash {
        /// The text.
        text: String,
        /// The reason.
        source: HashError,
    },
    /// The path of the derivation is invalid.
    #[error("'{text}' does not begin with a store path")]
    Path {
        /// The text.
        text: String,
        /// The reason.
        source: StorePathError,
    },
    /// The path does not name a derivation.
    #[error("'{0}' is not the path of a derivation")]
    NotADerivation(StorePath),
    /// The output name is invalid.
    #[error(transparent)]
    Output(#[from] OutputNameError),
}

impl fmt::Display for DrvOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.drv {
            DrvKey::HashModulo(hash) => {
                let hash = NixHash::Sha256(*hash).base16();
                write!(f, "{hash}!{}", self.output)
            }
            DrvKey::Path(path) => write!(f, "{path}^{}", self.output),
        }
    }
}

impl FromStr for DrvOutput {
    type Err = DrvOutputError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((path, output)) = text.rsplit_once('^') {
            let path = path.parse().map_err(|source| DrvOutputError::Path {
                text: text.to_owned(),
                source,
            })?;
            return Ok(Self::by_path(derivation_path(path)?, output.parse()?));
        }
        let (hash, output) = text
            .split_once('!')
            .ok_or_else(|| DrvOutputError::MissingSeparator(text.to_owned()))?;
        let other = || HashError::AlgoMismatch {
            text: hash.to_owned(),
            expected: HashAlgo::Sha256,
        };
        let hash = match NixHash::parse_prefixed(hash) {
            Ok(NixHash::Sha256(hash)) => Ok(hash),
            Ok(_) => Err(other()),
            Err(error) => Err(error),
        };
        let hash = hash.map_err(|source| DrvOutputError::Hash {
            text: text.to_owned(),
            source,
        })?;
        Ok(Self::by_hash(hash, output.parse()?))
    }
}

/// Checks that a path names a derivation.
fn derivation_path(path: StorePath) -> Result<StorePath, DrvOutputError> {
    match path.is_derivation() {
        true => Ok(path),
        false => Err(DrvOutputError::NotADerivation(path)),
    }
}

serde_as_text!(DrvOutput);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_errors() {
        let path: StorePath = "00bgd045z0d4icpbc2yyz4gx48ak44la-x.drv".parse().unwrap();
        for id in [
            DrvOutput::by_hash([7; 32], OutputName::out()),
            DrvOutput::by_path(path, "dev".parse().unwrap()),
        ] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for bad in [
            "",
            "sha256:00!out",
            "md5:d41d8cd98f00b204e9800998ecf8427e!out",
            "00bgd045z0d4icpbc2yyz4gx48ak44la-x.drv",
            "00bgd045z0d4icpbc2yyz4gx48ak44la-x^out",
            "00bgd045z0d4icpbc2yyz4gx48ak44la-x.drv^",
            "00bgd045z0d4icpbc2yyz4gx48ak44la-x.drv^../out",
            "../x.drv^out",
        ] {
            assert!(bad.parse::<DrvOutput>().is_err(), "{bad}");
        }
    }
}
