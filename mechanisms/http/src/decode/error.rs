//! Errors of decoders.

use std::io;

use thiserror::Error;

use super::Coding;

/// Why contents cannot be decoded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The stream ends before its end mark.
    #[error("the {coding} stream is cut off")]
    Truncated {
        /// The coding.
        coding: Coding,
    },
    /// The bytes are not a stream of the coding.
    #[error("the {coding} stream is corrupt: {reason}")]
    Corrupt {
        /// The coding.
        coding: Coding,
        /// The decoder's reason.
        reason: String,
    },
    /// The stream asks for more memory than [`Limits::memory`](super::Limits::memory).
    #[error("the {coding} stream needs more memory than the limit of {limit} bytes")]
    MemoryLimit {
        /// The coding.
        coding: Coding,
        /// The limit in bytes.
        limit: u64,
    },
    /// The stream decodes to more than [`Limits::output`](super::Limits::output).
    #[error("the decoded contents exceed {limit} bytes")]
    OutputLimit {
        /// The limit in bytes.
        limit: u64,
    },
    /// The system has no memory left for the decoder.
    #[error("no memory for the {coding} decoder")]
    Memory {
        /// The coding.
        coding: Coding,
    },
    /// The source cannot be read.
    #[error("cannot read the compressed contents")]
    Read(#[source] io::Error),
}

impl DecodeError {
    /// The `DecodeError` in an error that reading from a [`Decoder`](super::Decoder) returned.
    /// `None` if the source failed.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// The `DecodeError` in an error that reading from a [`Decoder`](super::Decoder) returned;
    /// [`DecodeError::Read`] for an error of the source.
    pub fn from_io(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(error) => error,
            Err(error) => Self::Read(error),
        }
    }

    pub(super) fn corrupt(coding: Coding, reason: impl ToString) -> Self {
        let reason = reason.to_string();
        Self::Corrupt { coding, reason }
    }
}

/// [`DecodeError::Read`] becomes the error of the source again.
impl From<DecodeError> for io::Error {
    fn from(error: DecodeError) -> Self {
        let kind = match &error {
            DecodeError::Truncated { .. } => io::ErrorKind::UnexpectedEof,
            DecodeError::Corrupt { .. } => io::ErrorKind::InvalidData,
            DecodeError::OutputLimit { .. } => io::ErrorKind::FileTooLarge,
            DecodeError::MemoryLimit { .. } | DecodeError::Memory { .. } => {
                io::ErrorKind::OutOfMemory
            }
            DecodeError::Read(_) => io::ErrorKind::Other,
        };
        match error {
            DecodeError::Read(error) => error,
            error => Self::new(kind, error),
        }
    }
}
