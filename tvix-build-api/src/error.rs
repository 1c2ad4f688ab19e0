//! What can go wrong in a builder itself.

use thiserror::Error;
use tvix_store_api::{BoxError, StoreError};

/// Why a builder could not even tell whether the derivation builds.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuilderError {
    /// This builder cannot build such a derivation at all; another might.
    #[error("builder '{builder}' cannot build this: {message}")]
    Unsupported {
        /// The builder.
        builder: String,
        /// The system or feature that it lacks.
        message: String,
    },
    /// The machine cannot sandbox builds.
    #[error("builder '{builder}' cannot sandbox builds: {message}")]
    SandboxUnavailable {
        /// The builder.
        builder: String,
        /// What is missing, and what to do about it.
        message: String,
        /// What the system said.
        source: Option<BoxError>,
    },
    /// The inputs cannot be read.
    #[error("builder '{builder}' cannot read its inputs")]
    Inputs {
        /// The builder.
        builder: String,
        /// What the store said.
        source: StoreError,
    },
    /// The outputs cannot be pushed to the store that was asked for.
    #[error("builder '{builder}' cannot push its outputs")]
    Push {
        /// The builder.
        builder: String,
        /// What the store said.
        source: StoreError,
    },
    /// The builder failed.
    #[error("builder '{builder}' failed while {action}")]
    Backend {
        /// The builder.
        builder: String,
        /// What it was doing.
        action: String,
        /// Whether the same request may well succeed later.
        retryable: bool,
        /// What is wrong.
        source: BoxError,
    },
}

impl BuilderError {
    /// Whether the same request may well succeed later, here or elsewhere.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unsupported { .. } | Self::SandboxUnavailable { .. } => false,
            Self::Inputs { source, .. } | Self::Push { source, .. } => source.is_retryable(),
            Self::Backend { retryable, .. } => *retryable,
        }
    }
}
