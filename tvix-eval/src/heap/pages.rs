//! Memory of the operating system: one range of addresses per heap, of which pages are made usable
//! in steps.

use std::cell::Cell;
use std::ptr::NonNull;

use crate::machine::addresses_left;

/// Range of addresses that a heap reserves, in bytes. Addresses cost nothing. A process with a
/// limit of address space gets less.
const RESERVED: usize = if cfg!(miri) { 64 << 20 } else { 64 << 30 };

/// The least range that is of use, in bytes.
const LEAST: usize = 16 << 20;

/// Part of the addresses that are left, if they are limited, for a heap.
const SHARE: usize = 2;

/// The first step by which usable memory grows, in bytes. Each is twice the previous one, up to
/// [`LARGEST_STEP`].
const FIRST_STEP: usize = 1 << 20;

/// The largest step by which usable memory grows, in bytes.
const LARGEST_STEP: usize = 32 << 20;

/// Bytes that the operating system fills with zeros at once. Otherwise each page that is used
/// first costs a fault, and half as much again as the zeros.
const FILLED_STEP: usize = 1 << 20;

/// Size in bytes up to which a heap may use only parts of its blocks, and is not filled.
const NOT_FILLED: usize = 8 << 20;

/// A reserved range of addresses. Its pages are zero when they become usable.
pub(super) struct Pages {
    base: NonNull<u8>,
    reserved: usize,
    usable: Cell<usize>,
    filled: Cell<usize>,
}

impl Pages {
    /// Reserves addresses; the first one is a multiple of `align`, a power of two.
    pub(super) fn reserve(align: usize) -> std::io::Result<Self> {
        // Scarce addresses are left to others too: stacks, and the ordinary allocator.
        let left = addresses_left().map_or(RESERVED, |left| left / SHARE);
        let mut size = left.clamp(LEAST, RESERVED) / align * align;
        loop {
            match map::reserve(size, align) {
                Ok(base) => return Ok(Self::new(base, size)),
                Err(error) if size <= LEAST => return Err(error),
                Err(_) => size = (size / 2).max(LEAST) / align * align,
            }
        }
    }

    /// Reserves at least this number of bytes, a multiple of `align`.
    pub(super) fn reserve_at_least(size: usize, align: usize) -> std::io::Result<Self> {
        let size = size.next_multiple_of(align);
        Ok(Self::new(map::reserve(size, align)?, size))
    }

    fn new(base: NonNull<u8>, reserved: usize) -> Self {
        Self {
            base,
            reserved,
            usable: Cell::new(0),
            filled: Cell::new(0),
        }
    }

    /// The first address.
    #[inline]
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Size of the range in bytes.
    pub(super) fn reserved(&self) -> usize {
        self.reserved
    }

    /// Makes at least the first `bytes` bytes usable.
    pub(super) fn need(&self, bytes: usize) -> std::io::Result<()> {
        if bytes <= self.filled.get() {
            return Ok(());
        }
        let usable = self.usable.get();
        if bytes > usable {
            if bytes > self.reserved {
                return Err(std::io::ErrorKind::OutOfMemory.into());
            }
            let step = usable.clamp(FIRST_STEP, LARGEST_STEP);
            let wanted = bytes.max(usable + step).min(self.reserved);
            map::make_usable(self.base, usable, wanted - usable)?;
            self.usable.set(wanted);
        }
        let filled = self.filled.get();
        let wanted = bytes.max(filled + FILLED_STEP).min(self.usable.get());
        if wanted > NOT_FILLED {
            map::fill(self.base, filled, wanted - filled);
        }
        self.filled.set(wanted);
        Ok(())
    }

    /// Gives pages back; they are zero when they are next used. `start` and `len` are multiples of
    /// the page size, and nothing refers to the range.
    pub(super) fn discard(&self, start: usize, len: usize) {
        debug_assert!(start + len <= self.usable.get());
        map::discard(self.base, start, len);
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        map::release(self.base, self.reserved);
    }
}

#[cfg(not(miri))]
mod map {
    use std::ptr::NonNull;

    use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

    pub(super) fn reserve(size: usize, align: usize) -> std::io::Result<NonNull<u8>> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses affects no other memory.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                size + align,
                ProtFlags::empty(),
                flags,
            )?
        };
        let start = start.cast::<u8>();
        let before = start.align_offset(align);
        let after = align - before;
        // SAFETY: both ranges are parts of the new mapping that nothing refers to.
        unsafe {
            if before > 0 {
                rustix::mm::munmap(start.cast(), before)?;
            }
            if after > 0 {
                rustix::mm::munmap(start.add(before + size).cast(), after)?;
            }
            NonNull::new(start.add(before)).ok_or_else(|| std::io::ErrorKind::OutOfMemory.into())
        }
    }

    pub(super) fn make_usable(base: NonNull<u8>, start: usize, len: usize) -> std::io::Result<()> {
        let flags = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the range is in the mapping of `reserve`, and nothing uses it yet.
        unsafe { rustix::mm::mprotect(base.add(start).as_ptr().cast(), len, flags)? };
        Ok(())
    }

    /// Makes the kernel provide pages now. Kernels before 5.14 do so on use.
    pub(super) fn fill(base: NonNull<u8>, start: usize, len: usize) {
        // SAFETY: the range is in the mapping of `reserve` and usable. Its contents stay.
        let _ = unsafe {
            let start = base.add(start).as_ptr().cast();
            rustix::mm::madvise(start, len, Advice::LinuxPopulateWrite)
        };
    }

    pub(super) fn discard(base: NonNull<u8>, start: usize, len: usize) {
        // SAFETY: the range is in the mapping of `reserve`, and nothing refers to it. An error
        // would leave the pages as they are, which is why callers do not rely on zeros then.
        let done = unsafe {
            rustix::mm::madvise(base.add(start).as_ptr().cast(), len, Advice::LinuxDontNeed)
        };
        if done.is_err() {
            // SAFETY: as above, and the pages are usable.
            unsafe { base.add(start).write_bytes(0, len) };
        }
    }

    pub(super) fn release(base: NonNull<u8>, size: usize) {
        // SAFETY: the mapping of `reserve` ends with its owner. An error would leave it in place,
        // which does no harm.
        let _ = unsafe { rustix::mm::munmap(base.as_ptr().cast(), size) };
    }
}

/// Miri knows the allocator, but not `mprotect`.
#[cfg(miri)]
mod map {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::ptr::NonNull;

    const ALIGN: usize = super::super::block::SIZE;

    pub(super) fn reserve(size: usize, align: usize) -> std::io::Result<NonNull<u8>> {
        assert_eq!(align, ALIGN);
        let layout = Layout::from_size_align(size, align).expect("it is small");
        // SAFETY: the size is not 0.
        let base = unsafe { alloc_zeroed(layout) };
        NonNull::new(base).ok_or_else(|| std::io::ErrorKind::OutOfMemory.into())
    }

    pub(super) fn make_usable(_: NonNull<u8>, _: usize, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    pub(super) fn fill(_: NonNull<u8>, _: usize, _: usize) {}

    pub(super) fn discard(base: NonNull<u8>, start: usize, len: usize) {
        // SAFETY: the range is in the allocation, and nothing refers to it.
        unsafe { base.add(start).write_bytes(0, len) };
    }

    pub(super) fn release(base: NonNull<u8>, size: usize) {
        let layout = Layout::from_size_align(size, ALIGN).expect("it was allocated");
        // SAFETY: `reserve` allocated it with this layout.
        unsafe { dealloc(base.as_ptr(), layout) };
    }
}
