//! Ending a pass over a tree early.

use std::io::{self, Write};

use crate::TreeError;

/// Conditions that end a pass over a tree early.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Bounds<'a> {
    /// Called before each chunk of a file and each entry of a directory; `true` ends the pass.
    pub interrupted: &'a dyn Fn() -> bool,
    /// Maximum size of the NAR, in bytes. Sparse files count with their full size, as in the NAR; a
    /// file that exceeds the limit is not read.
    pub nar_size: u64,
}

impl<'a> Bounds<'a> {
    /// Sets the condition that ends the pass.
    #[must_use]
    pub fn with_interrupted(mut self, interrupted: &'a dyn Fn() -> bool) -> Self {
        self.interrupted = interrupted;
        self
    }

    /// Sets the maximum size of the NAR, in bytes.
    #[must_use]
    pub fn with_nar_size(mut self, nar_size: u64) -> Self {
        self.nar_size = nar_size;
        self
    }
}

impl Default for Bounds<'_> {
    /// No bounds.
    fn default() -> Self {
        Bounds {
            interrupted: &|| false,
            nar_size: u64::MAX,
        }
    }
}

impl std::fmt::Debug for Bounds<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bounds")
            .field("nar_size", &self.nar_size)
            .finish_non_exhaustive()
    }
}

/// A writer that fails once it is interrupted, which ends the pass that writes to it.
pub struct Interruptible<'a, W> {
    writer: W,
    interrupted: &'a dyn Fn() -> bool,
}

impl<'a, W> Interruptible<'a, W> {
    /// A writer that calls `interrupted` before each write.
    pub fn new(writer: W, interrupted: &'a dyn Fn() -> bool) -> Self {
        Self {
            writer,
            interrupted,
        }
    }

    /// The inner writer.
    pub fn into_inner(self) -> W {
        self.writer
    }
}

impl<W: Write> Write for Interruptible<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        unless(self.interrupted)?;
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl<W: std::fmt::Debug> std::fmt::Debug for Interruptible<'_, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Interruptible").field(&self.writer).finish()
    }
}

/// Fails if `interrupted`. Not with [`io::ErrorKind::Interrupted`], after which writers try again.
pub(crate) fn unless(interrupted: &dyn Fn() -> bool) -> io::Result<()> {
    match interrupted() {
        true => Err(io::Error::other(TreeError::Interrupted)),
        false => Ok(()),
    }
}
