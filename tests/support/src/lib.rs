//! Helpers for the tests of several crates. It depends on none of them, so that tests of the lower
//! crates can use it too.
#![allow(clippy::unwrap_used)]

pub mod ordinary_user;
#[cfg(feature = "tls")]
pub mod tls;
