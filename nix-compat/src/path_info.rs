//! The metadata of a valid path.

mod json;

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::content_address::ContentAddress;
use crate::nixhash::NixHash;
use crate::signature::{Signature, SigningKey, VerifyingKey};
use crate::sorted::SortedSet;
use crate::store_path::{PathReferences, StoreDir, StorePath, content_addressed_path};

pub use json::JsonError;

/// The metadata of a valid path (Nix manual, "Store object info").
///
/// The serde form has store paths without the store directory. [`to_nix_json`](Self::to_nix_json)
/// returns the form of `nix path-info --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathInfo {
    /// The store path.
    pub path: StorePath,
    /// SHA-256 of its NAR.
    #[serde(with = "sha256_sri")]
    pub nar_hash: [u8; 32],
    /// Size of its NAR in bytes.
    pub nar_size: u64,
    /// The store paths that its contents refer to, including itself if there is a self-reference.
    pub references: SortedSet<StorePath>,
    /// The derivation that produced it, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deriver: Option<StorePath>,
    /// Its content address, if the path was computed from its contents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<ContentAddress>,
    /// Signatures of its [`fingerprint`](Self::fingerprint). Unverified.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signatures: Vec<Signature>,
    /// When it was registered, in seconds since 1970; `None` before registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration_time: Option<u64>,
    /// Whether it was built locally, and so is trusted without a signature.
    #[serde(default)]
    pub ultimate: bool,
}

impl PathInfo {
    /// The metadata of a path with this NAR; all optional fields are empty.
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

    /// The NAR hash with its algorithm, for display.
    pub fn nix_hash(&self) -> NixHash {
        NixHash::Sha256(self.nar_hash)
    }

    /// The text that is signed: `1;<path>;sha256:<nixbase32>;<size>;<references, comma separated>`,
    /// with absolute paths and the size in bytes. Signatures cover path, contents and references,
    /// but neither the deriver nor the location of the NAR in a cache.
    pub fn fingerprint(&self, dir: &StoreDir) -> String {
        let mut text = format!(
            "1;{};{};{};",
            dir.display(&self.path),
            self.nix_hash().base32(),
            self.nar_size
        );
        for (index, reference) in self.references.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            // Writing to a string cannot fail.
            let _ = write!(text, "{comma}{}", dir.display(reference));
        }
        text
    }

    /// Adds a signature of this key, unless there is one.
    pub fn sign(&mut self, dir: &StoreDir, key: &SigningKey) {
        let signature = key.sign(self.fingerprint(dir));
        if !self.signatures.contains(&signature) {
            self.signatures.push(signature);
        }
    }

    /// The keys in `keys` with a valid signature, in the order of `keys`. A key that occurs twice
    /// is returned twice.
    pub fn signed_by<'k>(
        &self,
        dir: &StoreDir,
        keys: &'k [VerifyingKey],
    ) -> impl Iterator<Item = &'k VerifyingKey> {
        let fingerprint = self.fingerprint(dir);
        keys.iter().filter(move |key| {
            let mut signatures = self.signatures.iter();
            signatures.any(|signature| key.verify(&fingerprint, signature))
        })
    }

    /// Whether the path follows from its content address and references. Such a path is trusted
    /// without a signature once its contents are verified against the address.
    pub fn is_content_addressed(&self, dir: &StoreDir) -> bool {
        let Some(address) = &self.ca else {
            return false;
        };
        let others = self.references.iter().filter(|path| **path != self.path);
        let references = PathReferences {
            others: others.cloned().collect(),
            to_self: self.references.contains(&self.path),
        };
        let path = content_addressed_path(dir, self.path.name().clone(), address, &references);
        path.as_ref() == Some(&self.path)
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
