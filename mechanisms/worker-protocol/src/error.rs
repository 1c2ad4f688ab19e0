//! Errors of the codec.

use thiserror::Error;

use crate::{Feature, Version};

/// A cause of any type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why bytes are not a message of the protocol, or why a value cannot be sent.
///
/// After an error of decoding nothing is known about the bytes that follow: the connection must be
/// closed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The peer does not speak the worker protocol.
    #[error("the peer does not speak the Nix worker protocol: it sent {found:#x} as a greeting")]
    Magic {
        /// The number in place of the greeting.
        found: u64,
    },
    /// The peer speaks a version that is not supported.
    #[error("the peer speaks version {0} of the worker protocol; supported are 1.34 to 1.39")]
    Version(Version),
    /// No operation has this number.
    #[error("unknown operation {0}")]
    UnknownOperation(u64),
    /// A number selects no alternative.
    #[error("invalid {what} {tag}")]
    Tag {
        /// The name of the alternatives.
        what: &'static str,
        /// The number.
        tag: u64,
    },
    /// A text, a list or a message exceeds its limit.
    #[error("a {what} of {length} is longer than {limit}")]
    TooLong {
        /// `text` (in bytes), `list` (in elements) or `message` (in bytes).
        what: &'static str,
        /// The announced length.
        length: u64,
        /// The limit.
        limit: u64,
    },
    /// Values are nested too deeply.
    #[error("values are nested more than {0} levels deep")]
    TooDeep(usize),
    /// Bytes between values are not zero.
    #[error("non-zero padding after a text")]
    Padding,
    /// A text is not a value of its type.
    #[error("'{text}' is not a valid {what}")]
    Invalid {
        /// The name of the type.
        what: &'static str,
        /// The text, or its beginning.
        text: String,
        /// The reason.
        source: BoxError,
    },
    /// A number is not a value of its type.
    #[error("{value} is not a valid {what}")]
    Number {
        /// The name of the type.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// The input ends within a message.
    #[error("the input ends within a message")]
    Truncated,
    /// The value cannot be expressed in the negotiated version.
    #[error("{what} cannot be sent in version {version} of the protocol{}", without(*.feature))]
    Unsupported {
        /// The name of the value.
        what: &'static str,
        /// The negotiated version.
        version: Version,
        /// The feature that would be needed.
        feature: Option<Feature>,
    },
}

fn without(feature: Option<Feature>) -> String {
    feature.map_or_else(String::new, |it| format!(" without the feature '{it}'"))
}

impl ProtocolError {
    /// An invalid text.
    pub(crate) fn invalid(what: &'static str, text: &[u8], source: impl Into<BoxError>) -> Self {
        const SHOWN: usize = 200;
        Self::Invalid {
            what,
            text: String::from_utf8_lossy(&text[..text.len().min(SHOWN)]).into_owned(),
            source: source.into(),
        }
    }
}
