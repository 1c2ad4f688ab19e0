//! Errors of trees.

use std::io;
use std::path::{Path, PathBuf};

use nix_compat::nar::{NarError, Violation};
use thiserror::Error;

/// An error of reading, writing or checking a tree. Errors of files name the file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The archive is malformed, or its stream failed.
    #[error(transparent)]
    Nar(#[from] NarError),
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// The operation, a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A file is neither regular, nor a directory, nor a symlink.
    #[error("{} is a {kind}, which a NAR cannot hold", path.display())]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// Its kind.
        kind: &'static str,
    },
    /// A file changed while it was read. The archive written so far is invalid.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The destination of an archive already exists, possibly as a dangling symlink.
    #[error("{} already exists", path.display())]
    DestinationExists {
        /// The destination.
        path: PathBuf,
    },
    /// Two entries with different names in the archive have the same name on the file system, which
    /// ignores case, or another process has created a file there.
    #[error("{} is there already: on a file system that does not tell upper from lower case, some names are the same", path.display())]
    Collision {
        /// The file that could not be created.
        path: PathBuf,
    },
    /// A file belongs to another user: it was not made by the build, but linked into its output.
    #[error("'{}' belongs to user {owner}, not to {expected} as the rest of the tree", path.display())]
    ForeignOwner {
        /// The file.
        path: PathBuf,
        /// Its user id.
        owner: u32,
        /// The user id of the rest of the tree.
        expected: u32,
    },
    /// [`Bounds::interrupted`](crate::Bounds::interrupted) ended the pass.
    #[error("interrupted")]
    Interrupted,
    /// The NAR of the tree is larger than [`Bounds::nar_size`](crate::Bounds::nar_size). The file was
    /// not read.
    #[error("with '{}' it has {size} bytes or more", path.display())]
    TooLarge {
        /// The file that exceeds the limit.
        path: PathBuf,
        /// The approximate size of the NAR up to the end of that file.
        size: u64,
    },
}

impl TreeError {
    pub(crate) fn file(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::File {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// The violated rule of the archive format, if there is one.
    pub fn violation(&self) -> Option<&Violation> {
        match self {
            Self::Nar(error) => error.violation(),
            _ => None,
        }
    }
}

/// For writers and readers that have to return [`io::Error`]. The [`TreeError`] is inside, unless it is
/// the error of a stream.
impl From<TreeError> for io::Error {
    fn from(error: TreeError) -> Self {
        let kind = match error {
            TreeError::Nar(error) => return error.into(),
            TreeError::File { ref source, .. } => source.kind(),
            TreeError::DestinationExists { .. } | TreeError::Collision { .. } => {
                io::ErrorKind::AlreadyExists
            }
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
