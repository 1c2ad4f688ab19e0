//! Sets of attributes.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::NonNull;

use super::Attr;
use crate::source::Pos;
use crate::symbol::Symbol;

/// A set of attributes. [`Interp::entries`](crate::interp::Interp::entries) returns them.
///
/// A set that was made by `//` from a large and a small one has layers: its top refers to the small
/// one, and its base is the large one. It becomes flat when its attributes are listed.
pub struct Attrs<'h> {
    first: Cell<NonNull<Attr<'h>>>,
    len: Cell<u32>,
    /// Position of its definition, for messages.
    pub pos: Pos,
    /// Attributes that the top does not have.
    base: Cell<Option<&'h Self>>,
    entries: PhantomData<&'h [Attr<'h>]>,
}

/// Maximum number of attributes that are searched linearly.
const SCANNED: usize = 8;

/// Maximum number of layers.
pub(crate) const MOST_LAYERS: usize = 8;

/// The index of an attribute in a slice that is sorted by symbol.
#[inline]
pub(crate) fn find(entries: &[Attr<'_>], name: Symbol) -> Option<usize> {
    if entries.len() <= SCANNED {
        return entries.iter().position(|attr| attr.name == name);
    }
    entries.binary_search_by(|attr| attr.name.cmp(&name)).ok()
}

impl<'h> Attrs<'h> {
    /// A set of attributes, sorted by symbol.
    ///
    /// # Panics
    ///
    /// If there are 2^32 attributes or more.
    #[inline]
    pub fn new(entries: &'h [Attr<'h>], pos: Pos) -> Self {
        Self {
            first: Cell::new(NonNull::from(entries).cast()),
            len: Cell::new(u32::try_from(entries.len()).expect("values have a limit")),
            pos,
            base: Cell::new(None),
            entries: PhantomData,
        }
    }

    /// A set with attributes on top of another set.
    pub(crate) fn layered(top: &'h [Attr<'h>], base: &'h Self, pos: Pos) -> Self {
        let attrs = Self::new(top, pos);
        attrs.base.set(Some(base));
        attrs
    }

    /// The attributes of the top layer; all of them if the set is flat.
    #[inline]
    pub(crate) fn top(&self) -> &'h [Attr<'h>] {
        // SAFETY: `new` and `replace_layers` store the parts of such a slice.
        unsafe { std::slice::from_raw_parts(self.first.get().as_ptr(), self.len.get() as usize) }
    }

    /// The set below the top layer.
    #[inline]
    pub(crate) fn base(&self) -> Option<&'h Self> {
        self.base.get()
    }

    /// Whether there is one layer.
    #[inline]
    pub(crate) fn is_flat(&self) -> bool {
        self.base.get().is_none()
    }

    /// Replaces the layers above `base` by one with all of their attributes.
    pub(crate) fn replace_layers(&self, entries: &'h [Attr<'h>], base: Option<&'h Self>) {
        let Self { first, len, .. } = Self::new(entries, self.pos);
        self.first.set(first.get());
        self.len.set(len.get());
        self.base.set(base);
    }

    /// The layers, from the top.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &'h [Attr<'h>]> {
        let below = std::iter::successors(self.base(), |attrs| attrs.base());
        std::iter::once(self.top()).chain(below.map(Self::top))
    }

    /// Whether the set has no attributes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len.get() == 0 && self.is_flat()
    }

    /// The number of attributes in all layers: at least that of the set.
    #[inline]
    pub(crate) fn size(&self) -> usize {
        match self.is_flat() {
            true => self.len.get() as usize,
            false => self.layers().map(<[_]>::len).sum(),
        }
    }

    /// An attribute by name. `cache` holds its index at the last look-up.
    #[inline]
    pub(crate) fn get_again(&self, name: Symbol, cache: &Cell<u32>) -> Option<&'h Attr<'h>> {
        match self.top().get(cache.get() as usize) {
            Some(attr) if attr.name == name => Some(attr),
            _ => self.search_again(name, cache),
        }
    }

    fn search_again(&self, name: Symbol, cache: &Cell<u32>) -> Option<&'h Attr<'h>> {
        let mut attrs = self;
        loop {
            let layer = attrs.top();
            match layer.get(cache.get() as usize) {
                Some(attr) if attr.name == name => return Some(attr),
                _ => {}
            }
            if let Some(index) = find(layer, name) {
                cache.set(index as u32);
                return Some(&layer[index]);
            }
            attrs = attrs.base()?;
        }
    }

    /// An attribute.
    #[inline]
    pub fn get(&self, name: Symbol) -> Option<&'h Attr<'h>> {
        let top = self.top();
        match find(top, name) {
            Some(index) => Some(&top[index]),
            None => self.base()?.get_below(name),
        }
    }

    #[inline(never)]
    fn get_below(&self, name: Symbol) -> Option<&'h Attr<'h>> {
        let mut attrs = self;
        loop {
            let layer = attrs.top();
            if let Some(index) = find(layer, name) {
                return Some(&layer[index]);
            }
            attrs = attrs.base()?;
        }
    }
}
