//! Marks of a collection.

use std::cell::RefMut;
use std::ptr::NonNull;

use super::block::{self, Block, DATA, WORD};
use super::table::{State, Table};
use super::{Heap, Item, Kind, LARGE, Object};

/// An object that a word refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) kind: Kind,
    /// The address of the object; of an environment, that of its header; of a slice, that of its
    /// first element.
    pub(crate) address: usize,
    /// Number of elements of a slice.
    pub(crate) len: usize,
}

/// The marks of a collection, to compare them.
#[derive(Default)]
pub(crate) struct SavedMarks {
    small: Vec<(usize, [u64; block::BITS])>,
    large: Vec<(usize, bool)>,
}

/// The marks of a heap while a collection sets them. Nothing is allocated meanwhile.
pub(crate) struct Marks<'m> {
    heap: &'m Heap,
    table: RefMut<'m, Table>,
    base: usize,
    bytes: usize,
    /// The marks of all blocks, one after the other.
    groups: NonNull<u64>,
    /// Bytes of all marked objects, by kind.
    live: [usize; Kind::ALL.len()],
    /// Whether marks of the previous collection were removed.
    full: bool,
}

/// The word in front of an environment's slots: the lowest bits are their number, or all set.
const COUNT: usize = WORD - 1;

/// The size of a slice's elements in bytes.
fn element(kind: Kind) -> usize {
    match kind {
        Kind::Entries => 16,
        Kind::Refs => 8,
        _ => 1,
    }
}

impl<'m> Marks<'m> {
    /// Begins a collection. A full one removes the marks of the previous collection.
    pub(crate) fn new(heap: &'m Heap, full: bool) -> Self {
        let mut table = heap.table.borrow_mut();
        table.forget_holes();
        for cursor in &heap.cursors {
            cursor.reset();
        }
        let mut marks = Self {
            heap,
            base: heap.address_of(0),
            bytes: table.len() * block::SIZE,
            groups: heap.marks.base().cast(),
            live: [0; Kind::ALL.len()],
            table,
            full,
        };
        if full {
            marks.unmark();
        }
        marks
    }

    /// Removes all marks.
    fn unmark(&mut self) {
        for index in 0..self.table.len() {
            match self.table.state(index) {
                State::Small(_) => self.block(self.heap.address_of(index)).unmark(),
                State::Large(_) => self.table.unmark(index),
                State::Free | State::Rest(_) => {}
            }
        }
    }

    /// The objects that stacks referred to at the last collection, and those that were changed
    /// since, all of which are marked. None if all marks were removed.
    pub(crate) fn to_follow_again(&self) -> Vec<Found> {
        let mut addresses = self.heap.changed.take();
        addresses.append(&mut self.heap.on_stacks.borrow_mut());
        if self.full {
            return Vec::new();
        }
        let found = addresses.into_iter().map(|address| self.object_at(address));
        found.collect()
    }

    /// Notes the objects that stacks refer to, for the next collection.
    pub(crate) fn note_on_stacks(&self, mut addresses: Vec<usize>) {
        addresses.sort_unstable();
        addresses.dedup();
        addresses.shrink_to_fit();
        *self.heap.on_stacks.borrow_mut() = addresses;
    }

    /// The object at the address that [`Found`] has for it.
    fn object_at(&self, address: usize) -> Found {
        let kind = match self.table.state(self.heap.index_of(address)) {
            State::Small(kind) | State::Large(kind) => kind,
            // Objects that were found start in the first block of theirs.
            State::Rest(_) | State::Free => unreachable!("a marked object is in a block"),
        };
        let len = match kind.is_slice() {
            true => self.word(address - WORD),
            false => 0,
        };
        Found { kind, address, len }
    }

    /// Whether an address is in the blocks.
    #[inline]
    pub(crate) fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.base) < self.bytes
    }

    /// Whether [`Marks::find`] may find something.
    #[inline]
    pub(crate) fn near(&self, word: usize) -> bool {
        const MARGIN: usize = 2 * WORD;
        word.wrapping_sub(self.base - MARGIN) < self.bytes + 2 * MARGIN
    }

    #[inline]
    fn block(&self, address: usize) -> Block {
        debug_assert!(self.contains(address));
        // SAFETY: callers ask for addresses in blocks of small objects.
        unsafe { self.heap.block(address) }
    }

    /// Fetches an object.
    #[inline]
    pub(crate) fn prefetch(&self, address: usize) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: fetching has no effect that programs see, whatever the address.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let object = self.heap.pointer(address).as_ptr();
            _mm_prefetch::<_MM_HINT_T0>(object.cast());
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = address;
    }

    /// The word at an address.
    #[inline]
    fn word(&self, address: usize) -> usize {
        debug_assert!(self.contains(address));
        // SAFETY: the address is a multiple of a word, in a block that is in use.
        unsafe { self.heap.pointer(address).cast::<usize>().read() }
    }

    /// Marks an object. Returns whether it was not marked yet; `false` for one that is not in the
    /// blocks.
    #[inline]
    pub(crate) fn object<T: Object>(&mut self, object: &T) -> bool {
        let address = std::ptr::from_ref(object).addr();
        self.contains(address) && self.block(address).mark(address, size_of::<T>() / WORD)
    }

    /// Marks the cell at an address. Returns whether it was not marked yet; `false` if it is not in
    /// the blocks.
    #[inline(always)]
    pub(crate) fn cell(&mut self, address: usize) -> bool {
        let offset = address.wrapping_sub(self.base);
        if offset >= self.bytes {
            return false;
        }
        debug_assert!(offset.is_multiple_of(2 * WORD));
        // SAFETY: there is a mark for each word of the blocks. Cells have two words, and so start
        // at an even one.
        unsafe {
            let group = self.groups.add(offset / (64 * WORD));
            let marks = group.read();
            let bit = offset / WORD % 64;
            if marks >> bit & 1 != 0 {
                return false;
            }
            group.write(marks | 3 << bit);
        }
        true
    }

    /// Whether an object or environment has to be marked and followed. Those that are large may have
    /// been marked already.
    #[inline(always)]
    pub(crate) fn may_be_new(&self, address: usize) -> bool {
        let offset = address.wrapping_sub(self.base);
        if offset >= self.bytes {
            return false;
        }
        // SAFETY: as above. Words of large objects are not marked here.
        let marks = unsafe { self.groups.add(offset / (64 * WORD)).read() };
        marks >> (offset / WORD % 64) & 1 == 0
    }

    /// Marks an environment, which starts at an address and has this number of words.
    #[inline]
    pub(crate) fn env(&mut self, start: usize, words: usize) -> bool {
        if !self.contains(start) {
            return false;
        }
        if words * WORD <= LARGE {
            return self.block(start).mark(start, words);
        }
        self.table.mark(self.heap.index_of(start))
    }

    /// Marks the slice that a part belongs to. Returns it if it was not marked yet.
    #[inline]
    pub(crate) fn slice<T: Item>(&mut self, part: &[T]) -> Option<Found> {
        let address = part.as_ptr().addr();
        if part.is_empty() || !self.contains(address) {
            return None;
        }
        let index = self.heap.index_of(address);
        match self.table.state(index) {
            State::Small(kind) => {
                debug_assert_eq!(kind, T::KIND);
                let block = self.block(address);
                let before = address - WORD;
                let start = match address.is_multiple_of(WORD) && block.is_valid(before) {
                    true => before,
                    false => block.start_before(address)?,
                };
                self.small_slice(kind, start)
            }
            State::Large(_) => self.large_slice(index),
            State::Rest(distance) => self.large_slice(index - distance as usize),
            State::Free => {
                debug_assert!(false, "a slice in a free block");
                None
            }
        }
    }

    fn small_slice(&mut self, kind: Kind, start: usize) -> Option<Found> {
        let len = self.word(start);
        let words = 1 + (len * element(kind)).div_ceil(WORD);
        self.block(start).mark(start, words).then_some(Found {
            kind,
            address: start + WORD,
            len,
        })
    }

    fn large_slice(&mut self, first: usize) -> Option<Found> {
        let State::Large(kind) = self.table.state(first) else {
            return None;
        };
        let start = self.heap.address_of(first);
        self.table.mark(first).then(|| Found {
            kind,
            address: start + WORD,
            len: self.word(start),
        })
    }

    /// Marks an object that was found.
    pub(crate) fn found(&mut self, found: Found) -> Option<Found> {
        let address = found.address;
        match found.kind {
            kind if kind.is_slice() => match self.table.state(self.heap.index_of(address)) {
                State::Large(_) => self.large_slice(self.heap.index_of(address)),
                _ => self.small_slice(kind, address - WORD),
            },
            Kind::Env => {
                let (start, words) = self.extent(address);
                self.env(start, words).then_some(found)
            }
            kind => {
                let words = kind.size() / WORD;
                self.block(address).mark(address, words).then_some(found)
            }
        }
    }

    /// Whether an object or slice is marked. What is not in the blocks is.
    pub(crate) fn is_marked(&self, address: usize) -> bool {
        if !self.contains(address) {
            return true;
        }
        let index = self.heap.index_of(address);
        match self.table.state(index) {
            State::Small(_) => self.block(address).is_marked(address & !(WORD - 1)),
            State::Large(_) => self.table.is_marked(index),
            State::Rest(distance) => self.table.is_marked(index - distance as usize),
            State::Free => false,
        }
    }

    /// The start of an environment and its number of words.
    fn extent(&self, header: usize) -> (usize, usize) {
        match self.word(header) & COUNT {
            COUNT => (header - WORD, (self.word(header - WORD) >> 3) + 2),
            slots => (header, slots + 1),
        }
    }

    /// The objects that a word of a stack may refer to: it may be the address of any part of an
    /// object, of the end of a slice, or of the place in front of its first element. (Neighbours of
    /// other objects are not kept: each could keep all of what was evaluated once.)
    pub(crate) fn find(&self, word: usize) -> impl Iterator<Item = Found> + use<'_> {
        let beside = [word.wrapping_sub(WORD), word.wrapping_add(2 * WORD)];
        let slices = beside
            .into_iter()
            .filter_map(|address| self.find_at(address))
            .filter(|found| found.kind.is_slice());
        self.find_at(word).into_iter().chain(slices)
    }

    fn find_at(&self, address: usize) -> Option<Found> {
        if !self.contains(address) {
            return None;
        }
        let index = self.heap.index_of(address);
        match self.table.state(index) {
            State::Free => None,
            State::Large(kind) => self.large_object(kind, index),
            State::Rest(distance) => {
                let first = index - distance as usize;
                match self.table.state(first) {
                    State::Large(kind) => self.large_object(kind, first),
                    _ => None,
                }
            }
            State::Small(kind) => {
                let block = self.block(address);
                let data = self.heap.address_of(index) + DATA;
                let offset = address.checked_sub(data)?;
                if kind.is_slice() {
                    let start = block.start_before(address)?;
                    let len = self.word(start);
                    let inside = address <= start + WORD + len * element(kind);
                    return inside.then_some(Found {
                        kind,
                        address: start + WORD,
                        len,
                    });
                }
                if kind == Kind::Env {
                    return self.env_at(block, data, address & !(WORD - 1));
                }
                let object = data + offset / kind.size() * kind.size();
                let fits = object + kind.size() <= self.heap.address_of(index + 1);
                (fits && block.is_valid(object)).then_some(Found {
                    kind,
                    address: object,
                    len: 0,
                })
            }
        }
    }

    fn large_object(&self, kind: Kind, first: usize) -> Option<Found> {
        let start = self.heap.address_of(first);
        // A large environment has many slots: their number is in front of the header.
        let (address, len) = match kind {
            Kind::Env => (start + WORD, 0),
            _ => (start + WORD, self.word(start)),
        };
        Some(Found { kind, address, len })
    }

    /// The environment with a word at an address.
    fn env_at(&self, block: Block, data: usize, address: usize) -> Option<Found> {
        let mut header = address;
        while header >= data && block.is_valid(header) {
            if self.word(header) & COUNT != 0 {
                let (start, words) = self.extent(header);
                return (address < start + words * WORD).then_some(Found {
                    kind: Kind::Env,
                    address: header,
                    len: 0,
                });
            }
            header -= WORD;
        }
        None
    }

    /// Removes all marks, and returns them.
    pub(crate) fn take(&mut self) -> SavedMarks {
        let mut saved = SavedMarks::default();
        for index in 0..self.table.len() {
            match self.table.state(index) {
                State::Small(_) => {
                    let block = self.block(self.heap.address_of(index));
                    saved.small.push((index, block.marks()));
                }
                State::Large(_) => saved.large.push((index, self.table.is_marked(index))),
                State::Free | State::Rest(_) => {}
            }
        }
        self.unmark();
        saved
    }

    /// Sets marks again.
    ///
    /// # Panics
    ///
    /// If an object is marked now, and was not then.
    pub(crate) fn replace(&mut self, saved: SavedMarks) {
        for (index, marks) in saved.small {
            let block = self.block(self.heap.address_of(index));
            for (group, (then, now)) in marks.iter().zip(block.marks()).enumerate() {
                if let lost = now & !then
                    && lost != 0
                {
                    let word = group * 64 + lost.trailing_zeros() as usize;
                    let address = self.heap.address_of(index) + word * WORD;
                    let State::Small(kind) = self.table.state(index) else {
                        unreachable!("it was so before");
                    };
                    panic!("{kind:?} at {address:x} would be lost");
                }
            }
            block.set_marks(marks);
        }
        for (index, marked) in saved.large {
            assert!(
                marked || !self.table.is_marked(index),
                "a large object would be lost"
            );
            if marked {
                self.table.mark(index);
            }
        }
    }

    /// Ends the collection: what is not marked is free. Returns the bytes of all marked objects,
    /// by kind.
    pub(crate) fn finish(mut self) -> [usize; Kind::ALL.len()] {
        let poisons = self.heap.stressed.get();
        for index in 0..self.table.len() {
            match self.table.state(index) {
                State::Small(kind) => {
                    let block = self.block(self.heap.address_of(index));
                    // Nothing in a block is new if no part of it was handed out.
                    let known = self.table.untouched_words(index).filter(|_| !self.full);
                    let words = known.unwrap_or_else(|| block.settle(kind));
                    let marked = words * WORD;
                    self.live[kind as usize] += marked;
                    if marked == 0 {
                        self.table.free(index, 1);
                    } else {
                        self.table.settle(index, words);
                        if marked < block::SIZE / 16 * 15 {
                            self.table.has_holes(index, kind);
                        }
                    }
                    if poisons {
                        poison_holes(self.heap, block);
                    }
                }
                State::Large(kind) => {
                    let count = self.table.blocks_of(index);
                    if self.table.is_marked(index) {
                        self.live[kind as usize] += count * block::SIZE;
                        for block in index..index + count {
                            self.table.set_dirty(block, true);
                        }
                    } else {
                        self.table.free(index, count);
                        if poisons {
                            let start = self.heap.pointer(self.heap.address_of(index));
                            // SAFETY: the blocks are free.
                            unsafe { start.write_bytes(POISON, count * block::SIZE) };
                        }
                    }
                }
                State::Free | State::Rest(_) => {}
            }
        }
        self.heap.fresh.set(0);
        self.live
    }
}

/// What freed memory is overwritten with in tests.
const POISON: u8 = 0xdb;

fn poison_holes(heap: &Heap, block: Block) {
    let mut from = block.start().as_ptr().addr();
    while let Some((start, end)) = block.hole(from, WORD) {
        // SAFETY: nothing refers to holes.
        unsafe { heap.pointer(start).write_bytes(POISON, end - start) };
        from = end;
    }
}

impl Heap {
    /// Gives free memory back to the operating system, except for a number of bytes.
    pub(crate) fn give_back(&self, kept: usize) {
        let mut table = self.table.borrow_mut();
        let dirty: Vec<usize> = table.dirty_free().collect();
        let Some(surplus) = dirty.len().checked_sub(kept / block::SIZE) else {
            return;
        };
        for index in &dirty[..surplus] {
            self.pages.discard(index * block::SIZE, block::SIZE);
            table.set_dirty(*index, false);
        }
    }
}
