//! Errors of files.

use std::io;
use std::path::Path;

use nix_compat::nar::NarError;

pub(crate) fn file_error(
    action: &'static str,
    path: &Path,
    source: impl Into<io::Error>,
) -> NarError {
    NarError::File {
        action,
        path: path.to_owned(),
        source: source.into(),
    }
}
