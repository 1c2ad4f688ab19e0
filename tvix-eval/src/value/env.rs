//! Scopes at run time.

use std::cell::Cell;

use bumpalo::Bump;

use super::Ref;

/// The slots of a scope, and the scope around it.
pub struct Env<'h> {
    up: Option<&'h Env<'h>>,
    slots: &'h [Cell<Option<Ref<'h>>>],
}

impl<'h> Env<'h> {
    /// A scope of empty slots.
    #[inline]
    pub fn new(heap: &'h Bump, up: Option<&'h Env<'h>>, slots: usize) -> &'h Self {
        let slots = heap.alloc_slice_fill_with(slots, |_| Cell::new(None));
        heap.alloc(Self { up, slots })
    }

    /// A scope of one slot.
    #[inline]
    pub fn one(heap: &'h Bump, up: &'h Env<'h>, value: Ref<'h>) -> &'h Self {
        let slots = heap.alloc([Cell::new(Some(value))]);
        heap.alloc(Self {
            up: Some(up),
            slots,
        })
    }

    /// The scope that many levels out.
    #[inline]
    pub fn outer(&'h self, level: u32) -> &'h Self {
        let mut env = self;
        for _ in 0..level {
            env = env.up.expect("the resolver counts scopes");
        }
        env
    }

    /// What is in a slot, if it was filled.
    #[inline]
    pub fn peek(&self, slot: u32) -> Option<Ref<'h>> {
        self.slots[slot as usize].get()
    }

    /// What is in a slot, which was filled.
    #[inline]
    pub fn get(&self, slot: u32) -> Ref<'h> {
        self.slots[slot as usize]
            .get()
            .expect("a slot is filled before it is read")
    }

    /// Fills a slot.
    #[inline]
    pub fn set(&self, slot: usize, value: Ref<'h>) {
        self.slots[slot].set(Some(value));
    }
}
