//! An allocator that counts, for limits of memory.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

/// Blocks of this size in bytes and above are counted. Smaller ones are a small part of the memory
/// that builtins take for vectors and maps, and most of the calls.
const LEAST: usize = 32 << 10;

thread_local! {
    /// Bytes of large blocks that this thread allocated, less those that it freed.
    static LARGE: Cell<isize> = const { Cell::new(0) };
}

/// A global allocator that counts the large blocks of each thread.
///
/// With it, the [memory limit](crate::Limits::memory) of an evaluation includes vectors, maps and
/// texts that builtins take from the ordinary allocator while they run. Without it, these are not
/// counted.
///
/// ```
/// use std::alloc::System;
/// use tvix_eval::limits::CountingAllocator;
///
/// #[global_allocator]
/// static ALLOCATOR: CountingAllocator<System> = CountingAllocator::new(System);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct CountingAllocator<A>(A);

impl<A> CountingAllocator<A> {
    /// Counts the blocks of another allocator.
    pub const fn new(allocator: A) -> Self {
        Self(allocator)
    }
}

/// Bytes of large blocks that this thread has allocated and not freed; 0 without a
/// [`CountingAllocator`]. Negative on a thread that frees what others have allocated.
pub(crate) fn large_blocks() -> isize {
    LARGE.get()
}

#[inline]
fn counted(size: usize) -> isize {
    match size >= LEAST {
        // Layouts have at most `isize::MAX` bytes.
        true => size as isize,
        false => 0,
    }
}

#[cold]
#[inline(never)]
fn count(bytes: isize) {
    // Without a destructor it is there until the thread ends.
    let _ = LARGE.try_with(|large| large.set(large.get().wrapping_add(bytes)));
}

// SAFETY: memory comes from the other allocator, with the layouts that callers give. Counting
// allocates nothing and does not unwind.
unsafe impl<A: GlobalAlloc> GlobalAlloc for CountingAllocator<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller guarantees.
        let block = unsafe { self.0.alloc(layout) };
        if layout.size() >= LEAST && !block.is_null() {
            count(counted(layout.size()));
        }
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout.size() >= LEAST {
            count(-counted(layout.size()));
        }
        // SAFETY: as the caller guarantees.
        unsafe { self.0.dealloc(block, layout) };
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller guarantees.
        let block = unsafe { self.0.alloc_zeroed(layout) };
        if layout.size() >= LEAST && !block.is_null() {
            count(counted(layout.size()));
        }
        block
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller guarantees.
        let moved = unsafe { self.0.realloc(block, layout, size) };
        if layout.size().max(size) >= LEAST && !moved.is_null() {
            count(counted(size) - counted(layout.size()));
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use std::alloc::System;

    use super::*;

    #[test]
    fn large_blocks_are_counted_until_they_are_freed() {
        let counting = CountingAllocator::new(System);
        let layout = |size| Layout::from_size_align(size, 8).unwrap();
        let start = large_blocks();
        // SAFETY: each block is freed once, with its layout.
        unsafe {
            let small = counting.alloc(layout(LEAST - 8));
            assert_eq!(large_blocks(), start);
            let grown = counting.realloc(small, layout(LEAST - 8), 3 * LEAST);
            assert_eq!(large_blocks() - start, 3 * LEAST as isize);
            let zeroed = counting.alloc_zeroed(layout(LEAST));
            assert_eq!(large_blocks() - start, 4 * LEAST as isize);
            let shrunk = counting.realloc(grown, layout(3 * LEAST), 8);
            counting.dealloc(shrunk, layout(8));
            assert_eq!(large_blocks() - start, LEAST as isize);
            counting.dealloc(zeroed, layout(LEAST));
        }
        assert_eq!(large_blocks(), start);
    }
}
