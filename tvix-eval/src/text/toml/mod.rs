//! TOML 1.0, as parsed by `builtins.fromTOML`.
//!
//! Like the toml11 of C++ Nix 2.34, this parser rejects some documents that other parsers accept:
//! additions of TOML 1.1 (newlines and trailing commas in inline tables, `\e` and `\x`), integers
//! that do not fit into 64 bits, and floats that are too large.

mod datetime;
mod read;
mod room;
mod tables;

use std::collections::BTreeMap;

pub use read::{read, read_within};

/// Default limit of the nesting depth of tables and arrays. The tree is built and dropped
/// recursively.
pub const MAX_DEPTH: usize = 400;

/// Maximum stack space per level of nesting, in bytes.
pub const STACK_PER_LEVEL: usize = 8 << 10;

/// A table. Its keys are in byte order.
pub type TomlTable = BTreeMap<String, TomlValue>;

/// A value. Strings contain no NUL.
#[derive(Debug, Clone, PartialEq)]
pub enum TomlValue {
    /// A string, in any of the four notations.
    String(String),
    /// An integer.
    Int(i64),
    /// A float, including infinities and NaN.
    Float(f64),
    /// A Boolean.
    Bool(bool),
    /// An array, of values or of tables.
    Array(Vec<TomlValue>),
    /// A table, inline or not.
    Table(TomlTable),
    /// A date, a time or both, formatted as by C++ Nix: separated by `T`, with a fraction of three,
    /// six or nine digits, if there is one.
    DateTime(String),
}

/// The kinds of errors in a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TomlErrorKind {
    /// An unexpected token; the expected one.
    #[error("expected {0}")]
    Expected(&'static str),
    /// An invalid string.
    #[error("invalid string: {0}")]
    String(&'static str),
    /// A string or key with a NUL, which the language cannot represent.
    #[error("the string cannot be represented as Nix string because it contains null bytes")]
    Nul,
    /// An invalid number, or one that is out of range.
    #[error("invalid number: {0}")]
    Number(&'static str),
    /// An invalid date or time.
    #[error("invalid date or time")]
    DateTime,
    /// A key that is defined already, or that cannot be extended.
    #[error("key '{0}' is defined already")]
    Defined(String),
    /// The nesting depth of tables and arrays exceeds the limit.
    #[error("nested too deeply")]
    Depth,
    /// The tree of the document exceeds the memory that it may take.
    #[error("not enough memory")]
    Memory,
    /// The document is not UTF-8.
    #[error("invalid UTF-8")]
    NotUtf8,
}

/// A document that is not TOML, or that cannot be represented in the language.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at line {line}, column {column}: {problem}")]
#[non_exhaustive]
pub struct TomlError {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in bytes, counted from 1.
    pub column: usize,
    /// The kind of error.
    pub problem: TomlErrorKind,
}
