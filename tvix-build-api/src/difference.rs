//! The results of rebuilding valid outputs.

use std::path::PathBuf;

use nix_compat::derivation::OutputName;
use nix_compat::nixhash::NixHash;
use nix_compat::store_path::StorePath;
use serde::{Deserialize, Serialize};

use crate::BuildFailure;

/// The result of a rebuild.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckOutcome {
    /// All outputs are identical to the valid ones.
    Same,
    /// These outputs differ: the build is not deterministic.
    Differs(Vec<Difference>),
    /// The rebuild failed.
    Failed(BuildFailure),
}

/// An output that differs from the valid one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Difference {
    /// The output.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub output: OutputName,
    /// Its valid store path.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub path: StorePath,
    /// SHA-256 of the NAR of the valid output.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub expected: NixHash,
    /// SHA-256 of the NAR of the rebuilt output.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub actual: NixHash,
    /// Where the rebuilt output was unpacked, if it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<PathBuf>,
}

impl Difference {
    /// A rebuilt output that was not kept.
    pub fn new(output: OutputName, path: StorePath, expected: NixHash, actual: NixHash) -> Self {
        Self {
            output,
            path,
            expected,
            actual,
            kept: None,
        }
    }

    /// Sets the directory that the rebuilt output was unpacked into.
    #[must_use]
    pub fn with_kept(mut self, kept: impl Into<Option<PathBuf>>) -> Self {
        self.kept = kept.into();
        self
    }
}
