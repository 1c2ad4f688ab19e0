//! What tests of the whole flow share: stores with room beside them, parts that write down what
//! they are asked, and the programs that are tested.

// All of this is test code: what cannot go on panics.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

#[cfg(feature = "peers")]
pub mod build_users;
pub mod local;
#[cfg(feature = "peers")]
pub mod nix;
pub mod program;
pub mod recording;
pub mod session;
