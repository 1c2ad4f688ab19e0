//! The allocator of the command.
#![allow(unsafe_code)]

use tvix_eval::limits::CountingAllocator;

/// Faster than the system's allocator at the many small allocations of an evaluation. Large ones count for
/// its memory limit.
#[global_allocator]
static ALLOCATOR: CountingAllocator<mimalloc::MiMalloc> =
    CountingAllocator::new(mimalloc::MiMalloc);

/// `mi_option_purge_delay` of mimalloc: how long free pages stay with the process, in milliseconds. Its Rust
/// crate names the option behind it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = libmimalloc_sys::mi_option_use_numa_nodes - 1;

/// The variable by which mimalloc reads this option.
const PURGE_DELAY_VARIABLE: &str = "MIMALLOC_PURGE_DELAY";

/// Gives free pages back after 5 ms. The default of a second is as long as most evaluations, and would
/// count what they have freed towards their peak.
pub fn configure() {
    if std::env::var_os(PURGE_DELAY_VARIABLE).is_none() {
        // SAFETY: the function stores a number. No other thread runs yet.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 5) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another version of mimalloc may number its options anew.
    #[test]
    fn the_option_has_the_default_of_the_purge_delay() {
        // SAFETY: the function reads a number that nothing changes in tests.
        let default = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(default, 1000);
    }
}
