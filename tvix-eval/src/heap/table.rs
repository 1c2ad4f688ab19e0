//! The blocks of a heap.

use super::Kind;

/// The state of a block.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Free,
    /// Small objects of a kind.
    Small(Kind),
    /// The first block of a large object.
    Large(Kind),
    /// Another block of a large object, which starts this many blocks before it.
    Rest(u32),
}

#[derive(Clone, Copy)]
struct Entry {
    state: State,
    /// Whether it may contain anything but zeros.
    dirty: bool,
    /// Whether the large object is marked.
    marked: bool,
    /// Whether a part was handed out since the last collection.
    touched: bool,
    /// Number of words that the last collection has found in use, of a block of small objects.
    words: u16,
}

/// The blocks of a heap, by number.
#[derive(Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
    free: usize,
    /// No block before this one is free.
    first_free: usize,
    /// Blocks with holes, by kind.
    partly_used: [Vec<u32>; Kind::ALL.len()],
}

impl Table {
    /// Number of blocks with objects.
    pub(super) fn used(&self) -> usize {
        self.entries.len() - self.free
    }

    /// Number of blocks.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_dirty(&self, index: usize) -> bool {
        self.entries[index].dirty
    }

    /// Notes that a part of a block is handed out. Returns whether the block is dirty.
    pub(super) fn touch(&mut self, index: usize) -> bool {
        let entry = &mut self.entries[index];
        entry.touched = true;
        entry.dirty
    }

    /// The number of words in use of a block of which nothing was handed out since the last
    /// collection.
    pub(super) fn untouched_words(&self, index: usize) -> Option<usize> {
        let entry = &self.entries[index];
        (!entry.touched).then_some(usize::from(entry.words))
    }

    /// Notes the number of words that a collection has found in use.
    pub(super) fn settle(&mut self, index: usize, words: usize) {
        let entry = &mut self.entries[index];
        entry.touched = false;
        // A block has fewer than 2^13 words.
        entry.words = words as u16;
        entry.dirty = true;
    }

    pub(super) fn state(&self, index: usize) -> State {
        self.entries[index].state
    }

    /// A block with holes, for a kind.
    pub(super) fn partly_used(&mut self, kind: Kind) -> Option<usize> {
        self.partly_used[kind as usize]
            .pop()
            .map(|index| index as usize)
    }

    pub(super) fn has_holes(&mut self, index: usize, kind: Kind) {
        self.partly_used[kind as usize].push(index as u32);
    }

    pub(super) fn forget_holes(&mut self) {
        for blocks in &mut self.partly_used {
            blocks.clear();
        }
    }

    /// Takes blocks in a row for objects of a kind, or for one large object.
    pub(super) fn take(&mut self, count: usize, kind: Kind, large: bool) -> usize {
        let index = self.find(count);
        let missing = (index + count).saturating_sub(self.entries.len());
        self.free -= count - missing;
        let fresh = Entry {
            state: State::Free,
            dirty: false,
            marked: false,
            touched: true,
            words: 0,
        };
        self.entries.extend(std::iter::repeat_n(fresh, missing));
        for (distance, entry) in self.entries[index..index + count].iter_mut().enumerate() {
            entry.touched = true;
            entry.state = match (large, distance) {
                (false, _) => State::Small(kind),
                (true, 0) => State::Large(kind),
                (true, distance) => State::Rest(distance as u32),
            };
        }
        index
    }

    /// The first of `count` free blocks in a row. They may be beyond the last block.
    fn find(&mut self, count: usize) -> usize {
        let is_free = |entry: &Entry| entry.state == State::Free;
        if self.free == 0 {
            return self.entries.len();
        }
        let from = &self.entries[self.first_free..];
        let skipped = from.iter().position(is_free).unwrap_or(from.len());
        self.first_free += skipped;
        let mut start = self.first_free;
        for index in self.first_free..self.entries.len() {
            if !is_free(&self.entries[index]) {
                start = index + 1;
            } else if index + 1 - start == count {
                return start;
            }
        }
        start
    }

    /// The numbers of the blocks of a large object.
    pub(super) fn blocks_of(&self, first: usize) -> usize {
        let rest = self.entries[first + 1..].iter();
        1 + rest
            .take_while(|entry| matches!(entry.state, State::Rest(_)))
            .count()
    }

    /// Marks a large object. Returns whether it was not marked yet.
    pub(super) fn mark(&mut self, first: usize) -> bool {
        !std::mem::replace(&mut self.entries[first].marked, true)
    }

    pub(super) fn is_marked(&self, first: usize) -> bool {
        self.entries[first].marked
    }

    pub(super) fn unmark(&mut self, first: usize) {
        self.entries[first].marked = false;
    }

    /// Frees blocks.
    pub(super) fn free(&mut self, first: usize, count: usize) {
        for entry in &mut self.entries[first..first + count] {
            entry.state = State::Free;
            entry.dirty = true;
            entry.marked = false;
        }
        self.free += count;
        self.first_free = self.first_free.min(first);
    }

    /// Notes that a block that stays in use has contents.
    pub(super) fn set_dirty(&mut self, index: usize, dirty: bool) {
        self.entries[index].dirty = dirty;
    }

    /// The free blocks from the last ones on that are dirty.
    pub(super) fn dirty_free(&self) -> impl Iterator<Item = usize> + '_ {
        let entries = self.entries.iter().enumerate().rev();
        entries
            .filter(|(_, entry)| entry.state == State::Free && entry.dirty)
            .map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_free_blocks_are_used_again() {
        let mut table = Table::default();
        assert_eq!(table.take(1, Kind::Cell, false), 0);
        assert_eq!(table.take(3, Kind::Bytes, true), 1);
        assert_eq!(table.take(2, Kind::Refs, true), 4);
        assert_eq!((table.blocks_of(1), table.used()), (3, 6));
        table.free(1, 3);
        assert_eq!(table.used(), 3);
        assert_eq!(table.take(4, Kind::Refs, true), 6);
        assert_eq!(table.take(2, Kind::Refs, true), 1);
        assert!(table.is_dirty(1) && !table.is_dirty(6));
        assert_eq!(table.take(1, Kind::Cell, false), 3);
        assert_eq!(table.take(1, Kind::Cell, false), 10);
        table.free(10, 1);
        // Free blocks at the end and new ones form a row.
        assert_eq!(table.take(3, Kind::Bytes, true), 10);
        assert_eq!((table.used(), table.len()), (13, 13));
        assert!(matches!(table.state(12), State::Rest(2)));
    }
}
