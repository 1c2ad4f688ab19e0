//! The largest allocation of a test, on its own thread or on its worker threads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Watching;

#[global_allocator]
static ALLOCATOR: Watching = Watching;

thread_local! {
    /// Of the thread of a test.
    static LARGEST: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Of all other threads, regardless of their test.
static ELSEWHERE: AtomicUsize = AtomicUsize::new(0);

fn saw(size: usize) {
    // Threads that are ending no longer have the value.
    match LARGEST.try_with(Cell::get) {
        Ok(Some(largest)) => LARGEST.set(Some(largest.max(size))),
        _ => drop(ELSEWHERE.fetch_max(size, Ordering::Relaxed)),
    }
}

// SAFETY: all calls are forwarded unchanged to the system's allocator.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        saw(layout.size());
        // SAFETY: the caller upholds the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        saw(layout.size());
        // SAFETY: the caller upholds the same contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        saw(size);
        // SAFETY: the caller upholds the same contract.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the same contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Marks the current thread as the thread of a test, and resets its value.
pub fn forget() {
    LARGEST.set(Some(0));
}

pub fn largest() -> usize {
    let elsewhere = ELSEWHERE.load(Ordering::Relaxed);
    LARGEST.get().unwrap_or(0).max(elsewhere)
}
