//! The attributes of a set in alphabetical order.

use std::cmp::Ordering;
use std::ops::{Deref, DerefMut};
use std::vec;

use super::Interp;
use crate::heap::Keep;
use crate::value::{Attr, Attrs};

/// Attributes with their names, in alphabetical order unless they are sorted anew. Keeps them alive.
pub struct ByName<'h> {
    entries: Vec<(&'h [u8], Attr<'h>)>,
    attrs: Keep<*const Attrs<'h>>,
}

impl<'h> Interp<'h> {
    /// The attributes of a set in alphabetical order.
    pub fn by_name(&self, attrs: &Attrs<'h>) -> ByName<'h> {
        let mut entries = Vec::with_capacity(attrs.size());
        for layer in attrs.layers() {
            let named = |attr: &Attr<'h>| (self.symbols.name(attr.name), *attr);
            entries.extend(layer.iter().map(named));
        }
        let mut entries = in_order(entries);
        if !attrs.is_flat() {
            // Of equal names, that of the upper layer is the first.
            entries.dedup_by_key(|(_, attr)| attr.name);
        }
        ByName {
            entries,
            attrs: Keep(attrs),
        }
    }
}

/// Number of entries up to which a sort moves the entries themselves.
const FEW: usize = 4;

/// The entries in the order of their names. Those with equal names keep their order.
fn in_order<'h>(mut entries: Vec<(&'h [u8], Attr<'h>)>) -> Vec<(&'h [u8], Attr<'h>)> {
    if entries.len() <= FEW {
        entries.sort_by_key(|(name, _)| *name);
        return entries;
    }
    // Most names differ in their first bytes, and few entries are moved then: not the entries are
    // sorted, but these bytes.
    let mut keys: Vec<(u64, u32)> = Vec::with_capacity(entries.len());
    keys.extend(
        (0..)
            .zip(&entries)
            .map(|(at, (name, _))| (first_bytes(name), at)),
    );
    let name = |at: u32| entries[at as usize].0;
    if keys.is_sorted_by(|a, b| a.0 < b.0) {
        return entries;
    }
    keys.sort_unstable_by(|a, b| {
        let names = || name(a.1).cmp(name(b.1)).then(a.1.cmp(&b.1));
        a.0.cmp(&b.0).then_with(names)
    });
    keys.iter().map(|(_, at)| entries[*at as usize]).collect()
}

/// Compares names. Most differ in their first bytes.
#[inline]
pub(crate) fn cmp_names(a: &[u8], b: &[u8]) -> Ordering {
    first_bytes(a).cmp(&first_bytes(b)).then_with(|| a.cmp(b))
}

/// The first eight bytes of a name, ordered as names are, except that it does not tell apart names
/// with equal first bytes, and the end of a name from bytes that are 0.
#[inline]
fn first_bytes(name: &[u8]) -> u64 {
    if let Some(first) = name.first_chunk() {
        return u64::from_be_bytes(*first);
    }
    // Two words that overlap hold four to seven bytes.
    if let (Some(first), Some(last)) = (name.first_chunk(), name.last_chunk()) {
        let (first, last) = (u32::from_be_bytes(*first), u32::from_be_bytes(*last));
        let missing = 8 * (8 - name.len());
        return u64::from(first) << 32 | u64::from(last) << missing;
    }
    let bytes = (0..3).map(|at| u64::from(name.get(at).copied().unwrap_or(0)));
    bytes.fold(0, |word, byte| word << 8 | byte) << 40
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Pos;
    use crate::symbol::Symbol;
    use crate::value::{Slot, Value};

    #[test]
    fn first_bytes_are_ordered_as_names() {
        let mut names: Vec<Vec<u8>> = vec![Vec::new()];
        for len in 0..12 {
            for byte in [0, 1, b'a', b'b', 0x7f, 0x80, 0xff] {
                let mut name = vec![b'a'; len];
                names.push(name.clone());
                name.push(byte);
                names.push(name.clone());
                name.insert(0, byte);
                names.push(name);
            }
        }
        for a in &names {
            for b in &names {
                if first_bytes(a) < first_bytes(b) {
                    assert!(a < b, "{a:?} {b:?}");
                }
                if a.get(..8) == b.get(..8) && a.len() >= 8 && b.len() >= 8 {
                    assert_eq!(first_bytes(a), first_bytes(b), "{a:?} {b:?}");
                }
            }
        }
        for (name, word) in [
            (&b""[..], 0),
            (b"a", 0x6100_0000_0000_0000),
            (b"abc", 0x6162_6300_0000_0000),
            (b"abcd", 0x6162_6364_0000_0000),
            (b"abcdefg", 0x6162_6364_6566_6700),
            (b"abcdefgh", 0x6162_6364_6566_6768),
            (b"abcdefghi", 0x6162_6364_6566_6768),
        ] {
            assert_eq!(first_bytes(name), word, "{name:?}");
        }
    }

    #[test]
    fn entries_are_sorted_whatever_their_number() {
        let heap = crate::heap::Heap::new();
        let value = heap.alloc(Slot::new(Value::Null));
        let names: Vec<Vec<u8>> = (0..300_u32)
            .map(|n| format!("{}{}", "prefix-".repeat(n as usize % 3), n * 7919 % 301).into_bytes())
            .collect();
        for count in 0..names.len() {
            let entry = |(at, name): (u32, &'_ Vec<u8>)| {
                let name = heap.copy_text(name);
                let attr = Attr {
                    name: Symbol(at),
                    pos: Pos::NONE,
                    value,
                };
                (name, attr)
            };
            let entries: Vec<_> = (0..).zip(&names[..count]).map(entry).collect();
            let mut expected = entries.clone();
            expected.sort_by_key(|(name, _)| *name);
            let order = |entries: &[(&[u8], Attr<'_>)]| -> Vec<u32> {
                entries.iter().map(|(_, attr)| attr.name.0).collect()
            };
            assert_eq!(order(&in_order(entries)), order(&expected));
        }
    }
}
