//! Functions in Rust.

use super::{Ref, Value};
use crate::error::Result;
use crate::interp::Interp;
use crate::source::Pos;

/// In [`Builtin::strict`]: the other arguments are always evaluated after these.
pub(crate) const THEN_OTHERS: u8 = 1 << 7;

/// A Rust function that expressions can call.
pub struct Builtin<'h> {
    /// Name in messages.
    pub name: &'h str,
    /// Number of arguments; 1 to 6.
    pub arity: u8,
    /// Whether traces omit the builtin.
    pub quiet: bool,
    /// The arguments that are always evaluated, as a bit set: 1 for the first, 2 for the second and
    /// so on. They may be evaluated before the call, which saves their thunks. The highest bit says
    /// that the others are evaluated after them.
    pub strict: u8,
    /// The implementation. Its arguments are not evaluated.
    pub function: &'h Function<'h>,
}

impl Builtin<'_> {
    /// Whether this is `derivation`, which is defined in the Nix language in C++ Nix.
    pub(crate) fn is_derivation(&self) -> bool {
        self.quiet && self.name == "derivation"
    }
}

/// The implementation of a [`Builtin`]: takes arguments and the position of the call.
pub type Function<'h> = dyn Fn(&Interp<'h>, &[Ref<'h>], Pos) -> Result<Value<'h>> + 'h;
