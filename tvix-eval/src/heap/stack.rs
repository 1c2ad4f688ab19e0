//! Stacks: their parts that may refer to objects.

use std::hint::black_box;

/// A part of a stack that is in use, or any other memory that may refer to objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StackPart {
    /// The lowest address.
    pub(crate) from: usize,
    /// The address behind the highest one.
    pub(crate) until: usize,
}

impl StackPart {
    /// The words of the part.
    ///
    /// # Safety
    ///
    /// The memory is readable, and nothing else writes it meanwhile.
    pub(crate) unsafe fn words(self) -> impl Iterator<Item = usize> {
        let first = self.from.next_multiple_of(size_of::<usize>());
        let count = self.until.saturating_sub(first) / size_of::<usize>();
        (0..count).map(move |index| {
            let word = std::ptr::with_exposed_provenance::<usize>(first).wrapping_add(index);
            // SAFETY: as the caller guarantees. It is aligned.
            unsafe { word.read_volatile() }
        })
    }
}

/// Whether stacks can be searched on this processor.
pub(crate) const SEARCHES_STACKS: bool = cfg!(all(
    not(miri),
    any(target_arch = "x86_64", target_arch = "aarch64")
));

/// Calls a function with the lowest address of the stack above which everything is that the callers
/// hold, in memory or in registers.
#[inline(never)]
pub(crate) fn with_registers<R>(work: impl FnOnce(usize) -> R) -> R {
    let mut saved = [0_usize; 12];
    save(&mut saved);
    let result = work(saved.as_ptr().addr());
    black_box(&saved);
    result
}

#[cfg(all(not(miri), target_arch = "x86_64"))]
#[inline(always)]
fn save(saved: &mut [usize; 12]) {
    // SAFETY: stores the registers that functions preserve into the array, and changes nothing
    // else.
    unsafe {
        std::arch::asm!(
            "mov [{0}], rbx",
            "mov [{0} + 8], rbp",
            "mov [{0} + 16], r12",
            "mov [{0} + 24], r13",
            "mov [{0} + 32], r14",
            "mov [{0} + 40], r15",
            in(reg) saved.as_mut_ptr(),
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(all(not(miri), target_arch = "aarch64"))]
#[inline(always)]
fn save(saved: &mut [usize; 12]) {
    // SAFETY: stores the registers that functions preserve into the array, and changes nothing
    // else.
    unsafe {
        std::arch::asm!(
            "stp x19, x20, [{0}]",
            "stp x21, x22, [{0}, #16]",
            "stp x23, x24, [{0}, #32]",
            "stp x25, x26, [{0}, #48]",
            "stp x27, x28, [{0}, #64]",
            "str x29, [{0}, #80]",
            in(reg) saved.as_mut_ptr(),
            options(nostack, preserves_flags)
        );
    }
}

#[cfg(not(all(not(miri), any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn save(_: &mut [usize; 12]) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_above_the_address() {
        let here = 0x1234_5678_9abc_usize;
        let marker = black_box(&here);
        let found = with_registers(|from| {
            let until = std::ptr::from_ref(marker).addr() + 8;
            // SAFETY: this part of the stack of this thread is in use.
            !SEARCHES_STACKS
                || unsafe { StackPart { from, until }.words() }.any(|word| word == *marker)
        });
        assert!(found);
    }
}
