//! The blocking writer.

use std::io::{Read, Write};

use super::BUFFER_SIZE;
use super::encoder::Encoder;
use super::error::NarError;
use super::parser::Event;

/// Contents of at least this size in bytes bypass the buffer.
const DIRECT: usize = 16 * 1024;

/// Writes an archive to a blocking stream.
///
/// Calls must follow the grammar of [`Event`]. Calls that do not, invalid names, names out of order
/// and wrong sizes are rejected with [`NarError::InvalidWrite`]. A rejected call writes nothing; the
/// caller may continue with a valid one.
///
/// Small pieces are collected in a buffer, so the stream needs none. [`finish`](Self::finish)
/// writes the buffer: a writer that is dropped leaves an incomplete archive. After [`NarError::Io`]
/// the archive is unusable.
#[derive(Debug)]
pub struct Writer<W> {
    inner: W,
    encoder: Encoder,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes an archive from the stream's current position.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            encoder: Encoder::new(),
            buffer: Vec::new(),
        }
    }

    /// Starts a directory.
    pub fn directory_start(&mut self) -> Result<(), NarError> {
        self.encoder.directory_start(&mut self.buffer)?;
        self.drain()
    }

    /// Starts an entry of the innermost directory. Its node must follow. Names must be in strictly
    /// ascending order of their bytes.
    pub fn entry(&mut self, name: &[u8]) -> Result<(), NarError> {
        self.encoder.entry(name, &mut self.buffer)?;
        self.drain()
    }

    /// Ends the innermost directory.
    pub fn directory_end(&mut self) -> Result<(), NarError> {
        self.encoder.directory_end(&mut self.buffer)?;
        self.drain()
    }

    /// Writes a symlink.
    pub fn symlink(&mut self, target: &[u8]) -> Result<(), NarError> {
        self.encoder.symlink(target, &mut self.buffer)?;
        self.drain()
    }

    /// Writes a file with these contents.
    pub fn regular(&mut self, executable: bool, contents: &[u8]) -> Result<(), NarError> {
        self.regular_start(executable, contents.len() as u64)?;
        self.contents(contents)?;
        self.regular_end()
    }

    /// Writes a file of `size` bytes from a stream of exactly this length.
    ///
    /// # Errors
    ///
    /// [`Violation::WrongSize`](super::Violation::WrongSize) if the stream is shorter or longer,
    /// [`NarError::Io`] if it fails. The archive is unusable then.
    pub fn regular_from(
        &mut self,
        executable: bool,
        size: u64,
        mut contents: impl Read,
    ) -> Result<(), NarError> {
        self.regular_start(executable, size)?;
        let mut chunk = vec![0; BUFFER_SIZE];
        loop {
            match contents.read(&mut chunk) {
                Ok(0) => break,
                Ok(len) => self.contents(&chunk[..len])?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(NarError::Io(error)),
            }
        }
        self.regular_end()
    }

    /// Starts a file of `size` bytes.
    pub fn regular_start(&mut self, executable: bool, size: u64) -> Result<(), NarError> {
        self.encoder
            .regular_start(executable, size, &mut self.buffer)?;
        self.drain()
    }

    /// Writes a piece, of any length, of the file's contents.
    pub fn contents(&mut self, bytes: &[u8]) -> Result<(), NarError> {
        self.encoder.contents(bytes.len() as u64)?;
        if bytes.len() < DIRECT {
            self.buffer.extend_from_slice(bytes);
            return self.drain();
        }
        self.flush_buffer()?;
        self.inner.write_all(bytes).map_err(NarError::Io)
    }

    /// Ends a file, after all of its bytes have been written.
    pub fn regular_end(&mut self) -> Result<(), NarError> {
        self.encoder.regular_end(&mut self.buffer)?;
        self.drain()
    }

    /// Writes an event.
    pub fn event(&mut self, event: Event<'_>) -> Result<(), NarError> {
        match event {
            Event::Contents(bytes) => self.contents(bytes),
            event => {
                self.encoder.event(event, &mut self.buffer)?;
                self.drain()
            }
        }
    }

    /// Checks that the archive is complete, flushes the stream and returns it.
    ///
    /// # Errors
    ///
    /// [`Violation::UnexpectedCall`](super::Violation::UnexpectedCall) if the archive is not complete.
    pub fn finish(mut self) -> Result<W, NarError> {
        self.encoder.finish()?;
        self.flush_buffer()?;
        self.inner.flush().map_err(NarError::Io)?;
        Ok(self.inner)
    }

    /// Number of open directories.
    pub fn depth(&self) -> usize {
        self.encoder.depth()
    }

    /// Path of the current node, relative to the root and `/`-separated; empty for the root itself.
    pub fn path(&self) -> bstr::BString {
        self.encoder.path()
    }

    /// Writes the buffer if it is large enough.
    fn drain(&mut self) -> Result<(), NarError> {
        if self.buffer.len() < BUFFER_SIZE / 2 {
            return Ok(());
        }
        self.flush_buffer()
    }

    fn flush_buffer(&mut self) -> Result<(), NarError> {
        if !self.buffer.is_empty() {
            self.inner.write_all(&self.buffer).map_err(NarError::Io)?;
            self.buffer.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Violation;
    use super::*;

    #[test]
    fn streams_must_have_the_size_announced() {
        for (size, ok) in [(4, false), (5, true), (6, false)] {
            let mut writer = Writer::new(Vec::new());
            let result = writer.regular_from(false, size, &b"hello"[..]);
            assert_eq!(result.is_ok(), ok, "{size}");
            if let Err(error) = result {
                assert!(matches!(
                    error.violation(),
                    Some(Violation::WrongSize { .. })
                ));
            }
        }
    }

    #[test]
    fn an_incomplete_archive_is_refused() {
        let mut writer = Writer::new(Vec::new());
        writer.directory_start().unwrap();
        let error = writer.finish().unwrap_err();
        assert_eq!(
            error.violation(),
            Some(&Violation::UnexpectedCall("the archive's end"))
        );
    }

    #[test]
    fn large_and_small_pieces_keep_their_order() {
        let contents: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let mut whole = Writer::new(Vec::new());
        whole.regular(false, &contents).unwrap();
        let whole = whole.finish().unwrap();
        let mut pieces = Writer::new(Vec::new());
        pieces.regular_start(false, 200_000).unwrap();
        let mut rest = &contents[..];
        for len in [1, DIRECT, 7, DIRECT - 1, 100_000].iter().cycle() {
            let (piece, after) = rest.split_at((*len).min(rest.len()));
            pieces.contents(piece).unwrap();
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        pieces.regular_end().unwrap();
        assert!(pieces.finish().unwrap() == whole);
    }
}
