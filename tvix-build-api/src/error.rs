//! Errors of builders.

use thiserror::Error;
use tvix_store_api::{BoxError, StoreError};

use crate::BuilderErrorKind;

/// A fault of the builder, after which the outcome of the build is unknown.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuilderError {
    /// This builder does not support the derivation; another one may.
    #[error("builder '{builder}' cannot build this: {message}")]
    Unsupported {
        /// The builder.
        builder: String,
        /// The missing system or feature.
        message: String,
    },
    /// The machine cannot sandbox builds.
    #[error("builder '{builder}' cannot sandbox builds: {message}")]
    SandboxUnavailable {
        /// The builder.
        builder: String,
        /// The missing capability of the machine, and its remedy.
        message: String,
        /// The error of the operating system.
        source: Option<BoxError>,
    },
    /// The inputs cannot be read.
    #[error("builder '{builder}' cannot read its inputs")]
    Inputs {
        /// The builder.
        builder: String,
        /// The error of the store.
        source: StoreError,
    },
    /// The outputs cannot be pushed to the requested store.
    #[error("builder '{builder}' cannot push its outputs")]
    Push {
        /// The builder.
        builder: String,
        /// The error of the store.
        source: StoreError,
    },
    /// The builder's machine does not answer.
    #[error("builder '{builder}' is unreachable")]
    Unreachable {
        /// The builder.
        builder: String,
        /// The cause.
        source: BoxError,
    },
    /// The builder failed.
    #[error("builder '{builder}' cannot {action}")]
    Backend {
        /// The builder.
        builder: String,
        /// The failed operation, in the infinitive.
        action: String,
        /// Whether a retry may succeed.
        retryable: bool,
        /// The cause.
        source: BoxError,
    },
}

impl BuilderError {
    /// What kind of error it is.
    pub const fn kind(&self) -> BuilderErrorKind {
        match self {
            Self::Unsupported { .. } => BuilderErrorKind::Unsupported,
            Self::SandboxUnavailable { .. } => BuilderErrorKind::SandboxUnavailable,
            Self::Unreachable { .. } => BuilderErrorKind::Unreachable,
            Self::Inputs { .. } | Self::Push { .. } | Self::Backend { .. } => {
                BuilderErrorKind::Failed
            }
        }
    }

    /// The error of the store, if inputs could not be read or outputs could not be pushed: the
    /// builder is not to blame then.
    pub const fn store_error(&self) -> Option<&StoreError> {
        match self {
            Self::Inputs { source, .. } | Self::Push { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Whether a retry may succeed, on this builder or another one.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unsupported { .. } | Self::SandboxUnavailable { .. } => false,
            Self::Inputs { source, .. } | Self::Push { source, .. } => source.is_retryable(),
            Self::Unreachable { .. } => true,
            Self::Backend { retryable, .. } => *retryable,
        }
    }
}
