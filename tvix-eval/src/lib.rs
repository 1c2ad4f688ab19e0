//! The Nix language.

mod access;
pub mod builtins;
pub mod error;
mod eval;
mod fiber;
pub mod files;
pub mod host;
pub mod interp;
pub mod ir;
mod paths;
mod print;
mod report;
pub mod source;
pub mod symbol;
pub mod syntax;
pub mod text;
pub mod value;
pub mod world;

pub use eval::Coercion;
pub use fiber::Job;
