//! JSON errors, as worded by C++ Nix.

use std::fmt;

/// The kinds of errors in a JSON text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonErrorKind<E> {
    /// The text is empty.
    #[error(
        "attempting to parse an empty input; check that your input string or stream contains the expected JSON"
    )]
    Empty,
    /// An unexpected token.
    #[error("syntax error while parsing {parsing} - {found}{}", expecting(wanted))]
    Syntax {
        /// The construct that was being parsed.
        parsing: &'static str,
        /// The unexpected token.
        found: String,
        /// The expected token, if there is a single one.
        wanted: Option<&'static str>,
    },
    /// A string or key with a NUL, which the language cannot represent.
    #[error(
        "input string '{}' cannot be represented as Nix string because it contains null bytes",
        .0.replace('\0', "␀")
    )]
    Nul(String),
    /// A number too large for a float.
    #[error("number overflow parsing '{0}'")]
    Overflow(String),
    /// A number from 2^63 to 2^64 - 1. Larger numbers become floats.
    #[error("unsigned json number {0} outside of Nix integer range")]
    Unsigned(u64),
    /// The nesting depth of lists and sets exceeds the limit.
    #[error("nested too deeply")]
    Depth,
    /// An error of the sink.
    #[error("{0}")]
    Sink(E),
}

fn expecting(wanted: &Option<&'static str>) -> String {
    wanted.map_or_else(String::new, |wanted| format!("; expected {wanted}"))
}

/// A text that is not JSON, or that cannot be represented in the language. It displays as worded by
/// C++ Nix, which uses the messages of its JSON library.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JsonError<E> {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in bytes, counted from 1.
    pub column: usize,
    /// The kind of error.
    pub problem: JsonErrorKind<E>,
}

impl<E: fmt::Display> fmt::Display for JsonError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            column,
            problem,
        } = self;
        match problem {
            JsonErrorKind::Empty | JsonErrorKind::Syntax { .. } => write!(
                f,
                "[json.exception.parse_error.101] parse error at line {line}, column {column}: {problem}"
            ),
            JsonErrorKind::Overflow(_) => write!(f, "[json.exception.out_of_range.406] {problem}"),
            JsonErrorKind::Nul(_) | JsonErrorKind::Unsigned(_) => problem.fmt(f),
            _ => write!(f, "at line {line}, column {column}: {problem}"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for JsonError<E> {}
