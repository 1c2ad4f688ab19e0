//! The largest piece of memory that was asked for by a test, on its own thread or on those that work
//! for it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Watching;

#[global_allocator]
static ALLOCATOR: Watching = Watching;

thread_local! {
    /// Of a thread that a test runs on.
    static LARGEST: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Of all other threads, whichever test they work for.
static ELSEWHERE: AtomicUsize = AtomicUsize::new(0);

fn saw(size: usize) {
    // Threads that end have no such thing any more.
    match LARGEST.try_with(Cell::get) {
        Ok(Some(largest)) => LARGEST.set(Some(largest.max(size))),
        _ => drop(ELSEWHERE.fetch_max(size, Ordering::Relaxed)),
    }
}

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        saw(layout.size());
        // SAFETY: the caller keeps the same promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        saw(layout.size());
        // SAFETY: the caller keeps the same promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        saw(size);
        // SAFETY: the caller keeps the same promise.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the same promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// From now on, this is the thread of a test.
pub fn forget() {
    LARGEST.set(Some(0));
}

pub fn largest() -> usize {
    let elsewhere = ELSEWHERE.load(Ordering::Relaxed);
    LARGEST.get().unwrap_or(0).max(elsewhere)
}
