//! Scopes at run time.

use std::alloc::Layout;
use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::NonNull;

use bumpalo::Bump;

use super::Ref;

/// A scope: slots, and the scope around it. Copied freely.
///
/// There are as many scopes as calls, so that header and slots are one allocation and the handle
/// is one word.
#[derive(Clone, Copy)]
pub struct Env<'h> {
    header: NonNull<Header<'h>>,
    /// Lives as long as the heap, whose cells allow no other lifetime.
    heap: PhantomData<Cell<Ref<'h>>>,
}

/// What is in front of the slots.
struct Header<'h> {
    up: Option<Env<'h>>,
    len: usize,
}

type EnvSlot<'h> = Cell<Option<Ref<'h>>>;

const _: () = assert!(align_of::<Header<'_>>() == align_of::<EnvSlot<'_>>());

impl<'h> Env<'h> {
    /// A scope of empty slots.
    #[inline]
    pub fn new(heap: &'h Bump, up: Option<Self>, slots: usize) -> Self {
        Self::filled(heap, up, slots, None)
    }

    /// A scope of one slot.
    #[inline]
    pub fn one(heap: &'h Bump, up: Self, value: Ref<'h>) -> Self {
        Self::filled(heap, Some(up), 1, Some(value))
    }

    #[inline]
    fn filled(heap: &'h Bump, up: Option<Self>, len: usize, value: Option<Ref<'h>>) -> Self {
        let size = size_of::<Header<'h>>() + len * size_of::<EnvSlot<'h>>();
        let layout = Layout::from_size_align(size, align_of::<Header<'h>>())
            .expect("a scope is no larger than the text that it is made for");
        let header: NonNull<Header<'h>> = heap.alloc_layout(layout).cast();
        // SAFETY: the memory is fresh, aligned, and has room for the header and `len` slots
        // behind it, as the layout says. All of it is written here.
        unsafe {
            header.write(Header { up, len });
            let first: NonNull<EnvSlot<'h>> = header.add(1).cast();
            for index in 0..len {
                first.add(index).write(Cell::new(value));
            }
        }
        Self {
            header,
            heap: PhantomData,
        }
    }

    #[inline]
    fn header(&self) -> &Header<'h> {
        // SAFETY: `filled` wrote it; it is not moved, freed or changed while `'h` lives.
        unsafe { self.header.as_ref() }
    }

    #[inline]
    fn slots(&self) -> &[EnvSlot<'h>] {
        // SAFETY: `filled` wrote `len` slots right behind the header, in the same allocation that
        // `self.header` points to, and nobody has them but by shared references.
        unsafe {
            let first = self.header.add(1).cast::<EnvSlot<'h>>();
            std::slice::from_raw_parts(first.as_ptr(), self.header().len)
        }
    }

    /// The scope that many levels out.
    #[inline]
    pub fn outer(self, level: u32) -> Self {
        let mut env = self;
        for _ in 0..level {
            env = env.header().up.expect("the resolver counts scopes");
        }
        env
    }

    /// What is in a slot, if it was filled.
    #[inline]
    pub fn peek(&self, slot: u32) -> Option<Ref<'h>> {
        self.slots()[slot as usize].get()
    }

    /// What is in a slot, which was filled.
    #[inline]
    pub fn get(&self, slot: u32) -> Ref<'h> {
        self.peek(slot).expect("a slot is filled before it is read")
    }

    /// Fills a slot.
    #[inline]
    pub fn set(&self, slot: usize, value: Ref<'h>) {
        self.slots()[slot].set(Some(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{Slot, Value};

    #[test]
    fn slots_and_scopes_around() {
        let heap = Bump::new();
        let cell = |number| &*heap.alloc(Slot::new(Value::Int(number)));
        let outer = Env::new(&heap, None, 3);
        let inner = Env::one(&heap, outer, cell(1));
        outer.set(2, cell(2));
        assert!(outer.peek(0).is_none());
        assert!(matches!(inner.get(0).get(), Value::Int(1)));
        assert!(matches!(inner.outer(1).get(2).get(), Value::Int(2)));
        assert!(Env::new(&heap, Some(inner), 0).outer(2).peek(1).is_none());
    }

    #[test]
    #[should_panic(expected = "index out of bounds")]
    fn slots_are_checked() {
        let heap = Bump::new();
        Env::new(&heap, None, 1).peek(1);
    }
}
