//! Syntax errors.

use std::fmt;

use bstr::BString;

use super::token::{Tok, describe};
use crate::source::Pos;

/// A syntax error.
///
/// It displays as worded by C++ Nix, without positions. If [`SyntaxError::other`] is set, the
/// complete message continues with ` at ` and that position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// The kind of error.
    pub kind: SyntaxErrorKind,
    /// Position of the error.
    pub pos: Pos,
    /// A second position: that of the first of two definitions.
    pub other: Option<Pos>,
}

/// The kinds of syntax errors.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyntaxErrorKind {
    /// An unexpected token.
    Unexpected {
        /// The token.
        found: &'static str,
        /// The tokens that are expected; empty if there are too many to list.
        expected: Vec<&'static str>,
    },
    /// An undefined variable. In C++ Nix this is an evaluation error.
    UndefinedVariable(BString),
    /// A duplicate attribute; its path in the syntax of the language.
    DuplicateAttribute(BString),
    /// A duplicate argument.
    DuplicateFormal(BString),
    /// `let ${name} = …; in …`.
    DynamicInLet,
    /// `inherit ${name};`.
    DynamicInInherit,
    /// `./a/`.
    TrailingSlash,
    /// An integer that does not fit into 64 bits.
    InvalidInteger(BString),
    /// A number that is out of range.
    InvalidFloat(BString),
    /// A string with a NUL byte.
    NulInString(BString),
    /// Syntax of an experimental feature of C++ Nix.
    Experimental(&'static str),
    /// The nesting depth exceeds [`Context::depth_limit`](super::Context::depth_limit).
    TooDeep,
    /// `~/…` without a known home directory.
    NoHome,
    /// `~/…` in pure evaluation; the path as written.
    HomeInPureMode(BString),
}

/// Warnings about valid but doubtful syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyntaxWarning {
    /// `or` as the argument of a call that is itself an argument, a list element or a default
    /// value.
    OrAsName {
        /// Start of the call.
        start: Pos,
        /// End of the call.
        end: Pos,
    },
}

impl SyntaxError {
    /// Whether the text is incomplete, so that more text may complete it.
    pub fn is_unfinished(&self) -> bool {
        matches!(&self.kind, SyntaxErrorKind::Unexpected { found, .. } if *found == describe(Tok::Eof))
    }
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl std::error::Error for SyntaxError {}

impl fmt::Display for SyntaxErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unexpected { found, expected } => {
                write!(f, "syntax error, unexpected {found}")?;
                for (index, token) in expected.iter().enumerate() {
                    let word = if index == 0 { ", expecting" } else { " or" };
                    write!(f, "{word} {token}")?;
                }
                Ok(())
            }
            Self::UndefinedVariable(name) => write!(f, "undefined variable '{name}'"),
            Self::DuplicateAttribute(path) => write!(f, "attribute '{path}' already defined"),
            Self::DuplicateFormal(name) => {
                write!(f, "duplicate formal function argument '{name}'")
            }
            Self::DynamicInLet => f.write_str("dynamic attributes not allowed in let"),
            Self::DynamicInInherit => f.write_str("dynamic attributes not allowed in inherit"),
            Self::TrailingSlash => f.write_str("path has a trailing slash"),
            Self::InvalidInteger(text) => write!(f, "invalid integer '{text}'"),
            Self::InvalidFloat(text) => write!(f, "invalid float '{text}'"),
            Self::NulInString(text) => write!(
                f,
                "input string '{text}' cannot be represented as Nix string because it contains null bytes"
            ),
            Self::Experimental(feature) => write!(
                f,
                "experimental Nix feature '{feature}' is disabled; add '--extra-experimental-features {feature}' to enable it"
            ),
            Self::TooDeep => f.write_str("expression is too deeply nested"),
            Self::NoHome => f.write_str("cannot determine the home directory"),
            Self::HomeInPureMode(path) => {
                write!(f, "the path '{path}' can not be resolved in pure mode")
            }
        }
    }
}
