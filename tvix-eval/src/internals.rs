//! Parts of the crate for its tests, fuzzers and benchmarks. They are not part of the interface, and
//! change without notice.

pub use crate::source::{Source, Sources};
pub use crate::symbol::Symbols;

/// The parser.
pub mod syntax {
    pub use crate::syntax::*;
}

/// Textual formats.
pub mod text {
    pub use crate::text::*;
}
