//! Scopes at run time.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::NonNull;

use super::Ref;
use crate::heap::Heap;

/// A scope: slots, and a pointer to the enclosing scope. Cheap to copy.
///
/// There is a scope per call, and most of them have one slot. A scope of one slot therefore takes
/// two words, and a handle takes one.
#[derive(Clone, Copy)]
pub struct Env<'h> {
    header: NonNull<Header<'h>>,
    /// Invariant in the lifetime of the heap, because of its cells.
    heap: PhantomData<Cell<Ref<'h>>>,
}

/// The header in front of the slots. If there are [`MANY`] slots or more, their number, multiplied
/// by 8, precedes the header.
///
/// The collector finds a header from any of its slots, because only headers have low bits that are
/// not 0. A scope without slots therefore has room for one, which stays empty.
#[repr(align(8))]
struct Header<'h> {
    /// The address of the enclosing scope's header, or null, plus the smaller of the number of
    /// slots and [`MANY`]. The alignment of headers leaves these bits of the address free.
    up: *const Self,
    heap: PhantomData<Cell<Ref<'h>>>,
}

/// The maximum of the address bits that alignment leaves free.
const MANY: usize = align_of::<Header<'_>>() - 1;

type EnvSlot<'h> = Cell<Option<Ref<'h>>>;

const _: () = assert!(size_of::<Header<'_>>() == size_of::<usize>());
const _: () = assert!(size_of::<EnvSlot<'_>>() == size_of::<usize>());
const _: () = assert!(align_of::<Header<'_>>() == align_of::<usize>());

impl<'h> Env<'h> {
    /// A scope of empty slots.
    #[inline]
    pub(crate) fn new(heap: &'h Heap, up: Option<Self>, slots: usize) -> Self {
        Self::filled(heap, up, slots, |_| None)
    }

    /// A scope of one slot.
    #[inline]
    pub(crate) fn one(heap: &'h Heap, up: Self, value: Ref<'h>) -> Self {
        Self::filled(heap, Some(up), 1, |_| Some(value))
    }

    /// A scope with slots filled by index.
    #[inline]
    pub(crate) fn filled(
        heap: &'h Heap,
        up: Option<Self>,
        len: usize,
        mut fill: impl FnMut(usize) -> Option<Ref<'h>>,
    ) -> Self {
        let header = if len < MANY {
            heap.env(len.max(1) + 1).cast()
        } else {
            Self::many(heap, len)
        };
        let up = match up {
            Some(up) => up.header.as_ptr().cast_const(),
            None => std::ptr::null(),
        };
        let up = up.wrapping_byte_add(len.clamp(1, MANY));
        // SAFETY: the memory is fresh, aligned, and has room for the header and `len` slots behind
        // it, or an empty one. All of it is written before any reference to it exists, except an
        // empty slot, which is zero.
        unsafe {
            header.write(Header {
                up,
                heap: PhantomData,
            });
            let first: NonNull<EnvSlot<'h>> = header.add(1).cast();
            for index in 0..len {
                first.add(index).write(Cell::new(fill(index)));
            }
        }
        Self {
            header,
            heap: PhantomData,
        }
    }

    /// Memory for a header and many slots, with the number of slots in front of the header.
    #[inline(never)]
    fn many(heap: &'h Heap, len: usize) -> NonNull<Header<'h>> {
        let room: NonNull<usize> = heap.env(len + 2).cast();
        // SAFETY: the memory is fresh. It has room for the number, the header and the slots, all of
        // which have the size and alignment of a word.
        unsafe {
            room.write(len << 3);
            room.add(1).cast()
        }
    }

    /// A scope with the first slots of this one, followed by further slots that are filled by
    /// index. It has the same enclosing scope as this one.
    #[inline]
    pub(crate) fn extended(
        self,
        heap: &'h Heap,
        kept: usize,
        len: usize,
        mut fill: impl FnMut(usize) -> Ref<'h>,
    ) -> Self {
        Self::filled(heap, self.up(), len, |index| {
            if index < kept {
                self.slot(index).get()
            } else {
                Some(fill(index))
            }
        })
    }

    #[inline]
    fn header(&self) -> &Header<'h> {
        // SAFETY: `filled` has written the header, which is not moved, freed or changed during
        // `'h`.
        unsafe { self.header.as_ref() }
    }

    /// The enclosing scope.
    #[inline]
    fn up(self) -> Option<Self> {
        let up = self.header().up.map_addr(|address| address & !MANY);
        Some(Self {
            header: NonNull::new(up.cast_mut())?,
            heap: PhantomData,
        })
    }

    #[inline]
    fn slot(&self, index: usize) -> &EnvSlot<'h> {
        if index >= self.header().up.addr() & MANY && index >= self.count() {
            self.beyond(index);
        }
        // SAFETY: `filled` has written the slots directly behind the header, in the allocation that
        // `self.header` points to, and they are accessed by shared references only. `index` is
        // below their number: the number in the header is at most the actual one, and larger
        // indices are compared with that.
        unsafe { self.header.add(1).cast::<EnvSlot<'h>>().add(index).as_ref() }
    }

    #[cold]
    fn beyond(&self, index: usize) -> ! {
        panic!("slot {index} of a scope of {}", self.count());
    }

    /// The scope whose header is at an address.
    ///
    /// # Safety
    ///
    /// The address is that of a header in the heap.
    pub(crate) unsafe fn at(header: NonNull<u8>) -> Self {
        Self {
            header: header.cast(),
            heap: PhantomData,
        }
    }

    /// The address of the header.
    #[inline]
    pub(crate) fn address(self) -> usize {
        self.header.as_ptr().addr()
    }

    /// The address of the first word, and the number of words.
    #[inline]
    pub(crate) fn extent(self) -> (usize, usize) {
        match self.header().up.addr() & MANY {
            MANY => (self.address() - size_of::<usize>(), self.count() + 2),
            count => (self.address(), count + 1),
        }
    }

    #[inline]
    fn count(self) -> usize {
        match self.header().up.addr() & MANY {
            // SAFETY: `many` has written the number in front of the header, in the same allocation.
            MANY => unsafe { self.header.cast::<usize>().sub(1).read() >> 3 },
            count => count,
        }
    }

    /// The enclosing scope and the contents of the slots, for the collector.
    pub(crate) fn parts(self) -> (Option<Self>, impl Iterator<Item = Ref<'h>>) {
        let count = self.count();
        (
            self.up(),
            (0..count).filter_map(move |index| self.slot(index).get()),
        )
    }

    /// The enclosing scope at a distance of `level`.
    #[inline]
    pub(crate) fn outer(self, level: u32) -> Self {
        let mut env = self;
        for _ in 0..level {
            env = env.up().expect("the resolver counts scopes");
        }
        env
    }

    /// The content of a slot, if it is filled.
    #[inline]
    pub(crate) fn peek(&self, slot: u32) -> Option<Ref<'h>> {
        self.slot(slot as usize).get()
    }

    /// The content of a slot, which must be filled.
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Ref<'h> {
        self.peek(slot).expect("a slot is filled before it is read")
    }

    /// Fills a slot.
    #[inline]
    pub(crate) fn set(&self, slot: usize, value: Ref<'h>) {
        self.slot(slot).set(Some(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{Slot, Value};

    #[test]
    fn slots_and_scopes_around() {
        let heap = Heap::new();
        let cell = |number| heap.alloc(Slot::new(Value::Int(number)));
        let outer = Env::new(&heap, None, 3);
        let inner = Env::one(&heap, outer, cell(1));
        outer.set(2, cell(2));
        assert!(outer.peek(0).is_none());
        assert!(matches!(inner.get(0).get(), Value::Int(1)));
        assert!(matches!(inner.outer(1).get(2).get(), Value::Int(2)));
        assert!(Env::new(&heap, Some(inner), 0).outer(2).peek(1).is_none());
    }

    #[test]
    fn scopes_of_every_size() {
        let heap = Heap::new();
        let cell = |number: usize| heap.alloc(Slot::new(Value::Int(number as i64)));
        let mut env = Env::new(&heap, None, 0);
        for len in 0..40 {
            env = Env::filled(&heap, Some(env), len, |index| Some(cell(100 * len + index)));
        }
        for len in 0..40 {
            let env = env.outer(39 - len as u32);
            for index in 0..len {
                let Value::Int(number) = env.get(index as u32).get() else {
                    panic!("an integer was written");
                };
                assert_eq!(number, (100 * len + index) as i64);
            }
            let beyond = std::panic::AssertUnwindSafe(|| env.peek(len.max(1) as u32).is_some());
            assert!(std::panic::catch_unwind(beyond).is_err());
        }
    }

    #[test]
    fn extended_scopes() {
        let heap = Heap::new();
        let cell = |number: usize| heap.alloc(Slot::new(Value::Int(number as i64)));
        let around = Env::one(&heap, Env::new(&heap, None, 0), cell(7));
        let first = Env::one(&heap, around, cell(0));
        let more = first.extended(&heap, 1, 3, cell);
        for slot in 0..3 {
            assert!(
                matches!(more.get(slot).get(), Value::Int(number) if number == i64::from(slot))
            );
        }
        assert!(std::ptr::eq(more.get(0), first.get(0)));
        assert!(matches!(more.outer(1).get(0).get(), Value::Int(7)));
    }

    #[test]
    #[should_panic(expected = "slot 1 of a scope of 1")]
    fn slots_are_checked() {
        let heap = Heap::new();
        Env::new(&heap, None, 1).peek(1);
    }
}
