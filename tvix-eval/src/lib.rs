//! The Nix language.

mod access;
pub mod builtins;
pub mod error;
mod eval;
mod evaluator;
mod fiber;
pub mod files;
pub mod host;
pub mod interp;
pub mod ir;
pub mod limits;
pub mod native;
mod paths;
mod print;
mod report;
pub mod select;
pub mod source;
pub mod symbol;
pub mod syntax;
pub mod text;
pub mod value;
pub mod world;

pub use eval::Coercion;
pub use evaluator::{Evaluation, Failure, NixEvaluator};
pub use fiber::Job;
pub use limits::Limits;
