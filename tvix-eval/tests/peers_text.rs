//! The text modules against `nix-instantiate` and libstdc++, on seeded random cases.
//!
//! `TVIX_PEER_CASES` sets how many cases each test runs, `TVIX_PEER_SEED` where they begin. Tests whose peer is not installed say so
//! and pass.

#![cfg(feature = "peers")]

#[path = "peers/random.rs"]
mod random;
#[path = "peers/regexes.rs"]
mod regexes;
