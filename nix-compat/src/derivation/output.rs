//! Outputs of derivations and their names.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use smol_str::SmolStr;
use thiserror::Error;

use crate::content_address::{ContentAddress, ContentAddressMethod};
use crate::nixhash::HashAlgo;
use crate::serde_text::serde_as_text;
use crate::store_path::{NameError, StoreDir, StorePath, StorePathName};
use crate::store_path::{fixed_output_path, output_path_name};

/// The name of an output, such as `out` or `dev`. The rules for names of store paths apply.
///
/// Cheap to clone; names of up to 23 bytes are stored inline.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutputName(SmolStr);

/// Why a text is not an output name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OutputNameError {
    /// The name is not valid in a store path.
    #[error("'{name}' cannot be the name of an output")]
    Invalid {
        /// The name.
        name: String,
        /// The reason.
        source: NameError,
    },
}

impl OutputName {
    /// `out`, the default output.
    pub const fn out() -> Self {
        Self(SmolStr::new_static("out"))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OutputName {
    type Err = OutputNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        StorePathName::from_bytes(name.as_bytes()).map_err(|source| OutputNameError::Invalid {
            name: name.to_owned(),
            source,
        })?;
        Ok(Self(SmolStr::new(name)))
    }
}

impl fmt::Display for OutputName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OutputName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for OutputName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

serde_as_text!(OutputName);

/// An output as declared before the build (Nix manual, "Derivation output").
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Output {
    /// The path is computed from the derivation's inputs.
    InputAddressed(StorePath),
    /// The path is computed from a content address that is declared in advance.
    Fixed(ContentAddress),
    /// The path is computed from the contents that a build produces.
    Floating {
        /// The serialisation to hash.
        method: ContentAddressMethod,
        /// The hash algorithm.
        algo: HashAlgo,
    },
    /// The path will be computed from inputs of which the paths are not known yet.
    Deferred,
    /// Like [`Output::Floating`], but rebuilt every time.
    Impure {
        /// The serialisation to hash.
        method: ContentAddressMethod,
        /// The hash algorithm.
        algo: HashAlgo,
    },
}

/// Why no store path exists for an output.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OutputAddressError {
    /// No store path exists for this content address.
    #[error("no store path can have the content address '{0}'")]
    Unaddressable(ContentAddress),
    /// The output name is not valid in a store path.
    #[error("the output '{output}' of '{derivation}' has no valid store path")]
    Name {
        /// The derivation's name.
        derivation: StorePathName,
        /// The output.
        output: OutputName,
        /// The reason.
        source: NameError,
    },
}

impl Output {
    /// The path, if it is known before the build.
    pub fn path(
        &self,
        dir: &StoreDir,
        derivation: &StorePathName,
        name: &OutputName,
    ) -> Option<StorePath> {
        match self {
            Self::InputAddressed(path) => Some(path.clone()),
            Self::Fixed(address) => {
                fixed_output_path(dir, output_path_name(derivation, name).ok()?, address)
            }
            Self::Floating { .. } | Self::Deferred | Self::Impure { .. } => None,
        }
    }

    /// The path of a fixed output, or an error if none exists.
    pub(crate) fn fixed_path(
        address: &ContentAddress,
        dir: &StoreDir,
        derivation: &StorePathName,
        name: &OutputName,
    ) -> Result<StorePath, OutputAddressError> {
        let path_name =
            output_path_name(derivation, name).map_err(|source| OutputAddressError::Name {
                derivation: derivation.clone(),
                output: name.clone(),
                source,
            })?;
        fixed_output_path(dir, path_name, address)
            .ok_or_else(|| OutputAddressError::Unaddressable(address.clone()))
    }
}
