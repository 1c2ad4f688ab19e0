//! Checks of the limits and of cancellation.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::{Interp, SPECULATIVE};
use crate::error::{Error, ErrorKind, Result, cancelled};
use crate::heap::Exhausted;

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
            // A larger value could have needed a collection here.
            if self.heap.stressed.get() {
                self.stress();
            }
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
        let tables = self.contexts.bytes() + self.derivations.bytes();
        self.heap.ceiling.tables.set(tables);
        let fits =
            || bytes < self.heap.room() / 8 * 7 && self.memory().saturating_add(bytes) <= limit;
        if fits() || (self.collect(true) && fits()) {
            return Ok(());
        }
        Err(self.recheck(self.exhausted_by(bytes)))
    }

    /// The memory in bytes that is left within the limit, after a collection if little is.
    pub(crate) fn room_left(&self) -> usize {
        let Some(limit) = self.world.settings.limits.memory else {
            return usize::MAX;
        };
        if self.memory() > limit / 2 && self.heap.is_much_fresh() {
            self.collect(true);
        } else if self.heap.stressed.get() {
            self.stress();
        }
        limit.saturating_sub(self.memory())
    }

    /// The error of a builtin that needs more memory than is left.
    #[cold]
    pub(crate) fn exhausted(&self) -> Box<Error> {
        self.exhausted_by(usize::MAX)
    }

    /// Counts small blocks of the ordinary allocator for the limit, until the result is dropped.
    pub(crate) fn count_beside(&self, bytes: usize) -> impl Drop + use<'_> {
        let counted = &self.heap.ceiling.counted;
        let before = counted.get();
        counted.set(before + bytes);
        Counted(counted, before)
    }

    /// The error of an evaluation that has no room for `bytes` further bytes.
    #[cold]
    fn exhausted_by(&self, bytes: usize) -> Box<Error> {
        let limits = &self.world.settings.limits;
        let message = match limits.memory {
            Some(memory) if self.memory().saturating_add(bytes) > memory => format!(
                "evaluation used more than {memory} bytes of memory{}; \
                 set a higher limit (--max-eval-memory; of jobs, --max-memory or --max-memory-size)",
                match limits.is_default_memory() {
                    true => ", three quarters of what this machine or control group has",
                    false => "",
                }
            ),
            _ => "evaluation used all of its address space; if it is limited, raise the limit \
                  (ulimit -v)"
                .to_owned(),
        };
        Error::new(ErrorKind::Limit, message)
    }

    /// The memory that evaluation uses, in bytes.
    fn memory(&self) -> usize {
        self.heap.memory()
    }

    /// Evaluates something within a builtin, which is not unwound meanwhile: evaluation may have
    /// effects, such as traces, and makes progress that a second run would need memory for again.
    #[inline(always)]
    pub(crate) fn without_unwinding<T>(&self, work: impl FnOnce() -> T) -> T {
        let unwinds = &self.heap.ceiling.unwinds;
        let outer = unwinds.replace(false);
        let result = work();
        unwinds.set(outer);
        result
    }

    /// Runs a builtin. If it takes far more memory than the limit without calling a function, it
    /// ends and runs a second time after a collection, and fails if that is not enough either.
    #[inline]
    pub(crate) fn within_memory<T>(&self, builtin: impl Fn() -> Result<T>) -> Result<T> {
        let unwinds = &self.heap.ceiling.unwinds;
        let outer = unwinds.replace(self.fiber.get() < SPECULATIVE);
        let upcoming = self.upcoming.get();
        let depth = self.depth.get();
        let mut result = catch_unwind(AssertUnwindSafe(&builtin));
        if let Err(payload) = &result
            && payload.is::<Exhausted>()
        {
            self.upcoming.set(upcoming);
            self.depth.set(depth);
            // What the builtin allocated is garbage now, and so may be what there was before.
            self.collect(true);
            unwinds.set(self.fiber.get() < SPECULATIVE);
            result = catch_unwind(AssertUnwindSafe(&builtin));
        }
        unwinds.set(outer);
        match result {
            Ok(result) => result,
            Err(payload) if payload.is::<Exhausted>() => {
                self.upcoming.set(upcoming);
                self.depth.set(depth);
                let limit = self.world.settings.limits.memory.unwrap_or(0);
                Err(self.recheck(self.exhausted_by(limit)))
            }
            Err(payload) => resume_unwind(payload),
        }
    }

    /// Makes the next call check the limits again, so that an exceeded limit stays an error.
    fn recheck(&self, error: Box<Error>) -> Box<Error> {
        self.heap.calls_left.set(0);
        error
    }
}

/// Restores the count when it is dropped.
struct Counted<'i>(&'i Cell<usize>, usize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use crate::heap::Heap;

    use super::*;
    use crate::files::MemoryFiles;
    use crate::host::NoHost;
    use crate::value::Value;
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

    /// A builtin that is ended by unwinding leaves thunks, and the state of the interpreter, as it
    /// found them.
    #[test]
    #[cfg_attr(miri, ignore = "too large")]
    fn unwound_builtins_can_be_called_again() {
        let heap = Heap::new();
        let files = Rc::new(MemoryFiles::default());
        let mut settings = Settings::default();
        settings.limits = settings.limits.with_memory(24 << 20);
        let interp = Interp::new(&heap, World::new(settings, files, Rc::new(NoHost)));
        let text = r#"rec {
            text = "[" + builtins.concatStringsSep "," (builtins.genList (x: "1") 1000000) + "]";
            large = builtins.fromJSON text;
            shown = builtins.deepSeq [ 1 [ (builtins.length large) ] ] (builtins.length large);
        }"#;
        let Ok(Value::Attrs(attrs)) = interp.eval_text(text.as_bytes(), b"/") else {
            panic!("a set");
        };
        for (index, name) in ["shown", "large", "shown"].into_iter().enumerate() {
            let attr = attrs.get(interp.intern(name)).unwrap();
            let error = interp.force(attr.value).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Limit, "{name}");
            let shown = interp.render(&error);
            // Later attempts may fail before a builtin is called.
            assert!(shown.contains("' builtin") || index > 0, "{name}: {shown}");
            assert_eq!(
                (interp.depth.get(), interp.heap.ceiling.unwinds.get()),
                (0, false)
            );
            assert!(interp.upcoming.get().is_null());
        }
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
