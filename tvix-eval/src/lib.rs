//! The Nix language.

pub mod ir;
pub mod source;
pub mod symbol;
pub mod syntax;
pub mod value;
