//! A table that can grow while its entries are borrowed.

use std::cell::Cell;

use bumpalo::Bump;

/// Numbered references to the heap. No entry has the number 0.
pub(crate) struct Table<'h, T> {
    heap: &'h Bump,
    entries: Cell<&'h [Cell<Option<&'h T>>]>,
    used: Cell<u32>,
}

impl<'h, T> Table<'h, T> {
    pub(crate) fn new(heap: &'h Bump) -> Self {
        Self {
            heap,
            entries: Cell::new(heap.alloc_slice_fill_with(1024, |_| Cell::new(None))),
            used: Cell::new(1),
        }
    }

    /// Adds an entry and returns its number.
    pub(crate) fn push(&self, entry: &'h T) -> u32 {
        let number = self.used.get();
        let mut entries = self.entries.get();
        if number as usize == entries.len() {
            let old = entries;
            entries = self.heap.alloc_slice_fill_with(old.len() * 2, |index| {
                Cell::new(old.get(index).and_then(Cell::get))
            });
            self.entries.set(entries);
        }
        entries[number as usize].set(Some(entry));
        self.used.set(number + 1);
        number
    }

    /// The entry with a number.
    #[inline]
    pub(crate) fn get(&self, number: u32) -> &'h T {
        self.entries.get()[number as usize]
            .get()
            .expect("numbers come from this table")
    }
}
