//! Values: 16 bytes each, cheap to copy. Their pointers are valid as long as the heap.

mod attrs;
mod builtin;
mod context;
mod env;
mod growing;
mod words;

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use crate::heap::{Item, Kind, Object};
use crate::source::Pos;
pub use crate::symbol::Symbol;
pub use attrs::Attrs;
pub(crate) use attrs::{MOST_LAYERS, find};
pub(crate) use builtin::THEN_OTHERS;
pub use builtin::{Builtin, Function};
pub use context::ContextId;
pub(crate) use context::{ContextElement, Contexts};
pub use env::Env;
pub(crate) use growing::Growing;
pub(crate) use words::Words;

/// A cell that holds a value or a thunk. Cells are shared by reference, and the equality of
/// functions is the identity of their cells.
pub type Slot<'h> = Cell<Value<'h>>;

/// A shared cell.
pub type Ref<'h> = &'h Slot<'h>;

/// A value, or a thunk that computes one.
///
/// The discriminant takes 32 bits, so that a 32-bit field next to it is moved in the same word.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum Value<'h> {
    /// `null`.
    Null,
    /// A Boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A string.
    String(&'h NixString<'h>),
    /// A path of the file system.
    Path(&'h NixPath<'h>),
    /// A list.
    List(&'h List<'h>),
    /// An attribute set.
    Attrs(&'h Attrs<'h>),
    /// A function: the number of its code, and its scope.
    Lambda {
        /// The number of the code in the interpreter.
        code: u32,
        /// The scope.
        env: Env<'h>,
    },
    /// A builtin function.
    Builtin(&'h Builtin<'h>),
    /// A builtin function with a part of its arguments.
    Partial(&'h Partial<'h>),
    /// A thunk: the number of its code, and its scope.
    Thunk {
        /// The number of the code in the interpreter.
        code: u32,
        /// The scope.
        env: Env<'h>,
    },
    /// A thunk of a call.
    Apply(&'h Apply<'h>),
    /// A thunk of a call with two arguments.
    Apply2(&'h Apply2<'h>),
    /// A thunk of one call of `map` or similar.
    Element {
        /// Index of the call.
        index: u32,
        /// All of the calls.
        of: &'h Elements<'h>,
    },
    /// Under evaluation by the fiber of this number.
    Hole(u32),
    /// Evaluation failed with the error of this number in the interpreter.
    Failed(u32),
    /// Evaluated by a speculative fiber, with the outcome of this number. Evaluation in order has
    /// not come to it.
    Uncommitted(u32),
}

impl<'h> Value<'h> {
    /// Whether this is a value rather than a thunk or an error.
    #[inline]
    pub fn is_evaluated(&self) -> bool {
        !matches!(
            self,
            Self::Thunk { .. }
                | Self::Apply(_)
                | Self::Apply2(_)
                | Self::Element { .. }
                | Self::Hole(_)
                | Self::Failed(_)
                | Self::Uncommitted(_)
        )
    }

    /// The type of the value, as returned by `builtins.typeOf`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::String(_) => "string",
            Self::Path(_) => "path",
            Self::List(_) => "list",
            Self::Attrs(_) => "set",
            Self::Lambda { .. } | Self::Builtin(_) | Self::Partial(_) => "lambda",
            Self::Thunk { .. }
            | Self::Apply(_)
            | Self::Apply2(_)
            | Self::Element { .. }
            | Self::Hole(_)
            | Self::Failed(_)
            | Self::Uncommitted(_) => "thunk",
        }
    }

    /// The type of the value with its article, for messages.
    pub fn type_phrase(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Null => "null",
            Self::Bool(_) => "a Boolean",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a float",
            Self::String(string) if !string.context.is_empty() => "a string with context",
            Self::String(_) => "a string",
            Self::Path(_) => "a path",
            Self::List(_) => "a list",
            Self::Attrs(_) => "a set",
            Self::Lambda { .. } => "a function",
            Self::Builtin(builtin) if builtin.is_derivation() => "a function",
            Self::Builtin(builtin) => {
                return Cow::Owned(format!("the built-in function '{}'", builtin.name));
            }
            Self::Partial(partial) => {
                let name = partial.builtin.name;
                return Cow::Owned(format!("the partially applied built-in function '{name}'"));
            }
            Self::Thunk { .. }
            | Self::Apply(_)
            | Self::Apply2(_)
            | Self::Element { .. }
            | Self::Hole(_)
            | Self::Failed(_)
            | Self::Uncommitted(_) => "a thunk",
        })
    }

    /// Whether it is a function (a set with `__functor` is not).
    pub fn is_function(&self) -> bool {
        matches!(
            self,
            Self::Lambda { .. } | Self::Builtin(_) | Self::Partial(_)
        )
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::String(value) => bstr::BStr::new(value.bytes).fmt(f),
            Self::Path(value) => bstr::BStr::new(value.bytes).fmt(f),
            other => f.write_str(other.type_name()),
        }
    }
}

/// A string: bytes, not necessarily UTF-8, and a context.
pub struct NixString<'h> {
    /// The bytes.
    pub bytes: &'h [u8],
    /// The context.
    pub context: ContextId,
    /// The symbol of the bytes plus 1; 0 if they are not interned yet.
    pub symbol: Cell<u32>,
}

impl NixString<'_> {
    /// The symbol of the bytes, if they are interned.
    #[inline]
    pub(crate) fn interned(&self) -> Option<Symbol> {
        self.symbol.get().checked_sub(1).map(Symbol)
    }
}

/// An absolute path without `.`, `..` and repeated slashes.
#[derive(Debug)]
pub struct NixPath<'h> {
    /// The path.
    pub bytes: &'h [u8],
}

/// A list.
pub struct List<'h> {
    /// The elements.
    pub items: &'h [Ref<'h>],
}

/// An attribute.
#[derive(Clone, Copy)]
pub struct Attr<'h> {
    /// Name.
    pub name: Symbol,
    /// Position of its definition.
    pub pos: Pos,
    /// Value.
    pub value: Ref<'h>,
}

/// A builtin function with some, but not all, of its arguments.
pub struct Partial<'h> {
    /// The function.
    pub builtin: &'h Builtin<'h>,
    /// The arguments.
    pub args: &'h [Ref<'h>],
}

/// A call that has not been evaluated.
pub struct Apply<'h> {
    /// The function.
    pub func: Ref<'h>,
    /// The argument.
    pub arg: Ref<'h>,
}

/// A call with two arguments that has not been evaluated.
pub struct Apply2<'h> {
    /// The function.
    pub func: Ref<'h>,
    /// The arguments.
    pub args: [Ref<'h>; 2],
}

/// Calls that have not been evaluated, one per element. Their cells hold indices, so that a call
/// takes no memory of its own.
pub enum Elements<'h> {
    /// The calls of `map`.
    Map {
        /// The function.
        func: Ref<'h>,
        /// The arguments.
        items: &'h [Ref<'h>],
    },
    /// The calls of `genList`; indices are the arguments.
    GenList {
        /// The function.
        func: Ref<'h>,
    },
    /// The calls of `mapAttrs`.
    MapAttrs {
        /// The function.
        func: Ref<'h>,
        /// The attributes. Their names and values are the arguments.
        entries: &'h [Attr<'h>],
    },
}

macro_rules! objects {
    ($($type:ty: $kind:ident,)*) => {
        $(
            // SAFETY: the kind is that of this type alone, `Heap::alloc` checks the size, and the
            // tracer skips objects of zeros.
            unsafe impl Object for $type {
                const KIND: Kind = Kind::$kind;
            }
        )*
    };
}

objects! {
    Slot<'_>: Cell,
    List<'_>: List,
    Attrs<'_>: Attrs,
    NixString<'_>: String,
    NixPath<'_>: Path,
    Builtin<'_>: Builtin,
    Partial<'_>: Partial,
    Apply<'_>: Apply,
    Apply2<'_>: Apply2,
    Elements<'_>: Elements,
}

// SAFETY: the kind is that of this type alone, and the tracer skips zeros.
unsafe impl Item for Ref<'_> {
    const KIND: Kind = Kind::Refs;
}

// SAFETY: as for `Ref`.
unsafe impl Item for Attr<'_> {
    const KIND: Kind = Kind::Entries;
}

const _: () = assert!(size_of::<Value<'_>>() == 16);
const _: () = assert!(size_of::<Attr<'_>>() == 16);
