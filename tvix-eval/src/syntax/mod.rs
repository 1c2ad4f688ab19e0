//! From text to [`ir`](crate::ir).

mod attrs;
mod error;
mod formals;
mod lexer;
mod operators;
mod parser;
mod print;
mod resolve;
mod scope;
mod strings;
#[cfg(test)]
mod tests;

use bumpalo::Bump;

pub use error::{SyntaxError, SyntaxErrorKind, SyntaxWarning};
pub use print::print;
#[cfg(feature = "peers")]
pub use print::print_older;
pub use scope::Scope;

use crate::ir::Expr;
use crate::source::Source;
use crate::symbol::Symbols;

/// The home directory, of which paths such as `~/x` speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Home<'a> {
    /// An absolute path, as [`Context::base`].
    At(&'a [u8]),
    /// It is not known: such paths are errors.
    Unknown,
    /// Pure evaluation: such paths are errors.
    Forbidden,
}

/// What the parser needs beside the text.
pub struct Context<'a, 'h> {
    /// Where expressions are made.
    pub heap: &'h Bump,
    /// The names.
    pub symbols: &'a Symbols<'h>,
    /// The folder that relative paths are relative to: absolute, without `.`, `..` and a slash at
    /// its end.
    pub base: &'a [u8],
    /// What `~/x` is relative to.
    pub home: Home<'a>,
    /// The outermost scope.
    pub scope: &'a Scope<'h>,
    /// How many levels expressions may be nested; the parser recurses at each.
    pub depth_limit: u32,
    /// Is told what is doubtful, in the order of the text.
    pub warn: &'a dyn Fn(SyntaxWarning),
}

/// Reads an expression, ready to be evaluated.
pub fn parse<'h>(cx: &Context<'_, 'h>, source: Source<'h>) -> Result<&'h Expr<'h>, SyntaxError> {
    let expr = parse_unresolved(cx, source)?;
    resolve(cx, expr)?;
    Ok(expr)
}

/// Reads an expression whose variables are names still, as [`print()`] wants it.
pub fn parse_unresolved<'h>(
    cx: &Context<'_, 'h>,
    source: Source<'h>,
) -> Result<&'h mut Expr<'h>, SyntaxError> {
    let expr = parser::Parser::new(cx, &source).file()?;
    Ok(cx.heap.alloc(expr))
}

/// The condition of the assertion that a text begins with, as [`print()`] writes it.
pub(crate) fn assertion_text<'h>(cx: &Context<'_, 'h>, source: Source<'h>) -> Option<Vec<u8>> {
    let condition = parser::Parser::new(cx, &source).assertion()?;
    Some(print(cx.symbols, &condition))
}

/// Finds what each variable is; this can be done once.
pub fn resolve<'h>(cx: &Context<'_, 'h>, expr: &mut Expr<'h>) -> Result<(), SyntaxError> {
    resolve::resolve(cx, expr)
}
