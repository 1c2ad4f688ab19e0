//! Interned names: attribute and variable names are numbers while evaluating.

use std::cell::{Ref, RefCell};
use std::hash::Hasher;

use bumpalo::Bump;
use hashbrown::HashTable;
use rustc_hash::FxHasher;

/// An interned name. Equal names have equal symbols; their order is that of first use, not that
/// of the alphabet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Symbol(pub(crate) u32);

/// The names interned so far.
#[derive(Debug)]
pub struct Symbols<'h> {
    heap: &'h Bump,
    table: RefCell<HashTable<u32>>,
    names: RefCell<Vec<(&'h [u8], u32)>>,
}

/// The hash that [`Symbols::intern_hashed`] wants of a name.
#[inline]
pub fn hash_name(name: &[u8]) -> u32 {
    let mut hasher = FxHasher::default();
    hasher.write(name);
    let hash = hasher.finish();
    (hash ^ (hash >> 32)) as u32
}

fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl<'h> Symbols<'h> {
    /// A table without names.
    pub fn new(heap: &'h Bump) -> Self {
        Self {
            heap,
            table: RefCell::new(HashTable::with_capacity(4096)),
            names: RefCell::new(Vec::with_capacity(4096)),
        }
    }

    /// The symbol of a name.
    #[inline]
    pub fn intern(&self, name: &[u8]) -> Symbol {
        self.intern_hashed(name, hash_name(name))
    }

    /// The symbol of a name whose [`hash_name`] is known.
    pub fn intern_hashed(&self, name: &[u8], hash: u32) -> Symbol {
        let mut names = self.names.borrow_mut();
        let mut table = self.table.borrow_mut();
        let wide = spread(hash);
        if let Some(id) = table.find(wide, |id| {
            let (known, known_hash) = names[*id as usize];
            known_hash == hash && known == name
        }) {
            return Symbol(*id);
        }
        let id = u32::try_from(names.len()).expect("fewer than 2^32 names");
        names.push((self.heap.alloc_slice_copy(name), hash));
        table.insert_unique(wide, id, |id| spread(names[*id as usize].1));
        Symbol(id)
    }

    /// The symbol of a name, if it is known already.
    pub fn find(&self, name: &[u8]) -> Option<Symbol> {
        let hash = hash_name(name);
        let names = self.names.borrow();
        self.table
            .borrow()
            .find(spread(hash), |id| names[*id as usize].0 == name)
            .map(|id| Symbol(*id))
    }

    /// The name of a symbol.
    #[inline]
    pub fn name(&self, symbol: Symbol) -> &'h [u8] {
        self.names.borrow()[symbol.0 as usize].0
    }

    /// How many names there are: symbols are smaller than this.
    pub fn len(&self) -> usize {
        self.names.borrow().len()
    }

    /// Whether there is no name yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All names at once, by symbol; no name may be interned while this is held.
    pub(crate) fn names(&self) -> Ref<'_, [(&'h [u8], u32)]> {
        Ref::map(self.names.borrow(), Vec::as_slice)
    }
}
