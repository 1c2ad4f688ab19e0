//! What can go wrong in an evaluation.

use std::path::PathBuf;
use std::sync::Arc;

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
    #[error("{message}")]
    AttributeNotFound {
        /// The attribute path.
        attr_path: String,
        /// What is missing, perhaps with names that are like it.
        message: String,
    },
    /// The expression is wrong.
    #[error("{message}")]
    Expression {
        /// The attribute path that was being evaluated, if it was one that was asked for.
        attr_path: Option<String>,
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
    #[error("'{dependent}' needs the derivation '{missing}', which is not in {searched}")]
    MissingInput {
        /// What needs it.
        dependent: StorePath,
        /// What is missing.
        missing: StorePath,
        /// Where it was looked for, in words.
        searched: Box<str>,
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
    /// What an attribute had to have built could not be built.
    #[error("{}", import_message(attr_path, trace))]
    Import {
        /// The attribute path.
        attr_path: String,
        /// The error of the expression that needed it, with its place; empty if that is not known.
        trace: String,
        /// Why the outputs did not come.
        source: Box<RealiseError>,
    },
    /// Something is wrong with one of the attributes (or `.drv` files) that were asked for.
    ///
    /// The cause is shared: attributes that fail for the same reason each say so.
    #[error("cannot evaluate '{attr_path}'")]
    Attribute {
        /// What was asked for, as the user wrote it.
        attr_path: String,
        /// What is wrong.
        source: Arc<EvalError>,
    },
}

impl EvalError {
    /// Which of the things that were asked for this is about, if it is one of them; the error
    /// then ended only that one.
    pub fn attr_path(&self) -> Option<&str> {
        match self {
            Self::AttributeNotFound { attr_path, .. }
            | Self::Import { attr_path, .. }
            | Self::Attribute { attr_path, .. } => Some(attr_path),
            Self::Expression { attr_path, .. } => attr_path.as_deref(),
            _ => None,
        }
    }

    /// What is wrong, whichever attribute it was found in: unwraps [`EvalError::Attribute`].
    pub fn cause(&self) -> &Self {
        let mut error = self;
        while let Self::Attribute { source, .. } = error {
            error = source;
        }
        error
    }

    /// An expression is wrong, whichever attribute it belongs to.
    pub fn expression(message: impl Into<String>) -> Self {
        Self::Expression {
            attr_path: None,
            message: message.into(),
        }
    }

    /// There is no attribute of this path.
    pub fn attribute_not_found(attr_path: impl Into<String>) -> Self {
        let attr_path = attr_path.into();
        Self::AttributeNotFound {
            message: format!("attribute '{attr_path}' not found"),
            attr_path,
        }
    }

    /// The error of one attribute.
    pub fn in_attribute(attr_path: &str, source: Arc<Self>) -> Self {
        Self::Attribute {
            attr_path: attr_path.to_owned(),
            source,
        }
    }
}

fn import_message(attr_path: &str, trace: &str) -> String {
    match trace {
        "" => format!("attribute '{attr_path}' imports from a derivation"),
        trace => trace.to_owned(),
    }
}
