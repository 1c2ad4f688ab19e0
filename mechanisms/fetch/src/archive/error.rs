//! Errors of archives.

use std::io;

use tvix_http::decode::DecodeError;

use crate::tree::TreeError;

/// The reason why an archive cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Zip(#[from] zip::result::ZipError),
    #[error("'{path}' is {what}, which no store path can have")]
    Special { path: String, what: &'static str },
    #[error("{0}")]
    Unsupported(&'static str),
    #[error("it has a header of {0} bytes")]
    Header(u64),
    #[error("it was cancelled")]
    Cancelled,
}
