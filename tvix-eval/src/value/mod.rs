//! Values: 16 bytes, copied freely; what they point to lives as long as the heap.

use std::cell::Cell;

use crate::source::Pos;
use crate::symbol::Symbol;

/// A cell that holds a value, or what it will be computed from. Cells are shared by reference:
/// equality of functions is decided by which cell they are in.
pub type Slot<'h> = Cell<Value<'h>>;

/// A shared cell.
pub type Ref<'h> = &'h Slot<'h>;

/// A value, or what it will be computed from.
#[derive(Clone, Copy)]
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
    /// A set of attributes.
    Attrs(&'h Attrs<'h>),
}

/// A string: bytes, not necessarily UTF-8, and what store paths they mention.
pub struct NixString<'h> {
    /// The bytes.
    pub bytes: &'h [u8],
    /// The store paths.
    pub context: ContextId,
    /// The symbol of the bytes plus 1, once it was needed; before, 0.
    pub symbol: Cell<u32>,
}

/// An interned set of store paths that a string mentions; 0 is the empty set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ContextId(pub(crate) u32);

/// An absolute path without `.`, `..` and doubled slashes.
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

/// A set of attributes.
pub struct Attrs<'h> {
    /// The attributes, by symbol.
    pub entries: &'h [Attr<'h>],
}

/// An attribute.
#[derive(Clone, Copy)]
pub struct Attr<'h> {
    /// Its name.
    pub name: Symbol,
    /// Where it was defined.
    pub pos: Pos,
    /// Its value.
    pub value: Ref<'h>,
}
