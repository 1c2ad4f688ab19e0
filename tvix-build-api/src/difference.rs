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
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The output.
    pub output: OutputName,
    /// Its valid store path.
    pub path: StorePath,
    /// SHA-256 of the NAR of the valid output.
    pub expected: NixHash,
    /// SHA-256 of the NAR of the rebuilt output.
    pub actual: NixHash,
    /// Where the rebuilt output was unpacked, if it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<PathBuf>,
}
