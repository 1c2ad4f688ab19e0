//! The JSON of `nix path-info --json` as C++ Nix up to 2.18 writes it: absolute store paths, no
//! nested content address. Later versions keep the names of the fields.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::PathInfo;
use crate::content_address::{ContentAddress, ContentAddressError};
use crate::nixhash::{HashAlgo, HashError, NixHash};
use crate::signature::Signature;
use crate::store_path::{StoreDir, StorePath, StorePathError};

/// Why a JSON value does not describe a store path.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JsonError {
    /// The JSON value has another structure.
    #[error("not a path info")]
    Structure(#[from] serde_json::Error),
    /// A field holds an invalid store path.
    #[error("{field} is not a store path")]
    StorePath {
        /// The field's name.
        field: &'static str,
        /// The reason.
        source: StorePathError,
    },
    /// `narHash` is not a SHA-256 hash.
    #[error("narHash is not a SHA-256")]
    NarHash(#[from] HashError),
    /// `ca` is not a content address.
    #[error("ca is not a content address")]
    Ca(#[from] ContentAddressError),
}

/// The fields in the order in which Nix writes them.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Json {
    path: String,
    nar_hash: String,
    nar_size: u64,
    #[serde(default)]
    references: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deriver: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    registration_time: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    ultimate: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    signatures: Vec<Signature>,
}

impl PathInfo {
    /// An element of the output of `nix path-info --json`.
    pub fn to_nix_json(&self, dir: &StoreDir) -> serde_json::Value {
        let absolute = |path: &StorePath| dir.display(path).to_string();
        let json = Json {
            path: absolute(&self.path),
            nar_hash: self.nix_hash().to_string(),
            nar_size: self.nar_size,
            references: self.references.iter().map(absolute).collect(),
            ca: self.ca.as_ref().map(ContentAddress::to_string),
            deriver: self.deriver.as_ref().map(absolute),
            registration_time: self.registration_time,
            ultimate: self.ultimate,
            signatures: self.signatures.clone(),
        };
        // Strings and numbers under string keys cannot fail to serialise.
        serde_json::to_value(json).unwrap_or_default()
    }

    /// Parses an element of the output of `nix path-info --json`. Unknown fields are ignored.
    /// Signatures are parsed, but verified only by [`PathInfo::signed_by`].
    ///
    /// Fails if the value has another structure, or if a path is not in `dir`.
    pub fn from_nix_json(value: &serde_json::Value, dir: &StoreDir) -> Result<Self, JsonError> {
        let json = Json::deserialize(value)?;
        let parse = |field, text: &String| {
            let path = dir.parse(text);
            path.map_err(|source| JsonError::StorePath { field, source })
        };
        let mut info = Self {
            nar_size: json.nar_size,
            deriver: match &json.deriver {
                Some(path) => Some(parse("deriver", path)?),
                None => None,
            },
            registration_time: json.registration_time,
            ultimate: json.ultimate,
            signatures: json.signatures,
            ..Self::new(parse("path", &json.path)?, [0; 32], 0)
        };
        info.nar_hash = match NixHash::parse_any(&json.nar_hash, Some(HashAlgo::Sha256))? {
            NixHash::Sha256(hash) => hash,
            // Any other algorithm is rejected.
            other => return Err(HashError::MissingAlgo(other.to_string()).into()),
        };
        for reference in &json.references {
            info.references.insert(parse("references", reference)?);
        }
        info.ca = match &json.ca {
            Some(ca) if !ca.is_empty() => Some(ca.parse()?),
            _ => None,
        };
        Ok(info)
    }
}
