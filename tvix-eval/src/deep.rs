//! Recursion that goes deeper than the machine's stack: it continues on stacks of its own.

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

/// Levels of recursion that a stack is used for, before the next one begins.
pub(crate) const LEVELS: u32 = 1000;

/// Levels of recursion on the stack of the caller.
pub(crate) const FIRST_LEVELS: u32 = 100;

/// Size of a stack in bytes. Pages are allocated on use.
const SIZE: usize = LEVELS as usize
    * if cfg!(debug_assertions) {
        32 << 10
    } else {
        8 << 10
    };

/// Runs `work` on a stack with room for [`LEVELS`] levels of recursion of the parser.
///
/// # Errors
///
/// If there is no memory for a stack.
#[cold]
#[inline(never)]
pub(crate) fn on_new_stack<R>(work: impl FnOnce() -> R) -> std::io::Result<R> {
    let stack = DefaultStack::new(SIZE)?;
    let body = |_: &Yielder<(), ()>, ()| work();
    // SAFETY: the coroutine ends below, before what it borrows.
    let mut coroutine = unsafe { Coroutine::<(), (), R, _>::with_stack_unchecked(stack, body) };
    match coroutine.resume(()) {
        CoroutineResult::Return(result) => Ok(result),
        CoroutineResult::Yield(()) => unreachable!("it has no use for its yielder"),
    }
}
