//! What can go wrong in a store.

use std::io::ErrorKind;

use nix_compat::nixhash::NixHash;
use nix_compat::realisation::DrvOutput;
use nix_compat::store_path::StorePath;
use thiserror::Error;

use crate::StoreUri;

/// An error of a back end, whatever its type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a store could not do what was asked.
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
    /// The contents do not have the hash that was announced.
    #[error("the contents of '{path}' have hash {actual}, but {expected} was announced")]
    HashMismatch {
        /// The path.
        path: StorePath,
        /// What its info says.
        expected: NixHash,
        /// What came.
        actual: NixHash,
    },
    /// The contents do not have the size that was announced.
    #[error("the contents of '{path}' have {actual} bytes as NAR, but {expected} were announced")]
    SizeMismatch {
        /// The path.
        path: StorePath,
        /// What its info says, in bytes.
        expected: u64,
        /// What came, in bytes, as far as it was read.
        actual: u64,
    },
    /// A path to be added refers to one that is not valid.
    #[error("'{path}' refers to '{reference}', which is not valid in store '{store}'")]
    InvalidReference {
        /// The store.
        store: StoreUri,
        /// The path to be added.
        path: StorePath,
        /// What it refers to.
        reference: StorePath,
    },
    /// The path is not the one that its content address gives.
    #[error("'{path}' is not the path of its content address '{address}'")]
    AddressMismatch {
        /// The path.
        path: StorePath,
        /// The address.
        address: Box<nix_compat::content_address::ContentAddress>,
    },
    /// The contents are not a NAR.
    #[error("the contents of '{path}' are not a well-formed NAR")]
    MalformedNar {
        /// The path.
        path: StorePath,
        /// What is wrong.
        source: BoxError,
    },
    /// The content address is that of a single file that cannot be executed, and the contents are
    /// something else.
    #[error("'{path}' should be a single file that is not executable, as its content address says")]
    NotAFile {
        /// The path.
        path: StorePath,
    },
    /// Paths that would be registered together refer to each other in a circle, so that none of
    /// them could ever be deleted (Nix refuses that too).
    #[error("'{path}' and '{other}' refer to each other in a cycle")]
    Cycle {
        /// One of them.
        path: StorePath,
        /// The next one.
        other: StorePath,
    },
    /// A local file or tree to be added cannot be read or is not what it was.
    #[error("cannot add '{file}' to the store as '{path}'")]
    Source {
        /// The file or folder.
        file: std::path::PathBuf,
        /// The store path it should become.
        path: StorePath,
        /// What is wrong.
        source: BoxError,
    },
    /// Two stores keep their paths in different directories, so that neither can have the other's.
    #[error("store '{store}' has paths in '{actual}', and not in '{expected}'")]
    OtherStoreDir {
        /// The store that cannot have such paths.
        store: StoreUri,
        /// Where it has its paths.
        actual: nix_compat::store_path::StoreDir,
        /// Where the paths are.
        expected: nix_compat::store_path::StoreDir,
    },
    /// The store has the path without a signature of a key that is trusted, and its contents do
    /// not speak for themselves, as those of content-addressed paths do.
    #[error("store '{store}' has '{path}' without a signature of a trusted key")]
    Untrusted {
        /// The store.
        store: StoreUri,
        /// The path.
        path: StorePath,
    },
    /// The store has the path without a signature of a trusted key, and its content address has
    /// the form of Nix 2.17 to 2.34, which contents with fewer references to themselves share.
    #[error(
        "store '{store}' has '{path}' without a signature of a trusted key, and its content \
         address does not say where it refers to itself (a path of Nix 2.17 to 2.34): sign it"
    )]
    WeakAddress {
        /// The store.
        store: StoreUri,
        /// The path.
        path: StorePath,
    },
    /// The store has a realisation that no trusted key has signed: nothing else vouches for it.
    #[error("store '{store}' has a realisation of '{id}' without a signature of a trusted key")]
    UntrustedRealisation {
        /// The store.
        store: StoreUri,
        /// The output.
        id: Box<DrvOutput>,
    },
    /// What the store has as the realisation of an output is none, or is that of another output.
    #[error("store '{store}' has a bad realisation of '{id}'")]
    BadRealisation {
        /// The store.
        store: StoreUri,
        /// The output.
        id: Box<DrvOutput>,
        /// What is wrong.
        source: BoxError,
    },
    /// What the store says of a path makes no sense, or is said of another path.
    #[error("store '{store}' has a bad description of '{path}'")]
    BadInfo {
        /// The store.
        store: StoreUri,
        /// The path.
        path: StorePath,
        /// What is wrong.
        source: BoxError,
    },
    /// What the store has as a path is not what it says of it.
    #[error("what store '{store}' has as '{path}' is not what it says of it")]
    Lie {
        /// The store that it came from.
        store: StoreUri,
        /// The path.
        path: StorePath,
        /// What is wrong.
        source: Box<StoreError>,
    },
    /// The store can only be read.
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
        /// Why not, as in "name or service not known".
        reason: String,
    },
    /// The back end failed.
    #[error("store '{store}' failed while {action}")]
    Backend {
        /// The store.
        store: StoreUri,
        /// What it was doing, as in "reading the database '/nix/var/nix/db/db.sqlite'".
        action: String,
        /// Whether the same call may well succeed later.
        retryable: bool,
        /// What is wrong.
        source: BoxError,
    },
    /// A bug in the store itself.
    #[error("bug in store '{store}': {message}")]
    Bug {
        /// The store.
        store: StoreUri,
        /// What should never be.
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

/// Whose fault an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller asked for something that cannot be.
    Caller,
    /// The back end, or what it stands on, failed.
    Backend {
        /// Whether the same call may well succeed later.
        retryable: bool,
    },
    /// The code is wrong.
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
            | Self::Lie { .. } => StoreErrorKind::Corrupt,
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

    /// Whose fault it is.
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
            | Self::Lie { .. } => Fault::Backend { retryable: false },
            Self::Bug { .. } => Fault::Bug,
            _ => Fault::Caller,
        }
    }

    /// Says that contents that are not what was said of them came from `store`.
    pub(crate) fn blame(self, store: &StoreUri) -> Self {
        match &self {
            Self::HashMismatch { path, .. }
            | Self::SizeMismatch { path, .. }
            | Self::AddressMismatch { path, .. }
            | Self::MalformedNar { path, .. }
            | Self::NotAFile { path } => Self::Lie {
                store: store.clone(),
                path: path.clone(),
                source: Box::new(self),
            },
            _ => self,
        }
    }

    /// Whether the same call may well succeed later.
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
