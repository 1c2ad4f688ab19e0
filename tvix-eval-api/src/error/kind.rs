//! The kinds of errors.

use serde::{Deserialize, Serialize};

/// The kind of an evaluation error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum EvalErrorKind {
    /// An attribute path that was asked for leads nowhere.
    AttributeNotFound,
    /// `throw`, or a search path without the entry.
    Thrown,
    /// An assertion that does not hold.
    Assertion,
    /// `abort`.
    Abort,
    /// A value of the wrong type.
    Type,
    /// An expression uses a variable or attribute that does not exist.
    Missing,
    /// A value that needs itself.
    InfiniteRecursion,
    /// Calls or data structures are nested too deeply.
    Depth,
    /// Text that is not valid Nix.
    Syntax,
    /// A file cannot be read.
    Io,
    /// Restricted or pure evaluation forbids it.
    Forbidden,
    /// A derivation that evaluation needs (import from derivation), or a source, cannot be had.
    Build,
    /// The evaluator does not support it.
    Unsupported,
    /// A limit of time or memory.
    Limit,
    /// The evaluation was cancelled.
    Cancelled,
    /// A derivation is not valid.
    InvalidDerivation,
    /// An input derivation is missing.
    MissingInput,
    /// Derivations depend on each other.
    Cycle,
    /// A derivation has no such output.
    NoSuchOutput,
    /// Any other error.
    Other,
}
