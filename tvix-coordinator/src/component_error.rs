//! Errors of stores, substituters and builders as plain values, for events and reports.

#[cfg(feature = "driver")]
use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};
use tvix_build_api::BuilderErrorKind;
#[cfg(feature = "driver")]
use tvix_build_api::{BuilderError, CheckError};
#[cfg(feature = "driver")]
use tvix_store_api::StoreError;

/// An error of a store, a substituter or a builder, as opposed to a build that fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ComponentError {
    /// The component that failed, and the kind of its error.
    #[serde(flatten)]
    pub kind: ComponentErrorKind,
    /// The whole error as text, with its causes.
    pub message: String,
    /// The texts of the error and of its causes, outermost first.
    pub causes: Vec<String>,
    /// Whether the same may succeed later.
    pub retryable: bool,
}

/// The component that failed, and the kind of its error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "origin", content = "kind", rename_all = "camelCase")]
#[non_exhaustive]
pub enum ComponentErrorKind {
    /// A store or substituter failed.
    Store(StoreErrorKind),
    /// A builder failed.
    Builder(BuilderErrorKind),
    /// The coordinator failed: a bug.
    Coordinator,
}

/// The kind of an error of a store.
//
// That of `tvix-store-api`, for programs that have the machine and no runtime, which that crate needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// A path is not valid in the store.
    NotFound,
    /// Contents do not match their description.
    Corrupt,
    /// The store refuses the request, which no store could grant.
    Rejected,
    /// A signature of a trusted key is missing.
    Untrusted,
    /// The store can only be read.
    ReadOnly,
    /// The store does not answer.
    Unreachable,
    /// There is no space left, or no quota.
    NoSpace,
    /// The system does not permit it.
    PermissionDenied,
    /// The store failed in another way.
    Failed,
    /// A bug in the store.
    Bug,
}

#[cfg(feature = "driver")]
impl From<tvix_store_api::StoreErrorKind> for StoreErrorKind {
    fn from(kind: tvix_store_api::StoreErrorKind) -> Self {
        use tvix_store_api::StoreErrorKind as Kind;
        match kind {
            Kind::NotFound => Self::NotFound,
            Kind::Corrupt => Self::Corrupt,
            Kind::Rejected => Self::Rejected,
            Kind::Untrusted => Self::Untrusted,
            Kind::ReadOnly => Self::ReadOnly,
            Kind::Unreachable => Self::Unreachable,
            Kind::NoSpace => Self::NoSpace,
            Kind::PermissionDenied => Self::PermissionDenied,
            Kind::Bug => Self::Bug,
            _ => Self::Failed,
        }
    }
}

impl ComponentError {
    /// An error without causes.
    pub fn new(kind: ComponentErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            kind,
            causes: vec![message.clone()],
            message,
            retryable: false,
        }
    }

    /// Sets whether the same may succeed later.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// An error of a builder without causes.
    pub fn builder(message: impl Into<String>) -> Self {
        Self::new(
            ComponentErrorKind::Builder(BuilderErrorKind::Failed),
            message,
        )
    }

    /// A bug of the coordinator.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(ComponentErrorKind::Coordinator, message)
    }

    /// Whether a store failed, and not a builder.
    pub fn is_of_store(&self) -> bool {
        matches!(self.kind, ComponentErrorKind::Store(_))
    }

    #[cfg(feature = "driver")]
    fn of(kind: ComponentErrorKind, error: &dyn Error, retryable: bool) -> Self {
        let (mut message, mut causes) = (String::new(), Vec::new());
        let mut error = Some(error);
        while let Some(cause) = error {
            let text = cause.to_string();
            if message.is_empty() {
                message.push_str(&text);
            } else if !message.contains(&text) {
                // A trace begins with a line of its own.
                message.push_str(if text.starts_with('\n') { ":" } else { ": " });
                message.push_str(&text);
            }
            causes.push(text);
            error = cause.source();
        }
        Self {
            kind,
            message,
            causes,
            retryable,
        }
    }
}

#[cfg(feature = "driver")]
impl From<&StoreError> for ComponentError {
    fn from(error: &StoreError) -> Self {
        let kind = ComponentErrorKind::Store(error.kind().into());
        Self::of(kind, error, error.is_retryable())
    }
}

#[cfg(feature = "driver")]
impl From<&BuilderError> for ComponentError {
    fn from(error: &BuilderError) -> Self {
        let kind = match error.store_error() {
            Some(store) => ComponentErrorKind::Store(store.kind().into()),
            None => ComponentErrorKind::Builder(error.kind()),
        };
        Self::of(kind, error, error.is_retryable())
    }
}

#[cfg(feature = "driver")]
impl From<&CheckError> for ComponentError {
    fn from(error: &CheckError) -> Self {
        match error {
            CheckError::Store(error) => Self::from(error),
            CheckError::Builder(error) => Self::from(error),
            other => Self::of(
                ComponentErrorKind::Store(StoreErrorKind::Failed),
                other,
                false,
            ),
        }
    }
}

impl fmt::Display for ComponentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(all(test, feature = "driver"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use tvix_store_api::StoreUri;

    use super::*;

    #[test]
    fn a_full_store_is_not_blamed_on_the_builder_that_pushes_to_it() {
        let full = StoreError::Backend {
            store: StoreUri::local("/"),
            action: "writing 'x'".into(),
            retryable: false,
            source: std::io::Error::from(std::io::ErrorKind::StorageFull).into(),
        };
        let error = BuilderError::Push {
            builder: "here".into(),
            source: full,
        };
        let trouble = ComponentError::from(&error);
        assert!(trouble.is_of_store());
        assert_eq!(trouble.causes.len(), 3, "{trouble:?}");
        let json = serde_json::to_value(&trouble).unwrap();
        assert_eq!(json["origin"], "store");
        assert_eq!(json["kind"], "noSpace");
        assert_eq!(
            serde_json::from_value::<ComponentError>(json).unwrap(),
            trouble
        );
    }
}
