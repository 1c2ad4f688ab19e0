//! The worker protocol of Nix's daemon, both sides, as a codec without I/O: versions 1.34 (Nix 2.8)
//! to 1.39, and their features.
//!
//! A connection begins with a handshake: [`ClientHandshake`], [`ServerHandshake`]. It yields a
//! [`Context`], on which the form of messages depends. Then the client sends requests ([`Call`], or
//! [`Request`] on the daemon's side), each followed by a framed stream if
//! [`Operation::has_stream`]. The daemon answers each with [`LogMessage`]s up to
//! [`LogMessage::Last`] and the [`Call::Answer`], or up to [`LogMessage::Error`]. The NAR of
//! [`NarFromPath`] follows its empty answer as it is. A client may send requests before the answers
//! to earlier ones have arrived.
//!
//! Decoders take bytes in pieces of any size and return how many they used, so any I/O can be put
//! below: [`Decoder`], [`FrameDecoder`], [`PathsDecoder`]. Their input may be hostile. Lengths are
//! checked against [`Limits`] before memory is taken, padding must be zero, and unknown operations,
//! versions and alternatives are errors.
//!
//! # Ask a daemon for a path
//!
//! ```
//! use tvix_worker_protocol::{Context, Decoder, Features, LogMessage, QueryPathInfo, Version};
//!
//! // From the handshake.
//! let context = Context::new(Default::default(), Version::new(1, 38), Features::default());
//! let path = context.store_dir().parse("/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-hello")?;
//! let mut request = Vec::new();
//! context.encode_call(&QueryPathInfo { path }, &mut request)?;
//! // What the daemon sends: the end of the log, and that the path is not valid.
//! let mut answer = Vec::new();
//! context.encode(&LogMessage::Last, &mut answer)?;
//! answer.extend_from_slice(&0_u64.to_le_bytes());
//!
//! let (used, message) = Decoder::<LogMessage>::new().feed(&answer, &context)?;
//! assert_eq!(message, Some(LogMessage::Last));
//! let (_, info) = Decoder::<tvix_worker_protocol::FoundPathInfo>::new().feed(&answer[used..], &context)?;
//! assert!(info.is_some_and(|info| info.0.is_none()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod build;
mod decode;
mod error;
mod frame;
mod handshake;
mod log;
mod multiple;
mod operation;
mod realisation;
mod requests;
mod scan;
mod values;
mod version;
mod wire;

pub use build::{
    BuildDerivation, BuildMode, BuildResult, BuildStatus, DerivedPath, KeyedBuildResult,
    SingleDerivedPath, WantedOutputs,
};
pub use decode::{Decoder, Message};
pub use error::{BoxError, ProtocolError};
pub use frame::{FRAME_SIZE, FrameDecoder, Framed, encode_end, encode_frame};
pub use handshake::{ClientHandshake, HandshakeError, ServerHandshake, Session, Trust};
pub use log::{
    Activity, ActivityResult, ActivityType, Field, LogMessage, RemoteError, ResultType, Verbosity,
    is_error_instead_of_nar,
};
pub use multiple::{PathsDecoder, PathsEvent, encode_path_count};
pub use operation::{Answer, AnswerDecoder, Call, Operation, Request};
pub use realisation::{FoundRealisation, Realised};
pub use requests::*;
pub use values::{Addressing, UnkeyedPathInfo};
pub use version::{Context, Feature, Features, Limits, Version};
pub use wire::{Obsolete, Tagged};

/// The answer to [`QueryPathInfo`].
pub type FoundPathInfo = Tagged<UnkeyedPathInfo>;

// Crates whose types occur in public items.
#[doc(no_inline)]
pub use bstr;
#[doc(no_inline)]
pub use nix_compat;
