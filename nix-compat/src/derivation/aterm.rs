//! The ATerm form of derivations, as in `.drv` files (Nix manual, "ATerm").

mod parse;
mod sections;
mod write;

pub use parse::{AtermError, AtermErrorKind};
pub(crate) use sections::{HashedInputs, Rest};
pub(crate) use write::{Masked, write_aterm};
