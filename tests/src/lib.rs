//! Shared parts of the whole-flow tests: stores in temporary directories, recording wrappers, and
//! the programs under test.

// All of this is test code, which panics on failure.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

pub mod build_users;
pub mod local;
pub mod nix;
pub mod program;
pub mod recording;
pub mod session;
