//! The parser: from text to [`ir`](crate::ir).
//!
//! All functions fail with the first [`SyntaxError`] of the text.

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
mod token;

pub use error::{SyntaxError, SyntaxErrorKind, SyntaxWarning};
pub use print::print;
#[doc(hidden)]
pub use print::print_older;
pub use scope::Scope;

use crate::heap::Heap;
use crate::ir::Expr;
use crate::source::Source;
use crate::symbol::Symbols;

/// The home directory, to which paths such as `~/x` are relative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Home<'a> {
    /// An absolute path, in the form of [`Context::base`].
    At(&'a [u8]),
    /// Unknown: such paths are errors.
    Unknown,
    /// Pure evaluation: such paths are errors.
    Forbidden,
}

/// The context of the parser.
pub struct Context<'a, 'h> {
    /// The heap in which expressions are allocated.
    pub heap: &'h Heap,
    /// The table of names.
    pub symbols: &'a Symbols<'h>,
    /// The directory to which relative paths are relative: absolute, without `.`, `..` and trailing
    /// slash.
    pub base: &'a [u8],
    /// The directory to which `~/x` is relative.
    pub home: Home<'a>,
    /// The outermost scope.
    pub scope: &'a Scope<'h>,
    /// Maximum nesting depth of expressions; the parser recurses at each level.
    pub depth_limit: u32,
    /// Receives warnings, in the order of the text.
    pub warn: &'a dyn Fn(SyntaxWarning),
}

/// Parses and resolves an expression.
pub fn parse<'h>(cx: &Context<'_, 'h>, source: Source<'h>) -> Result<&'h Expr<'h>, SyntaxError> {
    let expr = parse_unresolved(cx, source)?;
    resolve(cx, expr)?;
    Ok(expr)
}

/// Parses an expression without resolving variables, as [`print()`] needs it.
pub fn parse_unresolved<'h>(
    cx: &Context<'_, 'h>,
    source: Source<'h>,
) -> Result<&'h mut Expr<'h>, SyntaxError> {
    let expr = parser::Parser::new(cx, &source).file()?;
    Ok(cx.heap.permanent().alloc(expr))
}

/// Parses and resolves definitions in the syntax of a set's body. The result is a non-recursive
/// set.
pub fn parse_definitions<'h>(
    cx: &Context<'_, 'h>,
    source: Source<'h>,
) -> Result<&'h Expr<'h>, SyntaxError> {
    let set = parser::Parser::new(cx, &source).definitions()?;
    let set = cx.heap.permanent().alloc(set);
    resolve(cx, set)?;
    Ok(set)
}

/// The condition of the assertion at the start of a text, in the form of [`print()`].
pub(crate) fn assertion_text<'h>(cx: &Context<'_, 'h>, source: Source<'h>) -> Option<Vec<u8>> {
    let condition = parser::Parser::new(cx, &source).assertion()?;
    Some(print(cx.symbols, &condition))
}

/// Resolves the variables of an expression. Must be called only once per expression.
pub fn resolve<'h>(cx: &Context<'_, 'h>, expr: &mut Expr<'h>) -> Result<(), SyntaxError> {
    resolve::resolve(cx, expr)
}
