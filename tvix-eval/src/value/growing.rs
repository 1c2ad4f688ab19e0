//! Appending to what grew last, where it is.

use std::alloc::Layout;
use std::cell::Cell;
use std::ptr::NonNull;

use bumpalo::Bump;

/// The slice of a heap that was appended to last.
///
/// Nothing in the heap is given back: a loop that appends to its result would otherwise leave all
/// earlier results behind, whose sizes add up to the square of the last one's. So what is appended
/// to a second time gets as much room again behind it, and from then on the new elements are
/// written there. Who holds an earlier result sees as many elements as before.
pub(crate) struct Growing<'h, T> {
    heap: &'h Bump,
    newest: Cell<Option<Newest<T>>>,
}

/// A slice with room behind it.
#[derive(Clone, Copy)]
struct Newest<T> {
    /// Where it begins; may be used for all of the room.
    base: NonNull<T>,
    /// How many elements there are.
    used: usize,
    /// How many there can be.
    room: usize,
}

impl<'h, T: Copy> Growing<'h, T> {
    pub(crate) fn new(heap: &'h Bump) -> Self {
        Self {
            heap,
            newest: Cell::new(None),
        }
    }

    /// How many elements must be allocated to append so many; 0 if there is room.
    fn needs(&self, left: &[T], more: usize) -> usize {
        let len = left.len() + more;
        match self.newest_is(left) {
            Some(newest) if newest.room >= len => 0,
            Some(_) => 2 * len,
            None => len,
        }
    }

    fn newest_is(&self, left: &[T]) -> Option<Newest<T>> {
        let newest = self.newest.get()?;
        let same = std::ptr::eq(newest.base.as_ptr(), left.as_ptr()) && newest.used == left.len();
        same.then_some(newest)
    }

    /// One slice with the elements of two.
    pub(crate) fn append(&self, left: &'h [T], right: &[T]) -> &'h [T] {
        let room = self.needs(left, right.len());
        let used = left.len() + right.len();
        let newest = match self.newest_is(left) {
            Some(newest) if room == 0 => Newest { used, ..newest },
            _ => {
                let layout = Layout::array::<T>(room).expect("slices of this size were made");
                let base: NonNull<T> = self.heap.alloc_layout(layout).cast();
                // SAFETY: the memory is fresh and has room for both slices.
                unsafe { base.copy_from_nonoverlapping(NonNull::from(left).cast(), left.len()) };
                Newest { base, used, room }
            }
        };
        self.newest.set(Some(newest));
        // SAFETY: `base` was allocated for `room` elements of the heap, which lives for 'h, and
        // `used` is no more than that. Behind the elements of `left`, which were written above or
        // earlier, nobody has a reference yet: `used` was `left.len()`, and only grows. So they may
        // be written, do not overlap `right`, and are shared only afterwards.
        unsafe {
            let end = newest.base.add(left.len());
            end.copy_from_nonoverlapping(NonNull::from(right).cast(), right.len());
            std::slice::from_raw_parts(newest.base.as_ptr(), used)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appending_keeps_what_was_there() {
        let heap = Bump::new();
        let growing = Growing::new(&heap);
        let mut slices: Vec<&[u32]> = vec![growing.append(&[], &[0])];
        for number in 1..100 {
            let last = slices[slices.len() - 1];
            slices.push(growing.append(last, &[number]));
        }
        for (index, slice) in slices.iter().enumerate() {
            let numbers: Vec<u32> = (0..=index as u32).collect();
            assert_eq!(*slice, numbers);
        }
        // Each was moved when its room was used up, and only then.
        let moved = slices
            .windows(2)
            .filter(|pair| pair[0].as_ptr() != pair[1].as_ptr());
        assert!(moved.count() < 10);
    }

    #[test]
    fn two_that_grow_from_one() {
        let heap = Bump::new();
        let growing = Growing::new(&heap);
        let one = growing.append(&[1, 2], &[3]);
        let two = growing.append(one, &[4]);
        let other = growing.append(one, &[5]);
        assert_eq!(growing.append(two, &[6]), [1, 2, 3, 4, 6]);
        assert_eq!(
            (one, other),
            ([1, 2, 3].as_slice(), [1, 2, 3, 5].as_slice())
        );
        // A slice appended to itself.
        let twice = growing.append(other, other);
        assert_eq!(growing.append(twice, twice).len(), 16);
        assert!(growing.append(&[], &[]).is_empty());
    }
}
