//! What can go wrong with an archive.

use std::io;
use std::path::PathBuf;

use bstr::{BStr, BString};

use super::rules::{MAX_DEPTH, MAX_FILE_SIZE};

/// A rule of the format that an archive, or a caller of a writer, has broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The input ended inside the archive.
    #[error("the archive is truncated")]
    Truncated,
    /// There is input after the end of the archive.
    #[error("there are bytes after the end of the archive")]
    TrailingBytes,
    /// Another keyword was due.
    #[error("expected {expected}, found `{found}`")]
    UnexpectedTag {
        /// What was due.
        expected: &'static str,
        /// What was there instead.
        found: BString,
    },
    /// A string is longer than its place allows. It has not been read.
    #[error("{what} of {len} bytes, of which at most {limit} are allowed")]
    TooLong {
        /// What the string is.
        what: &'static str,
        /// Its length in bytes, as the archive states it.
        len: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// A string is not padded with zero bytes to a multiple of eight.
    #[error("padding is not zero")]
    Padding,
    /// The name of a directory entry is empty, `.` or `..`, or contains `/` or NUL.
    #[error("`{0}` is not a file name")]
    BadName(BString),
    /// A directory has two entries of this name.
    #[error("duplicate entry `{0}`")]
    DuplicateName(BString),
    /// The entries of a directory are not in ascending order of their bytes.
    #[error("entry `{name}` after `{previous}`: not in ascending order")]
    Unordered {
        /// The entry that comes too late.
        name: BString,
        /// The entry before it.
        previous: BString,
    },
    /// The target of a symlink is empty or contains NUL.
    #[error("`{0:?}` is not a symlink target")]
    BadTarget(BString),
    /// Directories are nested deeper than [`MAX_DEPTH`].
    #[error("directories are nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// A file is larger than [`MAX_FILE_SIZE`], in bytes.
    #[error("file of {0} bytes, of which at most {MAX_FILE_SIZE} are allowed")]
    FileTooLarge(u64),
    /// A writer was given more or fewer bytes than it was told a file has.
    #[error("file declared with {declared} bytes was given {given}")]
    WrongSize {
        /// What was announced, in bytes.
        declared: u64,
        /// What was given, in bytes.
        given: u64,
    },
    /// A writer was asked for something that cannot come at this place.
    #[error("{0} cannot come here")]
    OutOfPlace(&'static str),
}

/// Why an archive could not be read, written, made or unpacked.
///
/// What the caller can act on: [`Malformed`](Self::Malformed) is the peer's or the cache's
/// fault and does not go away by trying again; [`Io`](Self::Io) and
/// [`File`](Self::File) may; the others are about the file system tree at hand.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NarError {
    /// The input is not a well-formed archive.
    #[error("malformed NAR at byte {offset}{}: {problem}", At(path))]
    Malformed {
        /// Where the offending token starts, in bytes from the start of the archive. Where
        /// bytes themselves are at fault (padding, truncation): where they are.
        offset: u64,
        /// The node being read, relative to the root and `/`-separated; empty at the root.
        path: BString,
        /// The rule that was broken.
        problem: Problem,
    },
    /// A writer was asked for something that is not a well-formed archive: the caller's bug.
    #[error("cannot write NAR{}: {problem}", At(path))]
    Unwritable {
        /// The node being written, relative to the root and `/`-separated; empty at the root.
        path: BString,
        /// The rule that would be broken.
        problem: Problem,
    },
    /// The stream that carries the archive failed.
    #[error("NAR stream: {0}")]
    Io(#[source] io::Error),
    /// The file system has taken the name of an entry for that of another one, which it is not in the
    /// archive: it does not tell upper from lower case, or somebody else has put something there.
    #[error("{} is there already: on a file system that does not tell upper from lower case, some names are the same", path.display())]
    Collision {
        /// What could not be made.
        path: PathBuf,
    },
    /// A file of the tree that is packed or unpacked failed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried, a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is neither regular, nor a directory, nor a symlink.
    #[error("{} is a {kind}, which a NAR cannot hold", path.display())]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A file changed while it was packed. The archive so far is worthless.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Something, if only a dangling symlink, is already where the archive is to be unpacked.
    #[error("{} already exists", path.display())]
    DestinationExists {
        /// Where.
        path: PathBuf,
    },
}

impl NarError {
    /// The rule that was broken, if this is about a rule of the format.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Malformed { problem, .. } | Self::Unwritable { problem, .. } => Some(problem),
            _ => None,
        }
    }
}

/// For views that have to be [`io::Read`]: a malformed archive becomes
/// [`InvalidData`](io::ErrorKind::InvalidData), a truncated one
/// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof), both with the [`NarError`] inside.
impl From<NarError> for io::Error {
    fn from(error: NarError) -> Self {
        let kind = match error {
            NarError::Io(source) => return source,
            NarError::Malformed {
                problem: Problem::Truncated,
                ..
            } => io::ErrorKind::UnexpectedEof,
            NarError::Malformed { .. } => io::ErrorKind::InvalidData,
            NarError::Unwritable { .. } => io::ErrorKind::InvalidInput,
            NarError::File { ref source, .. } => source.kind(),
            NarError::DestinationExists { .. } | NarError::Collision { .. } => {
                io::ErrorKind::AlreadyExists
            }
            NarError::UnsupportedType { .. } | NarError::Changed { .. } => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Prints ` in `path`` unless the path is the root's.
struct At<'a>(&'a BString);

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, " in `{}`", BStr::new(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_place_and_rule() {
        let error = NarError::Malformed {
            offset: 120,
            path: "a/b".into(),
            problem: Problem::Unordered {
                name: "x".into(),
                previous: "y".into(),
            },
        };
        assert_eq!(
            error.to_string(),
            "malformed NAR at byte 120 in `a/b`: entry `x` after `y`: not in ascending order"
        );
    }

    #[test]
    fn io_errors_pass_through_unwrapped() {
        let error = NarError::Io(io::Error::from(io::ErrorKind::ConnectionReset));
        assert_eq!(
            io::Error::from(error).kind(),
            io::ErrorKind::ConnectionReset
        );
    }
}
