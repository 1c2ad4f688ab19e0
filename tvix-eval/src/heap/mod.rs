//! The memory of an evaluation.
//!
//! A heap has two parts. What lasts as long as the evaluation (texts of files, expressions,
//! symbols) is in an arena. Values are in blocks of 64 KiB, each with objects of one kind: the
//! type of a value tells the kind of what it points to, and the block of an address tells the kind
//! of what is there. Objects never move.
//!
//! Allocation takes the next words of a *hole*: a range of words without objects. A collection
//! (`crate::collect`) marks the words of all objects that are in use; the other words are holes
//! from then on. Holes are filled with zeros when they are used again, so that a part of an object
//! that is not written yet is never an address.
//!
//! - Objects of one size have nothing in front of them, and their places follow from their size.
//! - An environment starts with a word whose lowest bits are not 0, unlike those of its slots.
//! - A slice is preceded by its length in elements, and a bit per word tells where it starts.
//! - Objects above 16 KiB have blocks of their own.

mod block;
mod ceiling;
mod mark;
mod pages;
mod stack;
mod table;
mod vec;

use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::ptr::NonNull;

use bumpalo::Bump;
use rustc_hash::FxHashSet;

use block::{Block, WORD};
use ceiling::Ceiling;
use pages::Pages;
use table::Table;

pub(crate) use ceiling::Exhausted;
pub(crate) use mark::{Found, Marks};
pub(crate) use stack::{SEARCHES_STACKS, StackPart, with_registers};
pub(crate) use vec::{HeapQueue, HeapVec, Keep};

/// What a block contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Cells with values.
    Cell,
    /// Headers of lists.
    List,
    /// Headers of attribute sets.
    Attrs,
    /// Headers of strings.
    String,
    /// Headers of paths.
    Path,
    /// Builtins that were made during evaluation.
    Builtin,
    /// Builtins with some of their arguments.
    Partial,
    /// Calls.
    Apply,
    /// Calls with two arguments.
    Apply2,
    /// Calls of `map` and similar.
    Elements,
    /// Environments.
    Env,
    /// Slices of references to cells.
    Refs,
    /// Slices of attributes.
    Entries,
    /// Slices of bytes.
    Bytes,
}

impl Kind {
    pub(crate) const ALL: [Self; 14] = [
        Self::Cell,
        Self::List,
        Self::Attrs,
        Self::String,
        Self::Path,
        Self::Builtin,
        Self::Partial,
        Self::Apply,
        Self::Apply2,
        Self::Elements,
        Self::Env,
        Self::Refs,
        Self::Entries,
        Self::Bytes,
    ];

    #[inline]
    fn is_slice(self) -> bool {
        matches!(self, Self::Refs | Self::Entries | Self::Bytes)
    }

    /// The size of objects that have one size, in bytes.
    pub(crate) const fn size(self) -> usize {
        match self {
            Self::Cell | Self::List | Self::Path | Self::Apply => 16,
            Self::Attrs | Self::String | Self::Partial | Self::Apply2 => 24,
            Self::Elements => 32,
            Self::Builtin => 40,
            Self::Env | Self::Refs | Self::Entries | Self::Bytes => WORD,
        }
    }

    /// Whether objects have different sizes.
    #[inline]
    fn is_variable(self) -> bool {
        self.is_slice() || self == Self::Env
    }
}

/// A type of objects of one size.
///
/// # Safety
///
/// `KIND` is the kind of this type alone and has one size, the size is a multiple of a word, the
/// alignment is at most that of a word, and zeros are no danger to the tracer of this kind.
pub(crate) unsafe trait Object: Sized {
    const KIND: Kind;
}

/// A type of elements of slices.
///
/// # Safety
///
/// As for [`Object`], except that elements may be smaller than a word.
pub(crate) unsafe trait Item: Copy {
    const KIND: Kind;
}

// SAFETY: bytes refer to nothing.
unsafe impl Item for u8 {
    const KIND: Kind = Kind::Bytes;
}

/// Objects above this size in bytes have blocks of their own.
pub(crate) const LARGE: usize = 16 << 10;

/// Objects of different sizes above this size in bytes are apart from smaller ones, so that they do
/// not pass over small holes.
const MEDIUM: usize = 256;

/// Bytes of a hole that are filled with zeros at once.
const PORTION: usize = 8 << 10;

/// The least size in bytes of a hole that is used.
const LEAST_HOLE: usize = 32;

/// A place for the next objects of a kind.
#[derive(Default)]
struct Cursor {
    /// Address of the next object.
    next: Cell<usize>,
    /// End of the words that are zero.
    end: Cell<usize>,
    /// End of the hole.
    hole: Cell<usize>,
    /// Address of the block; 0 for none.
    block: Cell<usize>,
}

impl Cursor {
    fn reset(&self) {
        for cell in [&self.next, &self.end, &self.hole, &self.block] {
            cell.set(0);
        }
    }
}

/// The memory of an evaluation. Values, expressions and names borrow from it.
///
/// Nothing is freed before the heap is dropped, except by the collector, which runs only while no
/// code outside this crate holds values: see [`crate::interp::Interp`].
pub struct Heap {
    permanent: Bump,
    pages: Pages,
    /// The marks of all blocks.
    marks: Pages,
    table: RefCell<Table>,
    /// By kind; then those of larger environments and slices.
    cursors: [Cursor; Kind::ALL.len() * 2],
    /// Cells that expressions refer to.
    roots: RefCell<FxHashSet<usize>>,
    /// Bytes handed out since the last collection.
    fresh: Cell<usize>,
    /// Bytes handed out after which the next collection is due.
    budget: Cell<usize>,
    /// Addresses of marked objects that refer to others since the last collection.
    changed: RefCell<Vec<usize>>,
    /// Addresses of the objects that stacks referred to at the last collection.
    on_stacks: RefCell<Vec<usize>>,
    /// Number of calls before the next look at limits, cancellation and the budget.
    pub(crate) calls_left: Cell<u32>,
    /// Whether calls alone, and no budget, lead to collections, and freed memory is overwritten: for
    /// tests.
    pub(crate) stressed: Cell<bool>,
    /// The limit of memory.
    pub(crate) ceiling: Ceiling,
}

impl Heap {
    /// An empty heap.
    ///
    /// # Panics
    ///
    /// If this process cannot reserve 16 MiB of address space.
    pub fn new() -> Self {
        let reserved = Pages::reserve(block::SIZE).and_then(|pages| {
            let marks = pages.reserved() / block::SIZE * block::MARKS;
            Ok((pages, Pages::reserve_at_least(marks, block::SIZE)?))
        });
        let (pages, marks) = match reserved {
            Ok(reserved) => reserved,
            Err(error) => panic!("no address space for a heap: {error} (ulimit -v)"),
        };
        Self {
            permanent: Bump::new(),
            pages,
            marks,
            table: RefCell::default(),
            cursors: Default::default(),
            roots: RefCell::default(),
            fresh: Cell::new(0),
            budget: Cell::new(usize::MAX),
            changed: RefCell::default(),
            on_stacks: RefCell::default(),
            calls_left: Cell::new(0),
            stressed: Cell::new(false),
            ceiling: Ceiling::default(),
        }
    }

    /// The memory in use in bytes: blocks that contain objects, and what lasts as long as the heap.
    pub fn used_bytes(&self) -> usize {
        let lasting = self.permanent.allocated_bytes() - self.permanent.chunk_capacity();
        self.table.borrow().used() * block::SIZE + lasting
    }

    /// The addresses that are left, in bytes.
    pub(crate) fn room(&self) -> usize {
        self.pages.reserved() - self.table.borrow().used() * block::SIZE
    }

    /// The arena for what lasts as long as the heap and refers to no collected object, except to
    /// those that are roots.
    #[inline]
    pub(crate) fn permanent(&self) -> &Bump {
        &self.permanent
    }

    /// A copy of a text that lasts as long as the heap.
    pub fn copy_text(&self, text: &[u8]) -> &[u8] {
        self.permanent.alloc_slice_copy(text)
    }

    /// Notes a cell that an expression refers to.
    pub(crate) fn add_root<T: Object>(&self, cell: &T) {
        let address = std::ptr::from_ref(cell).addr();
        self.roots.borrow_mut().insert(address);
    }

    /// The addresses of the cells that expressions refer to.
    pub(crate) fn roots(&self) -> Vec<usize> {
        self.roots.borrow().iter().copied().collect()
    }

    /// Whether a collection may free much.
    pub(crate) fn is_much_fresh(&self) -> bool {
        self.fresh.get() > 16 << 20
    }

    /// Whether the budget is used up.
    pub(crate) fn is_due(&self) -> bool {
        self.fresh.get() >= self.budget.get()
    }

    /// Sets the number of bytes after which a collection is due.
    pub(crate) fn set_budget(&self, bytes: usize) {
        self.budget.set(bytes);
    }

    /// Notes that an object that others may refer to was changed, and refers to other objects now.
    /// Not needed before the first collection.
    pub(crate) fn note_change<T: Object>(&self, object: &T) {
        let address = std::ptr::from_ref(object).addr();
        if address.wrapping_sub(self.pages.base().as_ptr().addr()) >= self.pages.reserved() {
            return;
        }
        // SAFETY: it is an object of one size in the blocks, and so in one of small objects.
        if unsafe { self.block(address) }.is_marked(address) {
            self.changed.borrow_mut().push(address);
        }
    }

    /// Adds an object.
    #[inline(always)]
    pub(crate) fn alloc<T: Object>(&self, value: T) -> &T {
        const {
            assert!(size_of::<T>() == T::KIND.size() && align_of::<T>() <= WORD);
            assert!(!std::mem::needs_drop::<T>());
        }
        let place: NonNull<T> = self.words(T::KIND as usize, size_of::<T>()).cast();
        // SAFETY: the place is fresh, aligned and has room for the value. It is not used again
        // before a collection finds that nothing refers to it.
        unsafe {
            place.write(value);
            place.as_ref()
        }
    }

    /// Room at a cursor.
    #[inline(always)]
    fn words(&self, cursor: usize, bytes: usize) -> NonNull<u8> {
        let place = &self.cursors[cursor];
        let next = place.next.get();
        let after = next + bytes;
        if after > place.end.get() {
            return self.more_words(cursor, bytes);
        }
        place.next.set(after);
        self.pointer(next)
    }

    /// A pointer to an address in the blocks.
    #[inline(always)]
    pub(crate) fn pointer(&self, address: usize) -> NonNull<u8> {
        let pointer = self.pages.base().as_ptr().with_addr(address);
        // SAFETY: addresses of objects are behind the base, which is not null.
        unsafe { NonNull::new_unchecked(pointer) }
    }

    #[cold]
    #[inline(never)]
    fn more_words(&self, cursor: usize, bytes: usize) -> NonNull<u8> {
        let kind = Kind::ALL[cursor % Kind::ALL.len()];
        let place = &self.cursors[cursor];
        let least = match kind.is_variable() {
            true => bytes.max(LEAST_HOLE),
            false => bytes * LEAST_HOLE.div_ceil(bytes),
        };
        loop {
            let (next, end, hole) = (place.next.get(), place.end.get(), place.hole.get());
            if next + bytes <= hole {
                let mut until = hole.min((next + bytes).max(end + PORTION));
                if !kind.is_variable() {
                    // Whole objects only: one that is half zero would look as if it was in use.
                    until = next + (until - next) / bytes * bytes;
                }
                self.prepare(kind, place.block.get(), end, until);
                place.end.set(until);
                place.next.set(next + bytes);
                return self.pointer(next);
            }
            let block = place.block.get();
            if block != 0 {
                // SAFETY: the cursor is in a block of small objects.
                let inside = unsafe { self.block(block) };
                if let Some((start, end)) = inside.hole(hole.max(block), least) {
                    place.next.set(start);
                    place.end.set(start);
                    place.hole.set(end);
                    continue;
                }
            }
            let block = self.take_block(kind);
            place.block.set(block);
            place.next.set(block);
            place.end.set(block);
            place.hole.set(block);
        }
    }

    /// Makes a part of a hole ready for objects.
    fn prepare(&self, kind: Kind, block: usize, from: usize, until: usize) {
        let bytes = until - from;
        self.fresh.set(self.fresh.get() + bytes);
        // SAFETY: the part is in a hole of the block: nothing refers to it.
        unsafe {
            let block = self.block(block);
            if self.table.borrow_mut().touch(self.index_of(from)) {
                self.pointer(from).write_bytes(0, bytes);
            }
            if !kind.is_slice() {
                block.set_valid(from, bytes);
            }
        }
    }

    /// A block with holes, for a kind.
    fn take_block(&self, kind: Kind) -> usize {
        if self.is_due() {
            self.calls_left.set(0);
        }
        let partly_used = self.table.borrow_mut().partly_used(kind);
        if let Some(index) = partly_used {
            return self.address_of(index);
        }
        self.before_blocks(1);
        let index = self.table.borrow_mut().take(1, kind, false);
        self.make_usable(index + 1);
        let address = self.address_of(index);
        // A new block is zero already. A page that is read before it is written costs two faults.
        // SAFETY: the block is free.
        unsafe { self.block(address).clear() };
        address
    }

    fn make_usable(&self, blocks: usize) {
        let marks = self.marks.need(blocks * block::MARKS);
        if let Err(error) = marks.and(self.pages.need(blocks * block::SIZE)) {
            panic!("no memory left for values: {error}");
        }
    }

    /// The block that contains an address.
    ///
    /// # Safety
    ///
    /// It is one of small objects.
    #[inline]
    unsafe fn block(&self, address: usize) -> Block {
        let marks = self.index_of(address) * block::MARKS;
        let start = self.pointer(address & !(block::SIZE - 1));
        // SAFETY: blocks in use are usable, and so are their marks.
        unsafe { Block::new(start, self.marks.base().add(marks)) }
    }

    #[inline]
    fn index_of(&self, address: usize) -> usize {
        (address - self.pages.base().as_ptr().addr()) / block::SIZE
    }

    #[inline]
    fn address_of(&self, index: usize) -> usize {
        self.pages.base().as_ptr().addr() + index * block::SIZE
    }

    /// Room for an object of a kind with different sizes. It is zero.
    #[inline(always)]
    fn variable(&self, kind: Kind, bytes: usize) -> NonNull<u8> {
        if bytes <= MEDIUM {
            return self.words(kind as usize, bytes);
        }
        self.larger(kind, bytes)
    }

    #[inline(never)]
    fn larger(&self, kind: Kind, bytes: usize) -> NonNull<u8> {
        if bytes <= LARGE {
            return self.words(kind as usize + Kind::ALL.len(), bytes);
        }
        let blocks = bytes.div_ceil(block::SIZE);
        self.before_blocks(blocks);
        let mut table = self.table.borrow_mut();
        let index = table.take(blocks, kind, true);
        self.make_usable(index + blocks);
        self.fresh.set(self.fresh.get() + blocks * block::SIZE);
        if self.is_due() {
            self.calls_left.set(0);
        }
        let start = self.pointer(self.address_of(index));
        for block in index..index + blocks {
            if table.is_dirty(block) {
                // SAFETY: the block is free.
                unsafe {
                    let at = start.add((block - index) * block::SIZE);
                    at.write_bytes(0, block::SIZE);
                }
            }
        }
        start
    }

    /// Room for an environment with this number of words. It is zero.
    #[inline(always)]
    pub(crate) fn env(&self, words: usize) -> NonNull<u8> {
        self.variable(Kind::Env, words * WORD)
    }

    /// Room for a slice. It is zero until it is written.
    #[inline(always)]
    pub(crate) fn room_for<T: Item>(&self, len: usize) -> NonNull<T> {
        let elements = Layout::array::<T>(len).expect("values have a limit");
        let bytes = (elements.size() + WORD).next_multiple_of(WORD);
        let start = self.variable(T::KIND, bytes);
        // SAFETY: the room is fresh, and has a word more than the elements need. It is in a block
        // of small objects unless it is large.
        unsafe {
            if bytes <= LARGE {
                let address = start.as_ptr().addr();
                self.block(address).starts(address);
            }
            start.cast::<usize>().write(len);
            start.add(WORD).cast()
        }
    }

    /// Takes back the end of a slice's room, of which only the first `len` elements were written, if
    /// it is the last room that was handed out.
    #[inline]
    fn shrink<T: Item>(&self, first: NonNull<T>, capacity: usize, len: usize) {
        let bytes = |elements: usize| (elements * size_of::<T>() + WORD).next_multiple_of(WORD);
        let cursor = match bytes(capacity) {
            room if room <= MEDIUM => T::KIND as usize,
            room if room <= LARGE => T::KIND as usize + Kind::ALL.len(),
            _ => return,
        };
        let place = &self.cursors[cursor];
        let start = first.as_ptr().addr() - WORD;
        if place.next.get() == start + bytes(capacity) {
            // SAFETY: `room_for` has put the length in front of the first element.
            unsafe { first.cast::<usize>().sub(1).write(len) };
            place.next.set(start + bytes(len));
        }
    }

    /// Places for references to objects of a kind. They are empty.
    pub(crate) fn places<'h, T>(&'h self, len: usize) -> &'h [Cell<Option<&'h T>>]
    where
        &'h T: Item,
    {
        if len == 0 {
            return &[];
        }
        let first = self.room_for::<&'h T>(len).cast();
        // SAFETY: the room has a word for each, which is zero: `None`.
        unsafe { NonNull::slice_from_raw_parts(first, len).as_ref() }
    }

    /// A slice with the elements that a function returns.
    #[inline]
    pub(crate) fn slice_with<T: Item>(
        &self,
        len: usize,
        mut element: impl FnMut(usize) -> T,
    ) -> &[T] {
        if len == 0 {
            return &[];
        }
        let first = self.room_for::<T>(len);
        for index in 0..len {
            // SAFETY: the room is fresh and has `len` elements.
            unsafe { first.add(index).write(element(index)) };
        }
        // SAFETY: all elements were written.
        unsafe { NonNull::slice_from_raw_parts(first, len).as_ref() }
    }

    /// A copy of a slice.
    #[inline]
    pub(crate) fn slice_copy<T: Item>(&self, items: &[T]) -> &[T] {
        if items.is_empty() {
            return &[];
        }
        let first = self.room_for::<T>(items.len());
        // SAFETY: the room is fresh and has as many elements, all of which are written.
        unsafe {
            first.copy_from_nonoverlapping(NonNull::from(items).cast(), items.len());
            NonNull::slice_from_raw_parts(first, items.len()).as_ref()
        }
    }
}

impl Default for Heap {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap")
            .field("used_bytes", &self.used_bytes())
            .finish_non_exhaustive()
    }
}
