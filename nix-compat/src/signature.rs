//! Ed25519 keys and signatures in the textual form of Nix: `<key name>:<base-64>`.
//!
//! This form occurs in `trusted-public-keys`, in the key files of `nix-store
//! --generate-binary-cache-key`, and in the `Sig` lines of [`narinfo`](crate::narinfo). Key names
//! need not be unique; a signature holds the name of its key only.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use ed25519_dalek::Signer;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

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

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A public key with its name.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    name: String,
    key: ed25519_dalek::VerifyingKey,
}

impl VerifyingKey {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether `signature` names this key and is a valid signature of `message`.
    ///
    /// Keys and signatures of small order are rejected, as by libsodium in C++ Nix.
    pub fn verify(&self, message: impl AsRef<[u8]>, signature: &Signature) -> bool {
        if signature.name() != self.name {
            return false;
        }
        let Some(bytes) = signature.bytes() else {
            return false;
        };
        let signature = ed25519_dalek::Signature::from_bytes(&bytes);
        self.key.verify_strict(message.as_ref(), &signature).is_ok()
    }
}

impl FromStr for VerifyingKey {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let (name, base64) = split(text)?;
        let name = name.to_owned();
        match ed25519_dalek::VerifyingKey::from_bytes(&decode(&name, base64)?) {
            Ok(key) => Ok(Self { name, key }),
            Err(_) => Err(SignatureError::NotOnCurve { name }),
        }
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(self.key.as_bytes()))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({self})")
    }
}

/// A secret key and its name. `Debug` shows the name only. The key is wiped from memory on drop.
#[derive(Clone)]
pub struct SigningKey {
    name: String,
    key: ed25519_dalek::SigningKey,
}

impl SigningKey {
    /// Generates a key from the system's random numbers.
    ///
    /// # Errors
    ///
    /// [`SignatureError::BadName`], [`SignatureError::Random`].
    pub fn generate(name: &str) -> Result<Self, SignatureError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(SignatureError::Random)?;
        Self::from_seed(name, &seed)
    }

    /// The key derived from `seed`: 32 bytes of unpredictable data.
    ///
    /// # Errors
    ///
    /// [`SignatureError::BadName`].
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, SignatureError> {
        check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            key: ed25519_dalek::SigningKey::from_bytes(seed),
        })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The public key that verifies signatures of this key.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey {
            name: self.name.clone(),
            key: self.key.verifying_key(),
        }
    }

    /// Signs `message`. Deterministic: equal messages have equal signatures.
    pub fn sign(&self, message: impl AsRef<[u8]>) -> Signature {
        let bytes = self.key.sign(message.as_ref()).to_bytes();
        Signature {
            text: format!("{}:{}", self.name, BASE64.encode(&bytes)).into(),
            colon: self.name.len(),
        }
    }

    /// The secret key in the textual form of `nix-store --generate-binary-cache-key`: name, and
    /// base-64 of seed and public key.
    pub fn to_secret_text(&self) -> String {
        format!(
            "{}:{}",
            self.name,
            BASE64.encode(&self.key.to_keypair_bytes())
        )
    }
}

impl FromStr for SigningKey {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, SignatureError> {
        let (name, base64) = split(text)?;
        let name = name.to_owned();
        match ed25519_dalek::SigningKey::from_keypair_bytes(&decode(&name, base64)?) {
            Ok(key) => Ok(Self { name, key }),
            Err(_) => Err(SignatureError::NotOnCurve { name }),
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}:<secret>)", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_and_verifies_under_its_name_only() {
        let key = SigningKey::generate("cache-1").unwrap();
        let signature = key.sign("message");
        let public = key.verifying_key();
        assert!(public.verify("message", &signature));
        assert!(!public.verify("massage", &signature));
        let renamed = Signature::new("cache-2", &signature.bytes().unwrap()).unwrap();
        assert!(!public.verify("message", &renamed));
        let other = SigningKey::generate("cache-1").unwrap();
        assert!(!other.verifying_key().verify("message", &signature));
    }

    #[test]
    fn texts_round_trip() {
        let key = SigningKey::generate("a.b-1").unwrap();
        let again: SigningKey = key.to_secret_text().parse().unwrap();
        assert_eq!(again.verifying_key(), key.verifying_key());
        let public = key.verifying_key();
        assert_eq!(public.to_string().parse(), Ok(public));
        let signature = key.sign("x");
        assert_eq!(signature.to_string().parse(), Ok(signature));
    }

    #[test]
    fn a_secret_key_does_not_show_its_secret() {
        let key = SigningKey::from_seed("k", &[7; 32]).unwrap();
        assert_eq!(format!("{key:?}"), "SigningKey(k:<secret>)");
    }

    #[test]
    fn invalid_keys_and_signatures_are_rejected() {
        let short = BASE64.encode(&[1; 31]);
        for (text, error) in [
            ("", SignatureError::MissingColon),
            ("name", SignatureError::MissingColon),
            (":AAAA", SignatureError::BadName),
            ("a b:AAAA", SignatureError::BadName),
        ] {
            assert_eq!(text.parse::<Signature>(), Err(error.clone()), "{text}");
            assert_eq!(text.parse::<VerifyingKey>(), Err(error.clone()), "{text}");
            assert_eq!(text.parse::<SigningKey>().unwrap_err(), error, "{text}");
        }
        for bad in ["n:", "n:a b", "n:a\n"] {
            let error = bad.parse::<Signature>().unwrap_err();
            assert!(
                matches!(error, SignatureError::BadSignature { .. }),
                "{bad}"
            );
        }
        let error = format!("n:{short}").parse::<VerifyingKey>().unwrap_err();
        assert!(matches!(error, SignatureError::BadKey { expected: 32, .. }));
        let error = format!("n:{short}").parse::<SigningKey>().unwrap_err();
        assert!(matches!(error, SignatureError::BadKey { expected: 64, .. }));
        // The halves belong to two different keys.
        let mut mixed = SigningKey::from_seed("n", &[1; 32])
            .unwrap()
            .key
            .to_keypair_bytes();
        mixed[63] ^= 1;
        let error = format!("n:{}", BASE64.encode(&mixed)).parse::<SigningKey>();
        assert!(matches!(error, Err(SignatureError::NotOnCurve { .. })));
    }

    #[test]
    fn a_signature_of_another_kind_is_kept_and_never_verifies() {
        let signature: Signature = "n:v2:not-base-64".parse().unwrap();
        assert_eq!(signature.as_str(), "n:v2:not-base-64");
        assert_eq!(signature.name(), "n");
        assert_eq!(signature.bytes(), None);
        let key = SigningKey::from_seed("n", &[1; 32])
            .unwrap()
            .verifying_key();
        assert!(!key.verify("", &signature));
    }
}
