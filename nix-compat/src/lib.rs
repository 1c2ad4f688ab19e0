//! Nix data formats: store paths, hashes, derivations, NAR, narinfo. Pure: no policy, no runtime.

pub mod nar;
