//! Helpers for the tests of several crates. It depends on none of them, so that tests of the lower
//! crates can use it too.
#![allow(clippy::unwrap_used)]

pub mod directory;
#[cfg(feature = "tls")]
pub mod http;
pub mod nix_daemon;
pub mod ordinary_user;
pub mod random;
#[cfg(feature = "tls")]
pub mod tls;
