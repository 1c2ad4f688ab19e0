//! Errors of an evaluation.

mod kind;
mod place;

pub use kind::EvalErrorKind;
pub use place::{ErrorPlace, Position};

use std::path::PathBuf;
use std::sync::Arc;

use nix_compat::store_path::StorePath;
use thiserror::Error;

use crate::{EvalCost, RealiseError, RootOrder};

/// Why an evaluation, or a part of it, failed.
///
/// [`EvalError::failure`] gives the same as a plain value, for events and reports.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The evaluator does not support this kind of source.
    #[error("this evaluator cannot evaluate {source_kind}")]
    UnsupportedSource {
        /// The kind of source.
        source_kind: String,
    },
    /// There is no such attribute.
    #[error("{message}")]
    AttributeNotFound {
        /// The attribute path.
        attr_path: String,
        /// Which attribute is missing, with suggestions of similar names.
        message: String,
        /// Where.
        place: Box<ErrorPlace>,
    },
    /// The expression is wrong.
    #[error("{message}")]
    Expression {
        /// The kind of error.
        kind: EvalErrorKind,
        /// The attribute path that was being evaluated, if one was asked for.
        attr_path: Option<String>,
        /// The error with its trace.
        message: String,
        /// Where.
        place: Box<ErrorPlace>,
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
    /// A `.drv` file is not a valid derivation.
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
        /// The derivation that needs it.
        dependent: StorePath,
        /// The missing derivation.
        missing: StorePath,
        /// The places that were searched, in words.
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
    /// Import from derivation: the derivation that evaluation needs cannot be built.
    #[error("{}", import_message(attr_path, trace))]
    Import {
        /// The attribute path.
        attr_path: String,
        /// The error of the expression that needed it, with its trace; empty if not known.
        trace: String,
        /// Where.
        place: Box<ErrorPlace>,
        /// Why the outputs cannot be read.
        source: Box<RealiseError>,
    },
    /// One of the attributes (or `.drv` files) that were asked for cannot be evaluated.
    ///
    /// The source is shared: each attribute that fails for the same reason has an error of its own.
    #[error("cannot evaluate '{attr_path}'")]
    Attribute {
        /// The attribute path, as the user wrote it.
        attr_path: String,
        /// Where.
        place: Box<ErrorPlace>,
        /// Why.
        source: Arc<EvalError>,
    },
}

impl EvalError {
    /// The attribute path that failed, if it is one that was asked for; the error then ended only
    /// that one.
    pub fn attr_path(&self) -> Option<&str> {
        match self {
            Self::AttributeNotFound { attr_path, .. }
            | Self::Import { attr_path, .. }
            | Self::Attribute { attr_path, .. } => Some(attr_path),
            Self::Expression { attr_path, .. } => attr_path.as_deref(),
            _ => None,
        }
    }

    /// Where the error belongs, if it says so.
    pub fn place(&self) -> Option<&ErrorPlace> {
        match self {
            Self::AttributeNotFound { place, .. }
            | Self::Expression { place, .. }
            | Self::Import { place, .. }
            | Self::Attribute { place, .. } => Some(place),
            _ => None,
        }
    }

    /// The error without [`EvalError::Attribute`] around it.
    pub fn cause(&self) -> &Self {
        let mut error = self;
        while let Self::Attribute { source, .. } = error {
            error = source;
        }
        error
    }

    /// The kind of error.
    pub fn kind(&self) -> EvalErrorKind {
        match self.cause() {
            Self::UnsupportedSource { .. } => EvalErrorKind::Unsupported,
            Self::AttributeNotFound { .. } => EvalErrorKind::AttributeNotFound,
            Self::Expression { kind, .. } => *kind,
            Self::Instantiate(_) | Self::InvalidDerivation { .. } => {
                EvalErrorKind::InvalidDerivation
            }
            Self::Read { .. } => EvalErrorKind::Io,
            Self::MissingInput { .. } => EvalErrorKind::MissingInput,
            Self::Cycle { .. } => EvalErrorKind::Cycle,
            Self::NoSuchOutput { .. } => EvalErrorKind::NoSuchOutput,
            Self::Import { source, .. } => match **source {
                RealiseError::Cancelled => EvalErrorKind::Cancelled,
                _ => EvalErrorKind::Build,
            },
            Self::Attribute { .. } => EvalErrorKind::Other,
        }
    }

    /// An error of an expression, whichever attribute it belongs to.
    pub fn expression(message: impl Into<String>) -> Self {
        Self::Expression {
            kind: EvalErrorKind::Other,
            attr_path: None,
            message: message.into(),
            place: Box::default(),
        }
    }

    /// An attribute path that leads nowhere.
    pub fn attribute_not_found(attr_path: impl Into<String>) -> Self {
        let attr_path = attr_path.into();
        Self::AttributeNotFound {
            message: format!("attribute '{attr_path}' not found"),
            attr_path,
            place: Box::default(),
        }
    }

    /// The error of one attribute.
    pub fn in_attribute(attr_path: &str, source: Arc<Self>) -> Self {
        Self::Attribute {
            attr_path: attr_path.to_owned(),
            place: Box::default(),
            source,
        }
    }

    /// The error of the root at this place, if it is the error of one.
    #[must_use]
    pub fn with_order(mut self, order: RootOrder) -> Self {
        if let Some(place) = self.place_mut() {
            place.order = order;
        }
        self
    }

    /// The error with the cost of the evaluation that it ended, if it is the error of a root.
    #[must_use]
    pub fn with_cost(mut self, cost: EvalCost) -> Self {
        if let Some(place) = self.place_mut() {
            place.cost = Some(cost);
        }
        self
    }

    /// As an error of a larger evaluation, in which `asked` attribute paths come before those of
    /// this one. Attribute paths stay as the user wrote them.
    #[must_use]
    pub fn with_offset(mut self, asked: usize) -> Self {
        if let Some(place) = self.place_mut() {
            place.order = std::mem::take(&mut place.order).with_offset(asked);
        }
        self
    }

    /// As an error of the part with this number of a larger evaluation: its attribute path begins
    /// with the number. Messages stay.
    #[must_use]
    pub fn with_part(mut self, number: usize) -> Self {
        let numbered = |path: &str| match path {
            "" => number.to_string(),
            path => format!("{number}.{path}"),
        };
        match &mut self {
            Self::AttributeNotFound { attr_path, .. }
            | Self::Import { attr_path, .. }
            | Self::Attribute { attr_path, .. } => *attr_path = numbered(attr_path),
            Self::Expression { attr_path, .. } => {
                *attr_path = Some(numbered(attr_path.as_deref().unwrap_or_default()));
            }
            _ => return Self::in_attribute(&number.to_string(), Arc::new(self)),
        }
        self
    }

    fn place_mut(&mut self) -> Option<&mut ErrorPlace> {
        match self {
            Self::AttributeNotFound { place, .. }
            | Self::Expression { place, .. }
            | Self::Import { place, .. }
            | Self::Attribute { place, .. } => Some(place),
            _ => None,
        }
    }
}

fn import_message(attr_path: &str, trace: &str) -> String {
    match trace {
        "" => format!("attribute '{attr_path}' imports from a derivation"),
        trace => trace.to_owned(),
    }
}
