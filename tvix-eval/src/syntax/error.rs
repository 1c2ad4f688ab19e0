//! What can be wrong with a text.

use std::fmt;

use bstr::BString;

use super::lexer::Tok;
use crate::source::Pos;

/// Why a text is no expression.
///
/// It is displayed as C++ Nix words it, without places: where [`SyntaxError::other`] is given, the
/// message goes on with ` at ` and that place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// What is wrong.
    pub kind: SyntaxErrorKind,
    /// Where.
    pub pos: Pos,
    /// A second place: that of the first of two definitions.
    pub other: Option<Pos>,
}

/// What is wrong with a text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyntaxErrorKind {
    /// Something else was to come here.
    Unexpected {
        /// What is here.
        found: &'static str,
        /// What could be here; empty if that is much.
        expected: Vec<&'static str>,
    },
    /// A variable that nothing binds. C++ Nix has it as an error of evaluation.
    UndefinedVariable(BString),
    /// Two definitions of one attribute; its path as written in the language.
    DuplicateAttribute(BString),
    /// Two arguments of one name.
    DuplicateFormal(BString),
    /// `let ${name} = …; in …`.
    DynamicInLet,
    /// `inherit ${name};`.
    DynamicInInherit,
    /// `./a/`.
    TrailingSlash,
    /// An integer that does not fit into 64 bits.
    InvalidInteger(BString),
    /// A number that is too large or too small.
    InvalidFloat(BString),
    /// A string with a NUL byte.
    NulInString(BString),
    /// Syntax that only an experimental feature of C++ Nix has.
    Experimental(&'static str),
    /// More levels than [`Context::depth_limit`](super::Context::depth_limit).
    TooDeep,
    /// `~/…` where there is no home.
    NoHome,
    /// `~/…` in pure evaluation; the path as written.
    HomeInPureMode(BString),
}

/// What is legal in a text, and doubtful.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyntaxWarning {
    /// `or` as the argument of a call that is itself an argument, a list element or a default.
    OrAsName {
        /// Where the call begins.
        start: Pos,
        /// Where it ends.
        end: Pos,
    },
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

/// What a message calls a token.
pub(super) fn describe(tok: Tok) -> &'static str {
    match tok {
        Tok::Eof => "end of file",
        Tok::Error | Tok::Invalid => "invalid token",
        Tok::Ident => "identifier",
        Tok::Int => "integer",
        Tok::Float => "floating-point literal",
        Tok::Quote => "'\"'",
        Tok::IndOpen => "start of an indented string",
        Tok::Path => "path",
        Tok::HomePath => "'~/…' path",
        Tok::SearchPath => "'<…>' path",
        Tok::Uri => "URI",
        Tok::LParen => "'('",
        Tok::RParen => "')'",
        Tok::LBrace => "'{'",
        Tok::RBrace => "'}'",
        Tok::LBracket => "'['",
        Tok::RBracket => "']'",
        Tok::Let => "'let'",
        Tok::Rec => "'rec'",
        Tok::Or => "'or'",
        Tok::If => "'if'",
        Tok::Then => "'then'",
        Tok::Else => "'else'",
        Tok::Assert => "'assert'",
        Tok::With => "'with'",
        Tok::In => "'in'",
        Tok::Inherit => "'inherit'",
        Tok::DollarCurly => "'${'",
        Tok::Ellipsis => "'...'",
        Tok::Dot => "'.'",
        Tok::Comma => "','",
        Tok::Colon => "':'",
        Tok::Semicolon => "';'",
        Tok::At => "'@'",
        Tok::Assign => "'='",
        Tok::Not => "'!'",
        Tok::Implies => "'->'",
        Tok::OrOr => "'||'",
        Tok::AndAnd => "'&&'",
        Tok::Equal => "'=='",
        Tok::NotEqual => "'!='",
        Tok::Less => "'<'",
        Tok::Greater => "'>'",
        Tok::LessOrEqual => "'<='",
        Tok::GreaterOrEqual => "'>='",
        Tok::Update => "'//'",
        Tok::Plus => "'+'",
        Tok::Minus => "'-'",
        Tok::Times => "'*'",
        Tok::Divide => "'/'",
        Tok::Concat => "'++'",
        Tok::Question => "'?'",
    }
}
