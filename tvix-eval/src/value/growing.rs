//! In-place growth of the value that grew last.

use std::cell::Cell;
use std::ptr::NonNull;

use crate::heap::{Heap, Item};

/// The slice of a heap to which elements were added last, at either end.
///
/// A loop that appends to its result would otherwise copy all earlier results, and leave them behind
/// until the next collection, with a total size quadratic in the last one's. Therefore a slice that grows a second
/// time at the same end gets as much spare room there as it has elements, and further elements are
/// written into that room. Earlier results keep their elements, because only memory that was never
/// part of a slice is written.
pub(crate) struct Growing<'h, T> {
    heap: &'h Heap,
    newest: Cell<Option<Newest<T>>>,
}

/// A slice with spare room around it. No reference points into the room.
#[derive(Clone, Copy)]
struct Newest<T> {
    /// The first element.
    first: NonNull<T>,
    /// Number of elements.
    used: usize,
    /// Number of elements that fit before the first one.
    before: usize,
    /// Number of elements that fit behind the last one.
    behind: usize,
}

impl<'h, T: Item> Growing<'h, T> {
    pub(crate) fn new(heap: &'h Heap) -> Self {
        Self {
            heap,
            newest: Cell::new(None),
        }
    }

    /// Forgets the slice, so that it can be freed and its room is not used again.
    pub(crate) fn forget(&self) {
        self.newest.set(None);
    }

    /// Whether the slice has room, or gets room, if it grows.
    pub(crate) fn grows(&self, slice: &[T]) -> bool {
        self.newest_is(slice).is_some()
    }

    fn newest_is(&self, slice: &[T]) -> Option<Newest<T>> {
        let newest = self.newest.get()?;
        let same =
            std::ptr::eq(newest.first.as_ptr(), slice.as_ptr()) && newest.used == slice.len();
        same.then_some(newest)
    }

    /// A place for `middle` with room for further elements at both ends: its current place, or a
    /// new one.
    #[inline]
    fn place(&self, middle: &'h [T], more_before: usize, more_behind: usize) -> Newest<T> {
        let known = self.newest_is(middle);
        if let Some(newest) = known
            && more_before <= newest.before
            && more_behind <= newest.behind
        {
            return newest;
        }
        self.new_place(middle, more_before, more_behind, known)
    }

    fn new_place(
        &self,
        middle: &'h [T],
        more_before: usize,
        more_behind: usize,
        known: Option<Newest<T>>,
    ) -> Newest<T> {
        let used = more_before + middle.len() + more_behind;
        // A slice that grows a second time probably continues to grow at the same end.
        let room = |more: usize, left: usize| match more > left {
            true => more + used,
            false => left,
        };
        let (before, behind) = match known {
            None => (more_before, more_behind),
            Some(newest) => (
                room(more_before, newest.before),
                room(more_behind, newest.behind),
            ),
        };
        let base: NonNull<T> = self.heap.room_for(before + middle.len() + behind);
        // SAFETY: the memory is fresh and has room for `before` elements and `middle`.
        let first = unsafe {
            let first = base.add(before);
            first.copy_from_nonoverlapping(NonNull::from(middle).cast(), middle.len());
            first
        };
        Newest {
            first,
            used: middle.len(),
            before,
            behind,
        }
    }

    /// A slice with the elements of both; the first one grows.
    pub(crate) fn append(&self, left: &'h [T], right: &[T]) -> &'h [T] {
        let newest = self.place(left, 0, right.len());
        self.newest.set(Some(Newest {
            used: newest.used + right.len(),
            behind: newest.behind - right.len(),
            ..newest
        }));
        // SAFETY: the heap, which lives for 'h, has room for `newest.behind` elements behind the
        // `newest.used` existing ones, which is at least `right.len()`. No reference points into
        // that room: slices are only handed out here and below, and the room of a slice is never
        // part of it. So the room may be written, does not overlap `right`, and is shared only
        // afterwards.
        unsafe {
            let end = newest.first.add(newest.used);
            end.copy_from_nonoverlapping(NonNull::from(right).cast(), right.len());
            std::slice::from_raw_parts(newest.first.as_ptr(), newest.used + right.len())
        }
    }

    /// A slice with the elements of both; the second one grows.
    pub(crate) fn prepend(&self, left: &[T], right: &'h [T]) -> &'h [T] {
        let newest = self.place(right, left.len(), 0);
        // SAFETY: as in `append`, of the `newest.before` elements before `newest.first`.
        unsafe {
            let first = newest.first.sub(left.len());
            first.copy_from_nonoverlapping(NonNull::from(left).cast(), left.len());
            self.newest.set(Some(Newest {
                first,
                used: newest.used + left.len(),
                before: newest.before - left.len(),
                ..newest
            }));
            std::slice::from_raw_parts(first.as_ptr(), newest.used + left.len())
        }
    }

    /// A slice with the elements of `before`, `middle` and `behind`; `middle` grows.
    pub(crate) fn surround(&self, before: &[&[T]], middle: &'h [T], behind: &[&[T]]) -> &'h [T] {
        let count = |slices: &[&[T]]| slices.iter().map(|slice| slice.len()).sum::<usize>();
        // Reserves room for all slices at once, so that `middle` is moved at most once.
        let newest = self.place(middle, count(before), count(behind));
        self.newest.set(Some(newest));
        // SAFETY: the elements of `middle` are at `newest`, in the heap.
        let mut whole = unsafe { std::slice::from_raw_parts(newest.first.as_ptr(), newest.used) };
        for slice in before.iter().rev() {
            whole = self.prepend(slice, whole);
        }
        for slice in behind {
            whole = self.append(whole, slice);
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::Kind;

    // SAFETY: nothing is collected in these tests.
    unsafe impl Item for u32 {
        const KIND: Kind = Kind::Bytes;
    }

    // SAFETY: as above.
    unsafe impl Item for i32 {
        const KIND: Kind = Kind::Bytes;
    }

    #[test]
    fn appending_keeps_what_was_there() {
        let heap = Heap::new();
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
        // Each slice was moved exactly when its room was used up.
        let moved = slices
            .windows(2)
            .filter(|pair| pair[0].as_ptr() != pair[1].as_ptr());
        assert!(moved.count() < 10);
    }

    #[test]
    fn prepending_keeps_what_was_there() {
        let heap = Heap::new();
        let growing = Growing::new(&heap);
        let mut slices: Vec<&[u32]> = vec![growing.prepend(&[0], &[])];
        for number in 1..100 {
            let last = slices[slices.len() - 1];
            slices.push(growing.prepend(&[number], last));
        }
        for (index, slice) in slices.iter().enumerate() {
            let numbers: Vec<u32> = (0..=index as u32).rev().collect();
            assert_eq!(*slice, numbers);
        }
        let end = |slice: &[u32]| slice.as_ptr_range().end;
        let moved = slices
            .windows(2)
            .filter(|pair| end(pair[0]) != end(pair[1]));
        assert!(moved.count() < 10);
    }

    #[test]
    fn both_ends_grow() {
        let heap = Heap::new();
        let growing = Growing::new(&heap);
        let mut slice: &[u32] = growing.append(&[], &[]);
        let mut expected = std::collections::VecDeque::new();
        let mut slices = Vec::new();
        for number in 0..1000 {
            slice = match number % 3 {
                0 => growing.append(slice, &[number]),
                1 => growing.prepend(&[number], slice),
                _ => growing.surround(&[&[number], &[7]], slice, &[&[8], &[], &[9, number]]),
            };
            match number % 3 {
                0 => expected.push_back(number),
                1 => expected.push_front(number),
                _ => {
                    expected.push_front(7);
                    expected.push_front(number);
                    expected.extend([8, 9, number]);
                }
            }
            slices.push((slice, expected.clone()));
        }
        for (slice, expected) in slices {
            assert!(slice.iter().eq(&expected));
        }
        // 2,333 elements, and the slices that were abandoned for lack of room.
        assert!(heap.used_bytes() < 200_000, "{}", heap.used_bytes());
    }

    #[test]
    fn two_that_grow_from_one() {
        let heap = Heap::new();
        let growing = Growing::new(&heap);
        let one = growing.append(&[1, 2], &[3]);
        let two = growing.append(one, &[4]);
        let other = growing.append(one, &[5]);
        assert_eq!(growing.append(two, &[6]), [1, 2, 3, 4, 6]);
        assert_eq!(
            (one, other),
            ([1, 2, 3].as_slice(), [1, 2, 3, 5].as_slice())
        );
        let first = growing.prepend(&[0], other);
        let second = growing.prepend(&[9], other);
        assert_eq!(growing.prepend(&[8], first), [8, 0, 1, 2, 3, 5]);
        assert_eq!((first[0], second[0]), (0, 9));
        // A slice is appended to itself.
        let twice = growing.append(other, other);
        assert_eq!(growing.append(twice, twice).len(), 16);
        let twice = growing.prepend(twice, twice);
        assert_eq!(growing.prepend(twice, twice).len(), 32);
        assert!(growing.append(&[], &[]).is_empty());
    }
}
