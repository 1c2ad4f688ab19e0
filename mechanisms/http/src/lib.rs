//! HTTP mechanisms that know neither derivations nor store paths.
//!
//! [`decode`] has the decoders for content codings and compressed archives, [`TransferSettings`] the
//! time limits and retries of transfers, and [`Unreachable`] tells why no connection was made.

#![forbid(unsafe_code)]

pub mod decode;
mod settings;
mod unreachable;

pub use settings::{SettingError, TransferSettings};
pub use unreachable::Unreachable;
