//! Checks of the limits and of cancellation.

use super::{Interp, SPECULATIVE};
use crate::error::{Error, ErrorKind, Result, cancelled};

/// Values below this size in bytes are not checked when they are made, but by the next periodic
/// check.
const LARGE: usize = 64 << 10;

/// Number of calls between two periodic checks of the limits.
pub(crate) const CALLS_PER_CHECK: u32 = 1000;

impl Interp<'_> {
    /// Fails if a limit is exceeded or the evaluation is cancelled.
    #[cold]
    #[inline(never)]
    pub(crate) fn check_limits(&self) -> Result<()> {
        self.heap
            .calls_left
            .set(match self.world.settings.collect_every {
                Some(calls) => calls.saturating_sub(1),
                None => CALLS_PER_CHECK,
            });
        self.collect_if_due();
        if self.world.host.is_cancelled() {
            return Err(self.recheck(cancelled()));
        }
        if self.fiber.get() >= SPECULATIVE {
            self.check_speculation()?;
        }
        let limits = &self.world.settings.limits;
        if let Some(time) = limits.time
            && self.began.elapsed() > time
        {
            let message = format!("evaluation took longer than {time:?}");
            return Err(self.recheck(Error::new(ErrorKind::Limit, message)));
        }
        self.heap_has_room(0)
    }

    /// Fails if a value of `bytes` bytes would exceed the limit of values or the limit of the heap.
    #[inline]
    pub(crate) fn make_room(&self, bytes: usize) -> Result<()> {
        if bytes < LARGE {
            return Ok(());
        }
        if let Some(value) = self.world.settings.limits.value
            && bytes > value
        {
            let message = format!(
                "evaluation needs {bytes} bytes for one value, more than {value}; \
                     with a higher --max-eval-memory a value may be larger"
            );
            return Err(Error::new(ErrorKind::Limit, message));
        }
        self.heap_has_room(bytes)
    }

    /// Like [`Interp::make_room`], for `count` elements.
    #[inline]
    pub(crate) fn make_room_for<T>(&self, count: usize) -> Result<()> {
        self.make_room(count.saturating_mul(size_of::<T>()))
    }

    /// Memory of the heap that is in use, in bytes.
    pub(crate) fn heap_used(&self) -> usize {
        self.heap.used_bytes()
    }

    fn heap_has_room(&self, bytes: usize) -> Result<()> {
        let limits = &self.world.settings.limits;
        let limit = limits.memory.unwrap_or(usize::MAX);
        let fits =
            || bytes < self.heap.room() / 8 * 7 && self.memory().saturating_add(bytes) <= limit;
        if fits() || (self.collect(true) && fits()) {
            return Ok(());
        }
        let message = match limits.memory {
            Some(memory) if self.memory().saturating_add(bytes) > memory => format!(
                "evaluation used more than {memory} bytes of memory{}; \
                 set a higher limit (--max-eval-memory; of jobs, --max-memory)",
                match limits.is_default_memory() {
                    true => ", three quarters of what this machine or control group has",
                    false => "",
                }
            ),
            _ => "evaluation used all of its address space; if it is limited, raise the limit \
                  (ulimit -v)"
                .to_owned(),
        };
        Err(self.recheck(Error::new(ErrorKind::Limit, message)))
    }

    /// The memory that evaluation uses, in bytes: the heap and the large tables beside it.
    fn memory(&self) -> usize {
        self.heap.used_bytes() + self.contexts.bytes() + self.derivations.bytes()
    }

    /// Makes the next call check the limits again, so that an exceeded limit stays an error.
    fn recheck(&self, error: Box<Error>) -> Box<Error> {
        self.heap.calls_left.set(0);
        error
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use crate::heap::Heap;

    use super::*;
    use crate::files::MemoryFiles;
    use crate::host::NoHost;
    use crate::world::{Settings, World};

    /// The kind of error, if any, that a text evaluates to, and the size of the heap in bytes
    /// afterwards.
    fn outcome(text: &str) -> (Option<ErrorKind>, usize) {
        let heap = Heap::new();
        let files = Rc::new(MemoryFiles::default());
        let world = World::new(Settings::default(), files, Rc::new(NoHost));
        let interp = Interp::new(&heap, world);
        let result = interp.eval_text(text.as_bytes(), b"/");
        (result.err().map(|error| error.kind), heap.used_bytes())
    }

    #[test]
    fn endless_closures_end_soon() {
        let step = "[ { key = x.key + 1; } ]";
        let text = format!(
            "builtins.genericClosure {{ startSet = [ {{ key = 0; }} ]; operator = x: {step}; }}"
        );
        let (kind, bytes) = outcome(&text);
        assert_eq!(kind, Some(ErrorKind::Limit));
        assert!(bytes < 1 << 30, "{bytes}");
    }

    #[test]
    fn loops_that_append_need_memory_for_their_result() {
        for text in [
            "builtins.length (builtins.foldl' (a: b: a ++ [ b ]) [ ] (builtins.genList (x: x) 20000))",
            "builtins.stringLength (builtins.foldl' (a: b: a + \"ten bytes.\") \"\" (builtins.genList (x: x) 20000))",
            "builtins.stringLength (builtins.foldl' (a: b: \"${a}ten bytes.\") \"\" (builtins.genList (x: x) 20000))",
            "builtins.foldl' (a: b: a // { \"k${toString b}\" = b; }) { } (builtins.genList (x: x) 20000)",
        ] {
            // 20,000 squared is 400 million.
            let (kind, bytes) = outcome(text);
            assert_eq!(kind, None);
            assert!(bytes < 64 << 20, "{bytes}: {text}");
        }
    }
}
