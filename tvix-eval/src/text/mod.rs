//! Text as C++ Nix reads and writes it. Nothing here knows of values.

pub mod regex;
