//! Errors of NAR readers and writers.

use std::io;

use bstr::{BStr, BString};

use super::limits::{MAX_DEPTH, MAX_FILE_SIZE};

/// The rule of the format that an archive, or a call of a writer, violates.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The input ended inside the archive.
    #[error("the archive is truncated")]
    Truncated,
    /// Bytes follow the end of the archive.
    #[error("there are bytes after the end of the archive")]
    TrailingBytes,
    /// A keyword other than the expected one.
    #[error("expected {expected}, found `{found}`")]
    UnexpectedTag {
        /// The expected keyword.
        expected: &'static str,
        /// The actual keyword.
        found: BString,
    },
    /// A string is longer than its limit. It is not read.
    #[error("{kind} of {len} bytes, of which at most {limit} are allowed")]
    TooLong {
        /// The kind of string.
        kind: &'static str,
        /// Its declared length in bytes.
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
        /// The entry that is out of order.
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
    /// A file is larger than [`MAX_FILE_SIZE`]; its size in bytes.
    #[error("file of {0} bytes, of which at most {MAX_FILE_SIZE} are allowed")]
    FileTooLarge(u64),
    /// A writer received more or fewer bytes than the declared size of a file.
    #[error("file declared with {declared} bytes was given {given}")]
    WrongSize {
        /// Declared size in bytes.
        declared: u64,
        /// Number of bytes received.
        given: u64,
    },
    /// A call of a writer that is not allowed at this position.
    #[error("{0} cannot come here")]
    UnexpectedCall(&'static str),
}

/// Why an archive cannot be read or written.
///
/// [`Malformed`](Self::Malformed) is an error in the data, which a retry does not fix.
/// [`Io`](Self::Io) may be temporary.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NarError {
    /// The input is not a well-formed archive.
    #[error("malformed NAR at byte {offset}{}: {violation}", At(path))]
    Malformed {
        /// Offset of the offending token, in bytes from the start of the archive. For padding and
        /// truncation it is the offset of the offending bytes.
        offset: u64,
        /// Path of the current node, relative to the root and `/`-separated; empty for the root.
        path: BString,
        /// The violated rule.
        violation: Violation,
    },
    /// The calls of a writer do not form a well-formed archive: a bug in the caller.
    #[error("cannot write NAR{}: {violation}", At(path))]
    InvalidWrite {
        /// Path of the current node, relative to the root and `/`-separated; empty for the root.
        path: BString,
        /// The rule that would be violated.
        violation: Violation,
    },
    /// The stream that carries the archive failed.
    #[error("NAR stream: {0}")]
    Io(#[source] io::Error),
}

impl NarError {
    /// The violated rule, if the error concerns a rule of the format.
    pub fn violation(&self) -> Option<&Violation> {
        match self {
            Self::Malformed { violation, .. } | Self::InvalidWrite { violation, .. } => {
                Some(violation)
            }
            _ => None,
        }
    }
}

/// For code that needs [`io::Read`]: a malformed archive becomes
/// [`InvalidData`](io::ErrorKind::InvalidData), a truncated one
/// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof). Both wrap the [`NarError`].
impl From<NarError> for io::Error {
    fn from(error: NarError) -> Self {
        let kind = match error {
            NarError::Io(source) => return source,
            NarError::Malformed {
                violation: Violation::Truncated,
                ..
            } => io::ErrorKind::UnexpectedEof,
            NarError::Malformed { .. } => io::ErrorKind::InvalidData,
            NarError::InvalidWrite { .. } => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

/// Displays ` in `path``, or nothing for the root.
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
            violation: Violation::Unordered {
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
