//! Realisations: which store path an output of a derivation turned out to have.
//!
//! Only outputs whose paths are not known before the build need them. A realisation is keyed by
//! the derivation's hash modulo fixed outputs rather than its path, so that derivations that
//! differ only in how their inputs are fetched share it (Nix manual, "Build trace").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::derivation::{OutputName, OutputNameError};
use crate::nixhash::{HashAlgo, HashError, NixHash};
use crate::serde_text::serde_as_text;
use crate::signature::Signature;
use crate::store_path::StorePath;

/// An output of a derivation. Prints as `sha256:<base 16>!<output>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DrvOutput {
    /// The derivation's masked hash modulo fixed outputs:
    /// [`crate::derivation::Derivation::masked_hash_modulo`].
    pub drv_hash: [u8; 32],
    /// The output.
    pub output: OutputName,
}

/// Which path an output turned out to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Realisation {
    /// The output.
    pub id: DrvOutput,
    /// Its store path.
    pub out_path: StorePath,
    /// Signatures of its fingerprint, not yet verified.
    #[serde(default)]
    pub signatures: Vec<Signature>,
}

/// Why a text does not name an output of a derivation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DrvOutputError {
    /// There is no `!`.
    #[error("'{0}' has no '!' between hash and output")]
    MissingSeparator(String),
    /// The hash does not parse.
    #[error("'{text}' does not begin with a SHA-256 hash")]
    Hash {
        /// The text as given.
        text: String,
        /// What is wrong.
        source: HashError,
    },
    /// The output's name does not parse.
    #[error(transparent)]
    Output(#[from] OutputNameError),
}

impl fmt::Display for DrvOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}!{}",
            NixHash::Sha256(self.drv_hash).base16(),
            self.output
        )
    }
}

impl FromStr for DrvOutput {
    type Err = DrvOutputError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (hash, output) = text
            .split_once('!')
            .ok_or_else(|| DrvOutputError::MissingSeparator(text.to_owned()))?;
        let other = || HashError::OtherAlgo {
            text: hash.to_owned(),
            expected: HashAlgo::Sha256,
        };
        let drv_hash = match NixHash::parse_prefixed(hash) {
            Ok(NixHash::Sha256(hash)) => Ok(hash),
            Ok(_) => Err(other()),
            Err(error) => Err(error),
        }
        .map_err(|source| DrvOutputError::Hash {
            text: text.to_owned(),
            source,
        })?;
        Ok(Self {
            drv_hash,
            output: output.parse()?,
        })
    }
}

serde_as_text!(DrvOutput);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_errors() {
        let id = DrvOutput {
            drv_hash: [7; 32],
            output: OutputName::out(),
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [
            "",
            "sha256:00!out",
            "md5:d41d8cd98f00b204e9800998ecf8427e!out",
        ] {
            assert!(bad.parse::<DrvOutput>().is_err(), "{bad}");
        }
    }
}
