//! The Nix language, evaluated with byte-exact parity with C++ Nix.

pub mod text;
