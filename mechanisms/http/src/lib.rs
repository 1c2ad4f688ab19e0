//! HTTP for the Tvix build flow: a client, and decoders of content codings and compressed archives.
//! The crate knows neither derivations nor store paths.
//!
//! - [`decode`]: decoders with limits; [`encode`]: encoders.
//! - [`TransferSettings`]: time limits and retries of transfers, under the names of Nix's settings.
//! - [`Netrc`]: credentials per host.
//! - [`Unreachable`]: the reason why a connection was not made.
//! - `client` (feature `client`): the HTTP client, async and blocking. Everything in this project
//!   that speaks HTTP uses it, so certificate authorities, credentials, proxies, redirects, retries
//!   and content codings work alike everywhere.

#![forbid(unsafe_code)]

#[cfg(feature = "client")]
pub mod client;
pub mod decode;
pub mod encode;
mod netrc;
mod retry;
mod settings;
mod unreachable;

pub use netrc::{Login, Netrc};
pub use settings::{SettingError, TransferSettings};
pub use unreachable::Unreachable;

// Crates whose types occur in public items.
#[cfg(feature = "client")]
#[doc(no_inline)]
pub use bytes;
#[cfg(feature = "client")]
#[doc(no_inline)]
pub use futures;
#[cfg(feature = "client")]
#[doc(no_inline)]
pub use reqwest;
#[cfg(feature = "client")]
#[doc(no_inline)]
pub use url;
