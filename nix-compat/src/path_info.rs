//! What a store knows about a valid path.

use serde::{Deserialize, Serialize};

use crate::content_address::ContentAddress;
use crate::nixhash::NixHash;
use crate::sorted::SortedSet;
use crate::store_path::StorePath;

/// What a store knows about a valid path (Nix manual, "Store object info").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathInfo {
    /// The path.
    pub path: StorePath,
    /// SHA-256 of the NAR.
    #[serde(with = "sha256_sri")]
    pub nar_hash: [u8; 32],
    /// Bytes of the NAR.
    pub nar_size: u64,
    /// The store paths that the contents refer to, itself included if it does.
    pub references: SortedSet<StorePath>,
    /// The derivation whose build made it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deriver: Option<StorePath>,
    /// Its content address, if the path was computed from contents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<ContentAddress>,
    /// Signatures as `name:base64`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<String>,
    /// When it was registered, in seconds since 1970. `None` before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration_time: Option<u64>,
    /// Whether it was built here, and so is trusted without a signature.
    #[serde(default)]
    pub ultimate: bool,
}

impl PathInfo {
    /// A path with this NAR, and nothing else known.
    pub fn new(path: StorePath, nar_hash: [u8; 32], nar_size: u64) -> Self {
        Self {
            path,
            nar_hash,
            nar_size,
            references: SortedSet::new(),
            deriver: None,
            ca: None,
            signatures: Vec::new(),
            registration_time: None,
            ultimate: false,
        }
    }

    /// The NAR hash with its algorithm, for printing.
    pub fn nix_hash(&self) -> NixHash {
        NixHash::Sha256(self.nar_hash)
    }
}

mod sha256_sri {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::nixhash::{HashAlgo, NixHash};

    pub fn serialize<S: Serializer>(hash: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&NixHash::Sha256(*hash))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        match NixHash::parse_any(&text, Some(HashAlgo::Sha256)) {
            Ok(NixHash::Sha256(hash)) => Ok(hash),
            Ok(other) => Err(serde::de::Error::custom(format!("{other} is not SHA-256"))),
            Err(error) => Err(serde::de::Error::custom(error)),
        }
    }
}
