//! The ATerm form of derivations, as in `.drv` files (Nix manual, "ATerm").

mod parse;
mod write;

pub use parse::{AtermError, AtermErrorKind};
pub(crate) use write::{InputHashes, Masked, Sections, write_aterm};
