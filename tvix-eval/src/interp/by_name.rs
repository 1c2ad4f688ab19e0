//! The attributes of a set in alphabetical order.

use std::ops::{Deref, DerefMut};
use std::vec;

use super::Interp;
use crate::heap::Keep;
use crate::value::{Attr, Attrs, find};

/// Attributes with their names, in alphabetical order unless they are sorted anew. Keeps them alive.
pub struct ByName<'h> {
    entries: Vec<(&'h [u8], Attr<'h>)>,
    attrs: Keep<*const Attrs<'h>>,
}

impl<'h> Interp<'h> {
    /// The attributes of a set in alphabetical order.
    pub fn by_name(&self, attrs: &Attrs<'h>) -> ByName<'h> {
        let mut entries = Vec::with_capacity(attrs.size());
        for (number, layer) in attrs.layers().enumerate() {
            let is_new = |attr: &&Attr<'h>| {
                let mut above = attrs.layers().take(number);
                !above.any(|layer| find(layer, attr.name).is_some())
            };
            let layer = layer.iter().filter(is_new);
            entries.extend(layer.map(|attr| (self.symbols.name(attr.name), *attr)));
        }
        entries.sort_unstable_by_key(|(name, _)| *name);
        ByName {
            entries,
            attrs: Keep(attrs),
        }
    }
}

impl<'h> Deref for ByName<'h> {
    type Target = [(&'h [u8], Attr<'h>)];

    fn deref(&self) -> &Self::Target {
        &self.entries
    }
}

impl DerefMut for ByName<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.entries
    }
}

impl<'h> IntoIterator for ByName<'h> {
    type Item = (&'h [u8], Attr<'h>);
    type IntoIter = IntoIter<'h>;

    fn into_iter(self) -> IntoIter<'h> {
        IntoIter {
            entries: self.entries.into_iter(),
            _attrs: self.attrs,
        }
    }
}

/// The iterator of [`ByName`].
pub struct IntoIter<'h> {
    entries: vec::IntoIter<(&'h [u8], Attr<'h>)>,
    _attrs: Keep<*const Attrs<'h>>,
}

impl<'h> Iterator for IntoIter<'h> {
    type Item = (&'h [u8], Attr<'h>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.entries.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.entries.size_hint()
    }
}

impl DoubleEndedIterator for IntoIter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.entries.next_back()
    }
}

impl ExactSizeIterator for IntoIter<'_> {}
