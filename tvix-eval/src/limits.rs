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
    /// How many bytes its heap may have. A single builtin may go beyond that before it is noticed.
    pub memory: Option<usize>,
    /// How deep calls may be nested.
    pub depth: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            time: None,
            memory: None,
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

    /// Limits how deep calls may be nested.
    #[must_use]
    pub fn depth(mut self, calls: u32) -> Self {
        self.depth = calls;
        self
    }
}

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
        if let Some(memory) = limits.memory
            && self.heap.allocated_bytes() > memory
        {
            let message = format!("evaluation took more than {memory} bytes of memory");
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
