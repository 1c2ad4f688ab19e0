//! The attributes of a set in alphabetical order.

use std::ops::{Deref, DerefMut};
use std::vec;

use crate::heap::Keep;
use crate::value::Attr;

/// Attributes with their names, in alphabetical order unless they are sorted anew. Keeps them alive.
pub struct ByName<'h> {
    entries: Vec<(&'h [u8], Attr<'h>)>,
    attrs: Keep<&'h [Attr<'h>]>,
}

impl<'h> ByName<'h> {
    pub(super) fn new(entries: Vec<(&'h [u8], Attr<'h>)>, attrs: &'h [Attr<'h>]) -> Self {
        Self {
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
    _attrs: Keep<&'h [Attr<'h>]>,
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
