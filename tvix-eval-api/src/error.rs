//! What can go wrong in an evaluation.

use std::path::PathBuf;

use nix_compat::store_path::StorePath;
use thiserror::Error;

use crate::RealiseError;

/// Why something could not be evaluated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EvalError {
    /// This evaluator does not take such a source.
    #[error("this evaluator cannot evaluate {source_kind}")]
    UnsupportedSource {
        /// What was asked for.
        source_kind: String,
    },
    /// There is no such attribute.
    #[error("attribute '{attr_path}' not found")]
    AttributeNotFound {
        /// The attribute path.
        attr_path: String,
    },
    /// The expression is wrong.
    #[error("{message}")]
    Expression {
        /// What is wrong, and where.
        message: String,
    },
    /// A derivation could not be made.
    #[error("cannot make a derivation")]
    Instantiate(#[from] nix_compat::derivation::InstantiateError),
    /// A file could not be read.
    #[error("cannot read '{path}'")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A `.drv` file is not what it should be.
    #[error("'{path}' is not a valid derivation")]
    InvalidDerivation {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An input derivation is nowhere to be found.
    #[error("'{dependent}' needs the derivation '{missing}', which was not found in '{searched}'")]
    MissingInput {
        /// What needs it.
        dependent: StorePath,
        /// What is missing.
        missing: StorePath,
        /// Where it was looked for.
        searched: PathBuf,
    },
    /// Derivations need each other.
    #[error("derivations depend on each other: {}", .cycle.iter().map(StorePath::to_string).collect::<Vec<_>>().join(" -> "))]
    Cycle {
        /// The cycle; its first element is repeated at the end.
        cycle: Vec<StorePath>,
    },
    /// A derivation has no such output.
    #[error("derivation '{drv_path}' has no output '{output}'")]
    NoSuchOutput {
        /// The derivation.
        drv_path: StorePath,
        /// The output.
        output: String,
    },
    /// What evaluation had to have built could not be built.
    #[error("while importing from a derivation")]
    Import(#[from] RealiseError),
}
