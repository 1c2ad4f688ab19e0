//! Temporaries that the collector finds.

use std::hint::black_box;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use super::{Heap, Item};

/// A vector in the heap. Its elements stay alive while it is on a stack; a vector of the ordinary
/// heap would hide them from the collector.
pub(crate) struct HeapVec<'h, T: Item> {
    heap: &'h Heap,
    first: NonNull<T>,
    len: usize,
    capacity: usize,
}

impl<'h, T: Item> HeapVec<'h, T> {
    pub(crate) fn new(heap: &'h Heap) -> Self {
        Self {
            heap,
            first: NonNull::dangling(),
            len: 0,
            capacity: 0,
        }
    }

    #[inline]
    pub(crate) fn with_capacity(heap: &'h Heap, capacity: usize) -> Self {
        let mut vec = Self::new(heap);
        if capacity > 0 {
            vec.first = heap.room_for(capacity);
            vec.capacity = capacity;
        }
        vec
    }

    /// A copy of a slice.
    pub(crate) fn of(heap: &'h Heap, items: &[T]) -> Self {
        let mut vec = Self::with_capacity(heap, items.len());
        vec.extend_from_slice(items);
        vec
    }

    #[cold]
    fn grow(&mut self, more: usize) {
        let capacity = (self.capacity * 2).max(self.len + more).max(4);
        let first = self.heap.room_for::<T>(capacity);
        // SAFETY: the room is fresh and larger; `len` elements were written.
        unsafe { first.copy_from_nonoverlapping(self.first, self.len) };
        self.first = first;
        self.capacity = capacity;
    }

    #[inline]
    pub(crate) fn push(&mut self, item: T) {
        if self.len == self.capacity {
            self.grow(1);
        }
        // SAFETY: there is room for more than `len` elements.
        unsafe { self.first.add(self.len).write(item) };
        self.len += 1;
    }

    /// Adds the elements that a function returns, as long as it returns some and there is room.
    #[inline(always)]
    pub(crate) fn fill(&mut self, mut next: impl FnMut() -> Option<T>) {
        let (first, capacity) = (self.first, self.capacity);
        let mut len = self.len;
        while len < capacity
            && let Some(item) = next()
        {
            // SAFETY: there is room for more than `len` elements.
            unsafe { first.add(len).write(item) };
            len += 1;
        }
        self.len = len;
    }

    #[inline]
    pub(crate) fn extend_from_slice(&mut self, items: &[T]) {
        if self.capacity - self.len < items.len() {
            self.grow(items.len());
        }
        let from: NonNull<T> = NonNull::from(items).cast();
        // SAFETY: there is room behind the `len` elements, which is part of no slice.
        unsafe {
            let end = self.first.add(self.len);
            end.copy_from_nonoverlapping(from, items.len());
        }
        self.len += items.len();
    }

    /// The elements, which stay in place. Room behind them is used again if possible.
    #[inline]
    pub(crate) fn into_exact_slice(mut self) -> &'h [T] {
        if self.len < self.capacity {
            self.heap.shrink(self.first, self.capacity, self.len);
            self.capacity = self.len;
        }
        self.into_slice()
    }

    /// The elements, which stay in place.
    #[inline]
    pub(crate) fn into_slice(self) -> &'h [T] {
        // SAFETY: `len` elements were written, and `self`, which could change them, is consumed.
        unsafe { NonNull::slice_from_raw_parts(self.first, self.len).as_ref() }
    }
}

impl<T: Item> Deref for HeapVec<'_, T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements were written; for none, the pointer is aligned.
        unsafe { NonNull::slice_from_raw_parts(self.first, self.len).as_ref() }
    }
}

impl<T: Item> DerefMut for HeapVec<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and nothing else refers to the elements.
        unsafe { NonNull::slice_from_raw_parts(self.first, self.len).as_mut() }
    }
}

impl<T: Item> Drop for HeapVec<'_, T> {
    /// Keeps the elements alive up to here, not only up to their last use.
    #[inline]
    fn drop(&mut self) {
        black_box(self.first);
    }
}

/// A queue in the heap.
pub(crate) struct HeapQueue<'h, T: Item> {
    items: HeapVec<'h, T>,
    /// Number of items that were taken.
    taken: usize,
}

impl<'h, T: Item> HeapQueue<'h, T> {
    /// A queue of copies of items.
    pub(crate) fn of(heap: &'h Heap, items: &[T]) -> Self {
        Self {
            items: HeapVec::of(heap, items),
            taken: 0,
        }
    }

    /// Number of items.
    pub(crate) fn len(&self) -> usize {
        self.items.len() - self.taken
    }

    /// Takes the first item.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let item = *self.items.get(self.taken)?;
        self.taken += 1;
        Some(item)
    }

    /// Adds items at the end.
    pub(crate) fn extend_from_slice(&mut self, items: &[T]) {
        let full = self.items.len + items.len() > self.items.capacity;
        if full && self.taken * 2 > self.items.len {
            let room = self.len() + items.len();
            let mut left = HeapVec::with_capacity(self.items.heap, room * 2);
            left.extend_from_slice(&self.items[self.taken..]);
            self.items = left;
            self.taken = 0;
        }
        self.items.extend_from_slice(items);
    }
}

/// Keeps a value on the stack, and so alive, until it is dropped. For values that a vector or
/// another structure of the ordinary heap refers to parts of.
pub(crate) struct Keep<T: Copy>(pub(crate) T);

impl<T: Copy> Drop for Keep<T> {
    #[inline]
    fn drop(&mut self) {
        black_box(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_and_queues_hold_what_was_added() {
        let heap = Heap::new();
        let mut vec = HeapVec::new(&heap);
        let mut queue = HeapQueue::of(&heap, b"ab");
        let mut expected = std::collections::VecDeque::from(*b"ab");
        for number in 0..=255_u8 {
            vec.push(number);
            queue.extend_from_slice(&[number, 1, 2]);
            expected.extend([number, 1, 2]);
            for _ in 0..number % 6 {
                assert_eq!(queue.pop(), expected.pop_front());
            }
            assert_eq!(queue.len(), expected.len());
        }
        vec[7] = 0;
        let slice = vec.into_slice();
        assert!(
            slice
                .iter()
                .enumerate()
                .all(|(index, &item)| { usize::from(item) == if index == 7 { 0 } else { index } })
        );
        assert!(HeapVec::<u8>::new(&heap).into_slice().is_empty());
    }
}
