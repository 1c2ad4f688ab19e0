//! What can be wrong with JSON, in the words of C++ Nix.

use std::fmt;

/// What is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JsonProblem<E> {
    /// There is nothing in it.
    #[error(
        "attempting to parse an empty input; check that your input string or stream contains the expected JSON"
    )]
    Empty,
    /// Something else should stand here.
    #[error("syntax error while parsing {parsing} - {found}{}", expecting(wanted))]
    Syntax {
        /// What was being read.
        parsing: &'static str,
        /// What stands here.
        found: String,
        /// What should, if that can be said.
        wanted: Option<&'static str>,
    },
    /// A string or key with a NUL, which the language cannot hold.
    #[error(
        "input string '{}' cannot be represented as Nix string because it contains null bytes",
        .0.replace('\0', "␀")
    )]
    Nul(String),
    /// A number too large for a float.
    #[error("number overflow parsing '{0}'")]
    Overflow(String),
    /// A number from 2^63 to 2^64 - 1. Above that, numbers become floats.
    #[error("unsigned json number {0} outside of Nix integer range")]
    Unsigned(u64),
    /// Lists and sets in each other deeper than allowed.
    #[error("nested too deeply")]
    Depth,
    /// The sink gave up.
    #[error("{0}")]
    Sink(E),
}

fn expecting(wanted: &Option<&'static str>) -> String {
    wanted.map_or_else(String::new, |wanted| format!("; expected {wanted}"))
}

/// A text is not JSON, or not JSON that can be used. It is shown in the words of C++ Nix, which
/// are those of the library that reads JSON for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct JsonError<E> {
    /// Counted from 1.
    pub line: usize,
    /// In bytes, counted from 1.
    pub column: usize,
    /// What is wrong there.
    pub problem: JsonProblem<E>,
}

impl<E: fmt::Display> fmt::Display for JsonError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            column,
            problem,
        } = self;
        match problem {
            JsonProblem::Empty | JsonProblem::Syntax { .. } => write!(
                f,
                "[json.exception.parse_error.101] parse error at line {line}, column {column}: {problem}"
            ),
            JsonProblem::Overflow(_) => write!(f, "[json.exception.out_of_range.406] {problem}"),
            JsonProblem::Nul(_) | JsonProblem::Unsigned(_) => problem.fmt(f),
            _ => write!(f, "at line {line}, column {column}: {problem}"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for JsonError<E> {}
