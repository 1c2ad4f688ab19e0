//! TOML 1.0, as `builtins.fromTOML` reads it.
//!
//! What other readers may take and this one does not, like the toml11 of C++ Nix 2.34: anything new in TOML 1.1 (newlines and a last
//! comma in inline tables, `\e` and `\x`), integers outside of 64 bits, floats that are too large.

mod datetime;
mod read;
mod tables;

use std::collections::BTreeMap;

pub use read::{read, read_within};

/// How deep tables and arrays can be in each other, unless a reader allows more. The tree is built and
/// dropped recursively.
pub const MAX_DEPTH: usize = 400;

/// How much of the stack a level of nesting takes at most, in bytes.
pub const STACK_PER_LEVEL: usize = 8 << 10;

/// A table, with its keys in byte order.
pub type TomlTable = BTreeMap<String, TomlValue>;

/// A value. Its strings hold no NUL.
#[derive(Debug, Clone, PartialEq)]
pub enum TomlValue {
    /// A string of any of the four kinds.
    String(String),
    /// An integer.
    Int(i64),
    /// A float, which may be infinite or not a number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// An array, of values or of tables.
    Array(Vec<TomlValue>),
    /// A table, inline or not.
    Table(TomlTable),
    /// A date, a time or both, as C++ Nix writes it: `T` between them, and three, six or nine digits of a second's fraction, if any.
    DateTime(String),
}

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TomlProblem {
    /// Something else should stand here.
    #[error("expected {0}")]
    Expected(&'static str),
    /// A string is not as it should be.
    #[error("invalid string: {0}")]
    String(&'static str),
    /// A string or key with a NUL, which the language cannot hold.
    #[error("the string cannot be represented as Nix string because it contains null bytes")]
    Nul,
    /// A number that does not fit, or is not written as one.
    #[error("invalid number: {0}")]
    Number(&'static str),
    /// A date or time that cannot be.
    #[error("invalid date or time")]
    DateTime,
    /// A key that is defined already, or cannot be added to.
    #[error("key '{0}' is defined already")]
    Defined(String),
    /// Tables and arrays in each other deeper than allowed.
    #[error("nested too deeply")]
    Depth,
    /// A document that is not UTF-8.
    #[error("invalid UTF-8")]
    NotUtf8,
}

/// A document is not TOML, or not TOML that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at line {line}, column {column}: {problem}")]
#[non_exhaustive]
pub struct TomlError {
    /// Counted from 1.
    pub line: usize,
    /// In bytes, counted from 1.
    pub column: usize,
    /// What is wrong there.
    pub problem: TomlProblem,
}
