//! Interned names: during evaluation, the names of attributes and variables are numbers.

use std::cell::Cell;
use std::hash::Hasher;

use bumpalo::Bump;
use rustc_hash::FxHasher;

use crate::heap::Heap;

/// An interned name. Equal names have equal symbols. Symbols are ordered by first use, not
/// alphabetically.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(pub(crate) u32);

/// The table of interned names.
///
/// Every name of every text is looked up here, and most look-ups are of known names, for which the
/// table is optimised. It uses open addressing with a load factor below one half, so that most
/// first probes hit; names are compared without a call; and both tables are cells in the heap,
/// which are read without a guard. A full table is replaced by one of twice the size.
#[derive(Debug)]
pub struct Symbols<'h> {
    heap: &'h Bump,
    /// A power of two of entries: a hash, and the symbol plus 1, or 0 for an empty entry.
    table: Cell<&'h [Cell<(u32, u32)>]>,
    /// Names by symbol, followed by empty ones.
    names: Cell<&'h [Cell<&'h [u8]>]>,
    len: Cell<usize>,
}

/// The hash that [`Symbols::intern_hashed`] takes.
#[inline]
pub fn hash_name(name: &[u8]) -> u32 {
    let mut hasher = FxHasher::default();
    hasher.write(name);
    let hash = hasher.finish();
    (hash ^ (hash >> 32)) as u32
}

/// Whether two names are equal. Most have 4 to 16 bytes and are compared as two overlapping words.
#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
    fn words<const N: usize>(a: &[u8], b: &[u8]) -> bool {
        a.first_chunk::<N>() == b.first_chunk() && a.last_chunk::<N>() == b.last_chunk()
    }
    a.len() == b.len()
        && match a.len() {
            8..=16 => words::<8>(a, b),
            4..=7 => words::<4>(a, b),
            _ => a == b,
        }
}

impl<'h> Symbols<'h> {
    /// An empty table.
    pub fn new(heap: &'h Heap) -> Self {
        let heap = heap.permanent();
        Self {
            heap,
            table: Cell::new(cells(heap, 8192, (0, 0))),
            names: Cell::new(cells(heap, 4096, b"")),
            len: Cell::new(0),
        }
    }

    /// The symbol of a name.
    #[inline]
    pub fn intern(&self, name: &[u8]) -> Symbol {
        self.intern_hashed(name, hash_name(name))
    }

    /// The symbol of a name with a known [`hash_name`].
    pub fn intern_hashed(&self, name: &[u8], hash: u32) -> Symbol {
        match self.probe(name, hash) {
            Ok(symbol) => symbol,
            Err(free) => self.add(name, hash, free),
        }
    }

    /// The symbol of a name, if the name is interned.
    pub fn find(&self, name: &[u8]) -> Option<Symbol> {
        self.probe(name, hash_name(name)).ok()
    }

    /// The symbol of a name, or the index in the table for a new entry.
    #[inline(always)]
    fn probe(&self, name: &[u8], hash: u32) -> Result<Symbol, usize> {
        let table = self.table.get();
        let names = self.names.get();
        let mask = table.len() - 1;
        let mut at = hash as usize;
        loop {
            at &= mask;
            let (known, symbol) = table[at].get();
            let Some(symbol) = symbol.checked_sub(1) else {
                return Err(at);
            };
            if known == hash && same(names[symbol as usize].get(), name) {
                return Ok(Symbol(symbol));
            }
            at += 1;
        }
    }

    #[cold]
    #[inline(never)]
    fn add(&self, name: &[u8], hash: u32, free: usize) -> Symbol {
        let len = self.len.get();
        let symbol = u32::try_from(len).expect("fewer than 2^32 names");
        let mut names = self.names.get();
        if len == names.len() {
            let more = cells(self.heap, len * 2, &b""[..]);
            for (new, old) in more.iter().zip(names) {
                new.set(old.get());
            }
            self.names.set(more);
            names = more;
        }
        names[len].set(self.heap.alloc_slice_copy(name));
        self.len.set(len + 1);
        let table = self.table.get();
        table[free].set((hash, symbol + 1));
        if (len + 1) * 2 > table.len() {
            self.table.set(larger(self.heap, table));
        }
        Symbol(symbol)
    }

    /// The name of a symbol.
    #[inline]
    pub fn name(&self, symbol: Symbol) -> &'h [u8] {
        self.names.get()[symbol.0 as usize].get()
    }

    /// Number of interned names. Symbols are smaller than this number.
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn cells<T: Copy>(heap: &Bump, len: usize, value: T) -> &[Cell<T>] {
    heap.alloc_slice_fill_with(len, |_| Cell::new(value))
}

/// The same entries in a table of twice the size.
fn larger<'h>(heap: &'h Bump, table: &[Cell<(u32, u32)>]) -> &'h [Cell<(u32, u32)>] {
    let larger = cells(heap, table.len() * 2, (0, 0));
    let mask = larger.len() - 1;
    for place in table.iter().map(Cell::get).filter(|place| place.1 != 0) {
        let mut at = place.0 as usize & mask;
        while larger[at].get().1 != 0 {
            at = (at + 1) & mask;
        }
        larger[at].set(place);
    }
    larger
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_again_whatever_their_length_and_number() {
        let heap = Heap::new();
        let symbols = Symbols::new(&heap);
        let names: Vec<Vec<u8>> = (0..40_000u32)
            .map(|n| {
                let mut name = format!("{n}-").repeat(n as usize % 5).into_bytes();
                name.extend(n.to_le_bytes());
                name
            })
            .chain((0..40).map(|len| vec![b'x'; len]))
            .collect();
        for name in &names {
            assert_eq!(symbols.find(name), None);
            let symbol = symbols.intern(name);
            assert_eq!(symbols.name(symbol), name);
        }
        for (n, name) in names.iter().enumerate() {
            assert_eq!(symbols.intern(name), Symbol(n as u32));
            assert_eq!(symbols.find(name), Some(Symbol(n as u32)));
        }
        assert_eq!(symbols.len(), names.len());
    }

    #[test]
    fn names_that_differ_in_one_byte_are_two() {
        for len in 1..40 {
            let name = vec![b'n'; len];
            for at in 0..len {
                let mut other = name.clone();
                other[at] = b'm';
                assert!(!same(&name, &other), "{len} {at}");
            }
            assert!(same(&name, &name.clone()));
        }
    }

    #[test]
    fn names_of_one_hash_are_told_apart() {
        let heap = Heap::new();
        let symbols = Symbols::new(&heap);
        let ids: Vec<_> = ["a", "b", "c"]
            .map(|name| symbols.intern_hashed(name.as_bytes(), 8191))
            .into();
        assert_eq!(ids, [Symbol(0), Symbol(1), Symbol(2)]);
        assert_eq!(symbols.intern_hashed(b"b", 8191), Symbol(1));
    }
}
