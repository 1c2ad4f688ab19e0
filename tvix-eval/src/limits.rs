//! What an evaluation may use, and noticing that nobody wants it any more.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::interp::{Interp, MAX_CALL_DEPTH};

/// What an evaluation may use. It ends with [`ErrorKind::Limit`] or [`ErrorKind::Depth`] soon
/// after it has used more; `tryEval` does not catch that.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// How long it may take, with the time in which it waits for builds.
    pub time: Option<Duration>,
    /// How many bytes its heap may have; 4 GiB unless told. There is no garbage collection: all
    /// of a nixpkgs of 2016 takes 0.7 GiB.
    pub memory: Option<usize>,
    /// How many bytes a single string, list or set may have, with what must be allocated for it;
    /// 256 MiB unless told. What doubles itself ends here, long before memory does.
    pub value: Option<usize>,
    /// How deep calls may be nested.
    pub depth: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: None,
            memory: Some(4 << 30),
            value: Some(256 << 20),
            depth: MAX_CALL_DEPTH,
        }
    }
}

impl Limits {
    /// Limits the time.
    #[must_use]
    pub fn time(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }

    /// Limits the bytes of the heap.
    #[must_use]
    pub fn memory(mut self, bytes: usize) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Limits the bytes of a single value.
    #[must_use]
    pub fn value(mut self, bytes: usize) -> Self {
        self.value = Some(bytes);
        self
    }

    /// Limits how deep calls may be nested.
    #[must_use]
    pub fn depth(mut self, calls: u32) -> Self {
        self.depth = calls;
        self
    }
}

/// What is smaller needs no room made for it: it is noticed at the next look.
const LARGE: usize = 64 << 10;

/// So many calls are made between one look at the limits and the next.
pub(crate) const CALLS_PER_LOOK: u32 = 1000;

impl Interp<'_> {
    /// Fails if a limit was passed or nobody wants a result any more.
    #[cold]
    #[inline(never)]
    pub(crate) fn look_around(&self) -> Result<()> {
        self.calls_left.set(CALLS_PER_LOOK);
        if self.world.host.is_cancelled() {
            return Err(self.again(cancelled()));
        }
        let limits = &self.world.settings.limits;
        if let Some(time) = limits.time
            && self.began.elapsed() > time
        {
            let message = format!("evaluation took longer than {time:?}");
            return Err(self.again(Error::new(ErrorKind::Limit, message)));
        }
        self.heap_has_room(0)
    }

    /// Fails if so many bytes for a single value, in the heap or on their way to it, are too many.
    #[inline]
    pub(crate) fn make_room(&self, bytes: usize) -> Result<()> {
        if bytes < LARGE {
            return Ok(());
        }
        if let Some(value) = self.world.settings.limits.value
            && bytes > value
        {
            let message =
                format!("evaluation needs {bytes} bytes for one value, more than {value}");
            return Err(Error::new(ErrorKind::Limit, message));
        }
        self.heap_has_room(bytes)
    }

    /// As [`Interp::make_room`], for so many things.
    #[inline]
    pub(crate) fn make_room_for<T>(&self, count: usize) -> Result<()> {
        self.make_room(count.saturating_mul(size_of::<T>()))
    }

    fn heap_has_room(&self, bytes: usize) -> Result<()> {
        if let Some(memory) = self.world.settings.limits.memory
            && self.heap.allocated_bytes().saturating_add(bytes) > memory
        {
            let message = format!("evaluation used more than {memory} bytes of memory");
            return Err(self.again(Error::new(ErrorKind::Limit, message)));
        }
        Ok(())
    }

    /// What is over stays over: the very next call looks again.
    fn again(&self, error: Box<Error>) -> Box<Error> {
        self.calls_left.set(0);
        error
    }
}

#[cold]
pub(crate) fn cancelled() -> Box<Error> {
    Error::new(ErrorKind::Cancelled, "the evaluation was cancelled")
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use bumpalo::Bump;

    use super::*;
    use crate::files::MemoryFiles;
    use crate::host::NoHost;
    use crate::world::{Settings, World};

    /// What kind of error a text comes to, if any, and how many bytes the heap has then.
    fn outcome(text: &str) -> (Option<ErrorKind>, usize) {
        let heap = Bump::new();
        let files = Rc::new(MemoryFiles::default());
        let world = World::new(Settings::default(), files, Rc::new(NoHost));
        let interp = Interp::new(&heap, world);
        let result = interp.eval_text(text.as_bytes(), b"/");
        (result.err().map(|error| error.kind), heap.allocated_bytes())
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
            // The square of 20,000 is 400 million.
            let (kind, bytes) = outcome(text);
            assert_eq!(kind, None);
            assert!(bytes < 64 << 20, "{bytes}: {text}");
        }
    }
}
