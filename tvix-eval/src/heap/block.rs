//! Blocks: the units of memory that hold objects of one kind, with two bits for each word. The marks
//! of all blocks are together: those of a block at its start would compete for few places in the
//! caches of processors, because blocks start at multiples of their size.

use std::ptr::NonNull;

use super::Kind;

/// Size of a block in bytes, and its alignment.
pub(super) const SIZE: usize = 64 << 10;

/// Size of a word in bytes: objects start at words.
pub(super) const WORD: usize = 8;

const WORDS: usize = SIZE / WORD;
pub(super) const BITS: usize = WORDS / 64;

/// Offset of the first object in bytes.
pub(super) const DATA: usize = size_of::<Header>();

/// The start of a block.
///
/// The meaning of `valid` depends on the kind. For slices, a bit marks the first word of an object.
/// For the others, a bit marks a word that may be part of an object: one that was marked in the
/// last collection, or was handed to the allocator since (and is zero if it is not in use yet).
#[repr(C, align(64))]
struct Header {
    valid: [u64; BITS],
}

/// Bytes of marks for each block.
pub(super) const MARKS: usize = BITS * size_of::<u64>();

/// A block that holds small objects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    start: NonNull<u8>,
    marks: NonNull<u64>,
}

/// The bits of the words from `from` up to `to`, all of one group of 64.
#[inline]
fn mask(from: usize, to: usize) -> u64 {
    debug_assert!(from < to && to <= 64);
    (u64::MAX >> (64 - (to - from))) << from
}

impl Block {
    /// A block at an address.
    ///
    /// # Safety
    ///
    /// It is a block of small objects of a heap, `marks` has [`MARKS`] bytes, and the pointers may
    /// access both.
    #[inline]
    pub(super) unsafe fn new(start: NonNull<u8>, marks: NonNull<u8>) -> Self {
        Self {
            start,
            marks: marks.cast(),
        }
    }

    #[inline]
    fn mark_bits(self) -> NonNull<u64> {
        self.marks
    }

    #[inline]
    fn valid_bits(self) -> NonNull<u64> {
        self.start.cast()
    }

    #[inline]
    pub(super) fn start(self) -> NonNull<u8> {
        self.start
    }

    #[inline]
    fn index(address: usize) -> usize {
        (address & (SIZE - 1)) / WORD
    }

    #[inline]
    fn get(bits: NonNull<u64>, index: usize) -> bool {
        // SAFETY: `index` is the number of a word in a block, and there is a bit for each.
        let group = unsafe { bits.add(index / 64).read() };
        group >> (index % 64) & 1 != 0
    }

    /// Sets the bits of `count` words.
    fn set(bits: NonNull<u64>, mut index: usize, count: usize) {
        let end = index + count;
        while index < end {
            let first = index % 64;
            let last = (first + end - index).min(64);
            // SAFETY: as in `get`.
            unsafe {
                let group = bits.add(index / 64);
                group.write(group.read() | mask(first, last));
            }
            index += last - first;
        }
    }

    /// Marks an object. Returns whether it was not marked yet.
    #[inline]
    pub(super) fn mark(self, object: usize, words: usize) -> bool {
        let index = Self::index(object);
        let bits = self.mark_bits();
        if Self::get(bits, index) {
            return false;
        }
        if index % 64 + words <= 64 {
            // SAFETY: as in `get`.
            unsafe {
                let group = bits.add(index / 64);
                group.write(group.read() | mask(index % 64, index % 64 + words));
            }
        } else {
            Self::set(bits, index, words);
        }
        true
    }

    /// Whether an object is marked.
    #[inline]
    pub(super) fn is_marked(self, object: usize) -> bool {
        Self::get(self.mark_bits(), Self::index(object))
    }

    /// Whether the bit in `valid` of a word is set.
    #[inline]
    pub(super) fn is_valid(self, address: usize) -> bool {
        Self::get(self.valid_bits(), Self::index(address))
    }

    /// Sets the bits in `valid` of a range of bytes.
    pub(super) fn set_valid(self, from: usize, bytes: usize) {
        Self::set(self.valid_bits(), Self::index(from), bytes / WORD);
    }

    /// Notes the first word of a slice.
    #[inline]
    pub(super) fn starts(self, address: usize) {
        let index = Self::index(address);
        // SAFETY: as in `get`.
        unsafe {
            let group = self.valid_bits().add(index / 64);
            group.write(group.read() | 1 << (index % 64));
        }
    }

    /// The start of the slice at or before an address.
    pub(super) fn start_before(self, address: usize) -> Option<usize> {
        let index = Self::index(address);
        let mut group = index / 64;
        let mut wanted = mask(0, index % 64 + 1);
        loop {
            // SAFETY: as in `get`.
            let bits = unsafe { self.valid_bits().add(group).read() } & wanted;
            if bits != 0 {
                let index = group * 64 + 63 - bits.leading_zeros() as usize;
                return Some(self.start.as_ptr().addr() + index * WORD);
            }
            group = group.checked_sub(1)?;
            wanted = u64::MAX;
        }
    }

    /// Removes all marks.
    pub(super) fn unmark(self) {
        // SAFETY: there are this many groups.
        unsafe { self.mark_bits().write_bytes(0, BITS) };
    }

    /// The marks of all words.
    pub(super) fn marks(self) -> [u64; BITS] {
        // SAFETY: there are this many groups.
        unsafe { self.mark_bits().cast().read() }
    }

    /// Sets the marks of all words.
    pub(super) fn set_marks(self, marks: [u64; BITS]) {
        // SAFETY: as above.
        unsafe { self.mark_bits().cast().write(marks) };
    }

    /// After a collection: what is not marked is no object any more. Returns the number of marked
    /// words.
    pub(super) fn settle(self, kind: Kind) -> usize {
        let mut marked = 0;
        for group in 0..BITS {
            // SAFETY: as in `get`.
            unsafe {
                let mark = self.mark_bits().add(group).read();
                marked += mark.count_ones() as usize;
                let valid = self.valid_bits().add(group);
                match kind.is_slice() {
                    true => valid.write(valid.read() & mark),
                    false => valid.write(mark),
                }
            }
        }
        marked
    }

    /// Forgets all objects, none of which is marked.
    pub(super) fn clear(self) {
        // SAFETY: the header is at the start of the block.
        unsafe { self.start.write_bytes(0, DATA) };
    }

    /// The next range of words that are not marked, of at least `bytes` bytes: its start and end.
    pub(super) fn hole(self, from: usize, bytes: usize) -> Option<(usize, usize)> {
        let start = self.start.as_ptr().addr();
        let mut index = from.max(start + DATA).saturating_sub(start) / WORD;
        loop {
            index = self.next(index, false)?;
            let end = self.next(index, true).unwrap_or(WORDS);
            if (end - index) * WORD >= bytes {
                return Some((start + index * WORD, start + end * WORD));
            }
            index = end;
        }
    }

    /// The next word that is marked, or that is not.
    fn next(self, from: usize, marked: bool) -> Option<usize> {
        let mut index = from;
        while index < WORDS {
            // SAFETY: as in `get`.
            let bits = unsafe { self.mark_bits().add(index / 64).read() };
            let bits = if marked { bits } else { !bits } >> (index % 64);
            if bits != 0 {
                return Some(index + bits.trailing_zeros() as usize);
            }
            index = (index / 64 + 1) * 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C, align(65536))]
    struct Memory {
        bytes: [u8; SIZE],
        marks: [u8; MARKS],
    }

    fn block(memory: &mut Memory) -> Block {
        let Memory { bytes, marks } = memory;
        // SAFETY: both are used only as this block.
        unsafe { Block::new(NonNull::from(bytes).cast(), NonNull::from(marks).cast()) }
    }

    fn memory() -> Box<Memory> {
        // SAFETY: bytes may be zero.
        unsafe { Box::<Memory>::new_zeroed().assume_init() }
    }

    #[test]
    fn holes_are_between_marks() {
        let mut memory = memory();
        let block = block(&mut memory);
        let start = block.start().as_ptr().addr();
        let data = start + DATA;
        assert_eq!(block.hole(start, 1), Some((data, start + SIZE)));
        assert!(block.mark(data + 80, 2));
        assert!(!block.mark(data + 80, 2));
        assert!(block.mark(data + 160, 200));
        assert_eq!(block.hole(start, 8), Some((data, data + 80)));
        assert_eq!(block.hole(data + 80, 8), Some((data + 96, data + 160)));
        assert_eq!(block.hole(start, 100), Some((data + 1760, start + SIZE)));
        assert!(block.is_marked(data + 80) && !block.is_marked(data + 96));
        assert_eq!(block.settle(Kind::Cell), 202);
        assert!(block.is_valid(data + 88) && !block.is_valid(data + 96));
        block.unmark();
        assert_eq!(block.hole(start, 1), Some((data, start + SIZE)));
        block.mark(start + SIZE - 8, 1);
        assert_eq!(block.hole(start, 1), Some((data, start + SIZE - 8)));
        assert_eq!(block.hole(start + SIZE - 8, 1), None);
    }

    #[test]
    fn starts_are_found_from_inside() {
        let mut memory = memory();
        let block = block(&mut memory);
        let data = block.start().as_ptr().addr() + DATA;
        assert_eq!(block.start_before(data + 800), None);
        block.starts(data + 8);
        block.starts(data + 4000);
        assert_eq!(block.start_before(data), None);
        assert_eq!(block.start_before(data + 8), Some(data + 8));
        assert_eq!(block.start_before(data + 3999), Some(data + 8));
        assert_eq!(block.start_before(data + 9000), Some(data + 4000));
        block.mark(data + 4000, 3);
        block.settle(Kind::Bytes);
        assert_eq!(block.start_before(data + 3999), None);
        assert_eq!(block.start_before(data + 4016), Some(data + 4000));
    }
}
