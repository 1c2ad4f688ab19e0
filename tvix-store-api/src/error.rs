//! Errors of stores.

use std::io::ErrorKind;

use nix_compat::nixhash::NixHash;
use nix_compat::realisation::DrvOutput;
use nix_compat::store_path::StorePath;
use thiserror::Error;

use crate::StoreUri;

/// A back end's own error, of any type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The reason that a store operation failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The path is not valid in this store.
    #[error("path '{path}' is not valid in store '{store}'")]
    NotFound {
        /// The store.
        store: StoreUri,
        /// The path.
        path: StorePath,
    },
    /// The contents do not have the announced hash.
    #[error("the contents of '{path}' have the hash {actual} instead of {expected}")]
    HashMismatch {
        /// The path.
        path: StorePath,
        /// The hash in the path's info.
        expected: NixHash,
        /// The hash of the contents.
        actual: NixHash,
    },
    /// The contents do not have the announced size.
    #[error("the NAR of '{path}' has {actual} bytes instead of {expected}")]
    SizeMismatch {
        /// The path.
        path: StorePath,
        /// The size in the path's info, in bytes.
        expected: u64,
        /// The size of the contents in bytes, as far as they were read.
        actual: u64,
    },
    /// A path to be added refers to a path that is not valid.
    #[error("'{path}' refers to '{reference}', which is not valid in store '{store}'")]
    InvalidReference {
        /// The store.
        store: StoreUri,
        /// The path to be added.
        path: StorePath,
        /// The reference that is not valid.
        reference: StorePath,
    },
    /// The path does not follow from its content address.
    #[error("path '{path}' does not follow from its content address '{address}'")]
    AddressMismatch {
        /// The path.
        path: StorePath,
        /// The content address.
        address: Box<nix_compat::content_address::ContentAddress>,
    },
    /// The contents are not a well-formed NAR.
    #[error("the contents of '{path}' are not a well-formed NAR")]
    MalformedNar {
        /// The path.
        path: StorePath,
        /// The syntax error.
        source: BoxError,
    },
    /// The content address is one of a single file that is not executable, and the contents are
    /// something else.
    #[error("the content address of '{path}' requires a single file that is not executable")]
    NotAFile {
        /// The path.
        path: StorePath,
    },
    /// Paths that are to be registered together refer to each other in a cycle. Such paths could
    /// never be deleted; Nix refuses them too.
    #[error("'{path}' and '{other}' refer to each other in a cycle")]
    Cycle {
        /// A path of the cycle.
        path: StorePath,
        /// The next path of the cycle.
        other: StorePath,
    },
    /// A local file or tree to be added cannot be read, or has changed.
    #[error("cannot add '{file}' to the store as '{path}'")]
    Source {
        /// The file or directory.
        file: std::path::PathBuf,
        /// The store path that was expected.
        path: StorePath,
        /// The cause.
        source: BoxError,
    },
    /// Two stores have different store directories, so neither can hold paths of the other.
    #[error("the store directory of store '{store}' is '{actual}', not '{expected}'")]
    OtherStoreDir {
        /// The store that cannot hold the paths.
        store: StoreUri,
        /// Its store directory.
        actual: nix_compat::store_path::StoreDir,
        /// The store directory of the paths.
        expected: nix_compat::store_path::StoreDir,
    },
    /// The path has no signature of a trusted key, and it is not content-addressed, so its contents
    /// cannot be verified either.
    #[error("store '{store}' has '{path}' without a signature of a trusted key")]
    Untrusted {
        /// The store.
        store: StoreUri,
        /// The path.
        path: StorePath,
    },
    /// The path has no signature of a trusted key, and its content address has the form of Nix 2.17
    /// to 2.34. Contents with fewer references to themselves have the same address in that form.
    #[error(
        "store '{store}' has '{path}' without a signature of a trusted key, and its content \
         address, in the form of Nix 2.17 to 2.34, cannot replace one: sign the path"
    )]
    WeakAddress {
        /// The store.
        store: StoreUri,
        /// The path.
        path: StorePath,
    },
    /// A realisation has no signature of a trusted key. A realisation can be verified in no other
    /// way.
    #[error("store '{store}' has a realisation of '{id}' without a signature of a trusted key")]
    UntrustedRealisation {
        /// The store.
        store: StoreUri,
        /// The output.
        id: Box<DrvOutput>,
    },
    /// The store's entry for the realisation of an output is malformed, or is about another output.
    #[error("store '{store}' has an invalid realisation of '{id}'")]
    BadRealisation {
        /// The store.
        store: StoreUri,
        /// The output.
        id: Box<DrvOutput>,
        /// The cause.
        source: BoxError,
    },
    /// The store's info of a path is malformed, or is about another path.
    #[error("store '{store}' has invalid information about '{path}'")]
    BadInfo {
        /// The store.
        store: StoreUri,
        /// The path.
        path: StorePath,
        /// The cause.
        source: BoxError,
    },
    /// The contents of a path in the store do not match the store's own info of it.
    #[error("the contents of '{path}' in store '{store}' are corrupt")]
    Corrupt {
        /// The store that the contents came from.
        store: StoreUri,
        /// The path.
        path: StorePath,
        /// The mismatch.
        source: Box<StoreError>,
    },
    /// The store is read-only.
    #[error("store '{store}' is read-only")]
    ReadOnly {
        /// The store.
        store: StoreUri,
    },
    /// The store does not answer.
    #[error("cannot reach {}: {reason}", store.place())]
    Unreachable {
        /// The store.
        store: StoreUri,
        /// The cause, such as "name or service not known".
        reason: String,
    },
    /// The back end failed.
    #[error("store '{store}' cannot {action}")]
    Backend {
        /// The store.
        store: StoreUri,
        /// The failed operation in the infinitive, such as "read the database '/nix/var/nix/db/db.sqlite'".
        action: String,
        /// Whether a retry may succeed.
        retryable: bool,
        /// The cause.
        source: BoxError,
    },
    /// A bug in the store itself.
    #[error("bug in store '{store}': {message}")]
    Bug {
        /// The store.
        store: StoreUri,
        /// The invariant that does not hold.
        message: String,
    },
}

/// What kind of error a [`StoreError`] is, as a value that can be kept and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// A path is not valid in the store.
    NotFound,
    /// Contents are not what their description says.
    Corrupt,
    /// The store refuses the request, which no store could grant.
    Rejected,
    /// Nothing that is trusted vouches for what the store has.
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

/// The party responsible for an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller's request is invalid.
    Caller,
    /// The back end failed, or something that it depends on.
    Backend {
        /// Whether a retry may succeed.
        retryable: bool,
    },
    /// The code has a bug.
    Bug,
}

impl StoreError {
    /// What kind of error it is.
    pub fn kind(&self) -> StoreErrorKind {
        match self {
            Self::NotFound { .. } => StoreErrorKind::NotFound,
            Self::HashMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::AddressMismatch { .. }
            | Self::MalformedNar { .. }
            | Self::NotAFile { .. }
            | Self::BadRealisation { .. }
            | Self::BadInfo { .. }
            | Self::Corrupt { .. } => StoreErrorKind::Corrupt,
            Self::InvalidReference { .. } | Self::Cycle { .. } | Self::OtherStoreDir { .. } => {
                StoreErrorKind::Rejected
            }
            Self::Source { source, .. } => of_system(&**source).unwrap_or(StoreErrorKind::Rejected),
            Self::Untrusted { .. }
            | Self::WeakAddress { .. }
            | Self::UntrustedRealisation { .. } => StoreErrorKind::Untrusted,
            Self::ReadOnly { .. } => StoreErrorKind::ReadOnly,
            Self::Unreachable { .. } => StoreErrorKind::Unreachable,
            Self::Backend { source, .. } => of_system(&**source).unwrap_or(StoreErrorKind::Failed),
            Self::Bug { .. } => StoreErrorKind::Bug,
        }
    }

    /// The party responsible for this error.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Backend { retryable, .. } => Fault::Backend {
                retryable: *retryable,
            },
            Self::Unreachable { .. } => Fault::Backend { retryable: true },
            Self::Untrusted { .. }
            | Self::WeakAddress { .. }
            | Self::UntrustedRealisation { .. }
            | Self::BadRealisation { .. }
            | Self::BadInfo { .. }
            | Self::Corrupt { .. } => Fault::Backend { retryable: false },
            Self::Bug { .. } => Fault::Bug,
            _ => Fault::Caller,
        }
    }

    /// Turns a mismatch of contents into an error about `store`, the store that the contents came
    /// from.
    pub(crate) fn blame(self, store: &StoreUri) -> Self {
        match &self {
            Self::HashMismatch { path, .. }
            | Self::SizeMismatch { path, .. }
            | Self::AddressMismatch { path, .. }
            | Self::MalformedNar { path, .. }
            | Self::NotAFile { path } => Self::Corrupt {
                store: store.clone(),
                path: path.clone(),
                source: Box::new(self),
            },
            _ => self,
        }
    }

    /// Whether a retry may succeed.
    pub const fn is_retryable(&self) -> bool {
        matches!(self.fault(), Fault::Backend { retryable: true })
    }
}

/// What the system said at the bottom of an error, if that has a kind of its own.
fn of_system(error: &(dyn std::error::Error + 'static)) -> Option<StoreErrorKind> {
    let mut error = Some(error);
    while let Some(cause) = error {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            match io.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    return Some(StoreErrorKind::NoSpace);
                }
                ErrorKind::PermissionDenied => return Some(StoreErrorKind::PermissionDenied),
                ErrorKind::ReadOnlyFilesystem => return Some(StoreErrorKind::ReadOnly),
                _ => {}
            }
            // An error in an error of this type is not its source, but what that has as source.
            if let Some(inner) = io.get_ref()
                && let Some(kind) = of_system(inner)
            {
                return Some(kind);
            }
        }
        #[cfg(feature = "local-fs")]
        if let Some(rusqlite::Error::SqliteFailure(failure, _)) = cause.downcast_ref() {
            match failure.code {
                rusqlite::ErrorCode::DiskFull => return Some(StoreErrorKind::NoSpace),
                rusqlite::ErrorCode::ReadOnly => return Some(StoreErrorKind::ReadOnly),
                rusqlite::ErrorCode::PermissionDenied | rusqlite::ErrorCode::CannotOpen => {
                    return Some(StoreErrorKind::PermissionDenied);
                }
                _ => {}
            }
        }
        error = cause.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn kind(source: impl Into<BoxError>) -> StoreErrorKind {
        let error = StoreError::Backend {
            store: StoreUri::local("/"),
            action: "writing".into(),
            retryable: false,
            source: source.into(),
        };
        error.kind()
    }

    #[test]
    fn a_full_disk_is_told_from_other_failures() {
        let full = || io::Error::from_raw_os_error(28);
        assert_eq!(kind(full()), StoreErrorKind::NoSpace);
        assert_eq!(kind(io::Error::other(full())), StoreErrorKind::NoSpace);
        let denied = io::Error::from(ErrorKind::PermissionDenied);
        assert_eq!(kind(denied), StoreErrorKind::PermissionDenied);
        assert_eq!(kind("on fire"), StoreErrorKind::Failed);
    }

    #[cfg(feature = "local-fs")]
    #[test]
    fn a_database_on_a_full_disk_is_the_same() {
        let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
        let full = rusqlite::Error::SqliteFailure(full, None);
        assert_eq!(kind(full), StoreErrorKind::NoSpace);
    }
}
