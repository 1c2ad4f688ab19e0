//! Ed25519 keys and signatures in the textual form of Nix: `<key name>:<base-64>`.
//!
//! This form occurs in `trusted-public-keys`, in the key files of `nix-store
//! --generate-binary-cache-key`, and in the `Sig` lines of [`narinfo`](crate::narinfo). Key names
//! need not be unique; a signature holds the name of its key only.

#[cfg(feature = "signing")]
mod keys;

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use thiserror::Error;

#[cfg(feature = "signing")]
pub use keys::{SigningKey, VerifyingKey};

use crate::serde_text::serde_as_text;

/// Why a text is not a key or signature. Errors do not repeat the text, which may be secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The text has no colon.
    #[error("no ':' between key name and base-64")]
    MissingColon,
    /// The name before the colon is empty, or contains whitespace or control characters.
    #[error("the key name is empty or has whitespace in it")]
    BadName,
    /// The part after the colon is empty, or contains whitespace or control characters.
    #[error("the signature after '{name}:' is empty or has whitespace in it")]
    BadSignature {
        /// Name of the key.
        name: String,
    },
    /// The part after the colon is not the base-64 encoding of a key.
    #[error("what follows '{name}:' is not {expected} bytes in base-64")]
    BadKey {
        /// Name of the key.
        name: String,
        /// Expected number of bytes.
        expected: usize,
    },
    /// The bytes are not a key: not a point on the curve, or a public key that does not match the
    /// seed.
    #[error("what follows '{name}:' is not an Ed25519 key")]
    NotOnCurve {
        /// Name of the key.
        name: String,
    },
    /// The system's random number generator failed.
    #[cfg(feature = "signing")]
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
}

/// Splits `name:rest`. Neither part may contain whitespace.
fn split(text: &str) -> Result<(&str, &str), SignatureError> {
    let (name, rest) = text.split_once(':').ok_or(SignatureError::MissingColon)?;
    check_name(name)?;
    Ok((name, rest))
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

fn check_name(name: &str) -> Result<(), SignatureError> {
    // A colon would end the name when the key is parsed again.
    if is_word(name) && !name.contains(':') {
        return Ok(());
    }
    Err(SignatureError::BadName)
}

fn decode<const N: usize>(name: &str, base64: &str) -> Result<[u8; N], SignatureError> {
    let bytes = BASE64.decode(base64.as_bytes()).ok();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| SignatureError::BadKey {
            name: name.to_owned(),
            expected: N,
        })
}

/// A signature and the name of its key.
///
/// The part after the name is kept as text and decoded only for verification. Like C++ Nix, this
/// keeps signatures of unknown kinds, which caches may contain; they verify against no key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature {
    text: Box<str>,
    /// Index of the colon.
    colon: usize,
}

impl Signature {
    /// A signature with the bytes `bytes` by the key `name`.
    ///
    /// # Errors
    ///
    /// [`SignatureError::BadName`].
    pub fn new(name: &str, bytes: &[u8; 64]) -> Result<Self, SignatureError> {
        check_name(name)?;
        Ok(Self {
            text: format!("{name}:{}", BASE64.encode(bytes)).into(),
            colon: name.len(),
        })
    }

    /// The name of the key.
    pub fn name(&self) -> &str {
        &self.text[..self.colon]
    }

    /// `<key name>:<base-64>`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The bytes of the signature; `None` if it is not an Ed25519 signature.
    pub fn bytes(&self) -> Option<[u8; 64]> {
        decode(self.name(), &self.text[self.colon + 1..]).ok()
    }
}

impl FromStr for Signature {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let (name, rest) = split(text)?;
        if !is_word(rest) {
            let name = name.to_owned();
            return Err(SignatureError::BadSignature { name });
        }
        Ok(Self {
            text: text.into(),
            colon: name.len(),
        })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", self.text)
    }
}

serde_as_text!(Signature);
