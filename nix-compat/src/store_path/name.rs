//! The name in a store path.

use std::fmt;
use std::str::FromStr;

use smol_str::SmolStr;
use thiserror::Error;

use crate::serde_text::serde_as_text;

/// Maximum length of a name in bytes.
///
/// This is 255 bytes, the limit of most file systems for a base name, minus the hash part, the
/// dash, and eleven bytes for suffixes that Nix appends (`.lock`, `.drv.chroot`).
pub const MAX_NAME_LEN: usize = 211;

/// A valid name of a store path: 1 to 211 bytes of `[0-9A-Za-z+._?=-]`, except `.`, `..`, and names
/// that start with `.-` or `..-` (Nix manual, "Store path", and `libstore/path.cc` of 2.34 for the
/// rule on dots).
///
/// Cheap to clone; names of up to 23 bytes are stored inline.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePathName(SmolStr);

/// Why a text is not a valid name of a store path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name is empty.
    #[error("the name is empty")]
    Empty,
    /// The name is longer than [`MAX_NAME_LEN`]; its length in bytes.
    #[error("the name has {0} bytes, which is more than {MAX_NAME_LEN}")]
    TooLong(usize),
    /// A byte that is not allowed in a name.
    #[error("the name holds '{}' at position {position}, which is not allowed", byte.escape_ascii())]
    InvalidByte {
        /// The offending byte.
        byte: u8,
        /// Its index in the name.
        position: usize,
    },
    /// The name is `.` or `..`, or starts with one of them and a dash.
    #[error("the name is '.' or '..', or begins with one of them and a dash")]
    Dots,
}

impl StorePathName {
    /// Validates `name`.
    ///
    /// # Errors
    ///
    /// [`NameError`] for the first violation.
    pub fn from_bytes(name: &[u8]) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > MAX_NAME_LEN {
            return Err(NameError::TooLong(name.len()));
        }
        if let Some(position) = name.iter().position(|byte| !is_name_byte(*byte)) {
            return Err(NameError::InvalidByte {
                byte: name[position],
                position,
            });
        }
        if let Some(rest) = name.strip_prefix(b".") {
            let rest = rest.strip_prefix(b".").unwrap_or(rest);
            if rest.is_empty() || rest[0] == b'-' {
                return Err(NameError::Dots);
            }
        }
        // All allowed bytes are ASCII.
        match std::str::from_utf8(name) {
            Ok(text) => Ok(Self(SmolStr::new(text))),
            Err(error) => Err(NameError::InvalidByte {
                byte: name[error.valid_up_to()],
                position: error.valid_up_to(),
            }),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_' | b'?' | b'=')
}

impl FromStr for StorePathName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::from_bytes(name.as_bytes())
    }
}

impl fmt::Display for StorePathName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StorePathName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl AsRef<str> for StorePathName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for StorePathName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

serde_as_text!(StorePathName);
