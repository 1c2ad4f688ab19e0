//! The limit of the memory of an evaluation, where memory is taken.

use std::cell::Cell;

use super::{Heap, block};
use crate::counting::large_blocks;

/// Part of the limit by which a builtin may exceed it before it is ended.
const SLACK: usize = 32;

/// The payload with which a builtin unwinds that exceeds the limit by far.
pub(crate) struct Exhausted;

/// The limit of memory, and the memory that counts besides the heap.
pub(crate) struct Ceiling {
    /// The limit in bytes.
    limit: Cell<usize>,
    /// Large blocks of this thread when the evaluation began, in bytes.
    start: isize,
    /// Tables of the evaluation besides the heap, in bytes, at the last check.
    pub(crate) tables: Cell<usize>,
    /// Further memory of the builtin that runs, in bytes.
    pub(crate) counted: Cell<usize>,
    /// Whether a builtin runs that may be ended by unwinding.
    pub(crate) unwinds: Cell<bool>,
}

impl Default for Ceiling {
    fn default() -> Self {
        Self {
            limit: Cell::new(usize::MAX),
            start: large_blocks(),
            tables: Cell::new(0),
            counted: Cell::new(0),
            unwinds: Cell::new(false),
        }
    }
}

impl Ceiling {
    /// Sets the limit in bytes.
    pub(crate) fn set(&self, limit: usize) {
        self.limit.set(limit);
    }

    #[inline]
    pub(super) fn is_set(&self) -> bool {
        self.limit.get() != usize::MAX
    }

    #[inline]
    pub(super) fn is_exceeded(&self, memory: usize) -> bool {
        memory > self.limit.get()
    }

    /// Memory besides the heap, in bytes. `permanent` bytes of what this thread allocated are in the
    /// heap's arena. The tables are in part large blocks of this thread, too.
    pub(super) fn beside(&self, permanent: usize) -> usize {
        let large = large_blocks().wrapping_sub(self.start);
        let large = usize::try_from(large).unwrap_or(0);
        large.saturating_sub(permanent).max(self.tables.get()) + self.counted.get()
    }

    /// Unwinds the builtin that runs, if the limit is exceeded by far.
    #[cold]
    pub(super) fn end_builtin(&self, memory: usize) {
        let limit = self.limit.get();
        if cfg!(panic = "unwind")
            && self.unwinds.get()
            && memory > limit.saturating_add(limit / SLACK)
        {
            // Nothing is written to standard error, unlike for a panic.
            std::panic::resume_unwind(Box::new(Exhausted));
        }
    }
}

impl Heap {
    /// The memory of the evaluation in bytes: what is in use here, tables beside it, and what its
    /// thread has allocated meanwhile.
    pub(crate) fn memory(&self) -> usize {
        let beside = self.ceiling.beside(self.permanent.allocated_bytes());
        self.used_bytes() + beside
    }

    /// Called before further blocks are used. Makes the next call check the limit if they exceed it.
    /// If they exceed it by far, there was no call for a long time, and the builtin that runs ends.
    pub(super) fn before_blocks(&self, blocks: usize) {
        if self.ceiling.is_set() {
            let memory = self.memory() + blocks * block::SIZE;
            if self.ceiling.is_exceeded(memory) {
                self.calls_left.set(0);
                self.ceiling.end_builtin(memory);
            }
        }
    }
}
